//! Feature `bindgen`: the bindings, from the header, into OUT_DIR: types.rs and functions.rs, as they are checked in under src/bindings.

use std::path::{Path, PathBuf};

use bindgen::callbacks::ParseCallbacks;
use bindgen::{Builder, CodegenConfig, EnumVariation};

pub(crate) fn generate(header: &Path) {
    println!("cargo:rerun-if-changed={}", header.display());
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    let types = builder(header, CodegenConfig::TYPES | CodegenConfig::VARS).allowlist_type("cf_.*").allowlist_var("CF_.*").layout_tests(true);
    write(&out.join("types.rs"), &constants_of_typedefs(&text(types)));
    let functions = builder(header, CodegenConfig::FUNCTIONS).allowlist_function("cf_.*").allowlist_recursively(false).merge_extern_blocks(true);
    write(&out.join("functions.rs"), &text(functions).replacen("unsafe extern \"C\" {", "functions! {", 1));
}

fn builder(header: &Path, what: CodegenConfig) -> Builder {
    Builder::default()
        .header(header.to_str().expect("the header's path is UTF-8"))
        .clang_arg("-fparse-all-comments") // the header's are no doxygen comments
        .with_codegen_config(what)
        .default_enum_style(EnumVariation::Consts)
        .prepend_enum_name(false)
        .disable_header_comment()
        .rust_target(bindgen::RustTarget::stable(85, 0).expect("1.85 is known"))
        .rust_edition(bindgen::RustEdition::Edition2021)
        .formatter(bindgen::Formatter::Rustfmt)
        .parse_callbacks(Box::new(Comments))
}

fn text(builder: Builder) -> String {
    builder.generate().expect("the header can be read").to_string()
}

fn write(path: &Path, text: &str) {
    let header = "// Made from clusterfusion.h by build/bindings.rs; tests/bindings.rs compares, and writes it anew with UPDATE_BINDINGS=1.\n\n";
    std::fs::write(path, format!("{header}{text}")).expect("OUT_DIR can be written to");
}

/// The header's unnamed enumerations give the values of the int32_t typedef before them, but bindgen gives their constants a type of
/// their own. After a struct there is none, and the value is an int32_t (CF_TOKEN_PENDING).
fn constants_of_typedefs(text: &str) -> String {
    let mut typedef = "i32";
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("pub type ") {
            if rest.starts_with("_bindgen_ty") {
                continue;
            }
            if let Some(name) = rest.strip_suffix(" = i32;") {
                typedef = name;
            }
        } else if line.starts_with("pub struct ") {
            typedef = "i32";
        }
        match line.split_once(": _bindgen_ty_") {
            Some((name, value)) if line.starts_with("pub const ") => {
                let value = value.split_once(" = ").expect("a constant has a value").1;
                out.push_str(&format!("{name}: {typedef} = {value}\n"));
            }
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

/// Comments of the header as rustdoc is to show them.
#[derive(Debug)]
struct Comments;

impl ParseCallbacks for Comments {
    fn process_comment(&self, comment: &str) -> Option<String> {
        // Banners between the parts of the header are no comment on what follows them.
        let text: Vec<&str> = comment.lines().filter(|line| !line.contains("-----")).collect();
        let mut out = text.join("\n");
        for (from, to) in [("[", "\\["), ("]", "\\]"), ("<", "\\<"), (">", "\\>"), ("*", "\\*")] {
            out = out.replace(from, to);
        }
        Some(out)
    }
}
