//! `manifest.json`: what is in an artefact's folder, for programs. The header, the example and the crate are written from it.
//!
//! ```json
//! {
//!   "manifest": 1,
//!   "abi": 1,
//!   "generator": "netloom 0.1.0",
//!   "name": "mlp",
//!   "target": "x86_64-unknown-linux-gnu",
//!   "cpu": "x86-64-v3",
//!   "emit": "obj",
//!   "library": "mlp.o",
//!   "header": "mlp.h",
//!   "alignment": 64,
//!   "state_bytes": 400000,
//!   "states_file": "mlp.states",
//!   "states_within": false,
//!   "states": [{"name": "0.weight", "dtype": "f32", "shape": [784, 128], "offset": 0, "bytes": 401408}],
//!   "entries": [{"name": "predict", "symbol": "mlp_predict", "variants": [{
//!     "batch": null,
//!     "arena": {"shared_bytes": 2176, "worker_bytes": 0},
//!     "inputs": [{"name": "x", "c_name": "x", "dtype": "f32", "shape": [1, 784], "bytes": 3136}],
//!     "outputs": [{"name": "scores", "c_name": "scores", "dtype": "f32", "shape": [1, 10], "bytes": 40}]
//!   }]}]
//! }
//! ```
//!
//! `manifest` is the version of this form: it grows when a reader of the old form would misread the new one; `abi` is the version of the
//! functions' ([`ABI_VERSION`]). Arguments and results are dense, in row-major order, aligned to an element. `alignment` is that of the
//! arena and the block of states. With `n` workers an entry needs `shared_bytes + n * worker_bytes` of arena, zeroed once. With several
//! variants the caller's `batch` chooses one.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Artefact, Emit, States, identifier, identifiers, plan};
use crate::compile::{Exports, Lowered};
use crate::cpu::entry::ARENA_HEADER_BYTES;
use crate::cpu::export::ABI_VERSION;
use crate::cpu::isa::Cpu;
use crate::error::Error;
use crate::plan::{ALIGN, Plan, Port};

/// The name of the file.
pub const FILE: &str = "manifest.json";

/// The version of the form.
pub const VERSION: u32 = 1;

/// What is in an artefact's folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`VERSION`].
    pub manifest: u32,
    /// [`ABI_VERSION`].
    pub abi: u32,
    /// What wrote it.
    pub generator: String,
    /// What symbols and files are named.
    pub name: String,
    /// The triple of the system.
    pub target: String,
    /// The level of the CPU, or the levels that the code chooses among, the best first.
    pub cpu: String,
    /// The form of the code.
    pub emit: Emit,
    /// The file of the code.
    pub library: String,
    /// The C header.
    pub header: String,
    /// Of the arena and the block of states.
    pub alignment: usize,
    /// Bytes of the block of states.
    pub state_bytes: usize,
    /// The file of the block of states, if there is one.
    pub states_file: Option<String>,
    /// Whether the values of the states are within the object.
    pub states_within: bool,
    /// Where each state lies.
    pub states: Vec<StateRow>,
    /// What can be called.
    pub entries: Vec<EntryRow>,
}

/// A state's place in its block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateRow {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Where its elements lie, if not densely: the digits of an address, outermost first, each `axis/step:extent` and of the value
    /// `index[axis] / step % extent`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub layout: String,
    /// Bytes from the start of the block.
    pub offset: usize,
    /// Its length.
    pub bytes: usize,
}

/// An exported entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EntryRow {
    /// Its name, a C identifier.
    pub name: String,
    /// The function.
    pub symbol: String,
    /// One for each size of batch.
    pub variants: Vec<VariantRow>,
}

/// An entry for one size of batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VariantRow {
    /// The size, if there are several.
    pub batch: Option<u64>,
    /// What it needs of arena.
    pub arena: ArenaRow,
    /// Arguments, in order.
    pub inputs: Vec<PortRow>,
    /// Results, in order.
    pub outputs: Vec<PortRow>,
}

/// What an entry needs of arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArenaRow {
    /// Bytes whatever the number of workers.
    pub shared_bytes: usize,
    /// Bytes for each worker.
    pub worker_bytes: usize,
}

/// An argument or result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortRow {
    /// Its name in the program.
    pub name: String,
    /// Its name in C.
    pub c_name: String,
    /// The type of its elements.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its length.
    pub bytes: usize,
}

impl Manifest {
    /// What `write` writes.
    pub(super) fn new(artefact: &Artefact<'_>, levels: &[(Cpu, Lowered)], exports: &Exports) -> Manifest {
        let (cpu, lowered) = &levels[0];
        let name = exports.prefix.clone();
        let entries = exports.entries.iter().map(|export| EntryRow {
            name: export.name.clone(),
            symbol: format!("{name}_{}", export.name),
            variants: (export.variants.iter())
                .map(|(batch, entry)| variant(*batch, &each_level(levels, entry)))
                .collect(),
        });
        let states = lowered.memory.states.iter().map(|slot| StateRow {
            name: slot.name.clone(),
            dtype: slot.ty.dtype.name().to_owned(),
            shape: slot.ty.shape.clone(),
            layout: slot.ty.layout.to_string(),
            offset: slot.offset,
            bytes: slot.ty.len_bytes(),
        });
        let state_bytes = lowered.memory.state_bytes;
        let (prefix, ending) = match artefact.emit {
            Emit::Obj => ("", "o"),
            Emit::Staticlib => ("lib", "a"),
            Emit::Sharedlib => ("lib", super::link::shared_ending(cpu)),
        };
        Manifest {
            manifest: VERSION,
            abi: ABI_VERSION,
            generator: concat!("netloom ", env!("CARGO_PKG_VERSION")).to_owned(),
            target: cpu.triple.to_string(),
            cpu: levels.iter().map(|(cpu, _)| cpu.name()).collect::<Vec<_>>().join(", "),
            emit: artefact.emit,
            library: format!("{prefix}{name}.{ending}"),
            header: format!("{name}.h"),
            alignment: ALIGN,
            state_bytes,
            states_file: (artefact.states == States::File && state_bytes > 0).then(|| format!("{name}.states")),
            states_within: artefact.states == States::Within && state_bytes > 0,
            states: states.collect(),
            entries: entries.collect(),
            name,
        }
    }

    /// The text of the file.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("names and numbers are JSON") + "\n"
    }

    /// Reads the manifest of a folder.
    ///
    /// # Errors
    /// If there is none, or it is of another version.
    pub fn load(folder: &Path) -> Result<Manifest, Error> {
        let path = folder.join(FILE);
        let text = std::fs::read_to_string(&path).map_err(|reason| Error::file(&path, reason))?;
        #[derive(Deserialize)]
        struct Versions {
            manifest: u32,
            abi: u32,
        }
        let versions: Versions = serde_json::from_str(&text).map_err(|reason| Error::file(&path, reason))?;
        if (versions.manifest, versions.abi) != (VERSION, ABI_VERSION) {
            let reason = format!(
                "is of version {} with functions of version {}; this netloom knows {VERSION} and {ABI_VERSION}: compile the model again",
                versions.manifest, versions.abi
            );
            return Err(Error::file(&path, reason));
        }
        serde_json::from_str(&text).map_err(|reason| Error::file(&path, reason))
    }

    /// The entry of that name.
    pub fn entry(&self, name: &str) -> Option<&EntryRow> {
        self.entries.iter().find(|entry| entry.name == identifier(name))
    }

    /// Whether states are passed by the caller.
    pub fn takes_states(&self) -> bool {
        self.state_bytes > 0 && !self.states_within
    }
}

/// The plans of an entry, one for each level.
fn each_level<'a>(levels: &'a [(Cpu, Lowered)], entry: &str) -> Vec<&'a Plan> {
    levels.iter().map(|(_, lowered)| plan(lowered, entry)).collect()
}

fn variant(batch: Option<u64>, plans: &[&Plan]) -> VariantRow {
    let plan = plans[0];
    let most = |of: fn(&Plan) -> usize| plans.iter().map(|plan| of(plan)).max().unwrap_or(0);
    let ports = || plan.inputs.iter().chain(&plan.outputs);
    let names = identifiers(ports().map(|port| port.name.as_str()));
    let row = |(port, c_name): (&Port, String)| PortRow {
        name: port.name.clone(),
        c_name,
        dtype: port.ty.dtype.name().to_owned(),
        shape: port.ty.shape.clone(),
        bytes: port.ty.len_bytes(),
    };
    let mut inputs: Vec<PortRow> = ports().zip(names).map(row).collect();
    let outputs = inputs.split_off(plan.inputs.len());
    VariantRow {
        batch,
        arena: ArenaRow {
            shared_bytes: ARENA_HEADER_BYTES + most(|plan| plan.shared_bytes),
            worker_bytes: most(|plan| plan.worker_bytes),
        },
        inputs,
        outputs,
    }
}
