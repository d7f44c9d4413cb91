//! Artefacts for Vulkan: SPIR-V modules, the plan that plays them, the blocks of states and constants, and a host in C that does so with
//! libvulkan alone.
//!
//! | file | what |
//! |---|---|
//! | `plan.txt` | what a device must have and allow ([`crate::gpu::needs`]), areas of memory, modules, and each entry's commands ([`crate::gpu::script`]) |
//! | `kernels/N.spv` | the modules |
//! | `NAME.states`, `NAME.constants` | what is in these areas at first |
//! | `vulkan_host.c` | the host, which says how it is built and called |
//!
//! The modules run on every device that has what the plan says; whoever plays it says what one lacks. That `fma` rounds once where it did on the device for
//! which they were made is taken for granted: Vulkan does not tell. Results are those of `netloom run --device vulkan`.

use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use netloom_ir::{Target, Tensor};

use super::run::{fitting, zeros};
use super::{Artefact, identifier, with_beginnings};
use crate::compile::lower;
use crate::error::Error;
use crate::formats::write_whole;
use crate::gpu::code::pipelines;
use crate::gpu::commands::{Apart, Lister};
use crate::gpu::device::{Device, Traits};
use crate::gpu::modules::ALIGN;
use crate::gpu::player::{Player, Sizes};
use crate::gpu::script::{self, AREAS, Entry, read};
use crate::gpu::submit::filled;
use crate::plan::Port;

/// The file of the plan.
pub const PLAN: &str = "plan.txt";

/// The host's text.
pub const HOST: &str = include_str!("vulkan_host.c");

/// Compiles a program for devices like this one into a folder, its states in a file, and gives the files written.
///
/// # Errors
/// If the device lacks something, or a file cannot be written.
pub fn write(artefact: &Artefact<'_>, device: &Device, folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let name = identifier(artefact.name);
    // Matrices are an extension, for which the host in C would have to ask.
    let target = Target {
        matrices: None,
        ..device.target()
    };
    let lowered = lower(&with_beginnings(artefact)?, &target)?;
    // Another device may want bindings aligned otherwise.
    let traits = Traits {
        binding_alignment: ALIGN,
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
        PLAN,
        script.text(&[states, constants, "-", "-", "-", "-"], module).as_bytes(),
    )?;
    Ok(files)
}

/// An artefact for Vulkan with memory of its own.
pub struct Playing {
    entries: Vec<Entry>,
    player: Player,
    state_bytes: usize,
}

impl Playing {
    /// Opens an artefact's folder, whose states are read from its file.
    ///
    /// # Errors
    /// If the folder has no whole artefact, or the device lacks what it needs.
    pub fn open(folder: &Path, device: &Arc<Device>) -> Result<Playing, Error> {
        let path = folder.join(PLAN);
        let text = std::fs::read_to_string(&path).map_err(|reason| Error::file(&path, reason))?;
        let (script, files) = read::script(&text, |file| words(folder, file)).map_err(|why| Error::file(&path, why))?;
        if let Some(missing) = script.needs.missing(device) {
            let why = format!("{missing}; use another device, or compile the model again on this one");
            return Err(Error::file(&path, why));
        }
        let contents = |at: usize| {
            let (said, area) = (script.area_bytes[at], AREAS[at]);
            let bytes = files[at].as_ref().map_or(Ok(Vec::new()), |file| bytes(folder, file));
            let bytes = bytes.map_err(|why| Error::file(&path, why))?;
            if bytes.len() as u64 != said {
                let why = format!("{area:?} have {said} bytes, their file {}", bytes.len());
                return Err(Error::file(&path, why));
            }
            Ok(bytes)
        };
        let (states, constants) = (contents(0)?, contents(1)?);
        let [state_bytes, _, arena, scratch, ..] = script.area_bytes;
        let sizes = Sizes {
            states: state_bytes,
            arena,
            scratch,
        };
        let whole = script.entries.iter().map(|entry| {
            let mut lister = Lister::new(&[], &device.traits, &entry.ports, Apart::None);
            lister.arguments();
            lister.append(&entry.segments);
            lister.results();
            (entry.ports.clone(), lister.finish().segments)
        });
        let whole: Vec<_> = whole.collect();
        let pipelines = pipelines(device, &script.modules)?.into();
        let mut player = Player::new(device, &pipelines, sizes, filled(device, &constants)?, &whole)?;
        player.write_states(0, &states)?;
        Ok(Playing {
            entries: script.entries,
            player,
            state_bytes: states.len(),
        })
    }

    /// The block of states.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn states(&self) -> Result<Vec<u8>, Error> {
        Ok(self.player.read_states(0, self.state_bytes)?)
    }

    /// Runs an entry with arguments by name, for the size of batch that they have, and gives its results with their names. A single
    /// array goes to the single argument.
    ///
    /// # Errors
    /// If there is no such entry, an argument is missing, unknown or of another type, or the device is lost.
    pub fn call(&mut self, entry: &str, arguments: &[(String, Tensor)]) -> Result<Vec<(String, Tensor)>, Error> {
        let wanted = identifier(entry);
        // One that was compiled for several sizes of batch is there once for each.
        let is_variant = |name: &str| {
            let batch = name.strip_prefix(&wanted).and_then(|rest| rest.strip_prefix("_b"));
            name == wanted || batch.is_some_and(|batch| batch.parse::<u64>().is_ok())
        };
        let found = (self.entries.iter().enumerate()).filter(|(_, entry)| is_variant(&entry.name));
        let (numbers, takes): (Vec<usize>, Vec<Vec<Port>>) =
            found.map(|(number, entry)| (number, entry.inputs.clone())).unzip();
        if numbers.is_empty() {
            let names: Vec<&str> = self.entries.iter().map(|entry| entry.name.as_str()).collect();
            return Err(Error::Unknown(format!(
                "there is no entry `{entry}`; the artefact has {}",
                names.join(", ")
            )));
        }
        let (variant, inputs) = fitting(entry, &takes, arguments)?;
        let gives = &self.entries[numbers[variant]].outputs;
        let mut outputs: Vec<Tensor> = gives.iter().map(|port| zeros(&port.ty)).collect();
        self.player.run(numbers[variant], None, &inputs, &mut outputs)?;
        Ok(gives.iter().map(|port| port.name.clone()).zip(outputs).collect())
    }
}

/// The words of a module's file.
fn words(folder: &Path, file: &str) -> Result<Vec<u32>, String> {
    let bytes = bytes(folder, file)?;
    let (words, rest) = bytes.as_chunks();
    match rest {
        [] => Ok(words.iter().map(|word| u32::from_le_bytes(*word)).collect()),
        _ => Err(format!("`{file}` is no SPIR-V: it has {} bytes", bytes.len())),
    }
}

/// A file within the folder.
fn bytes(folder: &Path, file: &str) -> Result<Vec<u8>, String> {
    let is_within = Path::new(file)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if !is_within {
        return Err(format!("`{file}` is outside of the folder"));
    }
    std::fs::read(folder.join(file)).map_err(|reason| format!("`{file}`: {reason}"))
}
