//! What a program is compiled for: the CPU, or a Vulkan device.

use std::fmt;
#[cfg(feature = "vulkan")]
use std::sync::Arc;

use netloom_ir::{DType, Target};

use crate::cpu::isa::Cpu;
use crate::error::Error;
#[cfg(feature = "vulkan")]
use crate::gpu::{self, emit::prim::register};

/// What a program is compiled for.
#[derive(Clone, Debug)]
pub enum Device {
    /// Native code for a CPU.
    Cpu(Cpu),
    /// Compute pipelines on a Vulkan device.
    #[cfg(feature = "vulkan")]
    Vulkan(Arc<gpu::device::Device>),
}

impl Device {
    /// The device that a user names: `cpu`, `vulkan`, `vulkan:N`, or `auto`, which is Vulkan if it has a GPU and otherwise the CPU. With
    /// `f16_arithmetic` it may compute halves as such.
    ///
    /// # Errors
    /// If there is no such device, or it lacks what was asked for.
    pub fn named(name: &str, cpu: Cpu, f16_arithmetic: bool) -> Result<Choice, Error> {
        match (name, f16_arithmetic) {
            ("cpu", false) => return Ok(Choice::of(Device::Cpu(cpu))),
            ("cpu", true) => {
                return Err(Error::Usage(
                    "code for CPUs computes f16 in f32; leave `--f16-arithmetic` out, or use `--device vulkan`"
                        .to_owned(),
                ));
            }
            _ => {}
        }
        let unknown = || Error::Unknown(format!("unknown device `{name}`; known: cpu, vulkan, vulkan:N, auto"));
        let number = match name.split_once(':') {
            Some(("vulkan", number)) => Some(number.parse::<usize>().map_err(|_| unknown())?),
            None if name == "vulkan" || name == "auto" => None,
            _ => return Err(unknown()),
        };
        match (Device::vulkan(number, f16_arithmetic), name) {
            // A Vulkan that runs on the CPU itself is slower than our own code.
            (Ok(found), "auto") if found.name().ends_with("(cpu)") => {
                let reason = format!("the only Vulkan device is {}", found.name());
                Ok(Choice::fallen_back(cpu, reason))
            }
            (Ok(device), "auto") => Ok(Choice::or_cpu(device, cpu)),
            (Ok(device), _) => Ok(Choice::of(device)),
            (Err(error), "auto") => Ok(Choice::fallen_back(cpu, error.to_string())),
            (Err(error), _) => Err(error),
        }
    }

    #[cfg(feature = "vulkan")]
    fn vulkan(number: Option<usize>, f16_arithmetic: bool) -> Result<Device, Error> {
        let options = gpu::device::Options {
            f16_arithmetic,
            ..gpu::device::Options::usual(number)
        };
        Ok(Device::Vulkan(gpu::device::Device::open(&options)?))
    }

    #[cfg(not(feature = "vulkan"))]
    fn vulkan(_number: Option<usize>, _f16_arithmetic: bool) -> Result<Device, Error> {
        Err(Error::Usage(
            "this program was built without Vulkan; build it with the feature `vulkan`, or use `--device cpu`"
                .to_owned(),
        ))
    }

    /// What schedules are made for.
    pub fn target(&self) -> Target {
        match self {
            Device::Cpu(cpu) => cpu.target(),
            #[cfg(feature = "vulkan")]
            Device::Vulkan(device) => device.target(),
        }
    }

    /// What it promises of floats of the type in which `dtype` is computed.
    pub fn floats(&self, dtype: DType) -> Floats {
        match (self, dtype) {
            (Device::Cpu(_), _) => Floats::IEEE,
            #[cfg(feature = "vulkan")]
            (Device::Vulkan(device), dtype) => device.traits.floats(register(dtype, &device.traits)),
        }
    }

    /// The most bytes of a data set that are kept there, if its memory is another than the host's.
    pub fn data_bytes(&self) -> Option<u64> {
        match self {
            Device::Cpu(_) => None,
            #[cfg(feature = "vulkan")]
            Device::Vulkan(device) => Some(device.traits.data_bytes),
        }
    }

    /// The name in reports: `cpu`, or `vulkan:N` with the device's own name.
    pub fn name(&self) -> String {
        match self {
            Device::Cpu(_) => "cpu".to_owned(),
            #[cfg(feature = "vulkan")]
            Device::Vulkan(device) => {
                let found = &device.description;
                format!("vulkan:{} {} ({})", found.number, found.name, found.kind)
            }
        }
    }
}

/// A device, and whether a CPU may stand in for it.
#[derive(Clone, Debug)]
pub struct Choice {
    /// What is used.
    pub device: Device,
    /// What stands in if it refuses.
    instead: Option<Cpu>,
    /// Why the CPU had to stand in: every reason there was, kernel by kernel.
    pub fell_back: Vec<String>,
}

impl Choice {
    /// That device and no other.
    pub fn of(device: Device) -> Choice {
        Choice {
            device,
            instead: None,
            fell_back: Vec::new(),
        }
    }

    /// A device; where it refuses a program, this CPU.
    pub fn or_cpu(device: Device, cpu: Cpu) -> Choice {
        Choice {
            instead: Some(cpu),
            ..Choice::of(device)
        }
    }

    fn fallen_back(cpu: Cpu, reason: String) -> Choice {
        Choice {
            fell_back: vec![reason],
            ..Choice::of(Device::Cpu(cpu))
        }
    }

    /// Makes something on the device. If that refuses and the CPU may stand in, makes it there, says so, and stays there.
    ///
    /// # Errors
    /// What `make` says, of the last device that was tried.
    pub fn make<T>(&mut self, mut make: impl FnMut(&Device) -> Result<T, Error>) -> Result<T, Error> {
        match (make(&self.device), self.instead.take()) {
            (Err(error), Some(cpu)) if error.is_devices() => {
                self.fell_back.extend(error.reasons());
                self.device = Device::Cpu(cpu);
                make(&self.device)
            }
            (made, instead) => {
                self.instead = instead;
                made
            }
        }
    }
}

/// What a device promises of floats of one width. Vulkan leaves each of these to devices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Floats {
    /// Results are rounded to nearest even.
    pub nearest: bool,
    /// Numbers of smaller magnitude may be taken for zero: the least that is not subnormal, or 0 where these are kept too.
    pub least: f64,
    /// Infinities, NaN and the sign of zero are kept.
    pub specials: bool,
}

impl Floats {
    /// As IEEE 754 says.
    pub const IEEE: Floats = Floats {
        nearest: true,
        least: 0.0,
        specials: true,
    };
}

impl fmt::Display for Floats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lacking = [
            (self.nearest, "rounding to nearest"),
            (self.least == 0.0, "subnormals"),
            (self.specials, "infinities and NaN"),
        ];
        let lacking: Vec<&str> = lacking.iter().filter(|(has, _)| !has).map(|(_, name)| *name).collect();
        match lacking.is_empty() {
            true => f.write_str("as IEEE 754"),
            false => write!(f, "without promise of {}", lacking.join(", ")),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl From<Cpu> for Device {
    fn from(cpu: Cpu) -> Device {
        Device::Cpu(cpu)
    }
}

impl From<&Cpu> for Device {
    fn from(cpu: &Cpu) -> Device {
        Device::Cpu(cpu.clone())
    }
}

impl From<&Device> for Device {
    fn from(device: &Device) -> Device {
        device.clone()
    }
}

#[cfg(feature = "vulkan")]
impl From<Arc<gpu::device::Device>> for Device {
    fn from(device: Arc<gpu::device::Device>) -> Device {
        Device::Vulkan(device)
    }
}
