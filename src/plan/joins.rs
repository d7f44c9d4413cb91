//! What is joined from parts that kernels write where they belong, so that no kernel need join them.

use std::collections::{BTreeMap, HashMap, HashSet};

use netloom_ir::fuse::{Region, RegionKind, joined_parts};
use netloom_ir::graph::{Graph, NodeId};
use netloom_ir::layout::{Digit, Layout};
use netloom_ir::ops::{Op, View};

use super::Planner;

/// A value that is written where it belongs in what it is joined to.
pub(super) struct Part {
    /// The value.
    pub id: NodeId,
    /// Where it begins, in bytes from where the whole does.
    pub offset: usize,
    /// To its last element; the lines of other parts may lie between its own.
    pub bytes: usize,
}

impl Planner<'_> {
    /// The values that are joined so, with their parts. Parts that lie in several lines of the whole get its layout.
    pub(super) fn joins(
        &mut self,
        graph: &Graph,
        regions: &[Region],
        wanted_at: &HashMap<NodeId, Vec<usize>>,
    ) -> BTreeMap<NodeId, Vec<Part>> {
        let mut joins = BTreeMap::new();
        let kernels = regions.iter().filter(|region| region.kind == RegionKind::Kernel);
        let computed: HashSet<NodeId> = kernels
            .clone()
            .flat_map(|region| region.outputs.iter().copied())
            .collect();
        let mut taken: HashSet<NodeId> = HashSet::new();
        // A text may say how a whole is computed.
        let open = kernels.filter(|region| region.given.is_none());
        for &[whole] in open.filter_map(|region| <&[NodeId; 1]>::try_from(&region.outputs[..]).ok()) {
            let Some(parts) = joined_parts(graph, whole) else {
                continue;
            };
            let is_free =
                |part: &NodeId| computed.contains(part) && !taken.contains(part) && !wanted_at.contains_key(part);
            if parts.iter().all(is_free)
                && let Some(placed) = self.place_parts(graph, whole, &parts)
            {
                taken.extend(parts);
                joins.insert(whole, placed);
            }
        }
        joins
    }

    /// Where parts lie in the whole, if each can: its layout is the whole's, but for as many blocks along the axis that is joined, and it begins at a
    /// multiple of 16 bytes, as vectors and the shader of matrix products want it.
    fn place_parts(&mut self, graph: &Graph, whole: NodeId, parts: &[NodeId]) -> Option<Vec<Part>> {
        let node = graph.node(whole);
        let Op::View(View::Concat(axis)) = node.op else {
            return None;
        };
        let layout = |id: NodeId| self.layouts.get(&id).unwrap_or(&Layout::Dense);
        let digits_of = |id: NodeId| layout(id).digits(&graph.ty(id).shape);
        let digits = digits_of(whole);
        let size = |digits: &[Digit]| digits.iter().map(|digit| digit.extent).product::<usize>();
        let along = digits.iter().enumerate().filter(|(_, digit)| digit.axis == axis);
        let (outermost, &blocks) = along.max_by_key(|(_, digit)| digit.step)?;
        // The whole is so many lines, in which the parts lie one behind the other.
        let (lines, block) = (size(&digits[..outermost]), size(&digits[outermost + 1..]));
        let block_bytes = block * graph.ty(whole).dtype.size_bytes();
        let (mut start, mut placed) = (0, Vec::new());
        for (&id, &arg) in parts.iter().zip(&node.args) {
            let is_alike = || {
                let mut own = digits_of(id);
                own.len() == digits.len() && own[outermost].step == blocks.step && {
                    own[outermost].extent = blocks.extent;
                    id == arg && own == digits
                }
            };
            // What lies in one line may be the reshape of something else.
            let is_dense = *layout(id) == Layout::Dense && *layout(whole) == Layout::Dense;
            let extent = graph.ty(arg).shape[axis];
            let may_lie_so = lines == 1 && is_dense || is_alike();
            let offset = start * block_bytes;
            if !may_lie_so || !extent.is_multiple_of(blocks.step) || !offset.is_multiple_of(16) {
                return None;
            }
            let own = extent / blocks.step;
            placed.push(Part {
                id,
                offset,
                bytes: ((lines - 1) * blocks.extent + own) * block_bytes,
            });
            start += own;
        }
        if lines > 1 {
            self.layouts
                .extend(parts.iter().map(|&part| (part, Layout::Digits(digits.clone()))));
        }
        Some(placed)
    }
}
