#!/usr/bin/env bash
# exports.sh LIBRARY HEADER: the library exports exactly the functions that the header declares.
. "$(dirname "$0")/lib.sh"
library=$1 header=$2
make_scratch
declared_functions "$header" > "$scratch/declared"
nm -D --defined-only "$library" | awk '{print $NF}' | sort > "$scratch/exported"
[ "$(wc -l < "$scratch/declared")" -eq "$(grep -c '^CF_API ' "$header")" ] || fail "this script cannot read every CF_API line of the header"
[ "$(wc -l < "$scratch/declared")" -gt 50 ] || fail "fewer than 50 functions found in the header"
missing=$(comm -23 "$scratch/declared" "$scratch/exported" | tr '\n' ' ')
extra=$(comm -13 "$scratch/declared" "$scratch/exported" | tr '\n' ' ')
[ -z "$missing" ] || fail "declared but not exported: $missing"
[ -z "$extra" ] || fail "exported but not declared: $extra"
finish "$(wc -l < "$scratch/exported") functions"
