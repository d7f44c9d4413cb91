//! Artefacts for Vulkan: SPIR-V modules, the plan that plays them, the blocks of states and constants, and a host in C that does so with
//! libvulkan alone.
//!
//! | file | what |
//! |---|---|
//! | `plan.txt` | areas of memory, modules, and each entry's commands ([`crate::gpu::script`]) |
//! | `kernels/N.spv` | the modules |
//! | `NAME.states`, `NAME.constants` | what is in these areas at first |
//! | `vulkan_host.c` | the host, which says how it is built and called |
//!
//! The modules are for devices that can do what the one can for which they were made; results are those of `netloom run --device vulkan`.

use std::io::Write;
use std::path::{Path, PathBuf};

use netloom_ir::Target;

use super::{Artefact, identifier, with_beginnings};
use crate::compile::lower;
use crate::error::Error;
use crate::formats::write_whole;
use crate::gpu::device::{Device, Traits};
use crate::gpu::script;

/// The host's text.
pub const HOST: &str = include_str!("vulkan_host.c");

/// Compiles a program for devices like this one into a folder, its states in a file, and gives the files written.
///
/// # Errors
/// If the device lacks something, an entry has a branch or a loop of unknown length, or a file cannot be written.
pub fn write(artefact: &Artefact<'_>, device: &Device, folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let name = identifier(artefact.name);
    // The host binds storage buffers alone.
    let target = Target {
        product_bytes: 0,
        ..device.target()
    };
    let lowered = lower(&with_beginnings(artefact)?, &target)?;
    let traits = Traits {
        texels: 0,
        ..device.traits.clone()
    };
    let script = script::script(&lowered, &traits)?;
    let mut files = Vec::new();
    let mut save = |file: &str, bytes: &[u8]| {
        let path = folder.join(file);
        write_whole(&path, |file| file.write_all(bytes))?;
        files.push(path);
        Ok::<(), Error>(())
    };
    let blocks = [
        (format!("{name}.states"), lowered.memory.state_values(artefact.session)?),
        (format!("{name}.constants"), lowered.memory.constants.clone()),
    ];
    for (file, bytes) in blocks.iter().filter(|(_, bytes)| !bytes.is_empty()) {
        save(file, bytes)?;
    }
    let module = |number: usize| format!("kernels/{number}.spv");
    for (number, of) in script.modules.iter().enumerate() {
        let bytes: Vec<u8> = of.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        save(&module(number), &bytes)?;
    }
    save("vulkan_host.c", HOST.as_bytes())?;
    let [states, constants] = blocks.each_ref().map(|(file, bytes)| match bytes.is_empty() {
        true => "-",
        false => file.as_str(),
    });
    // Last: a folder with a plan is whole.
    save(
        "plan.txt",
        script.text(&[states, constants, "-", "-", "-"], module).as_bytes(),
    )?;
    Ok(files)
}
