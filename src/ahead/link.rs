//! Libraries: what `ar` and the C compiler make of an object.

use std::path::Path;
use std::process::Command;

use target_lexicon::{BinaryFormat, Triple};

use super::Emit;
use crate::cpu::isa::Cpu;
use crate::error::Error;

/// What the names of shared libraries end in.
pub fn shared_ending(cpu: &Cpu) -> &'static str {
    match cpu.triple.binary_format {
        BinaryFormat::Macho => "dylib",
        BinaryFormat::Coff => "dll",
        _ => "so",
    }
}

/// A static library of one object.
///
/// # Errors
/// If `ar` is missing or fails.
pub fn archive(object: &[u8], object_name: &str, library: &str) -> Result<Vec<u8>, Error> {
    // `D`: no times and no owners, so that the same object gives the same bytes.
    in_folder(object, object_name, library, "ar", &["rcsD", library, object_name])
}

/// A shared library of an object, or of a static library of one.
///
/// # Errors
/// If the C compiler is missing or fails.
pub fn shared(code: &[u8], form: Emit, library: &str, triple: &Triple, linker: Option<&str>) -> Result<Vec<u8>, Error> {
    let usual = usual_linker(triple);
    let command = linker.unwrap_or(&usual);
    let given = if form == Emit::Staticlib { "code.a" } else { "code.o" };
    let mut arguments = vec!["-shared", "-o", library];
    // All of it, though nobody asks for a symbol; and no number of the build, so that the same code gives the same bytes.
    match triple.binary_format {
        BinaryFormat::Elf => {
            arguments.extend([
                "-Wl,--build-id=none",
                "-Wl,-z,noexecstack",
                "-Wl,--whole-archive",
                given,
            ]);
            arguments.push("-Wl,--no-whole-archive");
        }
        BinaryFormat::Macho => arguments.extend(["-Wl,-all_load", given]),
        _ => arguments.push(given),
    }
    arguments.push("-lm");
    in_folder(code, given, library, command, &arguments)
}

/// The C compiler for a system: `cc` for this one, otherwise by the name that Debian gives it.
fn usual_linker(triple: &Triple) -> String {
    let host = Triple::host();
    if (triple.architecture, triple.operating_system) == (host.architecture, host.operating_system) {
        return "cc".to_owned();
    }
    let architecture = match triple.architecture {
        target_lexicon::Architecture::Riscv64(_) => "riscv64".to_owned(),
        other => other.to_string(),
    };
    match triple.binary_format {
        BinaryFormat::Coff => format!("{architecture}-w64-mingw32-gcc"),
        _ => format!("{architecture}-linux-gnu-gcc"),
    }
}

/// Runs a command in a folder of its own that holds the object, and gives the file it makes.
fn in_folder(object: &[u8], name: &str, made: &str, command: &str, arguments: &[&str]) -> Result<Vec<u8>, Error> {
    let folder = Scratch::new()?;
    let path = |file: &str| folder.0.join(file);
    std::fs::write(path(name), object).map_err(|reason| Error::file(path(name), reason))?;
    run(command, arguments, &folder.0)?;
    std::fs::read(path(made)).map_err(|reason| Error::file(path(made), reason))
}

/// Runs a command in a folder.
fn run(command: &str, arguments: &[&str], folder: &Path) -> Result<(), Error> {
    let output = Command::new(command).args(arguments).current_dir(folder).output();
    let output = output.map_err(|reason| {
        Error::Usage(format!(
            "`{command}` cannot be run ({reason}); libraries are made by it: install a C compiler and binutils, name another with `--linker`, \
             or write an object with `--emit obj`"
        ))
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "`{command} {}` failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim_end()
    )))
}

/// A folder that goes when it is dropped.
pub(crate) struct Scratch(pub std::path::PathBuf);

impl Scratch {
    /// An empty folder that nobody else has.
    pub fn new() -> Result<Scratch, Error> {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("netloom-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|reason| Error::file(&path, reason))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What remains is the system's to clean.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
