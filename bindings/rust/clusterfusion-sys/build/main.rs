//! Finds the library, builds it, or leaves it to be opened at run time; and makes the bindings anew where that is asked for.

#[cfg(feature = "bindgen")]
mod bindings;
#[cfg(feature = "bundled")]
mod bundled;

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=build");
    println!("cargo:rerun-if-env-changed=DOCS_RS");
    let manifest = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let include = manifest.join("bundled/library/include");
    #[cfg(feature = "bindgen")]
    bindings::generate(&include.join("clusterfusion.h"));
    println!("cargo:include={}", include.display());
    if std::env::var_os("DOCS_RS").is_some() || cfg!(feature = "load") {
        return;
    }
    #[cfg(feature = "bundled")]
    bundled::build(&manifest.join("bundled"));
    #[cfg(not(feature = "bundled"))]
    find();
}

/// The library of the system, which has to be of the version that the bindings were made from, or a later one that is compatible.
#[cfg(not(feature = "bundled"))]
fn find() {
    let version = env!("CARGO_PKG_VERSION");
    let found = pkg_config::Config::new().atleast_version(version).probe("clusterfusion");
    for folder in found.iter().flat_map(|library| &library.link_paths) {
        println!("cargo:rerun-if-changed={}", folder.join("libclusterfusion.so").display());
        // its soname may be another then
    }
    if let Err(error) = found {
        eprintln!("{error}");
        eprintln!(
            "clusterfusion-sys: pkg-config finds no libclusterfusion {version} or newer. Install it and name the folder of its clusterfusion.pc in"
        );
        eprintln!("PKG_CONFIG_PATH; or use the feature `bundled`, which builds it, or `load`, which opens it at run time.");
        std::process::exit(1);
    }
}
