//! Plans as texts give them: by the names of nests, with the states and constants that they touch, and back.

use std::collections::HashMap;
use std::sync::Arc;

use netloom_ir::plan::{Given, walk_mut};
use netloom_ir::{Problem, Problems, Tensor};

use super::{Base, KernelId, Kernels, Memory, Place, Plan, Port, StateSlot, Step, barriers};

/// What the text of a plan says.
pub fn given(plan: &Plan, memory: &Memory, kernels: &Kernels) -> Given {
    let mut numbers: HashMap<KernelId, KernelId> = HashMap::new();
    let mut names = Vec::new();
    let mut steps = plan.steps.clone();
    walk_mut(&mut steps, &mut |step| {
        if let Step::Kernel { kernel, .. } = step {
            *kernel = *numbers.entry(*kernel).or_insert_with_key(|id| {
                names.push(kernels.nest(*id).name.clone());
                KernelId(names.len() - 1)
            });
        }
    });
    let states = memory.states.iter().filter(|slot| {
        let bytes = slot.offset..slot.offset + slot.ty.len_bytes();
        plan.touches(Base::States, bytes)
    });
    let mut constants: Vec<(Arc<Tensor>, usize)> = memory.placed.values().flatten().cloned().collect();
    constants.retain(|(tensor, offset)| plan.touches(Base::Constants, *offset..offset + tensor.bytes().len()));
    constants.sort_by_key(|(_, offset)| *offset);
    Given {
        inputs: plan.inputs.clone(),
        outputs: plan.outputs.clone(),
        states: states.map(|slot| (port(slot), slot.offset)).collect(),
        constants,
        shared_bytes: plan.shared_bytes,
        worker_bytes: plan.worker_bytes,
        kernels: names,
        steps,
        spots: Vec::new(),
    }
}

fn port(slot: &StateSlot) -> Port {
    Port {
        name: slot.name.clone(),
        ty: slot.ty.clone(),
    }
}

/// The plan that a text gives an entry whose arguments and results are these. Whatever it names lies where it does now, wherever it lay when the text was
/// written: states move with the entries that are compiled, and become arguments where weights are given once.
pub(super) fn taken(
    name: &str,
    given: &Given,
    [inputs, outputs]: [Vec<Port>; 2],
    memory: &Memory,
    kernels: &Kernels,
) -> Result<Plan, Problems> {
    let mut problems: Vec<Problem> = Vec::new();
    let mut wrong = |step: Option<usize>, message: String| problems.push(given.problem(step, message));
    let mut moves: Vec<Move> = Vec::new();
    let port = |ports: &[Port], wanted: &Port| ports.iter().position(|port| port == wanted);
    let state = |wanted: &Port| {
        memory
            .states
            .iter()
            .find(|slot| (&slot.name, &slot.ty) == (&wanted.name, &wanted.ty))
    };
    let said = |(number, port): (usize, &'_ Port), base: fn(usize) -> Base| (port.clone(), base(number), 0);
    let arguments = given.inputs.iter().enumerate().map(|port| said(port, Base::Input));
    let states = given
        .states
        .iter()
        .map(|(port, offset)| (port.clone(), Base::States, *offset));
    for (wanted, base, offset) in arguments.chain(states) {
        let now = match (port(&inputs, &wanted), state(&wanted)) {
            (Some(number), _) => Some((Base::Input(number), 0)),
            (None, slot) => slot.map(|slot| (Base::States, slot.offset)),
        };
        let bytes = wanted.ty.len_bytes();
        match now {
            Some(to) => moves.push(Move {
                from: (base, offset),
                bytes,
                to,
            }),
            None => wrong(
                None,
                format!(
                    "`{name}` has no argument or state `{}` that is a {}",
                    wanted.name, wanted.ty
                ),
            ),
        }
    }
    for (number, wanted) in given.outputs.iter().enumerate() {
        let (from, bytes) = ((Base::Output(number), 0), wanted.ty.len_bytes());
        match port(&outputs, wanted) {
            Some(number) => moves.push(Move {
                from,
                bytes,
                to: (Base::Output(number), 0),
            }),
            None => wrong(
                None,
                format!("`{name}` has no result `{}` that is a {}", wanted.name, wanted.ty),
            ),
        }
    }
    for (tensor, offset) in &given.constants {
        let known = memory.placed.get(&tensor.content_hash()).into_iter().flatten();
        let (from, bytes) = ((Base::Constants, *offset), tensor.bytes().len());
        match known.into_iter().find(|(known, _)| known == tensor) {
            Some((_, offset)) => moves.push(Move {
                from,
                bytes,
                to: (Base::Constants, *offset),
            }),
            None => wrong(
                None,
                format!("`{name}` has no such constant, a {} at {offset}", tensor.ty()),
            ),
        }
    }
    let found: Vec<_> = given.kernels.iter().map(|name| kernels.given_as(name)).collect();
    let mut steps = given.steps.clone();
    let mut number = 0;
    walk_mut(&mut steps, &mut |step| {
        if let Step::Kernel { kernel, .. } = step {
            match &found[kernel.0] {
                Ok(id) => *kernel = *id,
                Err(message) => wrong(Some(number), message.clone()),
            }
        }
        for place in step.own_places_mut() {
            if matches!(place.base, Base::Arena | Base::Worker) {
                continue;
            }
            match moves.iter().find_map(|own| own.moved(place)) {
                Some(moved) => *place = moved,
                None => wrong(Some(number), format!("{place} lies in nothing that the plan names")),
            }
        }
        number += 1;
    });
    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    let parallel = barriers::are_shared(&steps, kernels);
    Ok(Plan {
        name: name.to_owned(),
        inputs,
        outputs,
        steps,
        shared_bytes: given.shared_bytes,
        worker_bytes: given.worker_bytes,
        parallel,
    })
}

/// Where something that a text names lies in its steps, and where now.
struct Move {
    from: (Base, usize),
    bytes: usize,
    to: (Base, usize),
}

impl Move {
    /// A place within it, where it is now.
    fn moved(&self, place: &Place) -> Option<Place> {
        let ((base, start), (to, offset)) = (self.from, self.to);
        let within = place.offset.checked_sub(start).filter(|_| place.base == base)?;
        (within + place.bytes <= self.bytes).then(|| Place {
            base: to,
            offset: offset + within,
            ..place.clone()
        })
    }
}
