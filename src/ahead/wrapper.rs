//! A Rust crate around an artefact: no dependencies, `cargo build` links the static library beside it.

use netloom_ir::DType;

use super::manifest::{ArenaRow, EntryRow, Manifest, PortRow};
use crate::compile::INIT;

/// The crate's files, with their paths in it.
pub fn files(manifest: &Manifest) -> Vec<(&'static str, String)> {
    vec![
        ("Cargo.toml", cargo_toml(manifest)),
        ("build.rs", build_rs(manifest)),
        ("src/lib.rs", lib_rs(manifest)),
    ]
}

fn cargo_toml(Manifest { name, .. }: &Manifest) -> String {
    format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\nlinks = \"{name}\"\nbuild = \"build.rs\"\n\n\
         # A workspace of its own, wherever the folder lies.\n[workspace]\n"
    )
}

fn build_rs(Manifest { name, library, .. }: &Manifest) -> String {
    format!(
        "fn main() {{\n    let folder = std::path::Path::new(env!(\"CARGO_MANIFEST_DIR\")).join(\"..\");\n    \
         println!(\"cargo:rustc-link-search=native={{}}\", folder.display());\n    \
         println!(\"cargo:rustc-link-lib=static={name}\");\n    \
         println!(\"cargo:rerun-if-changed={{}}\", folder.join(\"{library}\").display());\n}}\n"
    )
}

fn lib_rs(manifest: &Manifest) -> String {
    let Manifest { name, generator, .. } = manifest;
    let mut text = format!(
        "//! `{name}`, compiled by {generator} for {} ({}).\n\n",
        manifest.target, manifest.cpu
    );
    text += PRELUDE;
    let max = |of: fn(&ArenaRow) -> usize| {
        let variants = manifest.entries.iter().flat_map(|entry| &entry.variants);
        variants.map(|variant| of(&variant.arena)).max().unwrap_or(0)
    };
    let arena = max(|arena| arena.shared_bytes + arena.worker_bytes);
    // The caller's states alone: those within the object have no block.
    let state_bytes = if manifest.takes_states() {
        manifest.state_bytes
    } else {
        0
    };
    text += &format!("const ARENA_BYTES: usize = {arena};\nconst STATE_BYTES: usize = {state_bytes};\n");
    if let Some(file) = &manifest.states_file {
        text += &format!("static STATES: &[u8] = include_bytes!(\"../../{file}\");\n");
    }
    text += &format!("\nextern \"C\" {{\n    fn {name}_check() -> i32;\n");
    for entry in &manifest.entries {
        text += &format!("    fn {}(call: *const Call) -> i32;\n", entry.symbol);
    }
    text += "}\n\n/// The model with memory of its own.\npub struct Model(Memory);\n\nimpl Model {\n";
    text += &constructor(manifest);
    let entries = manifest.entries.iter();
    entries
        .filter(|entry| entry.name != INIT)
        .for_each(|entry| text += &method(entry));
    text + "    /// The block of states, empty if there are none or they are within the object; `manifest.json` says where each lies.\n    \
            pub fn states(&self) -> &[u8] {\n        self.0.states()\n    }\n\n    \
            /// The block of states, to be changed.\n    \
            pub fn states_mut(&mut self) -> &mut [u8] {\n        self.0.states_mut()\n    }\n}\n"
}

/// `Model::new`, which makes the states as the artefact has them.
fn constructor(manifest: &Manifest) -> String {
    let init = manifest.entry(INIT);
    let is_seeded = init.is_some_and(|init| !init.variants[0].inputs.is_empty());
    let parameter = if is_seeded { "seed: u64" } else { "" };
    let mut begin = String::new();
    if let Some(init) = init {
        let inputs = if is_seeded {
            "&[(&seed as *const u64).cast()]"
        } else {
            "&[]"
        };
        begin = format!("        memory.call({}, 0, {inputs}, &[])?;\n", init.symbol);
    } else if manifest.states_file.is_some() {
        begin = "        memory.states_mut().copy_from_slice(STATES);\n".to_owned();
    }
    format!(
        "    /// A model with states of its own, if the CPU runs its code.\n    \
         pub fn new({parameter}) -> Result<Model, Error> {{\n        \
         let {}memory = Memory::new(ARENA_BYTES, STATE_BYTES, {}_check)?;\n{begin}        Ok(Model(memory))\n    }}\n\n",
        if begin.is_empty() { "" } else { "mut " },
        manifest.name
    )
}

/// A method that runs an entry: arrays of fixed length, or slices where the batch chooses.
fn method(entry: &EntryRow) -> String {
    let Some(first) = entry.variants.first() else {
        return String::new();
    };
    let several = first.batch.is_some();
    let elements = |port: &PortRow| port.bytes / super::header::size(&port.dtype);
    let ty = |port: &PortRow| match several {
        true => format!("[{}]", rust_type(&port.dtype)),
        false => format!("[{}; {}]", rust_type(&port.dtype), elements(port)),
    };
    let mut parameters = String::new();
    if several {
        parameters += ", batch: u64";
    }
    for port in &first.inputs {
        parameters += &format!(", {}: &{}", port.c_name, ty(port));
    }
    for port in &first.outputs {
        parameters += &format!(", {}: &mut {}", port.c_name, ty(port));
    }
    let mut text = format!("    /// `{}`", entry.name);
    for variant in &entry.variants {
        let batch = variant.batch.map_or(String::new(), |batch| format!(", batch {batch}"));
        text += &format!("{batch}: ");
        let ports = variant.inputs.iter().chain(&variant.outputs);
        let shapes: Vec<String> = ports
            .map(|port| format!("`{}` {}{:?}", port.c_name, port.dtype, port.shape))
            .collect();
        text += &shapes.join(", ");
    }
    text += &format!(
        ".\n    pub fn {}(&mut self{parameters}) -> Result<(), Error> {{\n",
        entry.name
    );
    if several {
        text += "        let fits = match batch {\n";
        for variant in &entry.variants {
            let lengths: Vec<String> = (variant.inputs.iter().chain(&variant.outputs))
                .zip(first.inputs.iter().chain(&first.outputs))
                .map(|(port, named)| format!("{}.len() == {}", named.c_name, elements(port)))
                .collect();
            let all = if lengths.is_empty() {
                "true".to_owned()
            } else {
                lengths.join(" && ")
            };
            text += &format!("            {} => {all},\n", variant.batch.unwrap_or(0));
        }
        text += "            _ => return Err(Error::Batch),\n        };\n        if !fits {\n            return Err(Error::Length);\n        }\n";
    }
    let inputs: Vec<String> = (first.inputs.iter())
        .map(|port| format!("{}.as_ptr().cast()", port.c_name))
        .collect();
    let outputs: Vec<String> = (first.outputs.iter())
        .map(|port| format!("{}.as_mut_ptr().cast()", port.c_name))
        .collect();
    text + &format!(
        "        self.0.call({}, {}, &[{}], &[{}])\n    }}\n\n",
        entry.symbol,
        if several { "batch" } else { "0" },
        inputs.join(", "),
        outputs.join(", ")
    )
}

/// The Rust type of an element; halves are their bits.
fn rust_type(dtype: &str) -> &'static str {
    match DType::from_name(dtype) {
        Some(DType::Bool | DType::U8) | None => "u8",
        Some(DType::U16 | DType::F16 | DType::BF16) => "u16",
        Some(DType::U32) => "u32",
        Some(DType::U64) => "u64",
        Some(DType::I8) => "i8",
        Some(DType::I16) => "i16",
        Some(DType::I32) => "i32",
        Some(DType::I64) => "i64",
        Some(DType::F32) => "f32",
        Some(DType::F64) => "f64",
    }
}

/// What every crate begins with: errors, memory, and the call, with all that is `unsafe`.
const PRELUDE: &str = include_str!("wrapper/prelude.txt");
