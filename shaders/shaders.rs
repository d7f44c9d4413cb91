//! Kernels written by hand in GLSL, and their SPIR-V.
//!
//! netloom embeds the SPIR-V that is checked in beside each, so that building it takes Rust alone. This crate, which only contributors and CI
//! build, makes it anew by vulkano's macro `shader!`: `rebuild.rs` compares (`UPDATE_GOLDEN=1` writes), and `ahead.rs` measures each shader beside the
//! generated kernel whose place it takes. A shader stays only while it is ahead.
//!
//! The macro compiles by shaderc. Where that library is not called `libshaderc_shared`, `SHADERC_LIB_DIR` names a folder with a link of that name
//! (`test.sh` makes one for Debian's `libshaderc-dev`).

use std::path::PathBuf;
use std::sync::Arc;

use device::Device;
use shader::ShaderModule;

// `shader!` makes a function that gives its words to `::vulkano::shader::ShaderModule::new` and to nobody else. Here that name means this crate, so
// that they arrive in a module which keeps them.
extern crate self as vulkano;

/// Every shader, made from `NAME.comp` and checked in as `NAME.spv`.
pub const SHADERS: &[(&str, Load)] = &[("product", product::load)];

#[allow(unused_unsafe, reason = "loading a module into a device would be unsafe")]
mod product {
    vulkano_shaders::shader! {
        ty: "compute",
        path: "product.comp",
        vulkan_version: "1.2",
        generate_structs: false,
    }
}

/// What `shader!` makes of a shader.
pub type Load = fn(Arc<Device>) -> Result<Arc<ShaderModule>, Validated<VulkanError>>;

/// The SPIR-V of a shader.
pub fn spirv(load: Load) -> Vec<u8> {
    let Ok(module) = load(Arc::new(Device));
    module.words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A file of this folder.
pub fn file(name: &str, ending: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("{name}.{ending}"))
}

/// Nothing is loaded into a device, so nothing fails.
pub type VulkanError = std::convert::Infallible;

/// What an error of the kind is wrapped in.
pub type Validated<E> = E;

/// What a module is loaded into.
pub mod device {
    /// No device.
    pub struct Device;
}

/// Where the words of shaders arrive.
pub mod shader {
    use std::sync::Arc;

    use crate::device::Device;
    use crate::{Validated, VulkanError};

    /// The words of a shader.
    pub struct ShaderModule {
        /// As shaderc gave them.
        pub words: Vec<u32>,
    }

    impl ShaderModule {
        /// Keeps the words.
        ///
        /// # Errors
        /// Never.
        pub fn new(
            _device: Arc<Device>,
            info: ShaderModuleCreateInfo<'_>,
        ) -> Result<Arc<ShaderModule>, Validated<VulkanError>> {
            let words = info.0.to_vec();
            Ok(Arc::new(ShaderModule { words }))
        }
    }

    /// Words on their way into a module.
    pub struct ShaderModuleCreateInfo<'a>(&'a [u32]);

    impl<'a> ShaderModuleCreateInfo<'a> {
        /// These words.
        pub fn new(words: &'a [u32]) -> ShaderModuleCreateInfo<'a> {
            ShaderModuleCreateInfo(words)
        }
    }
}
