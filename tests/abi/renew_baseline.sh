#!/usr/bin/env bash
# renew_baseline.sh: takes the header and the ABI as they are as the frozen ones, in tests/abi/baseline. For a release that has only added to
# them, after abi.frozen and abi.abidiff have passed, so that the next one is held to what this one added. Never to make the two pass: what
# they refuse needs a new CF_ABI_VERSION, and then the old files go.
. "$(dirname "$0")/lib.sh"
sources=$(cd "$(dirname "$0")/../.." && pwd)
abi=$(sed -nE 's/^#define CF_ABI_VERSION ([0-9]+)$/\1/p' "$sources/include/clusterfusion.h")
baseline=$sources/tests/abi/baseline
command -v abidw > /dev/null || { fail "abidw is missing: apt-get install abigail-tools"; finish; }
[ "$(uname -m)" = x86_64 ] || { fail "the frozen ABI is of x86-64"; finish; }
make_scratch
mkdir -p "$baseline"
cp "$sources/include/clusterfusion.h" "$baseline/clusterfusion-$abi.h"
take_abi "$sources" "${CXX:-g++}" "$baseline/libclusterfusion-$abi.abi" || fail "the ABI cannot be taken"
if grep -e "$sources" -e "$scratch" "$baseline"/*; then fail "the lines above hold paths of this machine"; fi
finish "ABI $abi"
