//! Long chains of operations in two loops: a core looks a few hundred instructions ahead, so where each element is one long chain, as the new
//! state of a recurrent cell is, it sees too few of them to be busy. Cut in the middle, it sees twice as many.

use std::collections::{HashMap, HashSet};

use netloom_ir::kernel::{Expr, ExprId};

use super::draft::{Draft, Task};

/// A chain of so many operations is cut, if it leaves as many on either side as [`SIDE`] says. Measured: the cell of an LSTM, 47 operations, takes
/// 17 % less in two loops.
const LONG: usize = 40;
const SIDE: usize = 16;
/// The most values that are handed on.
const MOST_LINKS: usize = 4;

/// Where tasks that share a loop are cut in two.
pub struct Cut {
    /// What the second loop is handed, in place of all that it would read.
    pub links: Vec<ExprId>,
    /// By task, whether it is of the second loop.
    pub is_second: Vec<bool>,
}

impl Cut {
    /// The cut at the stored value that others go on from for the longest, if their chain is long.
    pub fn of(draft: &Draft, tasks: &[&Task]) -> Option<Cut> {
        let roots: Vec<ExprId> = tasks.iter().map(|task| task.value).collect();
        let below = draft.below(&roots);
        let mut depths: HashMap<ExprId, usize> = HashMap::new();
        for &id in &below {
            let operands = draft.source.operands(id).iter();
            let deepest = operands.map(|operand| depths[operand]).max().unwrap_or(0);
            let own = usize::from(matches!(draft.source.get(id), Expr::Prim(..)));
            depths.insert(id, deepest + own);
        }
        if roots.iter().all(|root| depths[root] < LONG) {
            return None;
        }
        // Everything that is computed from a value, itself included.
        let from = |middle: ExprId| {
            let mut later = HashSet::from([middle]);
            for &id in &below {
                if draft.source.operands(id).iter().any(|operand| later.contains(operand)) {
                    later.insert(id);
                }
            }
            later
        };
        let is_middle = |middle: &ExprId, later: &HashSet<ExprId>| {
            let ends = roots
                .iter()
                .filter(|root| later.contains(root))
                .map(|root| depths[root]);
            let (depth, end) = (depths[middle], ends.max().unwrap_or(0));
            end >= LONG && depth >= SIDE && end - depth >= SIDE
        };
        let middles = roots.iter().map(|&root| (root, from(root)));
        let (middle, later) = middles
            .filter(|(middle, later)| is_middle(middle, later))
            .max_by_key(|(middle, _)| depths[middle])?;
        // What is read, and computed from it, is handed on where the second loop needs it.
        let mut reads = HashSet::new();
        for &id in &below {
            let is_read = matches!(draft.source.get(id), Expr::Load { .. } | Expr::Axis(_));
            if is_read || draft.source.operands(id).iter().any(|operand| reads.contains(operand)) {
                reads.insert(id);
            }
        }
        let is_second: Vec<bool> = roots
            .iter()
            .map(|root| *root != middle && later.contains(root))
            .collect();
        let mut links = vec![middle];
        for &id in below.iter().filter(|&&id| id != middle && later.contains(&id)) {
            for operand in draft.source.operands(id) {
                if !later.contains(operand) && reads.contains(operand) && !links.contains(operand) {
                    links.push(*operand);
                }
            }
        }
        let are_floats = links.iter().all(|&link| draft.source.dtype(link).is_float());
        (links.len() <= MOST_LINKS && are_floats).then_some(Cut { links, is_second })
    }
}
