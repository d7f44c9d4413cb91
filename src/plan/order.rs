//! The order of regions: those that read a state before the one that overwrites it, where that is possible.

use std::collections::{HashMap, HashSet};

use netloom_ir::fuse::Region;
use netloom_ir::graph::{Graph, NodeId};

use super::Place;

/// Reorders regions so that a region which writes a given value's place comes after the regions that read the value, unless
/// it must come before; otherwise keeps their order.
pub(super) fn readers_first(
    graph: &Graph,
    regions: Vec<Region>,
    given: &HashMap<NodeId, Place>,
    wanted: &[(NodeId, Place)],
) -> Vec<Region> {
    let mut owner = HashMap::new();
    for (at, region) in regions.iter().enumerate() {
        for &id in &region.outputs {
            owner.insert(id, at);
        }
    }
    // For each writer, the readers of what it overwrites that it would like to wait for.
    let mut waits: Vec<Vec<usize>> = vec![Vec::new(); regions.len()];
    let mut readers: HashMap<NodeId, Vec<usize>> = HashMap::new();
    for (at, region) in regions.iter().enumerate() {
        for &id in &region.inputs {
            readers.entry(id).or_default().push(at);
        }
    }
    let mut writers: HashMap<&Place, Vec<usize>> = HashMap::new();
    for (id, to) in wanted {
        writers.entry(to).or_default().extend(owner.get(id));
    }
    for &input in graph.inputs() {
        let (Some(place), Some(readers)) = (given.get(&input), readers.get(&input)) else {
            continue;
        };
        for &writer in writers.get(place).into_iter().flatten() {
            waits[writer].extend(readers.iter().filter(|&&reader| reader != writer));
        }
    }
    if waits.iter().all(Vec::is_empty) {
        return regions;
    }
    let needs: Vec<Vec<usize>> = regions
        .iter()
        .map(|region| region.inputs.iter().filter_map(|id| owner.get(id).copied()).collect())
        .collect();
    let order = postponing(&needs, &waits);
    let mut slots: Vec<Option<Region>> = regions.into_iter().map(Some).collect();
    order
        .into_iter()
        .map(|at| slots[at].take().expect("each region stands once in the order"))
        .collect()
}

/// A topological order by `needs` that keeps ascending order, but holds back an item until those it `waits` for are done; when
/// nothing else is ready the first one held back goes.
fn postponing(needs: &[Vec<usize>], waits: &[Vec<usize>]) -> Vec<usize> {
    let count = needs.len();
    let mut missing: Vec<usize> = vec![0; count];
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (at, needed) in needs.iter().enumerate() {
        let distinct: HashSet<usize> = needed.iter().copied().collect();
        missing[at] = distinct.len();
        for other in distinct {
            users[other].push(at);
        }
    }
    let mut waiting: Vec<HashSet<usize>> = waits.iter().map(|waits| waits.iter().copied().collect()).collect();
    let mut waited_by: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (at, others) in waits.iter().enumerate() {
        for &other in others {
            waited_by[other].push(at);
        }
    }
    let mut free = std::collections::BTreeSet::new();
    let mut held = std::collections::BTreeSet::new();
    for at in 0..count {
        if missing[at] == 0 {
            if waiting[at].is_empty() {
                free.insert(at)
            } else {
                held.insert(at)
            };
        }
    }
    let mut order = Vec::with_capacity(count);
    while let Some(at) = free.pop_first().or_else(|| held.pop_first()) {
        order.push(at);
        for &user in &users[at] {
            missing[user] -= 1;
            if missing[user] == 0 {
                if waiting[user].is_empty() {
                    free.insert(user)
                } else {
                    held.insert(user)
                };
            }
        }
        for &writer in &waited_by[at] {
            waiting[writer].remove(&at);
            if waiting[writer].is_empty() && held.remove(&writer) {
                free.insert(writer);
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_waits_for_readers_that_do_not_need_it() {
        // 0 makes a gradient, 1 updates the weight with it, 2 reads the old weight.
        assert_eq!(
            postponing(&[vec![], vec![0], vec![0]], &[vec![], vec![2], vec![]]),
            [0, 2, 1]
        );
    }

    #[test]
    fn a_reader_that_needs_the_writer_comes_after_it() {
        assert_eq!(
            postponing(&[vec![], vec![0], vec![1]], &[vec![], vec![2], vec![]]),
            [0, 1, 2]
        );
    }
}
