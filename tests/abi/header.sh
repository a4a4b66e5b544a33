#!/usr/bin/env bash
# header.sh HEADER C_COMPILER CXX_COMPILER: the header compiles alone, without a warning, in every supported dialect.
. "$(dirname "$0")/lib.sh"
header=$1 cc=$2 cxx=$3
command -v "$cc" > /dev/null && command -v "$cxx" > /dev/null || skip "$cc or $cxx is not installed"
make_scratch
tried=0
# dialect COMPILER LANGUAGE STANDARD: once the header alone, and twice in one file with something behind it.
dialect() {
  printf '#include "%s"\n#include "%s"\nint use(void);\nint use(void) { return CF_OK; }\n' "$header" "$header" > "$scratch/twice"
  for source in "$header" "$scratch/twice"; do
    "$1" -x "$2" "-std=$3" -Wall -Wextra -pedantic -Werror -fsyntax-only "$source" || fail "$1 -std=$3 rejects $source"
    tried=$((tried + 1))
  done
}
for standard in c99 c11 c17 c2x; do dialect "$cc" c $standard; done
for standard in c++11 c++14 c++17 c++20 c++2b; do dialect "$cxx" c++ $standard; done
# No struct has padding on a 64-bit machine: it would hold what callers left there, and a later field could come to lie in it.
"$cc" -x c -std=c11 -Wpadded -Werror -fsyntax-only "$header" || fail "a struct has padding"
# Nothing but the two headers that design allows.
included=$(sed -nE 's/^ *# *include +(.*)$/\1/p' "$header" | sort | tr '\n' ' ')
[ "$included" = "<stddef.h> <stdint.h> " ] || fail "the header includes $included"
finish "$tried compilations"
