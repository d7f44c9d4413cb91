//! The CPU compiled for: an instruction-set level and a triple.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::str::FromStr;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use std::sync::OnceLock;

use cranelift::codegen::isa::{self, OwnedTargetIsa};
use cranelift::codegen::settings::{self, Configurable};
use netloom_ir::decisions::Tuned;
use netloom_ir::target::{Target, TargetKind};
use target_lexicon::{Architecture, OperatingSystem, Triple};

use super::Error;

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
    /// Whether contractions in pieces have a matrix unit, see [`Target::pieces`]: AMX with bf16, as Linux grants it.
    pub has_amx: bool,
    /// The work from which workers share a kernel, see [`Target::share_from`].
    pub share_from: usize,
    /// Whether convolutions may be computed by Winograd's algorithm, see [`Target::winograd`].
    pub winograd: bool,
    /// What is decided of schedules, see [`Target::tuned`].
    pub tuned: Tuned,
}

/// The names that [`Cpu::named`] knows, beside `native`, and what each lets the code use: level, FMA, AMX.
const NAMES: &[(&str, Level, bool, bool)] = &[
    ("x86-64", Level::Portable, false, false),
    ("x86-64-v2", Level::Portable, false, false),
    ("x86-64-v3", Level::Avx2, true, false),
    ("x86-64-v4", Level::Avx512, true, false),
    (AMX, Level::Avx512, true, true),
];

/// The name of a CPU with a matrix unit.
const AMX: &str = "x86-64-v4-amx";

/// What Cranelift does to a function beyond translating it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// The mid-end runs: for loops, indices and scalars.
    Speed,
    /// Instructions stay in program order: for contraction tiles, which the mid-end would reorder into spills.
    Order,
}

/// Where the code will live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In this process.
    Jit,
    /// In an object file, at an address the linker or loader chooses.
    Object,
}

impl Cpu {
    /// The machine this runs on.
    pub fn native() -> Cpu {
        let triple = Triple::host();
        let found = Features::of_host();
        let level = match found {
            Features { avx512: true, .. } => Level::Avx512,
            Features {
                avx2: true, fma: true, ..
            } => Level::Avx2,
            _ => Level::Portable,
        };
        Cpu {
            has_fma: found.fma,
            has_amx: false,
            triple,
            level,
            share_from: Target::SHARE_FROM,
            winograd: true,
            tuned: Tuned::NOTHING,
        }
    }

    /// The name of its level.
    pub fn name(&self) -> &'static str {
        match self.level {
            Level::Portable => "portable",
            Level::Avx2 => "x86-64-v3",
            Level::Avx512 if self.has_amx => AMX,
            Level::Avx512 => "x86-64-v4",
        }
    }

    /// A CPU of this machine's system by name: `native`, `x86-64` (which here means with SSE4.2, as `x86-64-v2`), `x86-64-v3`, `x86-64-v4`,
    /// `x86-64-v4-amx`.
    pub fn named(name: &str) -> Result<Cpu, Error> {
        Cpu::of(Triple::host(), Some(name))
    }

    /// A CPU for a target triple such as `aarch64-apple-darwin`; without a name, the least that the architecture guarantees.
    pub fn for_triple(triple: &str, name: Option<&str>) -> Result<Cpu, Error> {
        let parsed = Triple::from_str(triple).map_err(|reason| Error::UnknownTriple {
            triple: triple.to_string(),
            reason: reason.to_string(),
        })?;
        Cpu::of(parsed, name)
    }

    fn of(triple: Triple, name: Option<&str>) -> Result<Cpu, Error> {
        if name == Some("native") && triple.architecture == Architecture::host() {
            return Ok(Cpu {
                triple,
                ..Cpu::native()
            });
        }
        if triple.architecture != Architecture::X86_64 {
            return match name {
                // Both have a fused multiply-add in their base.
                None => Ok(Cpu {
                    triple,
                    level: Level::Portable,
                    has_fma: true,
                    has_amx: false,
                    share_from: Target::SHARE_FROM,
                    winograd: true,
                    tuned: Tuned::NOTHING,
                }),
                Some(name) => Err(Error::UnknownCpu {
                    name: name.to_string(),
                    architecture: triple.architecture.to_string(),
                    known: String::from("none; leave the name out"),
                }),
            };
        }
        let name = name.unwrap_or("x86-64");
        match NAMES.iter().find(|row| row.0 == name) {
            Some(&(_, _, _, true)) if !grants_amx(&triple) => Err(Error::Unsupported {
                triple: triple.to_string(),
                reason: format!("only Linux is asked for the matrix unit of `{name}`; take `x86-64-v4`"),
            }),
            Some(&(_, level, has_fma, has_amx)) => Ok(Cpu {
                triple,
                level,
                has_fma,
                has_amx,
                share_from: Target::SHARE_FROM,
                winograd: true,
                tuned: Tuned::NOTHING,
            }),
            None => Err(Error::UnknownCpu {
                name: name.to_string(),
                architecture: triple.architecture.to_string(),
                known: NAMES.iter().map(|row| format!("`{}`, ", row.0)).collect::<String>() + "`native`",
            }),
        }
    }

    /// Checks that this machine can run code for this CPU.
    pub fn check_host(&self) -> Result<(), Error> {
        let host = Triple::host();
        if self.triple.architecture != host.architecture {
            return Err(Error::NotHost {
                cpu: self.triple.to_string(),
                lacks: format!("the architecture (this is {})", host.architecture),
            });
        }
        let found = Features::of_host();
        let lacks = match self.level {
            Level::Avx512 if !found.avx512 => Some("AVX-512 F, VL, BW and DQ"),
            Level::Avx2 if !(found.avx2 && found.fma) => Some("AVX2 and FMA"),
            _ if self.has_fma && !found.fma => Some("FMA"),
            _ if self.has_amx && !found.amx => Some("AMX with bf16, or Linux does not grant it"),
            _ if !found.base => Some("SSE4.2"),
            _ => None,
        };
        match lacks {
            None => Ok(()),
            Some(lacks) => Err(Error::NotHost {
                cpu: match self.has_amx {
                    true => String::from(self.name()),
                    false => format!("{} with {:?} code", self.triple.architecture, self.level),
                },
                lacks: lacks.to_string(),
            }),
        }
    }

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
            invocations: 1,
            share_from: self.share_from,
            product_bytes: 0,
            workgroups: false,
            winograd: self.winograd,
            f16: false,
            pieces: self.has_amx,
            matrices: None,
            tuned: self.tuned.clone(),
        }
    }

    /// Cranelift's description of this CPU.
    pub fn isa(&self, effort: Effort, place: Place) -> Result<OwnedTargetIsa, Error> {
        let refused = |reason: String| Error::Unsupported {
            triple: self.triple.to_string(),
            reason,
        };
        let mut builder = isa::lookup(self.triple.clone()).map_err(|reason| refused(reason.to_string()))?;
        if self.triple.architecture == Architecture::X86_64 {
            for feature in self.x86_features() {
                builder.enable(feature).map_err(|reason| refused(reason.to_string()))?;
            }
        }
        let mut flags = settings::builder();
        let opt_level = match effort {
            Effort::Speed => "speed",
            Effort::Order => "none",
        };
        let verify = if cfg!(debug_assertions) { "true" } else { "false" };
        let pic = if place == Place::Object { "true" } else { "false" };
        for (flag, value) in [
            ("opt_level", opt_level),
            ("is_pic", pic),
            ("use_colocated_libcalls", "false"),
            ("enable_verifier", verify),
            ("unwind_info", "false"),
            ("enable_probestack", "false"),
            ("enable_heap_access_spectre_mitigation", "false"),
            ("enable_table_access_spectre_mitigation", "false"),
        ] {
            flags.set(flag, value).map_err(|reason| refused(reason.to_string()))?;
        }
        builder
            .finish(settings::Flags::new(flags))
            .map_err(|reason| refused(reason.to_string()))
    }

    /// Cranelift's names of what the level guarantees.
    fn x86_features(&self) -> Vec<&'static str> {
        let mut features = vec!["has_sse3", "has_ssse3", "has_sse41", "has_sse42", "has_popcnt"];
        if self.has_fma {
            features.extend(["has_avx", "has_fma"]);
        }
        if self.level >= Level::Avx2 {
            features.extend(["has_avx", "has_avx2", "has_fma", "has_bmi1", "has_bmi2", "has_lzcnt"]);
        }
        if self.level >= Level::Avx512 {
            features.extend(["has_avx512f", "has_avx512vl", "has_avx512dq"]);
        }
        features
    }
}

/// What the machine this runs on has.
struct Features {
    base: bool,
    fma: bool,
    avx2: bool,
    avx512: bool,
    amx: bool,
}

impl Features {
    #[cfg(target_arch = "x86_64")]
    fn of_host() -> Features {
        use std::is_x86_feature_detected as has;
        Features {
            base: has!("sse4.2") && has!("popcnt"),
            fma: has!("avx") && has!("fma"),
            avx2: has!("avx2") && has!("bmi1") && has!("bmi2") && has!("lzcnt"),
            avx512: has!("avx512f") && has!("avx512vl") && has!("avx512bw") && has!("avx512dq") && has!("fma"),
            amx: has_amx(),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn of_host() -> Features {
        Features {
            base: true,
            fma: true,
            avx2: false,
            avx512: false,
            amx: false,
        }
    }
}

/// Whether code for that system may ask for the matrix unit.
fn grants_amx(triple: &Triple) -> bool {
    triple.operating_system == OperatingSystem::Linux
}

/// Whether this process may use the matrix unit: Linux is asked once, for all threads.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn has_amx() -> bool {
    static ASKED: OnceLock<bool> = OnceLock::new();
    *ASKED.get_or_init(|| {
        #[allow(unused_unsafe, reason = "CPUID is unsafe up to Rust 1.93")]
        // SAFETY: every x86-64 has the instruction, and of a leaf that it has not it tells something else.
        let has_unit = unsafe { __cpuid(0).eax >= amx::LEAF && __cpuid_count(amx::LEAF, 0).edx & amx::EDX == amx::EDX };
        // SAFETY: the call changes what the process may do, and no memory.
        has_unit && unsafe { nix::libc::syscall(amx::ARCH_PRCTL, amx::REQUEST, amx::TILE_DATA) } == 0
    })
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn has_amx() -> bool {
    false
}

/// How one learns of the matrix unit (Intel SDM 2A, CPUID; Linux, Documentation/arch/x86/xstate.rst).
pub mod amx {
    /// The leaf of CPUID that tells of it.
    pub const LEAF: u32 = 7;
    /// AMX-BF16, AMX-TILE.
    pub const EDX: u32 = 1 << 22 | 1 << 24;
    /// The registers that the system keeps: their configuration and their data.
    pub const XCR0: u32 = 1 << 17 | 1 << 18;
    /// The system call `arch_prctl`; what is asked for is permission for the data of tiles, which is refused unless the system keeps them.
    pub const ARCH_PRCTL: i64 = 158;
    /// `ARCH_REQ_XCOMP_PERM`
    pub const REQUEST: u64 = 0x1023;
    /// `XFEATURE_XTILEDATA`
    pub const TILE_DATA: u64 = 18;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_gives_a_description() {
        for (name, ..) in NAMES {
            let cpu = Cpu::for_triple("x86_64-unknown-linux-gnu", Some(name)).expect("a known name");
            cpu.isa(Effort::Speed, Place::Object).expect("known flags");
        }
    }

    #[test]
    fn this_machine_runs_its_own_code() {
        Cpu::native().check_host().expect("native code runs");
        Cpu::named("native").expect("a known name");
    }

    #[test]
    fn unknown_names_are_answered_with_the_known_ones() {
        let error = Cpu::for_triple("x86_64-unknown-linux-gnu", Some("pentium")).expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "unknown cpu `pentium` for x86_64; known: `x86-64`, `x86-64-v2`, `x86-64-v3`, `x86-64-v4`, `x86-64-v4-amx`, `native`"
        );
        assert!(Cpu::for_triple("nothing", None).is_err());
        let elsewhere = Cpu::for_triple("x86_64-pc-windows-msvc", Some(AMX)).expect_err("a matrix unit");
        assert_eq!(
            elsewhere.to_string(),
            "no code for x86_64-pc-windows-msvc: only Linux is asked for the matrix unit of `x86-64-v4-amx`; take `x86-64-v4`"
        );
        let other = Cpu::for_triple("aarch64-apple-darwin", None).expect("a known triple");
        assert_eq!(other.level, Level::Portable);
    }
}
