#!/usr/bin/env bash
# Sets up, builds and tests everything, with one configuration per stage:
#
#   tests/run.sh                  all stages
#   tests/run.sh release abi ...  only these, in this order
#
#   format    layout of the sources (clang-format 14)
#   tidy      clang-tidy 14 on the host code
#   static    cppcheck and gcc's -fanalyzer on the host code
#   debug     gcc, -Og, assertions on; C and C++ suites
#   release   gcc, optimised; all suites, the library's ABI, packages, programs outside the tree
#   sanitize  clang, AddressSanitizer and UndefinedBehaviorSanitizer; C and C++ suites
#   tsan      gcc, ThreadSanitizer; C and C++ suites
#   cuda      the CUDA backend for every target, without register spills; the GPU suites are skipped where there is no GPU
#   rust      the crates: their suites, clippy, rustdoc, packages, examples
#   demo      examples/demo.sh
#
# Builds lie in build/, Python packages in .venv/. The last line is "N passed, N failed, N skipped", summed over the stages:
# cases of the suites, and one for each build. Exits with 1 if anything failed.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
. cmake/setup.sh

all_stages="format tidy static debug release sanitize tsan cuda rust demo"
logs=build/logs
mkdir -p $logs
passed=0 failed=0 skipped=0
summary=()

# count OUTCOME NAME: one check that is not a test of CTest's.
count() {
  case $1 in
    passed) passed=$((passed + 1)) ;;
    failed) failed=$((failed + 1)) && summary+=("FAILED: $2") && say "FAILED: $2" ;;
    skipped) skipped=$((skipped + 1)) && say "skipped: $2" ;;
  esac
}

# quietly LOG COMMAND...: its output goes to a log, and is shown if it fails.
quietly() {
  local log=$logs/$1.log
  shift
  "$@" > "$log" 2>&1 < /dev/null && return 0
  tail -n 100 "$log"
  return 1
}

# build PRESET
build() {
  local preset=$1
  say "$preset: building in build/$preset"
  if quietly "$preset-configure" cmake --preset "$preset" -DCMAKE_COMPILE_WARNING_AS_ERROR=ON && quietly "$preset-build" cmake --build --preset "$preset"; then
    count passed "$preset: build"
  else
    count failed "$preset: build"
    return 1
  fi
}

# run_suites PRESET CTEST_OPTION...: under setarch -R where that is permitted, because the sanitizers of these compilers cannot
# place their shadow memory under every kernel's address randomisation.
run_suites() {
  local preset=$1 report=$PWD/$logs/$1.xml fixed_addresses=() status=0 counts p f s
  shift
  setarch -R true 2> /dev/null && case $preset in sanitize | tsan) fixed_addresses=(setarch -R) ;; esac
  say "$preset: running its suites"
  rm -f "$report"
  "${fixed_addresses[@]}" ctest --preset "$preset" --output-junit "$report" --test-output-size-passed 1000000 --test-output-size-failed 1000000 \
    -j "$(nproc)" "$@" < /dev/null || status=1
  if ! counts=$("$python" tests/count.py "$report"); then
    count failed "$preset: no report of the suites"
    return 1
  fi
  read -r p f s <<< "$counts"
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
  [ "$f" -eq 0 ] || summary+=("FAILED: $preset: $f cases")
  [ $status -eq 0 ] || [ "$f" -gt 0 ] || count failed "$preset: ctest"
  say "$preset: $p passed, $f failed, $s skipped"
}

stage_format() {
  command -v clang-format-14 > /dev/null || { count skipped "format: clang-format-14 is not installed"; return; }
  say "format: checking the layout of the sources"
  local sources
  mapfile -t sources < <(find include src kernels examples tests bindings -type f \
    \( -name '*.c' -o -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \) | sort)
  if quietly format clang-format-14 --dry-run --Werror "${sources[@]}"; then
    count passed format
  else
    count failed "format: clang-format-14 -i FILE lays a file out anew"
  fi
}

stage_tidy() {
  command -v clang-tidy-14 > /dev/null || { count skipped "tidy: clang-tidy-14 is not installed"; return; }
  say "tidy: clang-tidy on src"
  # Reads how each file is compiled from build/debug.
  if quietly tidy-configure cmake --preset debug -DCMAKE_COMPILE_WARNING_AS_ERROR=ON &&
    quietly tidy bash -c 'printf "%s\n" src/*.cpp src/cpu/*.cpp | xargs -n 1 -P "$(nproc)" clang-tidy-14 -p build/debug --quiet'; then
    count passed tidy
  else
    count failed tidy
  fi
}

stage_static() {
  local tool status
  for tool in cppcheck analyzer; do
    say "static: $tool on src"
    status=0
    quietly "static-$tool" tests/static.sh $tool || status=$?
    case $status in
      0) count passed "static: $tool" ;;
      *) if grep '^SKIP' "$logs/static-$tool.log" > /dev/null; then count skipped "static: $tool"; else count failed "static: $tool"; fi ;;
    esac
  done
}

stage_debug() { build debug && run_suites debug -LE python; }
stage_release() {
  find_nvcc
  CUDACXX=$nvcc build release && run_suites release
}

stage_sanitize() {
  local cc=gcc cxx=g++
  if command -v clang++-14 > /dev/null; then cc=clang-14 cxx=clang++-14; fi
  export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1:check_initialization_order=1
  export UBSAN_OPTIONS=print_stacktrace=1
  CC=$cc CXX=$cxx build sanitize && run_suites sanitize
}

stage_tsan() { build tsan && TSAN_OPTIONS=halt_on_error=1 run_suites tsan; }

stage_cuda() {
  if ! need_nvcc; then
    count failed "cuda: no CUDA compiler"
    return
  fi
  say "cuda: using $nvcc"
  CUDACXX=$nvcc build cuda && run_suites cuda -L 'gpu|abi|emulated' -E 'header|readme|add_subdirectory'
}

# The library for the crates, installed in build/rust/prefix: that of build/release where there is one.
rust_library() {
  local from=build/release
  if [ ! -f $from/libclusterfusion.so ]; then
    from=build/rust/library
    quietly rust-configure cmake --preset release -B $from -DCF_CUDA=OFF -DCF_TESTS=OFF -DCF_EXAMPLES=OFF || return 1
  fi
  quietly rust-library cmake --build $from --target clusterfusion && rm -rf build/rust/prefix &&
    quietly rust-install cmake --install $from --prefix build/rust/prefix
}

# rust_check NAME COMMAND...: one check.
rust_check() {
  local name=$1
  shift
  say "rust: $name"
  if quietly "rust-$name" "$@"; then count passed "rust: $name"; else count failed "rust: $name"; fi
}

# rust_suites NAME COMMAND...: cargo test, which counts.
rust_suites() {
  local name=$1 log=$logs/rust-$1.log p f status=0
  shift
  say "rust: running suites, $name"
  "$@" > "$log" 2>&1 < /dev/null || status=1
  p=$(awk '/^test result:/ {n += $4} END {print n + 0}' "$log") f=$(awk '/^test result:/ {n += $6} END {print n + 0}' "$log")
  passed=$((passed + p)) failed=$((failed + f))
  [ "$f" -eq 0 ] || summary+=("FAILED: rust: $f cases, $name")
  [ $status -eq 0 ] || grep -E -A 12 "^error|panicked at" "$log" | head -n 100
  [ $status -eq 0 ] && [ "$p" -gt 0 ] || [ "$f" -gt 0 ] || count failed "rust: cargo test, $name"
  say "rust: $p passed, $f failed, $name"
}

# rust_example PATTERN INPUT EXAMPLE ARGUMENT...: what it writes for the input has to match.
rust_example() {
  local pattern=$1 input=$2 written
  shift 2
  written=$(printf '%s' "$input" | "$rust_target/debug/examples/$1" "${@:2}" 2>&1)
  if grep -E -- "$pattern" <<< "$written" > /dev/null; then
    count passed "rust: example $1"
  else
    printf '%s\n' "$written"
    count failed "rust: example $1"
  fi
}

stage_rust() {
  local rust_target=$PWD/build/rust/target workspace="--manifest-path bindings/rust/Cargo.toml" all=clusterfusion/stream,clusterfusion/tokenizers lib
  PATH=$PATH:$HOME/.cargo/bin
  # What cargo and the programs that it makes find the library by; the last is for the feature `load`.
  local -x CARGO_TARGET_DIR=$rust_target CARGO_INCREMENTAL=0 RUSTDOCFLAGS="-D warnings" PKG_CONFIG_PATH LD_LIBRARY_PATH CLUSTERFUSION_LIBRARY
  if ! cargo clippy --version > /dev/null 2>&1; then
    count skipped "rust: no cargo with clippy; README.md of bindings/rust/clusterfusion says from which version"
    return
  fi
  need_packages libclang-14-dev || { count failed "rust: set-up"; return; }
  say "rust: building the library"
  rust_library || { count failed "rust: the library"; return; }
  lib=$(dirname "$(find "$PWD/build/rust/prefix" -name libclusterfusion.so)")
  PKG_CONFIG_PATH=$lib/pkgconfig LD_LIBRARY_PATH=$lib CLUSTERFUSION_LIBRARY=$lib/libclusterfusion.so
  # shellcheck disable=SC2086  # $workspace is two words
  {
    rust_check layout cargo fmt $workspace --all --check
    rust_check clippy cargo clippy --locked $workspace --workspace --all-targets --features $all -- -D warnings
    rust_suites linked cargo test --locked $workspace --workspace --no-fail-fast --features $all,clusterfusion-sys/bindgen
    LD_LIBRARY_PATH='' rust_suites load cargo test --locked $workspace --no-fail-fast -p clusterfusion-sys -p clusterfusion --lib --test layout --test golden --test sessions --features clusterfusion/load
    DOCS_RS=1 PKG_CONFIG_PATH='' rust_check documentation cargo doc --locked $workspace --workspace --no-deps --features $all
    rust_check package cargo package --locked $workspace --workspace --allow-dirty
    rust_check consumer tests/rust/consumer.sh . "$rust_target/package" build/rust/consumer
    rust_example '^505$' $'412+93=\n' chat
    rust_example 'pages of the prompt are shared; the likeliest: anna\.$' '' decode_loop
    rust_check overhead-build cargo build --locked $workspace --release -p clusterfusion --example overhead
    rust_check overhead "$python" tests/bench/overhead.py --quick --rust "$rust_target/release/examples/overhead"
    if cargo +nightly miri --version > /dev/null 2>&1; then
      rust_suites miri env MIRIFLAGS=-Zmiri-disable-isolation cargo +nightly miri test --locked $workspace -p clusterfusion --lib --features clusterfusion/stream
    else
      count skipped "rust: Miri is not installed"
    fi
  }
}

stage_demo() {
  say "demo: examples/demo.sh"
  if examples/demo.sh < /dev/null; then count passed demo; else count failed "demo: examples/demo.sh"; fi
}

finish() {
  [ ${#summary[@]} -eq 0 ] || printf '%s\n' "${summary[@]}"
  echo "$passed passed, $failed failed, $skipped skipped"
  [ "$failed" -eq 0 ]
  exit
}

stages=${*:-$all_stages}
for stage in $stages; do
  [[ " $all_stages " == *" $stage "* ]] || { complain "'$stage' is not a stage; there are: $all_stages"; exit 2; }
done

if ! need_packages cmake g++ ninja-build pkg-config binutils abigail-tools dpkg-dev file python3 python3-venv libhwy-dev nlohmann-json3-dev clang-14 libclang-rt-14-dev clang-format-14 clang-tidy-14 cppcheck ||
  ! need_python tests/requirements.txt; then
  count failed "set-up"
  finish
fi
python=$venv/bin/python

for stage in $stages; do
  started=$SECONDS
  "stage_$stage"
  say "$stage took $((SECONDS - started)) s"
done
finish
