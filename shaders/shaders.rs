//! Kernels written by hand in GLSL, and how their SPIR-V is made.
//!
//! netloom embeds the SPIR-V that is checked in beside each, so that building it takes Rust alone. This crate, which only contributors and CI
//! build, makes it anew: `rebuild.rs` compares (`UPDATE_GOLDEN=1` writes), and `ahead.rs` measures each shader beside the generated kernel whose
//! place it takes. A shader stays only while it is ahead.
//!
//! The compiler is shaderc, as in vulkano's macro `shader!`, which keeps the words within the function that loads them. Where the library is not called
//! `libshaderc_shared`, `SHADERC_LIB_DIR` names a folder with a link of that name (`test.sh` makes one for Debian's `libshaderc-dev`).

use std::path::PathBuf;

use shaderc::{CompileOptions, Compiler, EnvVersion, ShaderKind, TargetEnv};

/// Every shader: `NAME.comp`, and `NAME.spv` made from it.
pub const SHADERS: &[&str] = &["product"];

/// A file of this folder.
pub fn file(name: &str, ending: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("{name}.{ending}"))
}

/// The SPIR-V of a shader.
///
/// # Errors
/// What the compiler says, or why the file cannot be read.
pub fn compile(name: &str) -> Result<Vec<u8>, String> {
    let path = file(name, "comp");
    let source = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let compiler = Compiler::new().ok_or("shaderc does not start")?;
    let mut options = CompileOptions::new().ok_or("shaderc has no memory for options")?;
    options.set_target_env(TargetEnv::Vulkan, EnvVersion::Vulkan1_2 as u32);
    let shown = format!("{name}.comp");
    let made = compiler.compile_into_spirv(&source, ShaderKind::Compute, &shown, "main", Some(&options));
    Ok(made.map_err(|error| error.to_string())?.as_binary_u8().to_vec())
}
