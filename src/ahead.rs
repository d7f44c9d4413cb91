//! Ahead of time: a folder with everything that a program in C, C++ or Rust needs to run a model without netloom.
//!
//! The code is the JIT's, emitted into another kind of module, so results agree bit for bit on the same CPU settings. It needs no runtime
//! library, allocates nothing and has no global state: the caller brings the arena and the block of states.
//!
//! | file | what |
//! |---|---|
//! | `NAME.o`, `libNAME.a` or `libNAME.so` | the code |
//! | `NAME.h` | what it offers ([`header`]) |
//! | `NAME.states` | the block of states, unless it is within the object or [`INIT`] makes it |
//! | `manifest.json` | the same for programs ([`manifest`]); the files beside it are written from it |
//! | `example.c`, `CMakeLists.txt` | a program that runs every entry ([`sample`]) |
//! | `rust/` | a crate around it, if asked for ([`wrapper`]) |
//!
//! What is written for Vulkan instead says the module `vulkan`.

pub mod header;
pub mod link;
pub mod manifest;
pub mod run;
pub mod sample;
#[cfg(feature = "vulkan")]
pub mod vulkan;
pub mod wrapper;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use netloom_ir::prepare::PREPARE;
use netloom_ir::{Builder, Init, Program, Tensor};

use crate::compile::{Export, Exports, INIT, Lowered, lower, object};
use crate::cpu::isa::Cpu;
use crate::error::Error;
use crate::formats::write_whole;
use crate::session::Session;
use manifest::Manifest;

/// What form the code has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Emit {
    /// An object file.
    Obj,
    /// A static library, made by `ar`.
    Staticlib,
    /// A shared library, made by `cc`.
    Sharedlib,
}

/// Where the values of the states are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum States {
    /// In a file, which a program reads or maps.
    File,
    /// Within the object, in read-only memory: for programs that do not change them.
    Within,
    /// Made by the exported entry `init(seed)`.
    Init,
}

/// What is compiled.
pub struct Artefact<'a> {
    /// What symbols and files are named.
    pub name: &'a str,
    /// The program: only what is to be exported.
    pub program: &'a Program,
    /// How its entries are exported; see [`merged`].
    pub entries: &'a [Export],
    /// What the code is for: one CPU, or several levels of an architecture, of which the code takes the best that a machine has.
    pub cpus: &'a [Cpu],
    /// Runs the same program, or one with more entries, and holds the values of the states.
    pub session: &'a Session,
    /// Where those values go.
    pub states: States,
    /// The form of the code.
    pub emit: Emit,
    /// The C compiler that makes shared libraries; by default one of the target's usual name.
    pub linker: Option<&'a str>,
    /// Whether a Rust crate is written too; it needs [`Emit::Staticlib`].
    pub rust: bool,
}

/// More than this does not go into an object: code for x86-64 reaches 2 GiB.
const MOST_WITHIN_BYTES: usize = 1 << 30;

/// One program of the same entries for several sizes of batch, and how these are exported: each entry under its name, which chooses
/// by the batch.
///
/// # Errors
/// If a state is not the same for all, or an entry is missing.
pub fn merged(programs: Vec<(u64, Program)>, entries: &[&str]) -> Result<(Program, Vec<Export>), Error> {
    let several = programs.len() > 1;
    let mut whole = Program::default();
    let mut exports: Vec<Export> = entries
        .iter()
        .map(|entry| Export {
            name: identifier(entry),
            variants: Vec::new(),
        })
        .collect();
    for (batch, program) in programs {
        // What computes prepared states comes along.
        let program = program.with_entries(&[entries, &[PREPARE]].concat());
        if let (Some(prepare), None) = (program.entry(PREPARE), whole.entry(PREPARE)) {
            whole.entries.push(prepare.clone());
        }
        for state in program.states {
            match whole.state(&state.name) {
                None => whole.states.push(state),
                Some(known) if known.ty == state.ty => {}
                Some(known) => {
                    return Err(Error::Usage(format!(
                        "state `{}` is {} for one batch and {} for another, so they cannot share an artefact",
                        state.name, known.ty, state.ty
                    )));
                }
            }
        }
        for (export, name) in exports.iter_mut().zip(entries) {
            let found = program.entries.iter().find(|entry| entry.name == *name);
            let mut entry = found
                .ok_or_else(|| Error::Unknown(format!("there is no entry `{name}`")))?
                .clone();
            if several {
                entry.name = format!("{name}_b{batch}");
            }
            export.variants.push((several.then_some(batch), entry.name.clone()));
            whole.entries.push(entry);
        }
    }
    Ok((whole, exports))
}

/// Compiles a program into a folder, and gives the files written.
///
/// # Errors
/// If there is no code for the CPU, a file cannot be written, or the linker is missing or fails.
pub fn write(artefact: &Artefact<'_>, folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let session = artefact.session;
    let name = identifier(artefact.name);
    let program = with_beginnings(artefact)?;
    let levels = best_first(artefact.cpus)?
        .into_iter()
        .map(|cpu| Ok((cpu.clone(), lower(&program, &cpu.target())?)))
        .collect::<Result<Vec<_>, Error>>()?;
    let (cpu, lowered) = &levels[0];
    let values = lowered.memory.state_values(session)?;
    if artefact.states == States::Within && values.len() > MOST_WITHIN_BYTES {
        return Err(Error::Usage(format!(
            "{} bytes of states are too many to be within an object; leave them in a file",
            values.len()
        )));
    }
    let mut entries = artefact.entries.to_vec();
    if artefact.states == States::Init && lowered.plans.iter().any(|plan| plan.name == INIT) {
        entries.push(Export {
            name: INIT.to_owned(),
            variants: vec![(None, INIT.to_owned())],
        });
    }
    let exports = Exports {
        prefix: name.clone(),
        entries,
        states: (artefact.states == States::Within && !values.is_empty()).then(|| values.clone()),
    };
    let code = object(&levels, &exports)?;
    let manifest = Manifest::new(artefact, &levels, &exports);

    let mut files = Vec::new();
    let mut save = |file: &str, bytes: &[u8]| {
        let path = folder.join(file);
        write_whole(&path, |file| file.write_all(bytes))?;
        files.push(path);
        Ok::<(), Error>(())
    };
    let library = match artefact.emit {
        Emit::Obj => code,
        Emit::Staticlib => link::archive(&code, &format!("{name}.o"), &manifest.library)?,
        Emit::Sharedlib => link::shared(&code, Emit::Obj, &manifest.library, &cpu.triple, artefact.linker)?,
    };
    save(&manifest.library, &library)?;
    save(&manifest.header, header::text(&manifest).as_bytes())?;
    if let Some(file) = &manifest.states_file {
        save(file, &values)?;
    }
    save("example.c", sample::example(&manifest).as_bytes())?;
    save("CMakeLists.txt", sample::cmake(&manifest).as_bytes())?;
    if artefact.rust {
        for (file, text) in wrapper::files(&manifest) {
            save(&format!("rust/{file}"), text.as_bytes())?;
        }
    }
    // Last: a folder with a manifest is whole.
    save(manifest::FILE, manifest.to_json().as_bytes())?;
    Ok(files)
}

/// The CPUs in the order in which they are tried.
fn best_first(cpus: &[Cpu]) -> Result<Vec<Cpu>, Error> {
    let mut levels = cpus.to_vec();
    levels.sort_by_key(|cpu| std::cmp::Reverse((cpu.level, cpu.has_fma, cpu.has_amx)));
    levels.dedup();
    match &levels[..] {
        [] => Err(Error::Usage("code is for some CPU; name one".to_owned())),
        [first, rest @ ..] if rest.iter().any(|cpu| cpu.triple != first.triple) => Err(Error::Usage(
            "the levels that code chooses among are of one system".to_owned(),
        )),
        _ => Ok(levels),
    }
}

/// The program with states that start as the artefact is to start them.
fn with_beginnings(artefact: &Artefact<'_>) -> Result<Program, Error> {
    let mut program = artefact.program.clone();
    for state in &mut program.states {
        state.init = match (artefact.states, &state.init) {
            (States::Init, Init::Graph(graph)) => Init::Graph(Arc::clone(graph)),
            // The entry `init` gives these too.
            (States::Init, Init::Tensor(tensor)) => Init::Graph(Arc::new(constant(tensor)?)),
            // The block of states holds the first values, so the object needs no code to make them.
            _ => Init::Tensor(artefact.session.state(&state.name)?.into()),
        };
    }
    Ok(program)
}

/// A graph that gives a tensor; one of equal elements takes the space of one.
fn constant(tensor: &Arc<Tensor>) -> Result<netloom_ir::Graph, Error> {
    let builder = Builder::new();
    let size = tensor.dtype().size_bytes();
    let first = tensor.bytes().get(..size).unwrap_or_default();
    let value = if tensor.count() > 1 && tensor.bytes().chunks(size).all(|element| element == first) {
        let one = Tensor::from_bytes(tensor.dtype(), [], first.to_vec());
        builder.constant(one).broadcast(tensor.shape())
    } else {
        builder.constant(Arc::clone(tensor))
    };
    Ok(builder.finish([("value", value)])?)
}

/// The name as a C identifier.
pub(crate) fn identifier(name: &str) -> String {
    let is_digit = |letter: char| letter.is_ascii_digit();
    format!("{}{}", if name.starts_with(is_digit) { "_" } else { "" }, letters(name))
}

/// The name with everything that C does not allow in identifiers replaced.
fn letters(name: &str) -> String {
    let letter = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '_' };
    name.chars().map(letter).collect()
}

/// Names as C identifiers that differ from each other and from what C and the header call things.
pub(crate) fn identifiers<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut known: Vec<String> = Vec::new();
    for name in names {
        let plain = identifier(name);
        let is_free = |candidate: &String| !known.contains(candidate) && !RESERVED.contains(&candidate.as_str());
        let numbered = (2..).map(|number| format!("{plain}_{number}"));
        let free = std::iter::once(plain.clone()).chain(numbered).find(is_free);
        known.push(free.expect("numbers do not end"));
    }
    known
}

/// Words of C, C++ and Rust, and what the generated functions call their own arguments.
const RESERVED: &[&str] = &[
    "", "_", "self", "inputs", "outputs", "states", "arena", "batch", "call", "status", "auto", "bool", "break",
    "case", "char", "class", "const", "continue", "crate", "default", "delete", "do", "double", "else", "enum",
    "extern", "false", "float", "fn", "for", "goto", "if", "impl", "in", "inline", "int", "let", "long", "loop",
    "match", "mod", "move", "mut", "new", "operator", "private", "pub", "ref", "register", "return", "short", "signed",
    "sizeof", "static", "struct", "super", "switch", "template", "this", "trait", "true", "type", "typedef", "union",
    "unsafe", "unsigned", "use", "void", "volatile", "where", "while",
];

/// The plan of an exported entry.
fn plan<'a>(lowered: &'a Lowered, entry: &str) -> &'a crate::plan::Plan {
    let found = lowered.plans.iter().find(|plan| plan.name == entry);
    found.expect("an export names an entry of the program")
}
