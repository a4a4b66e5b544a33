//! Builds the library with CMake from the sources that the crate brings, and links it statically. Downloads nothing.

use std::path::Path;

pub(crate) fn build(sources: &Path) {
    println!("cargo:rerun-if-changed={}", sources.display());
    let mut config = cmake::Config::new(sources);
    // A build without optimisation would be far too slow to run a model with, whatever the profile of the program.
    config.profile("Release");
    for name in ["CF_CUDA", "CF_CUDA_TARGETS", "CF_HIGHWAY_INCLUDE_DIR", "CF_JSON_INCLUDE_DIR"] {
        println!("cargo:rerun-if-env-changed={name}");
        if let Some(value) = std::env::var_os(name) {
            config.define(name, value);
        }
    }
    println!("cargo:rerun-if-env-changed=CUDACXX");
    let prefix = config.build();
    println!("cargo:rustc-link-search=native={}", prefix.join("lib").display());
    println!("cargo:rustc-link-lib=static=clusterfusion");
    let link = std::fs::read_to_string(prefix.join("link.txt")).expect("bundled/CMakeLists.txt installs link.txt");
    for item in link.lines() {
        link_with(item);
    }
    println!("cargo:rustc-link-lib=stdc++");
    println!("cargo:rustc-link-lib=pthread");
}

/// One item of CMake's list of what the library is linked with: an archive's path, a name, or a target, which needs nothing more.
fn link_with(item: &str) {
    let path = Path::new(item);
    if path.is_absolute() {
        let folder = path.parent().expect("a file has a folder");
        let name = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.strip_prefix("lib"));
        println!("cargo:rustc-link-search=native={}", folder.display());
        println!("cargo:rustc-link-lib=static={}", name.expect("an archive is named libNAME.a"));
    } else if !item.is_empty() && !item.contains("::") {
        println!("cargo:rustc-link-lib={}", item.trim_start_matches("-l"));
    }
}
