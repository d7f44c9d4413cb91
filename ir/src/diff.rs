//! What differs between two graphs: which nodes are the same, which changed, which are new or gone.
//!
//! Nodes are paired where their operations and operands are equal; a node that has no equal with one of the same name, first from equally named
//! outputs down, then from common operands up. A pair that does the same with paired operands is the same: what follows a change is not itself
//! a change.

use std::collections::HashMap;
use std::fmt;

use crate::graph::{Graph, NodeId};
use crate::text::summary;

/// One line of a difference, in the order of the second graph, with what is gone where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// In both.
    Same(NodeId, NodeId),
    /// One for the other.
    Changed(NodeId, NodeId),
    /// In the first alone.
    Gone(NodeId),
    /// In the second alone.
    New(NodeId),
}

/// The difference of two graphs.
#[derive(Clone, Debug)]
pub struct Diff<'a> {
    /// The first.
    pub before: &'a Graph,
    /// The second.
    pub after: &'a Graph,
    /// Every live node of both.
    pub lines: Vec<Line>,
    /// Outputs by name with what each was and is: those that differ.
    pub outputs: Vec<(&'a str, Option<NodeId>, Option<NodeId>)>,
}

/// Compares two graphs.
pub fn diff<'a>(before: &'a Graph, after: &'a Graph) -> Diff<'a> {
    let mut pairs = Pairs {
        before,
        after,
        to_after: vec![None; before.len()],
        to_before: vec![None; after.len()],
        live: [before.live(), after.live()],
    };
    pairs.pair_equal();
    pairs.pair_outputs();
    pairs.pair_operands();
    let [live_before, live_after] = &pairs.live;
    let mut lines = Vec::new();
    let mut gone = before
        .ids()
        .filter(|id| live_before[id.at()] && pairs.to_after[id.at()].is_none())
        .peekable();
    for id in after.ids().filter(|id| live_after[id.at()]) {
        let Some(old) = pairs.to_before[id.at()] else {
            lines.push(Line::New(id));
            continue;
        };
        while let Some(earlier) = gone.next_if(|earlier| *earlier < old) {
            lines.push(Line::Gone(earlier));
        }
        lines.push(match pairs.is_same(old, id) {
            true => Line::Same(old, id),
            false => Line::Changed(old, id),
        });
    }
    lines.extend(gone.map(Line::Gone));
    let find = |graph: &Graph, name: &str| graph.outputs.iter().find(|(known, _)| known == name).map(|(_, id)| *id);
    let names = after
        .outputs
        .iter()
        .chain(before.outputs.iter().filter(|(name, _)| find(after, name).is_none()));
    let outputs = names.map(|(name, _)| (name.as_str(), find(before, name), find(after, name)));
    let differs = |(_, old, new): &(&str, Option<NodeId>, Option<NodeId>)| match (old, new) {
        (Some(old), Some(new)) => pairs.to_after[old.at()] != Some(*new),
        _ => true,
    };
    let outputs = outputs.filter(differs).collect();
    Diff {
        before,
        after,
        lines,
        outputs,
    }
}

/// Which node stands for which.
struct Pairs<'a> {
    before: &'a Graph,
    after: &'a Graph,
    to_after: Vec<Option<NodeId>>,
    to_before: Vec<Option<NodeId>>,
    /// What leads to an output; nothing else is paired.
    live: [Vec<bool>; 2],
}

impl Pairs<'_> {
    fn pair(&mut self, old: NodeId, new: NodeId) -> bool {
        let is_live = self.live[0][old.at()] && self.live[1][new.at()];
        let is_free = is_live && self.to_after[old.at()].is_none() && self.to_before[new.at()].is_none();
        if is_free {
            self.to_after[old.at()] = Some(new);
            self.to_before[new.at()] = Some(old);
        }
        is_free
    }

    /// Whether paired nodes do the same with paired operands.
    fn is_same(&self, old: NodeId, new: NodeId) -> bool {
        let (a, b) = (self.before.node(old), self.after.node(new));
        let mut operands = a.args.iter().zip(&b.args);
        a.op == b.op && operands.all(|(old, new)| self.to_after[old.at()] == Some(*new))
    }

    /// Nodes of equal operation whose operands are paired.
    fn pair_equal(&mut self) {
        let mut known: HashMap<(&str, &[NodeId]), Vec<NodeId>> = HashMap::new();
        for (id, node) in self.after.nodes() {
            known.entry((node.op.name(), &node.args)).or_default().push(id);
        }
        for (id, node) in self.before.nodes() {
            let Some(args) = node
                .args
                .iter()
                .map(|arg| self.to_after[arg.at()])
                .collect::<Option<Vec<_>>>()
            else {
                continue;
            };
            let candidates = known.get(&(node.op.name(), &args[..])).into_iter().flatten();
            let mut equal = candidates.filter(|new| self.after.node(**new).op == node.op);
            if let Some(&new) = equal.next() {
                self.pair(id, new);
            }
        }
    }

    /// Nodes of one name that lead to an output of one name along the same operands.
    fn pair_outputs(&mut self) {
        let mut open: Vec<(NodeId, NodeId)> = Vec::new();
        for (name, old) in &self.before.outputs {
            let new = self.after.outputs.iter().find(|(known, _)| known == name);
            open.extend(new.map(|(_, new)| (*old, *new)));
        }
        while let Some((old, new)) = open.pop() {
            let (a, b) = (self.before.node(old), self.after.node(new));
            if a.op.name() == b.op.name() && a.args.len() == b.args.len() && self.pair(old, new) {
                open.extend(a.args.iter().copied().zip(b.args.iter().copied()));
            }
        }
    }

    /// Nodes of one name that share an operand at the same place.
    fn pair_operands(&mut self) {
        let mut free: HashMap<(&str, usize, NodeId), Vec<NodeId>> = HashMap::new();
        for (id, node) in self.after.nodes().filter(|(id, _)| self.to_before[id.at()].is_none()) {
            for (place, arg) in node.args.iter().enumerate() {
                free.entry((node.op.name(), place, *arg)).or_default().push(id);
            }
        }
        for (id, node) in self.before.nodes() {
            for (place, arg) in node.args.iter().enumerate() {
                let found = self.to_after[arg.at()].and_then(|arg| free.get(&(node.op.name(), place, arg)));
                if found.is_some_and(|candidates| candidates.iter().any(|new| self.pair(id, *new))) {
                    break;
                }
            }
        }
    }
}

impl Diff<'_> {
    /// Whether there is no difference.
    pub fn is_empty(&self) -> bool {
        self.outputs.is_empty() && self.lines.iter().all(|line| matches!(line, Line::Same(..)))
    }

    /// The node of the first graph.
    pub fn old_text(&self, id: NodeId) -> String {
        summary(self.before, id)
    }

    /// The node of the second graph.
    pub fn new_text(&self, id: NodeId) -> String {
        summary(self.after, id)
    }

    /// An output that differs: what it was, what it is.
    pub fn output(&self, (name, old, new): (&str, Option<NodeId>, Option<NodeId>)) -> [Option<String>; 2] {
        [old, new].map(|id| id.map(|id| format!("return {name} = {id}")))
    }

    /// How many lines are the same, changed, gone and new.
    pub fn counts(&self) -> [usize; 4] {
        let mut counts = [0; 4];
        for line in &self.lines {
            counts[match line {
                Line::Same(..) => 0,
                Line::Changed(..) => 1,
                Line::Gone(_) => 2,
                Line::New(_) => 3,
            }] += 1;
        }
        counts
    }
}

impl fmt::Display for Diff<'_> {
    /// As `diff` writes: `-` before, `+` after; what is the same is counted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut same = 0;
        let flush = |same: &mut usize, f: &mut fmt::Formatter<'_>| match std::mem::take(same) {
            0 => Ok(()),
            count => writeln!(f, "  … {count} the same"),
        };
        for line in &self.lines {
            if let Line::Same(..) = line {
                same += 1;
                continue;
            }
            flush(&mut same, f)?;
            if let Line::Changed(old, _) | Line::Gone(old) = line {
                writeln!(f, "- {}", self.old_text(*old))?;
            }
            if let Line::Changed(_, new) | Line::New(new) = line {
                writeln!(f, "+ {}", self.new_text(*new))?;
            }
        }
        flush(&mut same, f)?;
        for &output in &self.outputs {
            let [old, new] = self.output(output);
            old.map_or(Ok(()), |old| writeln!(f, "- {old}"))?;
            new.map_or(Ok(()), |new| writeln!(f, "+ {new}"))?;
        }
        let [same, changed, gone, new] = self.counts();
        writeln!(f, "{same} the same, {changed} changed, {gone} gone, {new} new")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::sample;
    use crate::text::parse;

    fn graph(source: &str) -> Graph {
        parse("test", source).expect("a graph")
    }

    #[test]
    fn what_changed_is_told_from_what_is_new() {
        let before = graph(
            "graph(x: f32[4], w: f32[4]) {\n  %0 = mul x, w\n  %1 = exp %0\n  %2 = sum %1 axes=[0]\n  return y = %2, z = %0\n}\n",
        );
        let after = graph(
            "graph(x: f32[4], w: f32[4]) {\n  %0 = mul x, w\n  %1 = neg %0\n  %2 = exp %1\n  %3 = sum %2 axes=[0]\n  return y = %3\n}\n",
        );
        assert_eq!(
            diff(&before, &after).to_string(),
            "  … 3 the same\n\
             + %3: f32[4] = neg %2\n\
             - %3: f32[4] = exp %2\n\
             + %4: f32[4] = exp %3\n\
             \u{20} … 1 the same\n\
             - return z = %2\n\
             4 the same, 1 changed, 0 gone, 1 new\n"
        );
        let whole = diff(&before, &before);
        assert!(whole.is_empty(), "{whole}");
    }

    #[test]
    fn every_live_node_is_on_one_line() {
        for seed in 0..40u8 {
            let [a, b] = [seed, seed + 1].map(|seed| {
                let choices: Vec<u8> = (0..200u8).map(|at| at.wrapping_mul(seed.wrapping_mul(7) | 1)).collect();
                sample::graph(&choices, DType::F32)
            });
            let diff = diff(&a, &b);
            let count = |graph: &Graph| graph.live().into_iter().filter(|live| *live).count();
            let [same, changed, gone, new] = diff.counts();
            assert_eq!(same + changed + gone, count(&a), "seed {seed}");
            assert_eq!(same + changed + new, count(&b), "seed {seed}");
        }
    }
}
