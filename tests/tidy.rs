//! The shape of the sources: what is longest, printed; what is never written, asserted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Words that the sources of the two crates do not contain outside tests, each with the files that may, and why.
const FORBIDDEN: &[(&str, &[(&str, &str)])] = &[
    ("todo!(", &[]),
    ("unimplemented!(", &[]),
    ("dbg!(", &[]),
    (".unwrap()", &[]),
    ("#[ignore", &[]),
    ("should_panic", &[]),
    (
        "unsafe ",
        &[
            ("src/cpu/", "machine code is called, and memory handed to it, here"),
            ("src/gpu/", "the graphics driver is called here"),
        ],
    ),
    ("\"/home/", &[]),
    ("\"/root/", &[]),
    ("\"/work/", &[]),
    ("\"/tmp/", &[]),
];

/// A source file.
struct Source {
    /// Its path from the root of the repository.
    name: String,
    text: String,
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let name = path
                    .strip_prefix(root)
                    .expect("it is below the root")
                    .to_string_lossy()
                    .replace('\\', "/");
                found.push(Source {
                    name,
                    text: fs::read_to_string(&path).expect("a source is text"),
                });
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// The part of a file before its tests; nothing of a file of tests.
fn without_tests(source: &Source) -> &str {
    // `machine.rs` is compiled for tests alone.
    if source.name.ends_with("/tests.rs") || source.name.ends_with("cpu/machine.rs") {
        return "";
    }
    source.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or("")
}

/// The code of a line, without its comment.
fn code(line: &str) -> &str {
    let trimmed = line.trim_start();
    if trimmed.starts_with("//") {
        ""
    } else {
        trimmed.split(" // ").next().unwrap_or("")
    }
}

#[test]
fn forbidden_words_are_not_there() {
    let mut found = Vec::new();
    for source in sources(&["src", "ir/src"]) {
        for (number, line) in without_tests(&source).lines().enumerate() {
            for (word, allowed) in FORBIDDEN {
                if code(line).contains(word) && !allowed.iter().any(|(place, _)| source.name.starts_with(place)) {
                    found.push(format!("{}:{}: `{word}`", source.name, number + 1));
                }
            }
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn every_unsafe_block_says_why_it_is_safe() {
    let mut found = Vec::new();
    for source in sources(&["src"]) {
        let lines: Vec<&str> = source.text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let line = code(line);
            if !line.contains("unsafe {") && !line.contains("unsafe impl") {
                continue;
            }
            // The comment stands above the statement, which may have begun some lines before.
            let above = lines[number.saturating_sub(6)..number].iter();
            if !above.clone().any(|line| line.contains("// SAFETY:")) {
                found.push(format!("{}:{}", source.name, number + 1));
            }
        }
    }
    assert!(found.is_empty(), "no `// SAFETY:` above\n{}", found.join("\n"));
}

/// What a registry is given, uncompressed: the digits are most of it.
const MOST_PACKAGED: u64 = 10_000_000;

#[test]
fn the_package_is_small() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let listed = Command::new(std::env::var_os("CARGO").expect("cargo runs this test"))
        .args(["package", "--list", "--allow-dirty", "--offline"])
        .current_dir(root)
        .output()
        .expect("cargo starts");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let files = String::from_utf8(listed.stdout).expect("names are text");
    assert!(
        files
            .lines()
            .any(|file| file == "examples/data/mnist/train-images-idx3-ubyte.gz")
    );
    // Those that cargo makes are not in the folder.
    let length = |file: &str| fs::metadata(root.join(file)).map_or(0, |metadata| metadata.len());
    let total: u64 = files.lines().map(length).sum();
    assert!(total < MOST_PACKAGED, "{total} bytes");
}

#[test]
fn sizes() {
    let sources = sources(&["src", "ir/src", "tests", "ir/tests", "benches"]);
    let mut files: Vec<(usize, &str)> = sources
        .iter()
        .map(|source| (source.text.lines().count(), source.name.as_str()))
        .collect();
    let mut functions: Vec<(usize, String)> = sources.iter().flat_map(functions).collect();
    let total: usize = files.iter().map(|(lines, _)| lines).sum();
    files.sort_by(|a, b| b.cmp(a));
    functions.sort_by(|a, b| b.cmp(a));
    println!("{total} lines in {} files; the longest:", files.len());
    files
        .iter()
        .take(10)
        .for_each(|(lines, name)| println!("{lines:6} {name}"));
    println!("{} functions; the longest:", functions.len());
    functions
        .iter()
        .take(10)
        .for_each(|(lines, name)| println!("{lines:6} {name}"));
    assert!(files.len() > 100, "the sources were not found");
    assert!(functions.len() > 1000, "the functions were not found");
}

/// Each function with its number of lines: from `fn` to the brace at the same depth, as rustfmt sets it.
fn functions(source: &Source) -> Vec<(usize, String)> {
    let lines: Vec<&str> = source.text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some((before, after)) = line.split_once("fn ") else {
            continue;
        };
        let words = before.trim();
        if !words.split(' ').all(|word| {
            matches!(
                word,
                "" | "pub" | "pub(crate)" | "pub(super)" | "const" | "unsafe" | "extern" | "\"C\""
            )
        }) {
            continue;
        }
        let depth = line.len() - line.trim_start().len();
        let closing = format!("{}}}", " ".repeat(depth));
        let length = lines[start..].iter().position(|line| *line == closing);
        let name: String = after
            .chars()
            .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
            .collect();
        found.push((
            length.map_or(1, |length| length + 1),
            format!("{}: {name}", source.name),
        ));
    }
    found
}
