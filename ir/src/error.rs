//! Errors in a graph: what, where, what was expected, what was found.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use thiserror::Error;

/// Where a node came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Loc {
    /// Made by a pass.
    #[default]
    None,
    /// A line of the user's Rust.
    Rust {
        /// The source file.
        file: &'static str,
        /// The line, from 1.
        line: u32,
    },
    /// A line of a text file.
    Text {
        /// The file's name.
        file: Arc<str>,
        /// The line, from 1.
        line: u32,
    },
    /// A node of an imported model.
    Import(Arc<str>),
}

impl Loc {
    /// The caller's line, for functions marked `#[track_caller]`.
    #[track_caller]
    pub fn caller() -> Loc {
        let place = Location::caller();
        Loc::Rust {
            file: place.file(),
            line: place.line(),
        }
    }
}

impl fmt::Display for Loc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loc::None => f.write_str("made by the compiler"),
            Loc::Rust { file, line } => write!(f, "{file}:{line}"),
            Loc::Text { file, line } => write!(f, "{file}:{line}"),
            Loc::Import(name) => write!(f, "node `{name}`"),
        }
    }
}

/// One thing wrong with a graph.
///
/// ```text
/// error: einsum: axis `k` is 64 on the left and 32 on the right
///   --> model.txt:12:20
///    | %4: f32[8,16] = einsum "mk,kn->mn" %2, %3
///    = left:  %2: f32[8,64]
///    = right: %3: f32[32,16]
/// ```
#[derive(Clone, Debug, Error, PartialEq)]
pub struct Problem {
    /// What is wrong, starting with the op's name: `einsum: axis …`.
    pub message: String,
    /// Where.
    pub loc: Loc,
    /// Where on its line, in characters from 1, if that is known.
    pub column: Option<usize>,
    /// The line of source that shows it, if there is one.
    pub source_line: Option<String>,
    /// What else helps: the operands with their types, what to do.
    pub notes: Vec<String>,
}

impl Problem {
    /// A problem at a place, without notes.
    pub fn new(message: impl Into<String>, loc: Loc) -> Problem {
        Problem {
            message: message.into(),
            loc,
            column: None,
            source_line: None,
            notes: Vec::new(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        if self.loc != Loc::None {
            write!(f, "\n  --> {}", self.loc)?;
        }
        if let Some(column) = self.column {
            write!(f, ":{column}")?;
        }
        if let Some(line) = &self.source_line {
            write!(f, "\n   | {}", line.trim())?;
        }
        for note in &self.notes {
            write!(f, "\n   = {note}")?;
        }
        Ok(())
    }
}

/// Everything wrong with a graph, in order.
#[derive(Clone, Debug, Error, PartialEq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, problem) in self.0.iter().enumerate() {
            if place > 0 {
                f.write_str("\nerror: ")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Problems {
        Problems(vec![problem])
    }
}
