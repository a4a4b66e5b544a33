#!/usr/bin/env bash
# consumer.sh WAY SOURCE_DIR BUILD_DIR C_COMPILER CXX_COMPILER: programs outside the tree build and run against the library.
# WAY: pkg-config or find_package, on an installed tree that was moved afterwards; add_subdirectory.
. "$(dirname "$0")/lib.sh"
way=$1 sources=$2 build=$3
export CC=$4 CXX=$5
programs=$sources/tests/abi/consumer
make_scratch

# The program runs and prints a version; nothing but its own search path helps it find the library.
run() {
  local printed
  printed=$("$@") || { fail "$* ended with status $?"; return; }
  [[ $printed =~ ^clusterfusion\ [0-9]+\.[0-9]+\.[0-9]+$ ]] || fail "$* printed '$printed'"
}

install_and_move() {
  cmake --install "$build" --prefix "$scratch/first" > "$scratch/install.log" || { cat "$scratch/install.log"; fail "cmake --install"; }
  mv "$scratch/first" "$scratch/moved"
  if grep -rIl -e "$scratch/first" -e "$build" "$scratch/moved"; then fail "the files above hold paths of the build"; fi
}

case $way in
  pkg-config)
    command -v pkg-config > /dev/null || skip "pkg-config is not installed"
    install_and_move
    description=$(find "$scratch/moved" -name clusterfusion.pc)
    PKG_CONFIG_PATH=$(dirname "$description")
    export PKG_CONFIG_PATH
    library_dir=$(pkg-config --variable=libdir clusterfusion)
    cp "$programs"/main.* "$scratch"
    # shellcheck disable=SC2046
    "$CC" -std=c99 -Wall -Wextra -pedantic -Werror "$scratch/main.c" -o "$scratch/c" $(pkg-config --cflags --libs clusterfusion) || fail "the C program"
    # shellcheck disable=SC2046
    "$CXX" -std=c++11 -Wall -Wextra -pedantic -Werror "$scratch/main.cpp" -o "$scratch/cpp" $(pkg-config --cflags --libs clusterfusion) || fail "the C++ program"
    run env LD_LIBRARY_PATH="$library_dir" "$scratch/c"
    run env LD_LIBRARY_PATH="$library_dir" "$scratch/cpp"
    ;;
  find_package)
    install_and_move
    cmake -S "$programs" -B "$scratch/build" -DCMAKE_PREFIX_PATH="$scratch/moved" > "$scratch/log" 2>&1 && cmake --build "$scratch/build" >> "$scratch/log" 2>&1 ||
      { cat "$scratch/log"; fail "find_package"; }
    run "$scratch/build/consumer_c"
    run "$scratch/build/consumer_cpp"
    ;;
  add_subdirectory)
    # Kept between runs: it compiles the whole library.
    mkdir -p "$build/consumer"
    cmake -S "$programs" -B "$build/consumer" -G Ninja -DCLUSTERFUSION_SOURCE_DIR="$sources" -DCF_CUDA=OFF -DCMAKE_BUILD_TYPE=Debug > "$scratch/log" 2>&1 &&
      cmake --build "$build/consumer" >> "$scratch/log" 2>&1 || { cat "$scratch/log"; fail "add_subdirectory"; }
    run "$build/consumer/consumer_c"
    run "$build/consumer/consumer_cpp"
    ;;
  *) fail "unknown way $way" ;;
esac
finish "$way"
