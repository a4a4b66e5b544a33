#!/usr/bin/env bash
# objects.sh SOURCE_DIR OBJECT_LIST: no object of the library refers to what would end the process or print.
# OBJECT_LIST is a file with one path a line.
#
# std::terminate is allowed in objects: compilers refer to it for `noexcept` and the destructor of std::thread does, neither of
# which is a decision of ours to end the process. So is `exit` in objects of CUDA sources: nvcc gives every device function that
# the host cannot call a host body that exits. That the sources name none of these themselves is checked as text.
. "$(dirname "$0")/lib.sh"
sources=$1 list=$2
forbidden='abort|exit|_exit|_Exit|quick_exit|raise|kill|printf|vprintf|fprintf|vfprintf|puts|fputs|putchar|fputc|putc|perror|psignal'
forbidden+='|__printf_chk|__vprintf_chk|__fprintf_chk|__vfprintf_chk|__assert_fail|__assert_perror_fail|stdout|stderr'
forbidden+='|_ZSt4cout|_ZSt4cerr|_ZSt4clog|_ZSt21__glibcxx_assert_failPKciS0_S0_'
count=0
while read -r object; do
  count=$((count + 1))
  symbols=$(nm -u "$object" | awk '{print $NF}' | { [[ $object == *.cu.o ]] && grep -vx exit || cat; }) || fail "nm cannot read $object"
  found=$(grep -xE "$forbidden" <<< "$symbols" | tr '\n' ' ')
  [ -z "$found" ] || fail "$(basename "$object") refers to $found"
done < "$list"
[ $count -gt 10 ] || fail "only $count objects were looked at"
if grep -rnE --include='*.cpp' --include='*.h' --include='*.cu' --include='*.cuh' '\b(std::terminate|abort|exit|_exit|quick_exit|assert|printf) *\(' \
  "$sources/src" "$sources/kernels"; then
  fail "the lines above end the process or print"
fi
finish "$count objects"
