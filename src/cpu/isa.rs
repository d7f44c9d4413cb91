//! The CPU compiled for: an instruction-set level and a triple.

use netloom_ir::target::{Target, TargetKind};
use target_lexicon::Triple;

/// How much of its instruction set the code may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// 128-bit vectors in CLIF, on any architecture; on x86-64 with SSE4.2, FMA where the host or `--cpu` has it.
    Portable,
    /// x86-64-v3: AVX2 and FMA, assembled.
    Avx2,
    /// x86-64-v4: AVX-512 F, VL, BW and DQ, assembled.
    Avx512,
}

/// A CPU to compile for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cpu {
    /// Architecture, system, object format.
    pub triple: Triple,
    /// The level.
    pub level: Level,
    /// Whether a fused multiply-add is one instruction.
    pub has_fma: bool,
}

impl Cpu {
    /// What schedules may know.
    pub fn target(&self) -> Target {
        let (vector_lanes, vector_registers) = match self.level {
            Level::Portable => (4, 16),
            Level::Avx2 => (8, 16),
            Level::Avx512 => (16, 32),
        };
        Target {
            kind: TargetKind::Cpu,
            vector_lanes,
            vector_registers,
        }
    }
}
