#!/bin/sh
# gpu_only.sh COMMAND...: runs it if this machine has an NVIDIA GPU, and is skipped (77) otherwise. For python3, also if what the
# GPU suites import is not installed.
[ -e /dev/nvidiactl ] || [ -e /dev/dxg ] || { echo "SKIP: no NVIDIA GPU"; exit 77; }
if [ "$1" = python3 ]; then
  python3 -c 'import torch, transformers' || { echo "SKIP: python3 has no torch or transformers"; exit 77; }
fi
exec "$@"
