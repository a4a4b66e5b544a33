# Set-up shared by tests/run.sh and examples/demo.sh, which source it from the root of the repository. Every function says
# what it does, does nothing the second time, and returns non-zero, after a sentence on stderr, where it cannot.

venv=.venv

say() { printf '== %s\n' "$*"; }
complain() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

# need_packages PACKAGE...: installs what is missing through apt where that is permitted. On a system without apt it leaves
# it to CMake to name what it does not find.
need_packages() {
  command -v dpkg-query > /dev/null && command -v apt-get > /dev/null || return 0
  local missing=() package sudo=()
  for package; do
    dpkg-query -W -f='${db:Status-Status}\n' "$package" 2> /dev/null | grep -x installed > /dev/null || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" -ne 0 ]; then
    if ! sudo -n true 2> /dev/null; then
      complain "missing packages; as root: apt-get install ${missing[*]}"
      return 1
    fi
    sudo=(sudo -n)
  fi
  say "installing ${missing[*]}"
  # -q and the closed stdin keep apt from asking. A stale package list is the usual reason for a first failure.
  local install=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}")
  "${install[@]}" < /dev/null > /dev/null 2>&1 && return 0
  "${sudo[@]}" apt-get update -qq < /dev/null || complain "apt-get update failed, trying with the lists there are"
  "${install[@]}" < /dev/null || { complain "apt-get could not install ${missing[*]}"; return 1; }
}

# need_python REQUIREMENTS_FILE: a private virtual environment in .venv with these pinned packages.
need_python() {
  local stamp="$venv/installed-$(basename "$1")" python
  if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -m pip --version > /dev/null 2>&1; then
    for python in python3 /usr/bin/python3; do
      "$python" -c 'import ensurepip, venv' 2> /dev/null && break
      python=
    done
    [ -n "$python" ] || { complain "no python3 with the venv module (Debian: python3-venv)"; return 1; }
    say "creating $venv with $("$python" --version)"
    rm -rf "$venv"
    "$python" -m venv "$venv" || return 1
  fi
  cmp -s "$1" "$stamp" && return 0
  say "installing the Python packages of $1"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$1" || { complain "pip could not install $1"; return 1; }
  cp "$1" "$stamp"
}

# Sets nvcc to an installed CUDA compiler of version 13 or newer, or to nothing.
find_nvcc() {
  local candidate
  for candidate in "${CUDACXX:-}" "$(command -v nvcc || true)" "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc"; do
    nvcc=$candidate
    [ -x "$nvcc" ] && "$nvcc" --version | grep -E 'release (1[3-9]|[2-9][0-9])\.' > /dev/null && return 0
  done
  nvcc=
}

# Sets nvcc to an installed CUDA compiler or else to the one of NVIDIA's PyPI wheels, which it installs (270 MB).
need_nvcc() {
  find_nvcc
  [ -z "$nvcc" ] || return 0
  need_python tests/requirements-cuda.txt || return 1
  local toolkit
  toolkit=$(echo "$PWD/$venv"/lib/python3*/site-packages/nvidia/cu13)
  ln -sfn lib "$toolkit/lib64" || return 1  # where nvcc and CMake look for libcudart_static.a
  nvcc=$toolkit/bin/nvcc
  [ -x "$nvcc" ] || { complain "the wheels of tests/requirements-cuda.txt brought no $nvcc"; return 1; }
}
