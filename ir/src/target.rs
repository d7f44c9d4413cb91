//! What a schedule may know about a machine. Plain data: `netloom` fills it from the CPU or GPU found, or from `--cpu`.

use std::fmt;

#[cfg(doc)]
use crate::decisions::Decision;
use crate::decisions::Tuned;

/// The machine compiled for.
///
/// Nothing here but what is said so may change what is computed, only how fast: the number of threads and the size of caches are absent on
/// purpose (results must not depend on them), and schedules that read the rest keep the summation tree.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// `cpu` or `vulkan`.
    pub kind: TargetKind,
    /// f32 elements in one vector register: 4, 8 or 16.
    pub vector_lanes: usize,
    /// Vector registers: 16 or 32. On a GPU, the most results of a fold that an invocation computes at once.
    pub vector_registers: usize,
    /// On a GPU, fewer invocations than this leave it idle.
    pub invocations: usize,
    /// A kernel of less work than this, in primitives, is run by one worker; 0 makes workers share every kernel, which tests want.
    pub share_from: usize,
    /// Bytes of the largest operand that a GPU's hand-written shader of matrix products takes; 0 where generated kernels are used throughout.
    pub product_bytes: usize,
    /// Whether a GPU's workgroups fold long sums together and turn tiles in memory that they share: results depend on it.
    pub workgroups: bool,
    /// Whether convolutions may be computed by Winograd's algorithm, which rounds differently: results depend on it.
    pub winograd: bool,
    /// Whether a CPU has a matrix unit for products in pieces, see [`crate::kernel::pieces`]: results depend on it.
    pub pieces: bool,
    /// Whether `f16` are added, subtracted and multiplied as such, not in `f32`: the same values but for subnormal ones, which some GPUs drop.
    pub f16: bool,
    /// Matrices of halves that a subgroup of a GPU multiplies at once, where it may: sums are then taken in the device's order.
    pub matrices: Option<Matrices>,
    /// What is decided of CPU schedules instead of by their cost models: where that is [`Decision::Winograd`], results depend on it.
    pub tuned: Tuned,
}

impl Target {
    /// What [`Target::share_from`] is on a CPU: about 4 µs of scalar code, the price of waking another worker.
    pub const SHARE_FROM: usize = 16 * 1024;
}

/// Matrices of halves that are multiplied at once and summed in `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matrices {
    /// Of the first, and of the result.
    pub rows: usize,
    /// Of the second, and of the result.
    pub columns: usize,
    /// What the sum is over.
    pub depth: usize,
    /// Bytes of the largest tensor that is multiplied so.
    pub bytes: usize,
}

/// The kind of machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetKind {
    /// Native code.
    Cpu,
    /// SPIR-V compute pipelines.
    Vulkan,
}

impl fmt::Display for TargetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TargetKind::Cpu => "cpu",
            TargetKind::Vulkan => "vulkan",
        })
    }
}
