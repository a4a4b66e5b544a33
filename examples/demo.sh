#!/usr/bin/env bash
# Builds the library and continues prompts with the demo checkpoint, then checks what it wrote. Needs no GPU.
set -eu -o pipefail
cd "$(dirname "$0")/.."
. cmake/setup.sh

need_packages cmake g++ ninja-build libhwy-dev nlohmann-json3-dev
find_nvcc
[ -z "$nvcc" ] || export CUDACXX=$nvcc

say "building the library and examples/generate.c in build/release"
mkdir -p build
for step in "--preset release" "--build --preset release --target generate"; do
  # shellcheck disable=SC2086
  cmake $step > build/demo.log 2>&1 || { cat build/demo.log; complain "cmake $step failed"; exit 1; }
done

failed=0
# ask PROMPT EXPECTED: the first line written must be PROMPT and EXPECTED.
ask() {
  local line
  say "generate examples/demo_model --prompt '$1'"
  build/release/examples/generate examples/demo_model --prompt "$1" --tokens 64 | tee build/demo.txt
  line=$(head -n 1 build/demo.txt)
  [ "$line" = "$1$2" ] || { complain "expected '$1$2'"; failed=1; }
}
ask "412+93=" "505"
ask "tom has 3 red balls. anna has 5 blue cups. who has cups?" " anna."
ask "count 97 to 103:" " 97 98 99 100 101 102 103."
[ $failed -eq 0 ] || { complain "the demo model's answers are wrong"; exit 1; }
say "the demo works: every answer is right"
