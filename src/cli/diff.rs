//! `netloom diff`: what differs between two models, or what a pass changes in one.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use netloom::ir::diff::{Diff, diff};
use netloom::ir::{Graph, passes};
use netloom::nn::training::PREDICT;
use netloom::{Error, page};

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    open: super::model::Open,
    /// The model compared with
    #[arg(required_unless_present = "pass", conflicts_with = "pass")]
    other: Option<String>,
    /// Compare the first model before and after each run of this pass; `all` for what all passes do together
    #[arg(long)]
    pass: Option<String>,
    /// The entry compared; by default every one that both have, and `predict` of a network's name
    #[arg(long)]
    entry: Option<String>,
    /// Examples in a batch
    #[arg(long)]
    batch: Option<usize>,
    /// How it is written
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Where it is written, instead of standard output
    #[arg(short, long)]
    out: Option<PathBuf>,
    #[command(flatten)]
    machine: super::Machine,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    Text,
    Html,
}

pub fn run(options: &Options) -> Result<(), Error> {
    let pairs = match (&options.pass, &options.other) {
        (Some(pass), _) => before_and_after(options, pass)?,
        (None, Some(other)) => two_models(options, other)?,
        (None, None) => unreachable!("one of them is required"),
    };
    let sections: Vec<(String, Diff<'_>)> = pairs
        .iter()
        .map(|(heading, before, after)| (heading.clone(), diff(before, after)))
        .collect();
    let title = match (&options.pass, &options.other) {
        (Some(pass), _) => format!("{}: pass {pass}", options.open.model),
        (None, other) => format!("{} and {}", options.open.model, other.as_deref().unwrap_or_default()),
    };
    let text = match options.format {
        Format::Html => page::diff::html(&title, &sections),
        Format::Text => sections
            .iter()
            .map(|(heading, diff)| format!("{heading}\n{diff}"))
            .collect(),
    };
    super::write(options.out.as_deref(), &text)
}

/// A heading with what is compared under it.
type Pair = (String, Graph, Graph);

fn two_models(options: &Options, other: &str) -> Result<Vec<Pair>, Error> {
    let wanted = options.entry.as_deref().unwrap_or(PREDICT);
    let first = super::model::read(&options.open, options.batch, wanted, &[])?;
    let open = super::model::Open {
        model: other.to_owned(),
        ..options.open.clone()
    };
    let second = super::model::read(&open, options.batch, wanted, &[])?;
    let mut pairs = Vec::new();
    for entry in &first.program.entries {
        let is_wanted = options.entry.as_ref().is_none_or(|name| *name == entry.name);
        if let Some(same) = second.program.entry(&entry.name).filter(|_| is_wanted) {
            pairs.push((format!("entry {}", entry.name), entry.graph.clone(), same.graph.clone()));
        }
    }
    // Two models of one entry each are compared whatever their names.
    if let ([a], [b], true) = (
        &first.program.entries[..],
        &second.program.entries[..],
        pairs.is_empty(),
    ) {
        pairs.push((
            format!("entries {} and {}", a.name, b.name),
            a.graph.clone(),
            b.graph.clone(),
        ));
    }
    if pairs.is_empty() {
        let message = format!("`{}` and `{other}` have no entry in common", options.open.model);
        return Err(Error::Unknown(message));
    }
    Ok(pairs)
}

/// The graph before and after every run of a pass that changed it.
fn before_and_after(options: &Options, wanted: &str) -> Result<Vec<Pair>, Error> {
    let name = options.entry.as_deref().unwrap_or(PREDICT);
    let model = super::model::read(&options.open, options.batch, name, &[])?;
    let entry = match (&model.program.entries[..], &options.entry) {
        ([only], None) => only,
        _ => model.entry(name)?,
    };
    let target = options.machine.device()?.target();
    if wanted == "all" {
        let after = passes::run(&entry.graph, &target, &mut |_| {});
        return Ok(vec![("all passes".to_owned(), entry.graph.clone(), after)]);
    }
    if !passes::PASSES.iter().any(|pass| pass.name == wanted) {
        let known: Vec<&str> = passes::PASSES.iter().map(|pass| pass.name).collect();
        let message = format!(
            "there is no pass `{wanted}`; the passes are {}, and all",
            known.join(", ")
        );
        return Err(Error::Unknown(message));
    }
    let mut pairs = Vec::new();
    let mut before = entry.graph.clone();
    passes::run(&entry.graph, &target, &mut |step| {
        if step.pass == wanted && *step.graph != before {
            let heading = format!("pass {wanted}, round {}", step.round + 1);
            pairs.push((heading, before.clone(), step.graph.clone()));
        }
        before = step.graph.clone();
    });
    Ok(pairs)
}
