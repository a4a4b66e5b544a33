//! Feature `bindgen`: what the header gives now is what is checked in. UPDATE_BINDINGS=1 writes it anew.
#![cfg(feature = "bindgen")]

use std::path::Path;

#[test]
fn checked_in_bindings_are_those_of_the_header() {
    for name in ["types.rs", "functions.rs"] {
        let made = std::fs::read_to_string(Path::new(env!("OUT_DIR")).join(name)).unwrap();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bindings").join(name);
        if std::env::var_os("UPDATE_BINDINGS").is_some() {
            std::fs::write(&path, &made).unwrap();
        }
        let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
        let differs = made.lines().zip(checked_in.lines()).position(|(a, b)| a != b);
        assert!(made == checked_in, "{} differs from the header, first in line {:?}", path.display(), differs.map(|line| line + 1));
    }
}
