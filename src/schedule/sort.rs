//! Argsort: Batcher's bitonic network over the positions of each row, padded to a power of two.
//!
//! Ties are broken by position, which makes the order total, so that the network, which is not stable, gives the stable order.

use std::collections::HashMap;

use netloom_ir::DType;
use netloom_ir::kernel::{Bind, ExprId, Prim, Role, Stmt};

use super::draft::{Draft, Task};

/// The loops for the order of `task`'s values, which hold no folds, along its last axis.
pub fn schedule(draft: &mut Draft, task: &Task, descending: bool) -> Stmt {
    let (&axis, rows) = task.over.split_last().expect("an axis to sort along");
    let (shared, values) = draft.share(rows);
    let mut known: HashMap<_, _> = rows.iter().map(|&axis| draft.source.axis(axis)).zip(values).collect();
    let count = draft.extent(axis);
    let padded = count.next_power_of_two();
    let steps = padded.trailing_zeros() as usize;
    let dtype = draft.source.dtype(task.value);
    let keys = draft.scratch("keys", dtype, vec![count], Role::WorkerScratch);
    let order = draft.scratch("order", DType::I64, vec![padded], Role::WorkerScratch);

    let place = draft.exprs.axis(axis);
    let value = draft.import(&mut known, task.value);
    let copy = draft.all(
        axis,
        Bind::Lanes,
        vec![Stmt::Store {
            buffer: keys,
            index: vec![place],
            value,
        }],
    );
    let position = draft.axis("position", padded);
    let position_value = draft.exprs.axis(position);
    let store = Stmt::Store {
        buffer: order,
        index: vec![position_value],
        value: position_value,
    };
    let number = draft.all(position, Bind::Serial, vec![store]);

    // Step `merge` merges runs of 2^merge into runs twice as long; its part `half` compares elements 2^(merge - half) apart.
    let [merge, half] = ["merge", "half"].map(|name| draft.axis(name, steps));
    let pair = draft.axis("pair", padded / 2);
    let [merge_value, half_value, pair_value] = [merge, half, pair].map(|axis| draft.exprs.axis(axis));
    let one = draft.int(1);
    let shift = draft.i64(Prim::Sub, merge_value, half_value);
    let distance = draft.i64(Prim::Shl, one, shift);
    let below = draft.i64(Prim::Sub, distance, one);
    let low_bits = draft.i64(Prim::And, pair_value, below);
    let high_bits = draft.i64(Prim::Sub, pair_value, low_bits);
    let doubled = draft.i64(Prim::Add, high_bits, high_bits);
    let first = draft.i64(Prim::Add, doubled, low_bits);
    let second = draft.i64(Prim::Add, first, distance);
    let [first, second] = [first, second].map(|at| draft.clamp(at, padded));
    let run = draft.i64(Prim::Add, merge_value, one);
    let run = draft.i64(Prim::Shr, first, run);
    let run = draft.i64(Prim::And, run, one);
    let falling = draft.exprs.prim(Prim::Eq, DType::Bool, &[run, one]);
    let locals = ["a", "b"].map(|name| draft.local(name, DType::I64));
    let [a, b] = locals.map(|local| draft.exprs.local(local, DType::I64));
    let [at_a, at_b] = [first, second].map(|at| draft.exprs.load(order, DType::I64, vec![at], false));
    let [key_a, key_b] = [a, b].map(|at| {
        let at = draft.clamp(at, count);
        draft.exprs.load(keys, dtype, vec![at], false)
    });
    let precedes = precedes(draft, count, descending, (b, key_b), (a, key_a));
    let swap = draft.exprs.prim(Prim::Xor, DType::Bool, &[precedes, falling]);
    let left = draft.exprs.prim(Prim::Select, DType::I64, &[swap, b, a]);
    let right = draft.exprs.prim(Prim::Select, DType::I64, &[swap, a, b]);
    let mut step = vec![
        Stmt::Set {
            local: locals[0],
            value: at_a,
        },
        Stmt::Set {
            local: locals[1],
            value: at_b,
        },
        Stmt::Store {
            buffer: order,
            index: vec![first],
            value: left,
        },
        Stmt::Store {
            buffer: order,
            index: vec![second],
            value: right,
        },
    ];
    step = vec![draft.all(pair, Bind::Serial, step)];
    let halves = draft.i64(Prim::Add, merge_value, one);
    step = vec![Stmt::Loop {
        axis: half,
        extent: halves,
        bind: Bind::Serial,
        body: step,
    }];
    let network = draft.all(merge, Bind::Serial, step);

    let index = task.index.iter().map(|&at| draft.import(&mut known, at)).collect();
    let value = draft.exprs.load(order, DType::I64, vec![place], false);
    let write = draft.all(
        axis,
        Bind::Lanes,
        vec![Stmt::Store {
            buffer: task.buffer,
            index,
            value,
        }],
    );
    // A single element is in order; then there are no steps to loop over.
    let body = if steps > 0 {
        vec![copy, number, network, write]
    } else {
        vec![copy, number, write]
    };
    draft.all(shared, Bind::Workers, body)
}

/// Whether an element, a position and its key, comes before another.
fn precedes(
    draft: &mut Draft,
    count: usize,
    descending: bool,
    (a, key_a): (ExprId, ExprId),
    (b, key_b): (ExprId, ExprId),
) -> ExprId {
    let mut bool = |prim, args: &[ExprId]| draft.exprs.prim(prim, DType::Bool, args);
    let earlier = bool(Prim::Lt, &[a, b]);
    let (low, high) = if descending { (key_b, key_a) } else { (key_a, key_b) };
    let less = bool(Prim::Lt, &[low, high]);
    let equal = bool(Prim::Eq, &[key_a, key_b]);
    // NaN equals nothing, itself included, and comes last.
    let number_a = bool(Prim::Eq, &[key_a, key_a]);
    let number_b = bool(Prim::Eq, &[key_b, key_b]);
    let both = bool(Prim::And, &[number_a, number_b]);
    let tie = bool(Prim::And, &[equal, earlier]);
    let among_numbers = bool(Prim::Or, &[less, tie]);
    let same = bool(Prim::Eq, &[number_a, number_b]);
    let by_kind = bool(Prim::Select, &[same, earlier, number_a]);
    let by_key = bool(Prim::Select, &[both, among_numbers, by_kind]);
    // Padding stands after every element, where its positions put it.
    let count = draft.int(count);
    let later = draft.i64(Prim::Max, a, b);
    let real = draft.exprs.prim(Prim::Lt, DType::Bool, &[later, count]);
    draft.exprs.prim(Prim::Select, DType::Bool, &[real, by_key, earlier])
}
