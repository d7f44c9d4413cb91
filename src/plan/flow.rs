//! What a run has written by the time it is read: a plan must not use what an earlier run has left in the arena.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::ops::Range;

use netloom_ir::plan::walk;

use super::barriers::touched;
use super::verify::Broken;
use super::{Base, Kernels, Place, Plan, Step};

/// Repeats one inside another of which the last iteration is looked at as well as the first: each doubles the work.
const MOST_REPEATS: usize = 6;

/// Every read of the arena, or of a result, of bytes that nothing before it in the run has written; then whatever of the results, and of these bytes
/// of the block of states, is not written by the end.
///
/// Of a repeat the first and the last iteration are looked at: places move by as much in each. What is joined from several lines counts as
/// written whole with the last of them.
pub(super) fn unwritten(plan: &Plan, updated: &[(String, Range<usize>)], kernels: &Kernels) -> Vec<Broken> {
    let mut flow = Flow {
        kernels,
        iterations: Vec::new(),
        broken: Vec::new(),
        reported: HashSet::new(),
    };
    let mut written = Written::default();
    flow.steps(&plan.steps, 0, &mut written);
    let results = plan.outputs.iter().enumerate();
    let results = results.map(|(number, port)| {
        let whole = Base::Output(number);
        (format!("the result `{}`", port.name), whole, 0..port.ty.len_bytes())
    });
    let states = updated.iter();
    let states = states.map(|(name, bytes)| {
        (
            format!("the next value of the state `{name}`"),
            Base::States,
            bytes.clone(),
        )
    });
    for (what, base, bytes) in results.chain(states) {
        if !written.covers(&base, &bytes) {
            flow.broken.push(Broken {
                step: None,
                message: format!("no step writes the whole of {what}"),
            });
        }
    }
    flow.broken
}

struct Flow<'a> {
    kernels: &'a Kernels,
    /// The iteration that is looked at of each repeat around, outermost first.
    iterations: Vec<usize>,
    broken: Vec<Broken>,
    /// The steps that something is wrong with.
    reported: HashSet<usize>,
}

impl Flow<'_> {
    /// Goes through steps, of which the first has that number; gives the number of what follows them.
    fn steps(&mut self, steps: &[Step], mut number: usize, written: &mut Written) -> usize {
        for step in steps {
            let own = number;
            number += 1;
            if let Step::While { condition, .. } = step {
                number = self.steps(condition, number, written);
            }
            let touched = touched(step, self.kernels);
            for (place, _) in touched.iter().filter(|(_, writes)| !writes) {
                self.read(own, place, written);
            }
            match step {
                Step::Kernel { .. } | Step::Copy { .. } | Step::Count { .. } | Step::Barrier => {
                    for (place, _) in touched.iter().filter(|(_, writes)| *writes) {
                        written.add(place.base, self.bytes(place));
                    }
                }
                Step::Repeat { times: 0, body } => walk(body, &mut |_| number += 1),
                Step::Repeat { times, body } => {
                    let (first, last) = (number, times - 1);
                    self.iterations.push(0);
                    number = self.steps(body, first, written);
                    self.iterations.pop();
                    self.sweep(body, last, written);
                    self.iterations.push(last);
                    if self.iterations.len() <= MOST_REPEATS {
                        self.steps(body, first, written);
                    }
                    self.iterations.pop();
                    self.sweep(body, *times, written);
                }
                Step::Branch { then, otherwise, .. } => {
                    let mut other = written.clone();
                    number = self.steps(then, number, written);
                    number = self.steps(otherwise, number, &mut other);
                    written.keep(&other);
                }
                Step::While { body, .. } => number = self.steps(body, number, &mut written.clone()),
            }
        }
        number
    }

    fn read(&mut self, step: usize, place: &Place, written: &Written) {
        let is_made = matches!(place.base, Base::Arena | Base::Output(_));
        let bytes = self.bytes(place);
        if is_made && !written.covers(&place.base, &bytes) && self.reported.insert(step) {
            self.broken.push(Broken {
                step: Some(step),
                message: format!("{place} is read, of which nothing before has written all bytes"),
            });
        }
    }

    /// The bytes of a place in the iterations that are looked at.
    fn bytes(&self, place: &Place) -> Range<usize> {
        let moved = place.strides.iter().zip(&self.iterations);
        let start = moved.fold(place.offset as isize, |at, (stride, &iteration)| {
            at + stride * iteration as isize
        });
        let start = start.max(0) as usize;
        start..start + place.bytes
    }

    /// Adds all that the steps of a repeat surely write while it runs so many times. What moves alike is put together first: the parts of a row may
    /// have gaps between their own iterations.
    fn sweep(&self, body: &[Step], times: usize, written: &mut Written) {
        let mut moving = Ranges::default();
        body.iter().for_each(|step| self.gather(step, &[times], &mut moving));
        for ((base, moves), ranges) in moving.0 {
            let swept = ranges.into_iter().filter_map(|(start, end)| swept(start..end, &moves));
            swept.for_each(|bytes| written.add(base, bytes));
        }
    }

    /// Adds what a step surely writes in the first iterations of the repeats that run `rounds`, and how that moves with them.
    fn gather(&self, step: &Step, rounds: &[usize], moving: &mut Ranges<Moving>) {
        match step {
            Step::Kernel { .. } | Step::Copy { .. } | Step::Count { .. } | Step::Barrier => {
                for (place, _) in touched(step, self.kernels).into_iter().filter(|(_, writes)| *writes) {
                    let strides = place.strides.iter().skip(self.iterations.len());
                    let moves = strides
                        .copied()
                        .zip(rounds.iter().copied())
                        .filter(|(stride, _)| *stride != 0);
                    moving.add((place.base, moves.collect()), self.bytes(place));
                }
            }
            Step::Repeat { times: 0, .. } => {}
            Step::Repeat { times, body } => {
                let rounds = [rounds, &[*times]].concat();
                body.iter().for_each(|step| self.gather(step, &rounds, moving));
            }
            Step::Branch { then, otherwise, .. } => {
                let [mut both, mut other] = [Ranges::default(), Ranges::default()];
                then.iter().for_each(|step| self.gather(step, rounds, &mut both));
                otherwise.iter().for_each(|step| self.gather(step, rounds, &mut other));
                both.keep(&other);
                for (key, ranges) in both.0 {
                    ranges
                        .into_iter()
                        .for_each(|(start, end)| moving.add(key.clone(), start..end));
                }
            }
            Step::While { condition, .. } => condition.iter().for_each(|step| self.gather(step, rounds, moving)),
        }
    }
}

/// What something counts from, and the bytes by which it moves with each iteration of repeats that run so many times.
type Moving = (Base, Vec<(isize, usize)>);

/// The bytes that a range moves over, unless there are gaps between them.
fn swept(bytes: Range<usize>, moves: &[(isize, usize)]) -> Option<Range<usize>> {
    let Range { mut start, mut end } = bytes;
    let mut moves = moves.to_vec();
    moves.sort_by_key(|(stride, _)| stride.unsigned_abs());
    for (stride, times) in moves {
        let way = stride.unsigned_abs() * times.checked_sub(1)?;
        if way > 0 && stride.unsigned_abs() > end - start {
            return None;
        }
        match stride < 0 {
            true => start = start.saturating_sub(way),
            false => end += way,
        }
    }
    Some(start..end)
}

/// What has been written.
type Written = Ranges<Base>;

/// For each key, ranges of bytes that do not touch each other, by where they start.
#[derive(Clone)]
struct Ranges<K>(HashMap<K, BTreeMap<usize, usize>>);

impl<K> Default for Ranges<K> {
    fn default() -> Ranges<K> {
        Ranges(HashMap::new())
    }
}

impl<K: Eq + Hash> Ranges<K> {
    fn covers(&self, key: &K, bytes: &Range<usize>) -> bool {
        let ranges = self.0.get(key);
        let before = ranges.and_then(|ranges| ranges.range(..=bytes.start).next_back());
        bytes.is_empty() || before.is_some_and(|(_, &end)| end >= bytes.end)
    }

    fn add(&mut self, key: K, bytes: Range<usize>) {
        let ranges = self.0.entry(key).or_default();
        let Range { mut start, mut end } = bytes;
        while let Some((&first, &last)) = ranges.range(..=end).next_back()
            && last >= start
        {
            ranges.remove(&first);
            (start, end) = (start.min(first), end.max(last));
        }
        if start < end {
            ranges.insert(start, end);
        }
    }

    /// Keeps what the other holds too.
    fn keep(&mut self, other: &Ranges<K>) {
        for (key, ranges) in &mut self.0 {
            let mut kept = BTreeMap::new();
            let others = other.0.get(key);
            for (&start, &end) in ranges.iter() {
                let Some(others) = others else { continue };
                for (&first, &last) in others.range(..end).rev().take_while(|(_, last)| **last > start) {
                    kept.insert(start.max(first), end.min(last));
                }
            }
            *ranges = kept;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Base = Base::Arena;

    fn written(ranges: &[Range<usize>]) -> Written {
        let mut written = Written::default();
        ranges.iter().for_each(|range| written.add(BASE, range.clone()));
        written
    }

    #[test]
    fn ranges_join_and_meet() {
        let one = written(&[0..4, 8..12, 4..8, 20..24]);
        assert!(one.covers(&BASE, &(0..12)));
        assert!(one.covers(&BASE, &(21..23)));
        assert!(!one.covers(&BASE, &(8..13)));
        assert!(!one.covers(&BASE, &(12..13)));
        assert!(one.covers(&BASE, &(50..50)));
        assert!(!one.covers(&Base::Worker, &(0..1)));
        let mut both = one.clone();
        both.keep(&written(&[2..3, 10..22]));
        let ranges: Vec<(usize, usize)> = both.0[&BASE].clone().into_iter().collect();
        assert_eq!(ranges, [(2, 3), (10, 12), (20, 22)]);
    }
}
