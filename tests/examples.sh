#!/usr/bin/env bash
# examples.sh EXPECTED COMMAND...: an example ends with status 0 and prints EXPECTED to standard output, no more and no less. EXPECTED
# "fails: WORDS": it ends with status 1, prints nothing there, and WORDS to standard error.
. "$(dirname "$0")/abi/lib.sh"
expected=$1
shift
make_scratch
"$@" > "$scratch/out" 2> "$scratch/err"
status=$?
if [[ $expected == "fails: "* ]]; then
  [ $status -eq 1 ] || fail "status $status, expected 1"
  [ ! -s "$scratch/out" ] || fail "printed '$(cat "$scratch/out")', expected nothing"
  grep -F -- "${expected#fails: }" "$scratch/err" > /dev/null || fail "standard error lacks '${expected#fails: }'"
else
  [ $status -eq 0 ] || fail "status $status"
  [ "$(cat "$scratch/out")" = "$expected" ] || fail "printed '$(cat "$scratch/out")', expected '$expected'"
fi
cat "$scratch/err"
finish "$(basename "$1")"
