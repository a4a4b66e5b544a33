#!/usr/bin/env bash
# same_bits.sh PYTHON LIBRARY: whatever the number of CTAs, and in whatever order their threads run, a session makes the same bits.
set -eu
cd "$(dirname "$0")/../gpu"
first=
for run in "2 1" "3 2" "16 3"; do
  read -r sms seed <<< "$run"
  digest=$(EMULATOR_SMS=$sms EMULATOR_SEED=$seed "$1" bits_proof.py --library "$2" --digest tiny-gqa)
  echo "$sms SMs, seed $seed: $digest"
  first=${first:-$digest}
  [ "$digest" = "$first" ]
done
