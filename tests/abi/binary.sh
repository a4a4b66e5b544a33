#!/usr/bin/env bash
# binary.sh LIBRARY ABI_VERSION: what the library asks of the system, and how it is laid out.
. "$(dirname "$0")/lib.sh"
library=$1 abi=$2
dynamic=$(readelf -dW "$library") || fail "readelf cannot read $library"
for needed in $(sed -nE 's/.*\(NEEDED\).*\[(.*)\]/\1/p' <<< "$dynamic"); do
  case $needed in
    libc.so.* | libm.so.* | libstdc++.so.* | libgcc_s.so.* | ld-linux*.so.*) ;;
    libpthread.so.* | libdl.so.* | librt.so.*) ;; # parts of libc before glibc 2.34
    *) fail "the library depends on $needed" ;;
  esac
done
grep 'SONAME.*\[libclusterfusion\.so\.'"$abi"'\]' <<< "$dynamic" > /dev/null || fail "SONAME is not libclusterfusion.so.$abi"
grep -E '\(FLAGS\).*BIND_NOW|\(FLAGS_1\).* NOW' <<< "$dynamic" > /dev/null || fail "symbols are not bound at load time"
if grep -E '\((TEXTREL|RPATH|RUNPATH)\)' <<< "$dynamic"; then fail "text relocations or a search path"; fi
segments=$(readelf -lW "$library")
grep GNU_RELRO <<< "$segments" > /dev/null || fail "no RELRO segment"
grep -E 'GNU_STACK .* RW ' <<< "$segments" > /dev/null || fail "the stack is executable, or there is no GNU_STACK segment"
if grep -E 'LOAD .* RWE ' <<< "$segments"; then fail "a segment is writable and executable"; fi
finish "dependencies, SONAME, relocations"
