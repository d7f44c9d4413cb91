//! Scripts: modules and commands over a few areas of memory, for programs that have Vulkan but not netloom.
//!
//! In: a lowered program. Out: a [`Script`], data alone, whose text form the C host of [`crate::ahead::vulkan`] plays, and [`read`] reads.

pub mod read;

use std::fmt::{self, Write};

use super::Error;
use super::commands::{Apart, Area, Command, Lister, Ports, Segment, Span};
use super::device::Traits;
use super::modules::{self, Binding, Kernel, Module};
use super::needs::Needs;
use super::player::Sizes;
use crate::ahead::{identifier, identifiers};
use crate::compile::Lowered;
use crate::plan::Port;

/// The areas of a script, in the order of their numbers.
pub const AREAS: [Area; 6] = [
    Area::States,
    Area::Constants,
    Area::Arena,
    Area::Scratch,
    Area::Ports,
    Area::Flag,
];

/// The letters of bindings.
const BINDINGS: [(Binding, char); 3] = [(Binding::Buffer, 'b'), (Binding::One, '1'), (Binding::Four, '4')];

/// The modules and commands of a program.
#[derive(Clone, Debug)]
pub struct Script {
    /// What a device must have and allow.
    pub needs: Needs,
    /// Each part of each kernel.
    pub modules: Vec<Module>,
    /// The entries' commands.
    pub entries: Vec<Entry>,
    /// Bytes of the areas of [`AREAS`].
    pub area_bytes: [u64; 6],
}

/// One entry.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name, a C identifier.
    pub name: String,
    /// Arguments.
    pub inputs: Vec<Port>,
    /// Results.
    pub outputs: Vec<Port>,
    /// Where they lie.
    pub ports: Ports,
    /// What runs.
    pub segments: Vec<Segment<Vec<Command>>>,
}

/// The script of a lowered program for devices of these traits.
///
/// # Errors
/// If a kernel needs what they lack.
pub fn script(lowered: &Lowered, traits: &Traits) -> Result<Script, Error> {
    let parts = lowered.kernels.nests().iter().map(|nest| modules::of(nest, traits));
    let (modules, kernels): (_, Vec<Kernel>) = modules::joined(parts.collect::<Result<Vec<_>, Error>>()?);
    let entries = lowered.plans.iter().map(|plan| {
        let ports = Ports::of(&plan.inputs, &plan.outputs);
        let mut lister = Lister::new(&kernels, traits, &ports, Apart::None);
        lister.steps(&plan.steps);
        Entry {
            name: identifier(&plan.name),
            inputs: plan.inputs.clone(),
            outputs: plan.outputs.clone(),
            segments: lister.finish().segments,
            ports,
        }
    });
    let entries: Vec<Entry> = entries.collect();
    let sizes = Sizes::of(&lowered.plans, &kernels, lowered.memory.state_bytes);
    let port_bytes = entries.iter().map(|entry| entry.ports.bytes).max();
    Ok(Script {
        needs: Needs::of(&modules, entries.iter().flat_map(|entry| &entry.segments)),
        modules,
        area_bytes: [
            sizes.states,
            lowered.memory.constants.len() as u64,
            sizes.arena,
            sizes.scratch,
            port_bytes.unwrap_or(0),
            1,
        ],
        entries,
    })
}

impl Script {
    /// The text, an item a line; `areas` are the files of the areas' first contents, `-` where there is nothing, `module` those of the modules.
    pub fn text(&self, areas: &[&str; 6], module: impl Fn(usize) -> String) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text, areas, module);
        text
    }

    fn write(&self, text: &mut String, areas: &[&str; 6], module: impl Fn(usize) -> String) -> fmt::Result {
        writeln!(text, "netloom-vulkan {}", read::VERSION)?;
        writeln!(text, "needs {}", self.needs.iter().len())?;
        for need in self.needs.iter() {
            writeln!(text, "need {} {}", need.name, need.least)?;
        }
        for (bytes, file) in self.area_bytes.iter().zip(areas) {
            writeln!(text, "area {bytes} {file}")?;
        }
        writeln!(text, "modules {}", self.modules.len())?;
        for (number, of) in self.modules.iter().enumerate() {
            let [columns, rows] = of.groups;
            let letter = |binding: &Binding| BINDINGS.iter().find(|(known, _)| known == binding);
            let letters: String = of
                .bindings
                .iter()
                .filter_map(letter)
                .map(|(_, letter)| letter)
                .collect();
            writeln!(
                text,
                "module {} {columns} {rows} {} {letters}",
                module(number),
                of.pushed
            )?;
        }
        for entry in &self.entries {
            writeln!(text, "entry {}", entry.name)?;
            write_ports(text, "input", &entry.inputs, &entry.ports.inputs)?;
            write_ports(text, "output", &entry.outputs, &entry.ports.outputs)?;
            write_segments(text, &entry.segments)?;
            writeln!(text, "end")?;
        }
        Ok(())
    }
}

/// Each with its name as a file and its place, for all hosts, then its type and its own name.
fn write_ports(text: &mut String, kind: &str, ports: &[Port], places: &[Span]) -> fmt::Result {
    let names = identifiers(ports.iter().map(|port| port.name.as_str()));
    for ((port, place), name) in ports.iter().zip(places).zip(names) {
        let (dtype, rank) = (port.ty.dtype.name(), port.ty.shape.len());
        write!(text, "{kind} {name} {} {} {dtype} {rank}", place.start, place.bytes)?;
        for extent in &port.ty.shape {
            write!(text, " {extent}")?;
        }
        let own = serde_json::to_string(&port.name).expect("a string is JSON");
        writeln!(text, " {own}")?;
    }
    Ok(())
}

fn write_segments(text: &mut String, segments: &[Segment<Vec<Command>>]) -> fmt::Result {
    for segment in segments {
        let (first, one, second, other) = match segment {
            Segment::Run(commands) => {
                for command in commands {
                    write_command(text, command)?;
                }
                continue;
            }
            Segment::Branch { then, otherwise } => ("branch", then, "else", otherwise),
            Segment::While { condition, body } => ("while", condition, "do", body),
        };
        writeln!(text, "{first}")?;
        write_segments(text, one)?;
        writeln!(text, "{second}")?;
        write_segments(text, other)?;
        writeln!(text, "end")?;
    }
    Ok(())
}

fn write_command(text: &mut String, command: &Command) -> fmt::Result {
    match command {
        Command::Barrier => writeln!(text, "barrier"),
        Command::Copy { from, to } => writeln!(text, "copy {from} {to}"),
        Command::Write { to, value } => writeln!(text, "write {to} {value}"),
        Command::Dispatch { module, bound, push } => {
            write!(text, "dispatch {module}")?;
            for span in bound {
                write!(text, " {span}")?;
            }
            for word in push {
                write!(text, " {word}")?;
            }
            writeln!(text)
        }
        // Only what is timed has any, and then not as a script.
        Command::Stamp => Ok(()),
    }
}

impl fmt::Display for Span {
    /// The area's number, where in it, how long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let area = AREAS.iter().position(|area| *area == self.area);
        let area = area.expect("a script touches no other areas");
        write!(f, "{area} {} {}", self.start, self.bytes)
    }
}
