//! Why something could not be done.

use netloom_ir::{Problem, Problems};

/// Anything that can go wrong, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The graph or program is wrong.
    #[error("{0}")]
    Graph(#[from] Problems),
    /// Schedules that a text gives are for another machine.
    #[error("{0}")]
    Foreign(Problems),
    /// The CPU backend could not make or run code.
    #[error("{0}")]
    Cpu(#[from] crate::cpu::Error),
    /// The Vulkan backend could not make or run code.
    #[cfg(feature = "vulkan")]
    #[error("{0}")]
    Gpu(#[from] crate::gpu::Error),
    /// There is not enough memory.
    #[error("{0}")]
    Memory(#[from] crate::memory::TooLittle),
    /// A run was asked for that the program does not offer.
    #[error("{0}")]
    Usage(String),
    /// Something was named that there is not.
    #[error("{0}")]
    Unknown(String),
    /// A file could not be read or written.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Training could not go on.
    #[error("{0}")]
    Training(String),
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Error {
        Error::Graph(problem.into())
    }
}

impl Error {
    /// Whether the device could not do it, which another may.
    pub fn is_devices(&self) -> bool {
        match self {
            Error::Foreign(_) => true,
            #[cfg(feature = "vulkan")]
            Error::Gpu(_) => true,
            _ => false,
        }
    }

    /// Everything that is wrong, each for itself.
    pub fn reasons(&self) -> Vec<String> {
        match self {
            #[cfg(feature = "vulkan")]
            Error::Gpu(error) => error.reasons(),
            Error::Foreign(Problems(problems)) => problems.iter().map(ToString::to_string).collect(),
            only => vec![only.to_string()],
        }
    }

    /// What went wrong with a file.
    pub fn file(path: impl AsRef<std::path::Path>, reason: impl std::fmt::Display) -> Error {
        Error::File {
            path: path.as_ref().display().to_string(),
            reason: reason.to_string(),
        }
    }
}
