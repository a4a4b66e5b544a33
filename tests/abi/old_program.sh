#!/usr/bin/env bash
# old_program.sh LIBRARY ABI_VERSION C_COMPILER: a program that was compiled when the ABI was frozen runs with this library.
# old_program.sh make LIBRARY ABI_VERSION: compiles that program anew. Only with a new ABI_VERSION, or when it is to test more: never because it fails.
#
# It is kept as a binary, linked as programs of users are: what is compiled today is of today's compiler and linker, and would follow the frozen
# header if that were touched. The same source is compiled with the frozen header, too, which is all there is where the binary cannot run.
. "$(dirname "$0")/lib.sh"
here=$(cd "$(dirname "$0")" && pwd)
demo=$here/../../examples/demo_model

# compiled LIBRARY ABI_VERSION C_COMPILER OUTPUT FLAG...
compiled() { "$3" -std=c11 -O1 -Wall -Wextra -Werror -I"$here/baseline" "$here/old_program.c" "$1" -lm -o "$4" "${@:5}"; }

if [ "$1" = make ]; then
  [ "$(uname -m)" = x86_64 ] || { fail "the program that is kept is of x86-64"; finish; }
  library=$(realpath "$2")
  cd "$here" && here=. || exit 1 # no path of this machine gets into it
  compiled "$library" "$3" gcc "baseline/old_program-$3.x86_64" -s -Wl,--build-id=none,-z,now
  exit
fi

library=$1 abi=$2 cc=$3
make_scratch
cp "$library" "$scratch/libclusterfusion.so.$abi"  # as it is installed: found by its SONAME
declared_functions "$here/baseline/clusterfusion-$abi.h" > "$scratch/frozen"

# run PROGRAM WHAT
run() {
  nm -D --undefined-only "$1" | sed -nE 's/^ +U (cf_[a-z0-9_]+)$/\1/p' | sort > "$scratch/called"
  cmp -s "$scratch/frozen" "$scratch/called" || fail "$2 does not call every function of the frozen header: $(comm -3 "$scratch/frozen" "$scratch/called")"
  printed=$(LD_LIBRARY_PATH=$scratch "$1" "$demo" "$scratch") || fail "$2 ended with status $?"
  grep -E '^[0-9]{3} checks hold$' <<< "$printed" > /dev/null || fail "$2 printed '$printed'"
}

old=$here/baseline/old_program-$abi.x86_64
if [ "$(uname -m)" = x86_64 ] && [ "$(printf 'glibc 2.34\n%s\n' "$(getconf GNU_LIBC_VERSION)" | sort -V | head -n 1)" = "glibc 2.34" ]; then
  if readelf -d "$old" | grep -E 'RPATH|RUNPATH'; then fail "the old program brings a search path"; fi
  run "$old" "the program compiled when ABI $abi was frozen"
else
  echo "the old program is for x86-64 and glibc 2.34 or newer"
fi
compiled "$scratch/libclusterfusion.so.$abi" "$abi" "$cc" "$scratch/old_program" && run "$scratch/old_program" "the program compiled with the frozen header" ||
  fail "the program does not compile with the frozen header"
finish "$printed"
