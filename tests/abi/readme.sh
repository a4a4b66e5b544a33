#!/usr/bin/env bash
# readme.sh SOURCE_DIR LIBRARY C_COMPILER CXX_COMPILER: the programs in README.md compile without a warning and run on the demo checkpoint.
# The C++ one uses examples/raii.h, which is as short as README.md says.
. "$(dirname "$0")/lib.sh"
sources=$1 library=$2 cc=$3 cxx=$4
make_scratch

# program LANGUAGE COMPILER STANDARD...: the block of README.md in this language, under every standard.
program() {
  local language=$1 compiler=$2 standard printed
  shift 2
  awk -v "fence=\`\`\`$language" '$0 == fence {inside = 1; next} /^```$/ {inside = 0} inside' "$sources/README.md" > "$scratch/readme.$language"
  [ -s "$scratch/readme.$language" ] || { fail "README.md has no program in $language"; return; }
  for standard; do
    "$compiler" "-std=$standard" -Wall -Wextra -pedantic -Werror -I"$sources/include" -I"$sources/examples" "$scratch/readme.$language" \
      "$library" -Wl,-rpath,"$(dirname "$library")" -o "$scratch/readme" || { fail "the $language program of README.md does not compile as $standard"; continue; }
    printed=$(cd "$sources" && "$scratch/readme") || fail "the $language program of README.md ended with status $?: $printed"
    [ "$printed" = "505" ] || fail "the $language program of README.md printed '$printed'"
  done
}

program c "$cc" c11
program cpp "$cxx" c++17 c++20 c++2b
lines=$(wc -l < "$sources/examples/raii.h")
[ "$lines" -le 60 ] || fail "examples/raii.h has $lines lines, README.md says 60"
finish "README.md"
