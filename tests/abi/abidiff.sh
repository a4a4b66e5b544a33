#!/usr/bin/env bash
# abidiff.sh SOURCE_DIR CXX_COMPILER ABI_VERSION: libabigail finds nothing but additions between the frozen ABI and the present one.
. "$(dirname "$0")/lib.sh"
sources=$1 cxx=$2 version=$3
command -v abidiff > /dev/null && command -v abidw > /dev/null || skip "abidiff and abidw (abigail-tools) are not installed"
[ "$(uname -m)" = x86_64 ] || skip "the frozen ABI was taken on x86-64"
make_scratch
baseline=$sources/tests/abi/baseline/libclusterfusion-$version.abi
take_abi "$sources" "$cxx" "$scratch/present.abi" || { fail "the ABI cannot be taken"; finish; }
for abi in "$baseline" "$scratch/present.abi"; do
  [ "$(grep -c "<function-decl name='cf_" "$abi")" -gt 70 ] || fail "$abi has too few functions"
done
# A struct may become longer, since callers say how long theirs is. What this lets pass besides in such a struct, frozen.py finds.
sizes() { sed -nE "s/^ *<class-decl name='([a-z0-9_]+)' size-in-bits='([0-9]+)'.*/\1 \2/p" "$1" | sort; }
join <(sizes "$baseline") <(sizes "$scratch/present.abi") | while read -r struct before now; do
  [ "$now" -le "$before" ] || printf '[suppress_type]\n  type_kind = struct\n  name = %s\n  has_data_member_inserted_at = end\n\n' "$struct"
done > "$scratch/allowed"
abidiff --no-added-syms --suppressions "$scratch/allowed" "$baseline" "$scratch/present.abi" || fail "the ABI has changed otherwise than by additions"
finish "compared with $(basename "$baseline")"
