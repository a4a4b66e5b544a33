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
