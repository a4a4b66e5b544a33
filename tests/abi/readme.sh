#!/usr/bin/env bash
# readme.sh SOURCE_DIR LIBRARY C_COMPILER: the C program in README.md compiles without a warning and runs on the demo checkpoint.
. "$(dirname "$0")/lib.sh"
sources=$1 library=$2 cc=$3
make_scratch
awk '/^```c$/ {inside = 1; next} /^```$/ {inside = 0} inside' "$sources/README.md" > "$scratch/readme.c"
[ -s "$scratch/readme.c" ] || { fail "README.md has no C program"; finish; }
"$cc" -std=c11 -Wall -Wextra -pedantic -Werror -I"$sources/include" "$scratch/readme.c" "$library" -Wl,-rpath,"$(dirname "$library")" -o "$scratch/readme" ||
  { fail "the program of README.md does not compile"; finish; }
printed=$(cd "$sources" && "$scratch/readme") || fail "the program of README.md ended with status $?: $printed"
[ "$printed" = "505" ] || fail "the program of README.md printed '$printed'"
finish "README.md"
