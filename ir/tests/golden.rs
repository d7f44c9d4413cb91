//! Text in, text out: each file under `tests/golden` holds a source, a line `---- what this shows`, and what comes out.
//!
//! The folder says what is done with the source. `UPDATE_GOLDEN=1 cargo test --test golden` rewrites what is below the line; read
//! the difference before you commit it.

use std::fmt::Write;
use std::path::Path;

use netloom_ir::target::TargetKind;
use netloom_ir::{Target, passes, text};

/// Runs every file of a folder.
fn check(folder: &str, run: fn(&str, &str) -> String) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder);
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no files in {}", folder.display());
    let mut wrong = String::new();
    for path in paths {
        let file = path.file_name().unwrap().to_str().unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        let line = whole
            .find("---- ")
            .unwrap_or_else(|| panic!("{file} has no line `---- what this shows`"));
        let below = line + whole[line..].find('\n').expect("a line's end") + 1;
        let found = run(file, &whole[..line]);
        if found == whole[below..] {
            continue;
        }
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, whole[..below].to_owned() + &found).unwrap();
        } else {
            writeln!(wrong, "{file}: expected\n{}found\n{found}", &whole[below..]).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}UPDATE_GOLDEN=1 rewrites the files");
}

/// A machine, for passes that ask for one.
fn target() -> Target {
    Target {
        kind: TargetKind::Cpu,
        vector_lanes: 8,
        vector_registers: 16,
        invocations: 1,
        share_from: Target::SHARE_FROM,
        product_bytes: 0,
        workgroups: false,
        winograd: false,
        f16: false,
        pieces: false,
        matrices: None,
        tuned: netloom_ir::decisions::Tuned::NOTHING,
    }
}

#[test]
fn what_is_written_reads_back() {
    check("text", |file, source| match text::parse_program(file, source) {
        Ok(program) => program.to_string(),
        Err(problems) => format!("error: {problems}\n"),
    });
}

#[test]
fn problems_are_all_reported_in_place() {
    check("problems", |file, source| match text::parse_program(file, source) {
        Ok(program) => program.to_string(),
        Err(problems) => format!("error: {problems}\n"),
    });
}

#[test]
fn graphs_are_drawn() {
    check("dot", |file, source| match text::parse(file, source) {
        Ok(graph) => text::dot(&graph),
        Err(problems) => format!("error: {problems}\n"),
    });
}

#[test]
fn graphs_are_written_as_json() {
    check("json", |file, source| match text::parse(file, source) {
        Ok(graph) => text::to_json(&graph).replace("{\"args\"", "\n{\"args\"") + "\n",
        Err(problems) => format!("error: {problems}\n"),
    });
}

#[test]
fn passes_improve() {
    check("passes", |file, source| match text::parse(file, source) {
        Ok(graph) => passes::run(&graph, &target(), &mut |_| {}).to_string(),
        Err(problems) => format!("error: {problems}\n"),
    });
}
