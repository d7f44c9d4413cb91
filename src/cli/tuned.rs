//! What is stored beside a model of its schedules: `MODEL.tune.json`, written by `--tune`, read by every command that compiles the model.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use netloom::ir::decisions::Tuned;
use netloom::ir::{Program, Tensor};
use netloom::tune::{Outcome, Tuning, tune};
use netloom::{Error, Executable, Session};

#[derive(Args, Clone)]
pub struct Tune {
    /// First time other schedules of the costly kernels for about so many seconds, by default 10, and store what is faster in MODEL.tune.json, from
    /// which train, run, bench, check, dump and compile take it
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "10", value_parser = seconds)]
    pub tune: Option<Duration>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = |_| format!("`{text}` is no number of seconds");
    let seconds: f64 = text.parse().map_err(|_| wrong(()))?;
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong(()))
}

/// Decisions found beside a model.
#[derive(Clone)]
pub struct Stored {
    path: PathBuf,
    pub tuned: Tuned,
}

/// Where decisions are stored for a model.
fn path(model: &str) -> PathBuf {
    PathBuf::from(format!("{model}.tune.json"))
}

/// Reads what is stored beside a model, if there is anything.
pub fn read(model: &str) -> Result<Option<Stored>, Error> {
    let path = path(model);
    if !path.exists() {
        return Ok(None);
    }
    let tuned = Tuning::load(&path)?.tuned();
    Ok(Some(Stored { path, tuned }))
}

impl Stored {
    /// Says that code was made by it; or that it is not about this model.
    pub fn say(&self, executable: &Executable) {
        let path = self.path.display();
        match (executable.tuned_count, self.tuned.is_empty()) {
            (0, false) => eprintln!(
                "warning: {path} decides about no kernel of this model: it is of another model, other shapes, or another version of netloom; \
                 tune again, or remove the file"
            ),
            (count, _) => eprintln!("{path} decides about {count} of {} kernels", executable.kernel_count),
        }
    }
}

/// Tunes entries of the program that a session runs, each with these arguments, and stores what was found. What is stored for other kernels stays.
pub fn store(
    model: &str,
    program: &Program,
    session: &Session,
    entries: &[(&str, &[&Tensor])],
    limit: Duration,
) -> Result<(), Error> {
    let path = path(model);
    // A file that cannot be read is replaced.
    let mut tuning = Tuning::load(&path).unwrap_or_default();
    for (entry, inputs) in entries {
        let share = limit / entries.len() as u32;
        let Outcome { tuning: found, whole } = tune(program, entry, session, inputs, share)?;
        for kernel in found.decided() {
            let decisions = kernel.decisions.iter().map(|(name, value)| format!(" {name} {value}"));
            eprintln!(
                "{}: {:.0} to {:.0} µs:{}",
                kernel.name,
                kernel.usual_us,
                kernel.tuned_us,
                decisions.collect::<String>()
            );
        }
        match whole.map(|times| times.map(|time| 1e6 * time.as_secs_f64())) {
            None => eprintln!("{entry}: nothing is faster"),
            Some([usual, tuned]) if tuned < usual => eprintln!("{entry} as a whole: {usual:.0} to {tuned:.0} µs"),
            Some([usual, tuned]) => eprintln!(
                "{entry}: some kernels are faster by themselves, but as a whole it takes {tuned:.0} µs instead of {usual:.0}: nothing is decided"
            ),
        }
        tuning = found.and(tuning);
    }
    tuning.save(&path)?;
    eprintln!("wrote {}", path.display());
    Ok(())
}
