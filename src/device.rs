//! What a program is compiled for: the CPU, or a Vulkan device.

use std::fmt;
#[cfg(feature = "vulkan")]
use std::sync::Arc;

use netloom_ir::Target;

use crate::cpu::isa::Cpu;
use crate::error::Error;
#[cfg(feature = "vulkan")]
use crate::gpu;

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
    /// The device that a user names: `cpu`, `vulkan`, `vulkan:N`, or `auto`, which is Vulkan if it has a GPU and otherwise the CPU, with
    /// the reason why.
    ///
    /// # Errors
    /// If there is no such device.
    pub fn named(name: &str, cpu: Cpu) -> Result<(Device, Option<String>), Error> {
        if name == "cpu" {
            return Ok((Device::Cpu(cpu), None));
        }
        let unknown = || Error::Unknown(format!("unknown device `{name}`; known: cpu, vulkan, vulkan:N, auto"));
        let number = match name.split_once(':') {
            Some(("vulkan", number)) => Some(number.parse::<usize>().map_err(|_| unknown())?),
            None if name == "vulkan" || name == "auto" => None,
            _ => return Err(unknown()),
        };
        match (Device::vulkan(number), name) {
            // A Vulkan that runs on the CPU itself is slower than our own code.
            (Ok(found), "auto") if found.name().ends_with("(cpu)") => {
                let reason = format!("the only Vulkan device is {}", found.name());
                Ok((Device::Cpu(cpu), Some(reason)))
            }
            (Ok(found), _) => Ok((found, None)),
            (Err(error), "auto") => Ok((Device::Cpu(cpu), Some(error.to_string()))),
            (Err(error), _) => Err(error),
        }
    }

    #[cfg(feature = "vulkan")]
    fn vulkan(number: Option<usize>) -> Result<Device, Error> {
        let device = gpu::device::Device::open(&gpu::device::Options::usual(number))?;
        Ok(Device::Vulkan(device))
    }

    #[cfg(not(feature = "vulkan"))]
    fn vulkan(_number: Option<usize>) -> Result<Device, Error> {
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
