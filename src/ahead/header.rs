//! The C header of an artefact.

use netloom_ir::DType;

use super::letters;
use super::manifest::{EntryRow, Manifest, PortRow, VariantRow};
use crate::cpu::export::Status;

/// The header's text.
pub fn text(manifest: &Manifest) -> String {
    let Manifest { name, abi, .. } = manifest;
    let upper = name.to_uppercase();
    let mut text = format!(
        "/* {name}, compiled by {} for {} ({}).\n\n   \
         An entry is called with the addresses of its arguments and results (each aligned to its element, dense, in row-major order), an arena, and\n   \
         the block of states, both aligned to {} bytes; the arena is zeroed before its first run. Nothing is allocated and nothing is global, so\n   \
         different arenas may run at the same time; each arena, and each block of states that a run changes, serves one run at a time. */\n\
         #ifndef {upper}_H\n#define {upper}_H\n\n#include <stdint.h>\n\n\
         #ifdef __cplusplus\nextern \"C\" {{\n#endif\n\n",
        manifest.generator, manifest.target, manifest.cpu, manifest.alignment
    );
    text += &abi_text(*abi);
    text += &format!(
        "#define {upper}_ABI {abi}\n#define {upper}_ALIGNMENT {}\n",
        manifest.alignment
    );
    text += &format!("#define {upper}_STATE_BYTES {}\n", manifest.state_bytes);
    let arenas: Vec<String> = variants(manifest)
        .map(|(_, prefix, _)| format!("{prefix}_ARENA_BYTES(workers)"))
        .collect();
    let largest = arenas
        .into_iter()
        .rev()
        .reduce(|rest, arena| format!("{upper}_MAX({arena}, {rest})"))
        .unwrap_or_else(|| "0".to_owned());
    text += &format!(
        "#define {upper}_MAX(a, b) ((a) > (b) ? (a) : (b))\n\
         /* An arena for any of the entries, with so many workers. */\n#define {upper}_ARENA_BYTES(workers) {largest}\n\n\
         /* Whether this CPU runs the code: NETLOOM_OK or NETLOOM_CPU. The entries ask too, on the first run of an arena. */\n\
         int32_t {name}_check(void);\n\n"
    );
    if !manifest.states.is_empty() {
        text += "/* Where each state lies in its block. In braces, where its elements are not dense: the digits of an element's place, outermost first, each\n   \
         `axis/step:extent` and of the value index[axis] / step % extent. */\n";
        for state in &manifest.states {
            let big = letters(&state.name).to_uppercase();
            let shape = shape_text(&state.shape);
            text += &format!(
                "#define {upper}_STATE_{big} {} /* {}{shape}{} */\n",
                state.offset, state.dtype, state.layout
            );
        }
        text.push('\n');
    }
    if manifest.states_within {
        text += &format!(
            "/* The block of states, read-only; an entry called with `states` 0 takes it. */\nextern const unsigned char {name}_states[];\n\n"
        );
    }
    for entry in &manifest.entries {
        text += &entry_text(manifest, entry);
    }
    text + &format!("#ifdef __cplusplus\n}}\n#endif\n\n#endif /* {upper}_H */\n")
}

/// What the headers of all artefacts of one version share.
fn abi_text(abi: u32) -> String {
    format!(
        "#ifndef NETLOOM_ABI_{abi}\n#define NETLOOM_ABI_{abi}\n\
         /* What an entry returns: it ran; the CPU lacks an instruction; the arena or the states are missing or not aligned; there is no code for\n   \
         the batch. */\n\
         enum {{ NETLOOM_OK = {}, NETLOOM_CPU = {}, NETLOOM_BLOCK = {}, NETLOOM_BATCH = {} }};\n\n\
         typedef void netloom_task(const void *argument, uint64_t worker, uint64_t workers);\n\n\
         typedef struct netloom_call {{\n    \
             const void *const *inputs; /* one address for each argument, in order */\n    \
             void *const *outputs;      /* one address for each result, in order */\n    \
             void *states;              /* kept between runs */\n    \
             void *arena;\n    \
             uint64_t batch;            /* examples in the batch; 0 for the first that there is code for */\n    \
             uint64_t workers;          /* how many `parallel` starts; 0 is 1 */\n    \
             /* Calls task(argument, worker, workers) for each worker below `workers`, all at the same time, and returns when all have; or 0. */\n    \
             void (*parallel)(void *context, netloom_task *task, const void *argument, uint64_t workers);\n    \
             void *context;             /* passed to `parallel` */\n    \
             void (*wait)(void);        /* called now and then by a worker that waits, or 0 */\n\
         }} netloom_call;\n#endif\n\n",
        Status::Ok as i32,
        Status::Cpu as i32,
        Status::Block as i32,
        Status::Batch as i32,
    )
}

/// Every variant with its entry and what its constants begin with.
pub(super) fn variants(manifest: &Manifest) -> impl Iterator<Item = (&EntryRow, String, &VariantRow)> {
    manifest.entries.iter().flat_map(|entry| {
        entry.variants.iter().map(move |variant| {
            let upper = entry.symbol.to_uppercase();
            let prefix = match variant.batch {
                Some(batch) => format!("{upper}_B{batch}"),
                None => upper,
            };
            (entry, prefix, variant)
        })
    })
}

/// The part of a header for one entry: the function, the sizes, and a wrapper that runs it with one worker.
fn entry_text(manifest: &Manifest, entry: &EntryRow) -> String {
    let symbol = &entry.symbol;
    let mut text = String::new();
    for (_, prefix, variant) in variants(manifest).filter(|(of, ..)| *of == entry) {
        let batch = variant.batch.map_or(String::new(), |batch| format!(", batch {batch}"));
        text += &format!("/* {}{batch}\n", entry.name);
        for (kind, ports) in [("argument", &variant.inputs), ("result", &variant.outputs)] {
            for port in ports {
                let PortRow { name, dtype, shape, .. } = port;
                let shape = shape_text(shape);
                text += &format!("   {kind} {name}: {dtype}{shape}, aligned to {}\n", size(dtype));
            }
        }
        text += "*/\n";
        for port in variant.inputs.iter().chain(&variant.outputs) {
            let big = port.c_name.to_uppercase();
            text += &format!("#define {prefix}_{big}_ELEMENTS {}\n", port.bytes / size(&port.dtype));
        }
        text += &format!(
            "#define {prefix}_ARENA_BYTES(workers) ({} + {} * (workers))\n\n",
            variant.arena.shared_bytes, variant.arena.worker_bytes
        );
    }
    text += &format!("int32_t {symbol}(const netloom_call *call);\n\n");
    let Some(first) = entry.variants.first() else {
        return text;
    };
    let mut parameters = Vec::new();
    if first.batch.is_some() {
        parameters.push("uint64_t batch".to_owned());
    }
    let pointers = |ports: &[PortRow], kind: &'static str| -> Vec<String> {
        ports
            .iter()
            .map(|port| format!("{kind}{} *{}", c_type(&port.dtype), port.c_name))
            .collect()
    };
    parameters.extend(pointers(&first.inputs, "const "));
    parameters.extend(pointers(&first.outputs, ""));
    if manifest.takes_states() {
        parameters.push("void *states".to_owned());
    }
    parameters.push("void *arena".to_owned());
    let addresses = |ports: &[PortRow], kind: &str| {
        let names: Vec<&str> = ports.iter().map(|port| port.c_name.as_str()).collect();
        let list = if names.is_empty() {
            "0".to_owned()
        } else {
            names.join(", ")
        };
        format!("{kind}[] = {{{list}}};")
    };
    text + &format!(
        "/* Runs it alone. */\nstatic inline int32_t {symbol}_run({}) {{\n    {}\n    {}\n    \
         netloom_call call = {{inputs, outputs, {}, arena, {}, 1, 0, 0, 0}};\n    \
         return {symbol}(&call);\n}}\n\n",
        parameters.join(", "),
        addresses(&first.inputs, "const void *const inputs"),
        addresses(&first.outputs, "void *const outputs"),
        if manifest.takes_states() { "states" } else { "0" },
        if first.batch.is_some() { "batch" } else { "0" },
    )
}

fn shape_text(shape: &[usize]) -> String {
    let extents: Vec<String> = shape.iter().map(usize::to_string).collect();
    format!("[{}]", extents.join(","))
}

/// Bytes of an element.
pub(super) fn size(dtype: &str) -> usize {
    DType::from_name(dtype).map_or(1, DType::size_bytes)
}

/// The C type of an element; halves are their bits.
pub(super) fn c_type(dtype: &str) -> &'static str {
    match DType::from_name(dtype) {
        Some(DType::Bool | DType::U8) | None => "uint8_t",
        Some(DType::U16 | DType::F16 | DType::BF16) => "uint16_t",
        Some(DType::U32) => "uint32_t",
        Some(DType::U64) => "uint64_t",
        Some(DType::I8) => "int8_t",
        Some(DType::I16) => "int16_t",
        Some(DType::I32) => "int32_t",
        Some(DType::I64) => "int64_t",
        Some(DType::F32) => "float",
        Some(DType::F64) => "double",
    }
}
