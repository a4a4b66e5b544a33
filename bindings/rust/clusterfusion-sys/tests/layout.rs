//! The C compiler gives every struct of the header the size and the offsets that the bindings have.

use std::fmt::Write as _;
use std::process::Command;

/// `["Offset of field: cf_result::token"][::std::mem::offset_of!(cf_result, token) - 24usize];` and the like, which rustc checks.
const ASSERTED: &str = include_str!("../src/bindings/types.rs");

#[test]
fn the_c_compiler_has_the_same_layouts() {
    let mut program = String::from("#include <clusterfusion.h>\n");
    let (mut n_sizes, mut n_offsets) = (0, 0);
    let joined = ASSERTED.split_whitespace().collect::<Vec<_>>().join(" ");
    for assertion in joined.split("[\"").skip(1) {
        let Some((what, rest)) = assertion.split_once("\"]") else { continue };
        let Some(number) = rest.split_once(" - ").and_then(|(_, n)| n.split_once("usize")).map(|(n, _)| n) else { continue };
        if let Some(name) = what.strip_prefix("Size of ") {
            n_sizes += 1;
            writeln!(program, "_Static_assert(sizeof({name}) == {number}, \"size of {name}\");").unwrap();
        } else if let Some(field) = what.strip_prefix("Offset of field: ") {
            n_offsets += 1;
            let (name, field) = field.split_once("::").unwrap();
            writeln!(program, "_Static_assert(offsetof({name}, {field}) == {number}, \"offset of {name}.{field}\");").unwrap();
        }
    }
    assert!(n_sizes >= 18 && n_offsets >= 170, "only {n_sizes} sizes and {n_offsets} offsets were found in the bindings");
    let source = std::env::temp_dir().join(format!("clusterfusion_layout_{}.c", std::process::id()));
    std::fs::write(&source, program).unwrap();
    let include = concat!("-I", env!("CARGO_MANIFEST_DIR"), "/bundled/library/include");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let ran = Command::new(compiler).args(["-std=c11", "-fsyntax-only", include]).arg(&source).output().unwrap();
    std::fs::remove_file(&source).unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

/// Each struct's initialiser takes the size that Rust gives it, and writes it.
#[test]
fn the_library_knows_the_sizes() {
    macro_rules! check {
        ($($name:ident: $init:ident,)*) => {$(
            // SAFETY: all-zero bits are a value of every struct of the header, and the initialiser writes at most its size.
            unsafe {
                let mut value: clusterfusion_sys::$name = std::mem::zeroed();
                let size = std::mem::size_of_val(&value);
                assert_eq!(clusterfusion_sys::$init(&mut value, size), clusterfusion_sys::CF_OK, stringify!($init));
                assert_eq!(value.struct_size as usize, size, stringify!($name));
            }
        )*};
    }
    check! {
        cf_device_info: cf_device_info_init,
        cf_context_options: cf_context_options_init,
        cf_context_info: cf_context_info_init,
        cf_model_config: cf_model_config_init,
        cf_model_options: cf_model_options_init,
        cf_tensor: cf_tensor_init,
        cf_model_info: cf_model_info_init,
        cf_kv_pool_options: cf_kv_pool_options_init,
        cf_kv_pool_info: cf_kv_pool_info_init,
        cf_session_options: cf_session_options_init,
        cf_session_info: cf_session_info_init,
        cf_memory_estimate: cf_memory_estimate_init,
        cf_sampler_options: cf_sampler_options_init,
        cf_outputs: cf_outputs_init,
        cf_tap: cf_tap_init,
        cf_step_options: cf_step_options_init,
        cf_result: cf_result_init,
        cf_graph_options: cf_graph_options_init,
        cf_graph_info: cf_graph_info_init,
        cf_block_options: cf_block_options_init,
    }
}
