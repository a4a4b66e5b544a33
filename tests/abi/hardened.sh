#!/usr/bin/env bash
# hardened.sh LIBRARY PROBE: the library's code is hardened as CF_HARDEN says; its segments are binary.sh's. PROBE is the object of hardening_probe.cpp, compiled with the same flags:
# the library itself calls nothing that libc can check (it copies where the size is not known), which is no proof that calls would be.
. "$(dirname "$0")/lib.sh"
library=$1 probe=$2
imported=$(nm -D --undefined-only "$library") probed=$(nm -u "$probe") || fail "nm cannot read $library or $probe"
code=$(objdump -d --no-show-raw-insn "$probe")
refers() { grep -E " $2(@|$)" <<< "$1" > /dev/null || fail "$3"; }
refers "$imported" __stack_chk_fail "no stack protector in the library"
refers "$probed" __stack_chk_fail "no stack protector for an array"
refers "$probed" __strcpy_chk "strcpy to an array is not fortified (_FORTIFY_SOURCE)"
refers "$probed" __memcpy_chk "memcpy to memory of a size known at run time is not fortified (_FORTIFY_SOURCE=3)"
case $(uname -m) in
  x86_64) # of the library: every exported function begins with a landing pad
    grep endbr64 <<< "$code" > /dev/null || fail "indirect branches land anywhere (-fcf-protection)"
    functions=$(objdump -d --no-show-raw-insn "$library" | grep -A 1 -E '^[0-9a-f]+ <cf_[a-z0-9_]+>:$' | grep -v '^--')
    [ "$(grep -c '>:$' <<< "$functions")" -gt 70 ] || fail "fewer than 70 functions in the library's code"
    [ "$(grep -c '>:$' <<< "$functions")" -eq "$(grep -c endbr64 <<< "$functions")" ] || fail "an exported function does not begin with endbr64"
    ;;
esac
finish "stack protector, fortified calls, control flow"
