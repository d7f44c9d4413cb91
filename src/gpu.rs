//! The Vulkan backend: nests to compute pipelines.
//!
//! [`device`] finds a device and says what it can do, [`matrices`] which it multiplies at once. [`emit`] spells a nest in SPIR-V, through [`spirv`]; of [`modules`], which are data, [`code`]
//! makes pipelines, with a [`cache`] on disk; [`commands`] turns a plan into lists of commands, data too, and [`record`] these into command
//! buffers, once; [`player`] holds memory, [`runner`] a session's, [`submit`] hands commands to the device. [`dispatch`] runs operation by operation
//! instead; [`script`] writes modules and commands down for other programs, with what these [`needs`], and reads them.
//! libvulkan is opened at run time: without it everything else works.

pub mod cache;
pub mod code;
pub mod commands;
pub mod device;
pub mod dispatch;
pub mod emit;
pub mod matrices;
pub mod modules;
pub mod needs;
pub mod player;
pub mod probe;
pub mod record;
pub mod runner;
pub mod script;
pub mod spirv;
pub mod submit;

use vulkano::{Validated, VulkanError};

/// Why the GPU cannot do it. Each message says what the user can do; the CPU can run everything.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No Vulkan at all.
    #[error("no Vulkan loader (libvulkan) was found: {reason}; install a Vulkan driver, or use `--device cpu`")]
    NoLoader {
        /// The loader's words.
        reason: String,
    },
    /// Vulkan, but no device that computes.
    #[error(
        "Vulkan has no device that can compute{found}; `netloom devices` lists what there is, `--device cpu` always works"
    )]
    NoDevice {
        /// What there is instead.
        found: String,
    },
    /// A device that is not there was asked for.
    #[error("there is no Vulkan device {number}, only {count}; `netloom devices` lists them")]
    UnknownDevice {
        /// Asked for.
        number: usize,
        /// How many there are.
        count: usize,
    },
    /// The device lacks a type.
    #[error("kernel `{kernel}` needs {what}, which this device lacks; use another device or `--device cpu`")]
    Lacks {
        /// The nest's name.
        kernel: String,
        /// What is missing.
        what: &'static str,
    },
    /// The device lacks what was asked for.
    #[error("`{device}` lacks {what}, which {asked} needs; do not ask for it, or use another device or `--device cpu`")]
    LacksAsked {
        /// Its name.
        device: String,
        /// What is missing.
        what: &'static str,
        /// What needs it.
        asked: &'static str,
    },
    /// Several kernels for which the device lacks something, or allows too little.
    #[error("{} kernels cannot run on this device: {}", .0.len(), lines(.0))]
    Several(Vec<Error>),
    /// Something is larger than the device allows.
    #[error("{what} is {size}, this device allows {limit} ({name}); use another device or `--device cpu`")]
    OverLimit {
        /// What is too large.
        what: String,
        /// Its size.
        size: u64,
        /// The greatest allowed.
        limit: u64,
        /// The limit's name in Vulkan.
        name: &'static str,
    },
    /// No room.
    #[error(
        "allocating {bytes} bytes of device memory: {reason}; use a smaller batch, another device or `--device cpu`"
    )]
    Memory {
        /// Asked for.
        bytes: u64,
        /// The driver's words.
        reason: String,
    },
    /// The device is gone.
    #[error(
        "the Vulkan device was lost while {doing}: states on it are gone; start again, with another device or `--device cpu` if it persists"
    )]
    Lost {
        /// What was being done.
        doing: &'static str,
    },
    /// The driver refused something else.
    #[error("{doing}: {reason}; another device may do it, `--device cpu` always works")]
    Refused {
        /// What was being done.
        doing: String,
        /// The driver's words.
        reason: String,
    },
}

/// Each error on a line of its own.
fn lines(errors: &[Error]) -> String {
    errors.iter().map(|error| format!("\n  {error}")).collect()
}

impl Error {
    /// One, or all of several; none is no error.
    fn all(mut errors: Vec<Error>) -> Option<Error> {
        match errors.len() {
            0 | 1 => errors.pop(),
            _ => Some(Error::Several(errors)),
        }
    }

    /// Everything that is wrong, each for itself.
    pub fn reasons(&self) -> Vec<String> {
        match self {
            Error::Several(errors) => errors.iter().map(ToString::to_string).collect(),
            only => vec![only.to_string()],
        }
    }

    /// Whether another kernel may be refused for another such reason.
    fn is_of_a_kernel(&self) -> bool {
        matches!(self, Error::Lacks { .. } | Error::OverLimit { .. })
    }

    /// What a driver's refusal means.
    fn of(doing: &'static str) -> impl Fn(Validated<VulkanError>) -> Error {
        move |error| match error {
            Validated::Error(VulkanError::DeviceLost) => Error::Lost { doing },
            other => Error::Refused {
                doing: doing.to_owned(),
                reason: words(other),
            },
        }
    }
}

/// The words of a refusal, with those of what caused it.
fn words(error: impl std::error::Error) -> String {
    let mut said = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(inner) = cause {
        said.push(inner.to_string());
        cause = inner.source();
    }
    // So vulkano begins whatever is no misuse of it.
    said.retain(|words| words != "a non-validation error occurred");
    said.join(": ")
}
