//! The crate covers the header: its functions, its constants, and what threads may share.

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use clusterfusion::*;

/// What a user gets by other means: errors are named by their kind.
const NOT_WRAPPED: &[&str] = &["cf_version", "cf_status_name"];

fn sources(folder: &Path) -> String {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

/// Words that begin with `prefix`.
fn words<'a>(text: &'a str, prefix: &'a str) -> BTreeSet<&'a str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| word.starts_with(prefix)).collect()
}

fn header() -> String {
    let text = std::fs::read_to_string(common::repository().join("include/clusterfusion.h")).unwrap();
    // Without comments.
    text.split("/*").enumerate().map(|(i, part)| if i == 0 { part } else { part.split_once("*/").unwrap().1 }).collect()
}

#[test]
fn every_function_of_the_header_is_called() {
    let text = header();
    let functions: BTreeSet<&str> = text
        .split("CF_API ")
        .skip(1)
        .filter_map(|part| part.split_once('('))
        .filter_map(|(head, _)| head.rsplit([' ', '*']).next())
        .filter(|name| name.starts_with("cf_"))
        .collect();
    assert!(functions.len() >= 75, "{functions:?}");
    let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let called = words(&sources, "cf_");
    let missing: Vec<_> = functions.iter().filter(|name| !called.contains(*name) && !NOT_WRAPPED.contains(name)).collect();
    assert!(missing.is_empty(), "the crate does not call {missing:?}");
}

#[test]
fn every_constant_of_the_header_is_used() {
    let text = header();
    let not_used = ["CF_VERSION_MAJOR", "CF_VERSION_MINOR", "CF_VERSION_PATCH", "CF_API"];
    let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let used = words(&sources, "CF_");
    let missing: Vec<_> = words(&text, "CF_").into_iter().filter(|name| !used.contains(name) && !not_used.contains(name)).collect();
    assert!(missing.is_empty(), "the crate does not use {missing:?}");
}

#[test]
fn every_field_of_a_struct_is_read_or_set() {
    let text = header();
    let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let mut n_fields = 0;
    for part in text.split("typedef struct ").skip(1) {
        let Some((head, rest)) = part.split_once('{') else { continue };
        if head.contains(';') {
            continue;
        }
        let body = rest.split_once('}').unwrap().0;
        for field in
            body.split(';').filter_map(|line| line.split('[').next()?.rsplit([' ', '*']).next()).map(str::trim).filter(|name| !name.is_empty())
        {
            n_fields += 1;
            let known = ["struct_size", "reserved", "scale_dtype", "scales", "row_status", "status"].contains(&field);
            assert!(known || sources.contains(&format!(".{field}")), "no source reads or sets {}.{field}", head.trim());
        }
    }
    assert!(n_fields > 150, "{n_fields}");
}

#[test]
fn threads_may_share_what_the_header_lets_them() {
    fn sync<T: Send + Sync + 'static>() {}
    fn send<T: Send + 'static>() {}
    sync::<Context>();
    sync::<Model>();
    sync::<KvPool>();
    sync::<Cancellation>();
    sync::<TokenReader>();
    sync::<Error>();
    sync::<SessionOptions>();
    send::<Session>();
    send::<Graph>();
    send::<Tokens<Session>>();
    #[cfg(feature = "stream")]
    send::<TokenStream>();
}

#[test]
fn the_library_tells_its_version() {
    assert_eq!(library_version().unwrap(), env!("CARGO_PKG_VERSION"));
}
