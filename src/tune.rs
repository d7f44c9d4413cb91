//! Tuning: what of a schedule is decided by the time that candidates take on this machine, instead of by a cost model.
//!
//! [`tune`] runs an entry kernel by kernel, as [`crate::profile`] does, so that every candidate meets the caches as the others leave them. In
//! each round every costly kernel has one more decision changed; runs with and without alternate, and what is faster by more than
//! noise is kept, if in the end the entry as a whole, which nobody interrupts, is faster too. [`Tuning`] is the file of what was found, by [`Kernel::key`](netloom_ir::kernel::Kernel::key). It is read into
//! [`Cpu::tuned`](crate::Cpu), from which code in this process and ahead of time is made alike. Without a file nothing is decided by time.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use netloom_ir::decisions::{Decision, Decisions, Tuned};
use netloom_ir::kernel::Kernel;
use netloom_ir::program::Program;
use netloom_ir::{Target, Tensor};
use serde::{Deserialize, Serialize};

use crate::compile::compile;
use crate::cpu::isa::Cpu;
use crate::cpu::memory::Block;
use crate::device::Device;
use crate::error::Error;
use crate::formats::write_whole;
use crate::plan::KernelId;
use crate::profile::Profiler;
use crate::schedule;
use crate::session::Session;

/// The form of the file; another one is refused.
const FORMAT: u32 = 1;
/// A kernel that takes less than this share of the entry is left alone.
const LEAST_SHARE: f64 = 0.005;
/// What a decision must gain at least to be kept.
const LEAST_GAIN: f64 = 0.03;
/// The fewest runs of each side that are compared.
const FEWEST_RUNS: usize = 7;
/// How many rounds there is time for, a few more than most kernels have candidates; the last two compare what was found with what there was, kernel by
/// kernel and as a whole.
const ROUNDS: u32 = 20;

/// What was found for kernels, as it lies in a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuning {
    format: u32,
    /// The kernels that were timed: also those of which nothing is decided, so that tuning again replaces what was before.
    pub kernels: Vec<Found>,
}

/// What was found for one kernel, and where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// [`Kernel::key`], in hexadecimal.
    key: String,
    /// Its name in dumps.
    pub name: String,
    /// The entry timed, the CPU and the number of threads.
    pub entry: String,
    /// The level of the CPU.
    pub cpu: String,
    /// The number of threads.
    pub threads: usize,
    /// The decisions by the names of [`Decision::ALL`].
    pub decisions: BTreeMap<String, usize>,
    /// What all its calls in a run of the entry take, in microseconds: as usual, and so decided.
    pub usual_us: f64,
    /// The same so decided.
    pub tuned_us: f64,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            format: FORMAT,
            kernels: Vec::new(),
        }
    }
}

impl Tuning {
    /// Reads a file.
    ///
    /// # Errors
    /// If it is not one of these, or decides what this version cannot.
    pub fn load(path: &Path) -> Result<Tuning, Error> {
        let bytes = std::fs::read(path).map_err(|reason| Error::file(path, reason))?;
        let wrong = |reason: String| Error::file(path, format!("{reason}; tune again, or remove the file"));
        let tuning: Tuning = serde_json::from_slice(&bytes).map_err(|reason| wrong(reason.to_string()))?;
        if tuning.format != FORMAT {
            return Err(wrong(format!("is of format {}, not {FORMAT}", tuning.format)));
        }
        for found in &tuning.kernels {
            found
                .read()
                .map_err(|reason| wrong(format!("kernel `{}`: {reason}", found.name)))?;
        }
        Ok(tuning)
    }

    /// Writes a file, whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(self).expect("names and numbers");
        write_whole(path, |file| writeln!(file, "{text}"))
    }

    /// The decisions, as schedules read them.
    pub fn tuned(&self) -> Tuned {
        let mut tuned = Tuned::default();
        for found in self.decided() {
            let (key, decisions) = found.read().expect("checked where it was read or made");
            tuned.set(key, decisions);
        }
        tuned
    }

    /// The kernels of which something is decided.
    pub fn decided(&self) -> impl Iterator<Item = &Found> {
        self.kernels.iter().filter(|found| !found.decisions.is_empty())
    }

    /// This, and what another found for other kernels.
    pub fn and(mut self, other: Tuning) -> Tuning {
        let own: BTreeSet<String> = self.kernels.iter().map(|found| found.key.clone()).collect();
        let others = other.kernels.into_iter().filter(|found| !own.contains(&found.key));
        self.kernels.extend(others);
        self
    }
}

impl Found {
    /// Key and decisions.
    fn read(&self) -> Result<(u64, Decisions), String> {
        let key = u64::from_str_radix(&self.key, 16).map_err(|_| format!("`{}` is no key", self.key))?;
        let mut decisions = Decisions::default();
        for (name, &value) in &self.decisions {
            let row = Decision::ALL.iter().find(|(_, known, _)| known == name);
            let &(decision, _, values) = row.ok_or_else(|| format!("there is no decision `{name}`"))?;
            if !values.contains(&value) {
                return Err(format!("`{name}` is {value}, which is none of {values:?}"));
            }
            decisions = decisions.with(decision, value);
        }
        Ok((key, decisions))
    }
}

/// What came of tuning an entry.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was found; nothing is decided if the entry as a whole is no faster by it.
    pub tuning: Tuning,
    /// How long the entry takes as a whole, as usual and by what was found for its kernels; `None` if that is nothing.
    pub whole: Option<[Duration; 2]>,
}

/// Finds decisions for the kernels of an entry by running it for about as long as `limit`, a little longer if that is too short to compare
/// anything. States start as in `session`, which runs the same program; there is one more block of them, whatever is tried.
///
/// # Errors
/// If the session is not a CPU's, or as [`crate::profile::kernels`].
///
/// # Panics
/// If the tensors are not of the entry's types.
pub fn tune(
    program: &Program,
    entry: &str,
    session: &Session,
    inputs: &[&Tensor],
    limit: Duration,
) -> Result<Outcome, Error> {
    #[cfg_attr(not(feature = "vulkan"), expect(irrefutable_let_patterns))]
    let Device::Cpu(cpu) = &session.executable().device else {
        return Err(Error::Usage(
            "only kernels of CPUs are tuned; leave `--device` out".to_owned(),
        ));
    };
    let until = Instant::now() + limit;
    let round = limit / ROUNDS;
    let deciding = |tuned: Tuned| Cpu { tuned, ..cpu.clone() };
    let mut kernels = by_kernel(program, entry, session, &deciding, inputs, round, until - round)?;
    let tuned = Tuning {
        format: FORMAT,
        kernels: kernels.clone(),
    }
    .tuned();
    let mut whole = None;
    if !tuned.is_empty() {
        let forms = [Tuned::NOTHING, tuned].map(deciding);
        let [usual, tuned] = by_whole(program, entry, session, forms, inputs, until)?;
        if tuned >= usual {
            for found in &mut kernels {
                (found.decisions, found.tuned_us) = (BTreeMap::new(), found.usual_us);
            }
        }
        whole = Some([usual, tuned]);
    }
    let tuning = Tuning {
        format: FORMAT,
        kernels,
    };
    Ok(Outcome { tuning, whole })
}

/// What is faster for each costly kernel, timed by itself in so long a round until then.
fn by_kernel(
    program: &Program,
    entry: &str,
    session: &Session,
    deciding: &dyn Fn(Tuned) -> Cpu,
    inputs: &[&Tensor],
    round: Duration,
    until: Instant,
) -> Result<Vec<Found>, Error> {
    let profiler = |tuned: Tuned| Profiler::new(program, entry, &deciding(tuned), session);
    let mut usual = profiler(Tuned::NOTHING)?;
    let states = &mut usual.states(session)?;
    let target = deciding(Tuned::NOTHING).target();
    let mut candidates = candidates(&mut usual, states, session, &target, inputs)?;
    let mut best = profiler(Tuned::NOTHING)?;
    while Instant::now() + round < until {
        let trials: Vec<Option<Trial>> = candidates.iter_mut().map(Candidate::next).collect();
        if trials.iter().all(Option::is_none) {
            break;
        }
        let changed = candidates.iter().zip(&trials);
        let changed =
            changed.map(|(now, trial)| (now.key, trial.as_ref().map_or(&now.decisions, |trial| &trial.decisions)));
        let mut changed = profiler(collected(changed))?;
        let times = interleaved([&mut best, &mut changed], states, inputs, round)?;
        let mut is_better = false;
        for (candidate, trial) in candidates.iter_mut().zip(trials) {
            if let Some(trial) = trial
                && is_faster(&times, candidate.number)
            {
                (candidate.decisions, candidate.nest) = (trial.decisions, trial.nest);
                is_better = true;
            }
        }
        if is_better {
            let now = candidates.iter().map(|candidate| (candidate.key, &candidate.decisions));
            best = profiler(collected(now))?;
        }
    }
    // Once more side by side: what is not faster in the end is not kept.
    let rest = until.saturating_duration_since(Instant::now());
    let times = interleaved([&mut usual, &mut best], states, inputs, rest)?;
    let names = Decision::ALL.map(|(decision, name, _)| (decision, name));
    let name = |of: Decision| names.iter().find(|(decision, _)| *decision == of).expect("a row").1;
    let found = |candidate: Candidate| {
        let micros = |times: &[Duration]| times[times.len() / 2].as_secs_f64() * 1e6;
        // Where nothing was decided, both are the same code.
        let is_kept = !candidate.decisions.is_empty() && is_faster(&times, candidate.number);
        let [usual_us, tuned_us] = [0, usize::from(is_kept)].map(|side| micros(&times[side][candidate.number]));
        let decisions = candidate.decisions.iter().filter(|_| is_kept);
        Found {
            key: format!("{:016x}", candidate.key),
            name: candidate.name,
            entry: entry.to_owned(),
            cpu: deciding(Tuned::NOTHING).name().to_owned(),
            threads: session.threads(),
            decisions: decisions
                .map(|(decision, value)| (name(decision).to_owned(), value))
                .collect(),
            usual_us,
            tuned_us,
        }
    };
    Ok(candidates.into_iter().map(found).collect())
}

/// The median times of an entry compiled for each of two CPUs, in turn on one block of states.
fn by_whole(
    program: &Program,
    entry: &str,
    session: &Session,
    [first, second]: [Cpu; 2],
    inputs: &[&Tensor],
    until: Instant,
) -> Result<[Duration; 2], Error> {
    let mut ready = session.copied(compile(program, first)?.into())?;
    let mut other = Session::zeroed(compile(program, second)?.into(), session.threads())?;
    let mut results = session.results(entry)?;
    let mut times = [Vec::new(), Vec::new()];
    while times[0].len() < FEWEST_RUNS || Instant::now() < until {
        for times in &mut times {
            let start = Instant::now();
            ready.run(entry, inputs, &mut results)?;
            times.push(start.elapsed());
            ready.exchange_states(&mut other);
            std::mem::swap(&mut ready, &mut other);
        }
    }
    Ok(times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    }))
}

/// A kernel that takes a good part of the entry's time, with what is decided of it so far.
struct Candidate {
    /// Its number among the entry's kernels.
    number: usize,
    kernel: Kernel,
    key: u64,
    name: String,
    target: Target,
    decisions: Decisions,
    /// The nest that follows from them, as text.
    nest: String,
    /// What is still to be tried.
    untried: std::vec::IntoIter<(Decision, usize)>,
}

/// Other decisions, and the nest that follows from them.
struct Trial {
    decisions: Decisions,
    nest: String,
}

impl Candidate {
    /// The next decisions that make another nest.
    fn next(&mut self) -> Option<Trial> {
        for (decision, value) in self.untried.by_ref() {
            let decisions = self.decisions.clone().with(decision, value);
            let tuned = collected([(self.key, &decisions)].into_iter());
            let target = Target {
                tuned,
                ..self.target.clone()
            };
            let nest = schedule::choose(&self.kernel, &target).to_string();
            if nest != self.nest {
                return Some(Trial { decisions, nest });
            }
        }
        None
    }
}

/// The costly kernels of an entry, the way they are without decisions.
fn candidates(
    usual: &mut Profiler,
    states: &mut Block,
    session: &Session,
    target: &Target,
    inputs: &[&Tensor],
) -> Result<Vec<Candidate>, Error> {
    let mut least: Vec<Duration> = usual.times(states, inputs)?;
    for _ in 1..FEWEST_RUNS {
        let times = usual.times(states, inputs)?;
        least = least.into_iter().zip(times).map(|(a, b)| a.min(b)).collect();
    }
    let all: Duration = least.iter().sum();
    let costly = usual.kernels.ids().zip(least);
    let costly = costly.filter(|(_, time)| time.as_secs_f64() > LEAST_SHARE * all.as_secs_f64());
    // One worker is alone anyway.
    let is_tried = |decision: Decision| decision != Decision::Alone || session.threads() > 1;
    let values = Decision::ALL.into_iter().filter(|(decision, ..)| is_tried(*decision));
    let values = values.flat_map(|(decision, _, values)| values.iter().map(move |&value| (decision, value)));
    let values: Vec<(Decision, usize)> = values.collect();
    let candidate = |(id, _): (KernelId, Duration)| {
        let kernel = usual.kernels.kernel(id).clone();
        Candidate {
            number: id.0,
            key: kernel.key(),
            name: usual.kernels.nest(id).name.clone(),
            target: target.clone(),
            decisions: Decisions::default(),
            nest: schedule::choose(&kernel, target).to_string(),
            kernel,
            untried: values.clone().into_iter(),
        }
    };
    Ok(costly.map(candidate).collect())
}

/// Decisions by key, without kernels of which nothing is decided.
fn collected<'a>(decisions: impl Iterator<Item = (u64, &'a Decisions)>) -> Tuned {
    let mut tuned = Tuned::default();
    for (key, decisions) in decisions {
        if decisions.iter().next().is_some() {
            tuned.set(key, decisions.clone());
        }
    }
    tuned
}

/// The times of each kernel in runs of two forms of an entry by turns, sorted.
type Times = [Vec<Vec<Duration>>; 2];

fn interleaved(
    mut forms: [&mut Profiler; 2],
    states: &mut Block,
    inputs: &[&Tensor],
    limit: Duration,
) -> Result<Times, Error> {
    let mut times: Times = Default::default();
    // The first runs fault pages in.
    for (form, times) in forms.iter_mut().zip(&mut times) {
        *times = vec![Vec::new(); form.times(states, inputs)?.len()];
    }
    let until = Instant::now() + limit;
    while times[0].first().is_some_and(|times| times.len() < FEWEST_RUNS) || Instant::now() < until {
        for (form, times) in forms.iter_mut().zip(&mut times) {
            let took = form.times(states, inputs)?;
            times.iter_mut().zip(took).for_each(|(times, took)| times.push(took));
        }
    }
    times.iter_mut().flatten().for_each(|times| times.sort());
    Ok(times)
}

/// Whether a kernel of the second form is faster than that of the first by more than noise: its median by enough, and all but its slowest
/// quarter of runs than all but the fastest quarter of the other's.
fn is_faster(times: &Times, number: usize) -> bool {
    let [usual, trial] = [&times[0][number], &times[1][number]];
    let at = |times: &[Duration], quarter: usize| times[times.len() * quarter / 4].as_secs_f64();
    at(trial, 2) < (1.0 - LEAST_GAIN) * at(usual, 2) && at(trial, 3) < at(usual, 1)
}
