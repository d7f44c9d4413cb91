//! Scatters: each element has one owner, who applies its updates in order.

use std::collections::HashMap;

use netloom_ir::DType;
use netloom_ir::kernel::{AxisId, Bind, Combine, Prim, Stmt};

use super::draft::{Draft, Grain, Task};

/// Elements of a slice along the contiguous axis that one worker owns.
const SLICE: usize = 64;

/// The loops for `buffer[index] = buffer[index] ∘ value` for all values of the axes of `update`, which holds no folds; the index along
/// `axis` is data.
pub fn schedule(draft: &mut Draft, update: &Task, axis: usize, with: Option<Combine>) -> Stmt {
    let ty = draft.buffers[update.buffer.at()].ty.clone();
    // Updates at different values of an axis that is by itself an index go to different elements, so its values can be shared out.
    let is_index = |over: &AxisId| {
        (update.index.iter().enumerate()).any(|(place, &at)| {
            place != axis && matches!(draft.source.get(at), netloom_ir::kernel::Expr::Axis(index) if index == over)
        })
    };
    let last = ty.rank().checked_sub(1);
    let contiguous = |over: &AxisId| {
        last.is_some_and(|last| {
            last != axis && matches!(draft.source.get(update.index[last]), netloom_ir::kernel::Expr::Axis(index) if index == over)
        })
    };
    let lane = update.over.iter().copied().find(contiguous);
    let mut owned: Vec<AxisId> = update
        .over
        .iter()
        .copied()
        .filter(|over| is_index(over) && Some(*over) != lane)
        .collect();
    let ordered: Vec<AxisId> = update.over.iter().copied().filter(|over| !is_index(over)).collect();
    let extent = lane.map_or(1, |lane| draft.extent(lane));
    let slice = match draft.grain {
        Grain::Blocks => SLICE,
        Grain::Elements => 1,
    };
    let blocks = draft.axis("block", extent.div_ceil(slice));
    owned.push(blocks);
    let (shared, values) = draft.share(&owned);
    let zero = draft.int(0);
    let start = draft.mul_add(*values.last().expect("a block"), slice, zero);
    let count = draft.rest(extent, start, slice);
    let inner = draft.axis("lane", extent.min(slice));
    let mut known: HashMap<_, _> = owned.iter().map(|&axis| draft.source.axis(axis)).zip(values).collect();
    if let Some(lane) = lane {
        let value = draft.exprs.axis(inner);
        known.insert(draft.source.axis(lane), draft.i64(Prim::Add, start, value));
    }
    let mut index: Vec<_> = update.index.iter().map(|&at| draft.import(&mut known, at)).collect();
    let place = index[axis];
    let first = draft.exprs.prim(Prim::Le, DType::Bool, &[zero, place]);
    let end = draft.int(ty.shape[axis]);
    let last = draft.exprs.prim(Prim::Lt, DType::Bool, &[place, end]);
    let inside = draft.exprs.prim(Prim::And, DType::Bool, &[first, last]);
    index[axis] = draft.clamp(place, ty.shape[axis]);
    let value = draft.import(&mut known, update.value);
    let value = match with {
        Some(with) => {
            let state = draft.exprs.load(update.buffer, ty.dtype, index.clone(), false);
            with.apply(&mut draft.exprs, state, value)
        }
        None => value,
    };
    let store = Stmt::Store {
        buffer: update.buffer,
        index,
        value,
    };
    // The place usually does not depend on the lane; where it does, each element is tested.
    let lanes_agree = lane.is_none_or(|lane| !draft.free(update.index[axis]).contains(&lane));
    let test = |body| Stmt::If {
        condition: inside,
        then: body,
        otherwise: vec![],
    };
    let body = match lane {
        Some(_) if lanes_agree => test(vec![Stmt::Loop {
            axis: inner,
            extent: count,
            bind: Bind::Lanes,
            body: vec![store],
        }]),
        Some(_) => Stmt::Loop {
            axis: inner,
            extent: count,
            bind: Bind::Serial,
            body: vec![test(vec![store])],
        },
        None => test(vec![store]),
    };
    let body = draft.nested(&ordered, vec![body]);
    draft.all(shared, Bind::Workers, body)
}
