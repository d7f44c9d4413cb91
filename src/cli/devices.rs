//! `netloom devices`: what code can run on.

use clap::Args;
use netloom::{Cpu, Error};

#[derive(Args)]
pub struct Options {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(options: &Options) -> Result<(), Error> {
    let cpu = Cpu::native();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let target = cpu.target();
    let (vulkan, problem) = vulkan();
    if options.json {
        let mut devices = vec![serde_json::json!({
            "device": "cpu",
            "triple": cpu.triple.to_string(),
            "level": cpu.name(),
            "vector_lanes": target.vector_lanes,
            "vector_registers": target.vector_registers,
            "threads": threads,
        })];
        devices.extend(vulkan.into_iter().map(|(_, device)| device));
        super::print_json(&serde_json::json!({ "devices": devices, "vulkan_problem": problem }));
    } else {
        println!(
            "cpu  {}, {}: {} lanes of f32, {} registers, {threads} threads",
            cpu.triple,
            cpu.name(),
            target.vector_lanes,
            target.vector_registers
        );
        vulkan.iter().for_each(|(text, _)| println!("{text}"));
        if let Some(problem) = problem {
            println!("no vulkan device: {problem}");
        }
    }
    Ok(())
}

/// Every Vulkan device, as text and as JSON; or why there is none.
#[cfg(feature = "vulkan")]
fn vulkan() -> (Vec<(String, serde_json::Value)>, Option<String>) {
    let found = match netloom::gpu::device::list() {
        Ok(found) => found,
        Err(error) => return (Vec::new(), Some(error.to_string())),
    };
    let rows = found.iter().map(|device| {
        let json = serde_json::json!({
            "device": format!("vulkan:{}", device.number),
            "name": device.name,
            "kind": device.kind,
            "driver": device.driver,
            "vulkan": device.api,
            "memory_bytes": device.memory_bytes,
            "tensor_bytes": device.tensor_bytes,
            "tensors_in_a_kernel": device.tensors,
            "shared_bytes": device.shared_bytes,
            "subgroup": device.subgroup,
            "group": device.group,
            "allocation_bytes": device.allocation_bytes,
            "features": device.features,
            "on_request": device.on_request,
            "unused": device.unused,
            "f32": {
                "rounds_to_nearest": device.floats32.nearest,
                "keeps_subnormals": device.floats32.least == 0.0,
                "keeps_infinities_and_nan": device.floats32.specials,
            },
            "usable": device.usable,
        });
        (device.to_string(), json)
    });
    (
        rows.collect(),
        found.is_empty().then(|| "the loader knows none".to_owned()),
    )
}

#[cfg(not(feature = "vulkan"))]
fn vulkan() -> (Vec<(String, serde_json::Value)>, Option<String>) {
    (Vec::new(), Some("this program was built without Vulkan".to_owned()))
}
