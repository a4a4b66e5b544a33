#!/usr/bin/env bash
# static.sh [cppcheck|analyzer]...: cppcheck and gcc's -fanalyzer find nothing in the host code but what tests/static/*.txt explain.
# Each is first given planted.cpp, whose faults it must find. Exits with 1 if a tool found something, with 77 if one is not installed.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
status=0

found() { printf 'FAIL: %s\n' "$*"; status=1; }

run_cppcheck() {
  command -v cppcheck > /dev/null || { echo "SKIP: cppcheck is not installed"; exit 77; }
  local options=(--enable=warning,performance,portability --std=c++20 --quiet -j "$(nproc)" --suppress=missingInclude --error-exitcode=1 -I include -I src)
  local planted
  planted=$(cppcheck "${options[@]}" tests/static/planted.cpp 2>&1)
  grep arrayIndexOutOfBounds <<< "$planted" > /dev/null || found "cppcheck does not find the planted fault"
  cppcheck "${options[@]}" --suppressions-list=tests/static/cppcheck.txt src/*.cpp src/cpu/*.cpp src/cuda/*.cpp || found "cppcheck"
}

# analyze FILE: its warnings. At -O2, because without inlining the analysis takes three times as long.
analyze() {
  g++ -std=c++20 -O2 -DNDEBUG -fanalyzer -Iinclude -Isrc -c "$1" -o /dev/null 2>&1 | grep -E 'warning:|error:'
}
export -f analyze

run_analyzer() {
  [ "$(g++ -dumpversion)" = 12 ] || { echo "SKIP: the suppressions are for gcc 12"; exit 77; }
  local planted fault suppressed
  planted=$(analyze tests/static/planted.cpp)
  for fault in double-free file-leak; do
    grep -e "-Wanalyzer-$fault" <<< "$planted" > /dev/null || found "-fanalyzer does not find the planted $fault"
  done
  suppressed=$(grep -v '^#' tests/static/analyzer.txt)
  if printf '%s\n' src/*.cpp src/cpu/*.cpp | xargs -n 1 -P "$(nproc)" bash -c 'analyze "$1"' - | grep -vE -f <(printf '%s\n' "$suppressed"); then
    found "-fanalyzer"
  fi
}

for tool in "${@:-cppcheck analyzer}"; do
  for one in $tool; do "run_$one"; done
done
exit $status
