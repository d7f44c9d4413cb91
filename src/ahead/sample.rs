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
         {}",
        build_line(manifest),
        BLOCK.replace("HEADER", header)
    );
    if let Some(file) = &manifest.states_file {
        text += &STATES
            .replace("FILE_NAME", file)
            .replace("BYTES", &format!("{upper}_STATE_BYTES"));
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
    if manifest.takes_states() && manifest.states_file.is_none() {
        text += "    free(states);\n";
    }
    text + "    free(arena);\n    if (status != NETLOOM_OK) fprintf(stderr, \"status %d\\n\", (int)status);\n    return status;\n}\n"
}

/// Memory as arenas and states want it.
const BLOCK: &str = "\
#define _DEFAULT_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _WIN32
#include <malloc.h>
#define aligned_alloc(alignment, bytes) _aligned_malloc(bytes, alignment)
#define free _aligned_free
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

#include \"HEADER\"

/* Zeros, aligned to 64 bytes; large blocks to a large page, for which the system is asked where it has some. */
static void *block(size_t bytes) {
    size_t alignment = bytes < 2097152 ? 64 : 2097152, whole = (bytes / alignment + 1) * alignment;
    void *start = aligned_alloc(alignment, whole);
    if (!start) {
        fputs(\"out of memory\\n\", stderr);
        exit(1);
    }
#ifdef MADV_HUGEPAGE
    if (alignment > 64) madvise(start, whole, MADV_HUGEPAGE);
#endif
    return memset(start, 0, bytes);
}

";

/// The block of states from its file.
const STATES: &str = "\
/* The weights, mapped where that can be done: their pages are fetched when they are first read. What the code changes stays in memory. */
static void *states_from_file(void) {
    void *states = 0;
#ifdef _WIN32
    FILE *file = fopen(\"FILE_NAME\", \"rb\");
    if (file) {
        states = block(BYTES);
        if (fread(states, 1, BYTES, file) != BYTES) states = 0;
        fclose(file);
    }
#else
    int file = open(\"FILE_NAME\", O_RDONLY);
    if (file >= 0 && (size_t)lseek(file, 0, SEEK_END) == BYTES) {
        states = mmap(0, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
        if (states == MAP_FAILED) states = 0;
        close(file);
    }
#endif
    if (!states) {
        fputs(\"cannot read FILE_NAME; run this program beside it\\n\", stderr);
        exit(1);
    }
    return states;
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
