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
    if options.json {
        super::print_json(&serde_json::json!({ "devices": [{
            "device": "cpu",
            "triple": cpu.triple.to_string(),
            "level": cpu.name(),
            "vector_lanes": target.vector_lanes,
            "vector_registers": target.vector_registers,
            "threads": threads,
        }] }));
    } else {
        println!(
            "cpu  {}, {}: {} lanes of f32, {} registers, {threads} threads",
            cpu.triple,
            cpu.name(),
            target.vector_lanes,
            target.vector_registers
        );
    }
    Ok(())
}
