# Shared by the scripts of tests/abi. Each ends with exit status 0 (passed), 77 (skipped) or another (failed, after "FAIL: ...").

failed=0
fail() { echo "FAIL: $*"; failed=1; }
skip() { echo "SKIP: $*"; exit 77; }
finish() { [ $failed -eq 0 ] && echo "OK: $*"; exit $failed; }

scratch=
make_scratch() {
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
}

# Names of the functions that the header $1 declares, sorted.
declared_functions() {
  sed -nE 's/^CF_API [a-z0-9_ ]*[ *]+(cf_[a-z0-9_]+)\(.*/\1/p' "$1" | sort
}

# take_abi SOURCE_DIR CXX_COMPILER FILE: what libabigail knows of the functions of src/api.cpp, which are all that the library exports
# (exports.sh). They are compiled for this, since libraries as shipped have no debug information. Left out is what differs between machines and
# compilations, such as paths and lines, and what the header does not show. Needs $scratch.
take_abi() {
  (cd "$1" && "$2" -std=c++20 -g -O0 -fPIC -fvisibility=hidden -shared -Iinclude -Isrc -Wl,--version-script=cmake/clusterfusion.map src/api.cpp \
    -o "$scratch/boundary.so") &&
    abidw --headers-dir "$1/include" --drop-private-types --exported-interfaces-only --drop-undefined-syms --no-corpus-path --no-comp-dir-path \
      --no-show-locs --no-elf-needed --no-parameter-names --type-id-style hash --out-file "$3" "$scratch/boundary.so"
}
