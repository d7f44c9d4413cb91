//! Large constants beside a text, which names them by what they hold.
//!
//! `format!("{program:#}")` writes `f32[64,3,7,7] stored "8f14e45fceea167a"` where `{program}` would write the elements; [`stored`] gives the
//! tensors that belong beside the text under these names, and [`parse_program_with`](super::parse_program_with) asks for them again. A name is a
//! hash of type and elements (FNV-1a, 64 bits), so a tensor that is not the one meant is found out.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::sync::Arc;

use super::MAX_NUMBERS;
use crate::graph::Graph;
use crate::ops::{Attr, Op};
use crate::program::{Init, Program};
use crate::tensor::Tensor;

/// The name of a tensor by its contents.
pub fn reference(tensor: &Tensor) -> String {
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(tensor.ty().to_string().as_bytes());
    hasher.write(tensor.bytes());
    format!("{:016x}", hasher.finish())
}

/// The constants that `format!("{program:#}")` names instead of writing them, in order of their names.
///
/// # Panics
/// If two different tensors have one name: 64 bits do not do so by chance.
pub fn stored(program: &Program) -> Vec<(String, Arc<Tensor>)> {
    let mut found = BTreeMap::new();
    for state in &program.states {
        match &state.init {
            Init::Tensor(tensor) => keep(tensor, &mut found),
            Init::Graph(graph) => stored_in(graph, &mut found),
            Init::Prepared | Init::Given | Init::Data => {}
        }
    }
    for entry in &program.entries {
        stored_in(&entry.graph, &mut found);
    }
    found.into_iter().collect()
}

fn stored_in(graph: &Graph, found: &mut BTreeMap<String, Arc<Tensor>>) {
    for (_, node) in graph.nodes() {
        if let Op::Const(tensor) = &node.op {
            keep(tensor, found);
            continue;
        }
        for (_, attr) in node.op.rules().attrs() {
            match attr {
                Attr::Tensor(tensor) => keep(&tensor, found),
                Attr::Graph(body) => stored_in(&body, found),
                _ => {}
            }
        }
    }
}

fn keep(tensor: &Arc<Tensor>, found: &mut BTreeMap<String, Arc<Tensor>>) {
    if tensor.count() > MAX_NUMBERS {
        let before = found.insert(reference(tensor), Arc::clone(tensor));
        assert!(
            before.is_none_or(|before| before == *tensor),
            "two tensors have the hash {}",
            reference(tensor)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::Builder;
    use crate::dtype::DType;
    use crate::text::{parse_program, parse_program_with};

    #[test]
    fn large_constants_are_named_and_asked_for() {
        let b = Builder::new();
        let values: Vec<f32> = (0..100).map(|place| place as f32).collect();
        let large = b.constant(Tensor::from_f32([100], &values));
        let small = b.constant(Tensor::from_f32([2], &[1.0, 2.0]));
        let y = large * b.input("x", DType::F32, [100]);
        let graph = b.finish([("y", y), ("z", small * 2.0)]).expect("a graph");
        let program = Program::pure("main", graph);
        let (text, beside) = (format!("{program:#}"), stored(&program));
        let [(name, tensor)] = &beside[..] else {
            panic!("one constant is large: {beside:?}")
        };
        assert!(text.contains(&format!("f32[100] stored \"{name}\"")), "{text}");
        assert!(text.contains("f32[2] [1.0,2.0]"), "{text}");
        let given = |wanted: &str| (wanted == name).then(|| Arc::clone(tensor));
        assert_eq!(parse_program_with("again", &text, &given).as_ref(), Ok(&program));
        let missing = parse_program("again", &text)
            .expect_err("nothing lies beside it")
            .to_string();
        assert!(missing.contains("there is no constant"), "{missing}");
        let other = Arc::new(Tensor::zeros(DType::F32, [100]));
        let wrong = parse_program_with("again", &text, &|_| Some(Arc::clone(&other)));
        let wrong = wrong.expect_err("another tensor").to_string();
        assert!(wrong.contains("is not the one meant"), "{wrong}");
    }

    /// The name does not change between versions: files written before are read.
    #[test]
    fn a_name_stays_the_same() {
        assert_eq!(
            reference(&Tensor::from_f32([2], &[1.0, 2.0])),
            reference(&Tensor::from_f32([2], &[1.0, 2.0]))
        );
        assert_ne!(
            reference(&Tensor::from_f32([2], &[1.0, 2.0])),
            reference(&Tensor::from_f32([1, 2], &[1.0, 2.0]))
        );
        // FNV-1a of `f32[0]`, computed by hand from its definition.
        let by_hand = b"f32[0]".iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        assert_eq!(reference(&Tensor::zeros(DType::F32, [0])), format!("{by_hand:016x}"));
    }
}
