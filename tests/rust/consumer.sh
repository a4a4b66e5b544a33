#!/usr/bin/env bash
# consumer.sh SOURCE_DIR PACKAGES FOLDER: a program made of the packaged crates alone (PACKAGES/*.crate), in an empty FOLDER, with the library
# that they bring (`bundled`) and without one in the system: the Rust program of README.md, which decodes the demo checkpoint.
set -eu -o pipefail
sources=$(realpath "$1") packages=$(realpath "$2") folder=$3
fail() { echo "consumer.sh: $*" >&2; exit 1; }

# What was built before is good for the same packages only: their files are all of one date, by which cargo would take them for unchanged.
sum=$(sha256sum "$packages"/*.crate | sha256sum)
[ "$(cat "$folder.sum" 2> /dev/null)" = "$sum" ] || rm -rf "$folder.target"
rm -rf "$folder" && mkdir -p "$folder/src"
for crate in "$packages"/*.crate; do tar -xzf "$crate" -C "$folder"; done

cat > "$folder/Cargo.toml" << END
[package]
name = "consumer"
version = "0.1.0"
edition = "2021"

[dependencies]
clusterfusion = { path = "$(cd "$folder" && echo clusterfusion-[0-9]*)", features = ["bundled"] }

[patch.crates-io]
clusterfusion-sys = { path = "$(cd "$folder" && echo clusterfusion-sys-*)" }
END
{
  echo 'fn main() -> Result<(), clusterfusion::Error> {'
  awk '/^```rust$/ {inside = 1; next} /^```$/ {inside = 0} inside' "$sources/README.md"
  echo 'Ok(()) }'
} > "$folder/src/main.rs"
grep -q 'Model::load' "$folder/src/main.rs" || fail "README.md has no Rust program"

(cd "$folder" && env -u PKG_CONFIG_PATH -u LD_LIBRARY_PATH CARGO_TARGET_DIR="$PWD.target" CF_CUDA=OFF cargo build)
echo "$sum" > "$folder.sum"
program=$folder.target/debug/consumer
ldd "$program" | grep -q clusterfusion && fail "the library is not part of the program"
program=$(realpath "$program")
printed=$(cd "$sources" && env -u LD_LIBRARY_PATH "$program") || fail "the program of README.md ended with status $?: $printed"
[ "$printed" = "505" ] || fail "the program of README.md printed '$printed'"
echo "the program of README.md works with the packaged crates"
