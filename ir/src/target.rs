//! What a schedule may know about a machine. Plain data: `netloom` fills it from the CPU or GPU found, or from `--cpu`.

/// The machine compiled for.
///
/// Nothing here may change what is computed, only how fast: the number of threads and the size of caches are absent on
/// purpose (results must not depend on them), and schedules that read the rest keep the summation tree.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// `cpu` or `vulkan`.
    pub kind: TargetKind,
    /// f32 elements in one vector register: 4, 8 or 16.
    pub vector_lanes: usize,
    /// Vector registers: 16 or 32.
    pub vector_registers: usize,
}

/// The kind of machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetKind {
    /// Native code.
    Cpu,
    /// SPIR-V compute pipelines.
    Vulkan,
}
