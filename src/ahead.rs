//! Ahead of time: an object file, a C header, and the states, for programs without netloom.
//!
//! The object's code is that of the JIT, emitted into another kind of module, so results agree bit for bit on the same CPU settings.
//! It needs no runtime library and allocates nothing: the caller brings the block of states, which the states file fills, and the arena.

use std::io::Write;
use std::path::{Path, PathBuf};

use netloom_ir::{DType, Init, Program, Type};

use crate::compile::{Lowered, lower, object};
use crate::cpu::entry::ARENA_HEADER_BYTES;
use crate::cpu::isa::Cpu;
use crate::error::Error;
use crate::formats::write_whole;
use crate::plan::{Plan, Port};
use crate::session::Session;

/// Compiles a program into a folder: `NAME.o`, `NAME.h` and `NAME.states`, the block of states as `session` holds it now.
///
/// `session` runs the same program.
///
/// # Errors
/// If there is no code for the CPU, or the folder cannot be written.
pub fn write(
    program: &Program,
    session: &Session,
    cpu: &Cpu,
    name: &str,
    folder: &Path,
) -> Result<Vec<PathBuf>, Error> {
    let name = identifier(name);
    // The states file holds the first values, so the object needs no code to make them.
    let mut program = program.clone();
    for state in &mut program.states {
        state.init = Init::Tensor(session.state(&state.name)?.into());
    }
    let lowered = lower(&program, &cpu.target())?;
    let mut states = vec![0; lowered.memory.state_bytes];
    for slot in &lowered.memory.states {
        let value = session.state(&slot.name)?;
        states[slot.offset..][..value.bytes().len()].copy_from_slice(value.bytes());
    }
    let code = object(&lowered, cpu, &name)?;
    let header = header(&lowered, &name, cpu);
    let mut files = Vec::new();
    for (ending, bytes) in [
        ("o", code.as_slice()),
        ("h", header.as_bytes()),
        ("states", states.as_slice()),
    ] {
        let path = folder.join(format!("{name}.{ending}"));
        write_whole(&path, |file| file.write_all(bytes))?;
        files.push(path);
    }
    Ok(files)
}

/// The name as a C identifier.
fn identifier(name: &str) -> String {
    let prefix = if name.starts_with(|letter: char| letter.is_ascii_digit()) {
        "_"
    } else {
        ""
    };
    format!("{prefix}{}", letters(name))
}

/// The name with everything that C does not allow in identifiers replaced.
fn letters(name: &str) -> String {
    let letter = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '_' };
    name.chars().map(letter).collect()
}

/// The C header of a compiled program.
fn header(lowered: &Lowered, name: &str, cpu: &Cpu) -> String {
    let upper = name.to_uppercase();
    let mut text = format!(
        "/* {name}, compiled by netloom for {} ({}).\n   \
         All blocks are aligned to 64 bytes; arguments and results to their element. One run at a time for each arena and block of states. */\n\
         #ifndef {upper}_H\n#define {upper}_H\n\n#include <stdint.h>\n\n\
         #ifdef __cplusplus\nextern \"C\" {{\n#endif\n\n\
         #ifndef NETLOOM_CALL\n#define NETLOOM_CALL\n\
         typedef struct {{\n    \
             const void *const *inputs; /* one address for each argument, in order */\n    \
             void *const *outputs;      /* one address for each result, in order */\n    \
             void *states;              /* kept between runs */\n    \
             const void *constants;\n    \
             void *arena;               /* zeroed before the first run */\n    \
             void (*wait)(void);        /* called by a worker that waits for long, or 0 */\n\
         }} netloom_call;\n#endif\n\n",
        cpu.triple,
        cpu.name()
    );
    text += &format!("#define {upper}_STATE_BYTES {}\n\n", lowered.memory.state_bytes);
    text += &format!("extern const unsigned char {name}_constants[];\n\n");
    if !lowered.memory.states.is_empty() {
        text += "/* The states: where each lies in its block. */\n";
        for slot in &lowered.memory.states {
            text += &format!(
                "#define {upper}_STATE_{} {} /* {} */\n",
                letters(&slot.name).to_uppercase(),
                slot.offset,
                slot.ty
            );
        }
        text.push('\n');
    }
    for plan in &lowered.plans {
        text += &entry(name, &upper, plan);
    }
    text + &format!("#ifdef __cplusplus\n}}\n#endif\n\n#endif /* {upper}_H */\n")
}

/// The part of a header for one entry: the function, the sizes, and a wrapper that runs it with one worker.
fn entry(name: &str, upper: &str, plan: &Plan) -> String {
    let entry = identifier(&plan.name);
    let big = entry.to_uppercase();
    let lines = |ports: &[Port]| -> String {
        ports
            .iter()
            .map(|port| format!("     {}: {}\n", port.name, port.ty))
            .collect()
    };
    let parameters: Vec<String> = plan
        .inputs
        .iter()
        .map(|port| format!("const {} *{}", c_type(&port.ty), identifier(&port.name)))
        .chain(
            plan.outputs
                .iter()
                .map(|port| format!("{} *{}", c_type(&port.ty), identifier(&port.name))),
        )
        .chain(["void *states".to_owned(), "void *arena".to_owned()])
        .collect();
    let addresses = |ports: &[Port], kind: &str| {
        let names: Vec<String> = ports.iter().map(|port| identifier(&port.name)).collect();
        let list = if names.is_empty() {
            "0".to_owned()
        } else {
            names.join(", ")
        };
        format!("{kind}[] = {{{list}}};")
    };
    format!(
        "/* {}\n   arguments:\n{}   results:\n{}*/\n\
         void {name}_{entry}(const netloom_call *call, uint64_t worker, uint64_t workers);\n\
         #define {upper}_{big}_ARENA_BYTES(workers) ({} + {} * (workers))\n\
         static inline void {name}_{entry}_run({}) {{\n    \
             {}\n    {}\n    \
             netloom_call call = {{inputs, outputs, states, {name}_constants, arena, 0}};\n    \
             {name}_{entry}(&call, 0, 1);\n\
         }}\n\n",
        plan.name,
        lines(&plan.inputs),
        lines(&plan.outputs),
        ARENA_HEADER_BYTES + plan.shared_bytes,
        plan.worker_bytes,
        parameters.join(", "),
        addresses(&plan.inputs, "const void *const inputs"),
        addresses(&plan.outputs, "void *const outputs"),
    )
}

/// The C type of an element; halves are their bits.
fn c_type(ty: &Type) -> &'static str {
    match ty.dtype {
        DType::Bool | DType::U8 => "uint8_t",
        DType::U16 | DType::F16 | DType::BF16 => "uint16_t",
        DType::U32 => "uint32_t",
        DType::U64 => "uint64_t",
        DType::I8 => "int8_t",
        DType::I16 => "int16_t",
        DType::I32 => "int32_t",
        DType::I64 => "int64_t",
        DType::F32 => "float",
        DType::F64 => "double",
    }
}
