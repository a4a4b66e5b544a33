#!/usr/bin/env bash
# package.sh FORM SOURCE_DIR BUILD_DIR C_COMPILER CXX_COMPILER ABI_VERSION: a package of the build is what it should be, and programs are built
# with nothing but what it holds, by pkg-config and by find_package, and decode. FORM: TGZ; DEB, a package for each of two components.
. "$(dirname "$0")/abi/lib.sh"
form=$1 sources=$2 build=$3
export CC=$4 CXX=$5
abi=$6
runtime=libclusterfusion$abi
for tool in cpack pkg-config; do command -v $tool > /dev/null || skip "$tool is not installed"; done
if [ "$form" = DEB ]; then for tool in dpkg-deb dpkg-shlibdeps file; do command -v $tool > /dev/null || skip "$tool is not installed"; done; fi
make_scratch
packages=$scratch/packages root=$scratch/root
mkdir -p "$root"
cpack -G "$form" --config "$build/CPackConfig.cmake" -B "$packages" > "$scratch/log" 2>&1 || { cat "$scratch/log"; fail "cpack -G $form"; finish; }

# expect WHAT PATTERN TEXT: a line of the text matches.
expect() { grep -E -- "$2" <<< "$3" > /dev/null || fail "$1 has no line like '$2': $3"; }
one() { [ $# -eq 1 ] && [ -e "$1" ] || fail "expected one package, there are: $*"; }

case $form in
  TGZ)
    one "$packages"/*.tar.gz
    tar -xzf "$packages"/*.tar.gz -C "$root" || fail "tar"
    one "$root"/*
    prefix=$(echo "$root"/clusterfusion-*)
    ;;
  DEB)
    one "$packages/$runtime"_*.deb
    one "$packages"/libclusterfusion-dev_*.deb
    [ "$(find "$packages" -maxdepth 1 -name '*.deb' | wc -l)" -eq 2 ] || fail "there are more packages than two"
    version=$(dpkg-deb -f "$packages/$runtime"_*.deb Version)
    control=$(dpkg-deb -f "$packages/$runtime"_*.deb)
    expect "$runtime" "^Package: $runtime\$" "$control"
    expect "$runtime" "^Section: libs\$" "$control"
    expect "$runtime" "^Architecture: $(dpkg --print-architecture)\$" "$control"
    expect "$runtime" "^Depends: .*libc6 \(>= 2\.[0-9]+\).*libstdc\+\+6 \(>= [0-9.]+\)" "$control"
    expect "$runtime" "^Description: low-latency .*, shared library\$" "$control"
    expect "$runtime" "^Maintainer: ." "$control"
    expect "$runtime's shlibs" "^libclusterfusion $abi $runtime \(>= $version\)\$" "$(dpkg-deb --ctrl-tarfile "$packages/$runtime"_*.deb | tar -xO ./shlibs)"
    control=$(dpkg-deb -f "$packages"/libclusterfusion-dev_*.deb)
    expect libclusterfusion-dev "^Section: libdevel\$" "$control"
    expect libclusterfusion-dev "^Depends: $runtime \(= $version\)\$" "$control"
    expect libclusterfusion-dev "^Description: low-latency .*, development files\$" "$control"
    # Runtimes of several ABIs, and any -dev, can be installed together: every file's name has the ABI in it.
    dpkg-deb -x "$packages/$runtime"_*.deb "$root"
    others=$(cd "$root" && find . ! -type d ! -path "./usr/lib*/libclusterfusion.so.$abi*" ! -path "./usr/share/doc/$runtime/*")
    [ -z "$others" ] || fail "$runtime holds $others"
    cp -r "$root" "$scratch/runtime"
    dpkg-deb -x "$packages"/libclusterfusion-dev_*.deb "$root"
    prefix=$root/usr
    ;;
  *) fail "unknown form $form" && finish ;;
esac

# Licences: of everything that is compiled in, with the texts where this machine has them.
docs=$prefix/share/doc
cmp "$sources/LICENSE" "$docs/$runtime/LICENSE" || fail "LICENSE"
cmp "$docs/$runtime/copyright" "$docs/libclusterfusion-dev/copyright" || fail "the packages' copyright files"
notice=$(cat "$docs/$runtime/copyright")
for words in "^ClusterFusion [0-9.]+: " "^JSON for Modern C\+\+ " "licence  MIT" "^Highway\$" "licence  Apache-2\.0; .* BSD-3-Clause"; do expect copyright "$words" "$notice"; done
for named in $(sed -nE 's|^ +text +(share/doc/[^ ;]*/licences/[^ ;]*).*|\1|p' <<< "$notice"); do [ -s "$prefix/$named" ] || fail "copyright names $named, which is missing"; done
cudart=$(sed -nE 's/^CF_CUDART_STATIC:FILEPATH=(.*)$/\1/p' "$build/CMakeCache.txt")
if [ -n "$cudart" ]; then expect copyright "^CUDA runtime\$" "$notice"; else grep -i cuda <<< "$notice" && fail "there is no CUDA in this build"; fi
if [ -e /usr/share/doc/nlohmann-json3-dev/copyright ] && grep -x 'CF_JSON_INCLUDE_DIR:PATH=/usr/include' "$build/CMakeCache.txt" > /dev/null; then
  grep "Permission is hereby granted" "$docs/$runtime/licences/json.txt" > /dev/null || fail "the text of the MIT licence is missing"
fi
if grep -rIl -e "$build" -e "$sources" -e "$scratch" "$prefix"; then fail "the files above hold paths of this machine"; fi
if readelf -SW "$(find "$prefix" -name "libclusterfusion.so.$abi")" | grep '\.debug_info'; then fail "the library is not stripped"; fi

# decodes COMMAND...: generate's and raii's arguments.
decodes() {
  local printed
  printed=$("$@" 2> "$scratch/err") || fail "$* ended with status $?: $(cat "$scratch/err")"
  [ "$(head -n 1 <<< "$printed")" = "412+93=505" ] || fail "$* printed '$printed'"
}
demo=$sources/examples/demo_model

cp -r "$docs/libclusterfusion-dev/examples" "$scratch/examples"
description=$(find "$prefix" -name clusterfusion.pc)
# The package's own directories only; in a scratch root they are not where the system looks.
export PKG_CONFIG_LIBDIR=${description%/*}
libdir=$(realpath "$(pkg-config --variable=libdir clusterfusion)")
cflags=$(pkg-config --cflags clusterfusion) libs=$(pkg-config --libs clusterfusion)
# shellcheck disable=SC2086
"$CC" -std=c11 $cflags "$scratch/examples/generate.c" -o "$scratch/generate" $libs || fail "generate.c with pkg-config"
# shellcheck disable=SC2086
"$CXX" -std=c++17 $cflags "$scratch/examples/raii.cpp" -o "$scratch/raii" $libs || fail "raii.cpp with pkg-config"
# Runs with the runtime alone.
[ ! -d "$scratch/runtime" ] || libdir=$scratch/runtime${libdir#"$root"}
decodes env LD_LIBRARY_PATH="$libdir" "$scratch/generate" "$demo" --prompt "412+93=" --tokens 16
decodes env LD_LIBRARY_PATH="$libdir" "$scratch/raii" "$demo" "412+93=" 1

# project VERSION: outside the tree, asks for this version of the package.
project() {
  cat > "$scratch/CMakeLists.txt" << END
cmake_minimum_required(VERSION 3.25)
project(outside LANGUAGES C)
find_package(clusterfusion $1 REQUIRED)
add_executable(outside examples/generate.c)
target_link_libraries(outside PRIVATE clusterfusion::clusterfusion)
END
  rm -rf "$scratch/outside"
  cmake -S "$scratch" -B "$scratch/outside" -DCMAKE_PREFIX_PATH="$prefix" > "$scratch/log" 2>&1
}
installed=$(pkg-config --modversion clusterfusion)
major=${installed%%.*}
project "$major.0" && cmake --build "$scratch/outside" >> "$scratch/log" 2>&1 || { cat "$scratch/log"; fail "find_package"; }
decodes "$scratch/outside/outside" "$demo" --prompt "412+93=" --tokens 16
! project "$((major + 1)).0" || fail "find_package takes another major version"
! project "$major.999" || fail "find_package takes a newer minor version"
finish "$(cd "$packages" && echo ./*.tar.gz ./*.deb | tr ' ' '\n' | grep -v '\*' | tr '\n' ' ')"
