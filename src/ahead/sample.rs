//! `example.c`, which runs every entry once on zeros, and the `CMakeLists.txt` that builds it.

use super::Emit;
use super::header::{c_type, variants};
use super::manifest::Manifest;

/// The example's text.
pub fn example(manifest: &Manifest) -> String {
    let Manifest { name, header, .. } = manifest;
    let upper = name.to_uppercase();
    let mut text = format!(
        "/* Runs every entry of {name} once on zeros and prints how each result begins:\n   {} */\n\
         #include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n\n#include \"{header}\"\n\n{BLOCK}",
        build_line(manifest)
    );
    if let Some(file) = &manifest.states_file {
        text += &format!(
            "/* The weights; where there is `mmap`, mapping the file does as well. */\n\
             static void *states_from_file(void) {{\n    \
                 void *states = block({upper}_STATE_BYTES);\n    \
                 FILE *file = fopen(\"{file}\", \"rb\");\n    \
                 if (!file || fread(states, 1, {upper}_STATE_BYTES, file) != {upper}_STATE_BYTES) {{\n        \
                     fputs(\"cannot read {file}; run this program beside it\\n\", stderr);\n        exit(1);\n    }}\n    \
                 fclose(file);\n    return states;\n}}\n\n"
        );
    }
    text += &format!(
        "int main(void) {{\n    \
             if ({name}_check() != NETLOOM_OK) {{\n        \
                 fputs(\"this CPU lacks instructions that the code uses\\n\", stderr);\n        return 1;\n    }}\n    \
             void *arena = block({upper}_ARENA_BYTES(1));\n"
    );
    let states = if manifest.takes_states() { "states, " } else { "" };
    let init = manifest.entry(crate::compile::INIT);
    if manifest.states_file.is_some() {
        text += "    void *states = states_from_file();\n";
    } else if manifest.takes_states() {
        text += &format!("    void *states = block({upper}_STATE_BYTES);\n");
    }
    text += "    int32_t status = NETLOOM_OK;\n";
    if let Some(init) = init {
        let seed = if init.variants[0].inputs.is_empty() {
            ""
        } else {
            text += "    const uint64_t seed = 0;\n";
            "&seed, "
        };
        text += &format!("    status = {}_run({seed}{states}arena);\n", init.symbol);
    }
    for (entry, prefix, variant) in variants(manifest).filter(|(entry, ..)| init != Some(*entry)) {
        text += &format!(
            "    if (status == NETLOOM_OK) {{\n        /* {} */\n",
            prefix.to_lowercase()
        );
        for port in variant.inputs.iter().chain(&variant.outputs) {
            let (ty, big) = (c_type(&port.dtype), port.c_name.to_uppercase());
            text += &format!(
                "        {ty} *{} = block({prefix}_{big}_ELEMENTS * sizeof({ty}));\n",
                port.c_name
            );
        }
        let batch = variant.batch.map(|batch| format!("{batch}, ")).unwrap_or_default();
        let ports = variant.inputs.iter().chain(&variant.outputs);
        let names: String = ports.map(|port| format!("{}, ", port.c_name)).collect();
        text += &format!("        status = {}_run({batch}{names}{states}arena);\n", entry.symbol);
        for port in &variant.outputs {
            let big = port.c_name.to_uppercase();
            text += &format!(
                "        if (status == NETLOOM_OK && {prefix}_{big}_ELEMENTS > 0) printf(\"{}.{} %g\\n\", (double){}[0]);\n",
                prefix.to_lowercase(),
                port.name,
                port.c_name
            );
        }
        for port in variant.inputs.iter().chain(&variant.outputs) {
            text += &format!("        free({});\n", port.c_name);
        }
        text += "    }\n";
    }
    if manifest.takes_states() {
        text += "    free(states);\n";
    }
    text + "    free(arena);\n    if (status != NETLOOM_OK) fprintf(stderr, \"status %d\\n\", (int)status);\n    return status;\n}\n"
}

/// Memory of the alignment that arenas and states have.
const BLOCK: &str = "\
#ifdef _WIN32
#include <malloc.h>
#define aligned_alloc(alignment, bytes) _aligned_malloc(bytes, alignment)
#define free _aligned_free
#endif

/* Zeros, aligned to 64 bytes. */
static void *block(size_t bytes) {
    size_t whole = (bytes / 64 + 1) * 64;
    void *start = aligned_alloc(64, whole);
    if (!start) {
        fputs(\"out of memory\\n\", stderr);
        exit(1);
    }
    return memset(start, 0, whole);
}

";

fn build_line(manifest: &Manifest) -> String {
    let Manifest { name, library, .. } = manifest;
    match manifest.emit {
        Emit::Obj | Emit::Staticlib => format!("cc -O2 -o example example.c {library} -lm"),
        Emit::Sharedlib => format!("cc -O2 -o example example.c -L. -l{name} -Wl,-rpath,."),
    }
}

/// The text of `CMakeLists.txt`: a library `NAME` to link with, and the example.
pub fn cmake(manifest: &Manifest) -> String {
    let Manifest { name, library, .. } = manifest;
    let kind = match manifest.emit {
        Emit::Obj => {
            format!(
                "add_library({name} STATIC ${{CMAKE_CURRENT_SOURCE_DIR}}/{library})\nset_target_properties({name} PROPERTIES LINKER_LANGUAGE C)\n\
                 set_source_files_properties(${{CMAKE_CURRENT_SOURCE_DIR}}/{library} PROPERTIES EXTERNAL_OBJECT TRUE)\n"
            )
        }
        Emit::Staticlib | Emit::Sharedlib => {
            let form = if manifest.emit == Emit::Staticlib {
                "STATIC"
            } else {
                "SHARED"
            };
            format!(
                "add_library({name} {form} IMPORTED)\n\
                 set_target_properties({name} PROPERTIES IMPORTED_LOCATION ${{CMAKE_CURRENT_SOURCE_DIR}}/{library})\n"
            )
        }
    };
    let scope = if manifest.emit == Emit::Obj {
        "PUBLIC"
    } else {
        "INTERFACE"
    };
    format!(
        "cmake_minimum_required(VERSION 3.13)\nproject({name}_example C)\n\n{kind}\
         target_include_directories({name} {scope} ${{CMAKE_CURRENT_SOURCE_DIR}})\n\
         if(UNIX)\n  target_link_libraries({name} {scope} m)\nendif()\n\n\
         add_executable(example example.c)\ntarget_link_libraries(example {name})\n"
    )
}
