//! Training gives the same weights, to the bit, with any number of workers.
#![cfg(feature = "demo")]

mod support;

use std::sync::Arc;

use netloom::Session;
use netloom::nn::training::TRAIN_STEP;
use netloom::nn::zoo;
use netloom::train::Dataset;
use support::{THREADS, different_bits, shared_step};

#[test]
fn lenet_learns_the_same_with_any_number_of_workers() {
    const BATCH: usize = 16;
    const STEPS: usize = 20;
    let net = zoo::find("lenet").expect("a network");
    let executable = shared_step(net, BATCH);
    let (digits, _) = Dataset::digits().expect("the embedded digits");
    let batches: Vec<Dataset> = (0..STEPS)
        .map(|step| digits.select(&(step * BATCH..(step + 1) * BATCH).collect::<Vec<_>>()))
        .collect();
    let mut first = None;
    for threads in THREADS {
        let mut session = Session::new(Arc::clone(&executable), threads, 7).expect("memory");
        let mut loss = session.results(TRAIN_STEP).expect("an entry");
        let mut losses = Vec::new();
        for batch in &batches {
            session
                .run(TRAIN_STEP, &[&batch.inputs, &batch.targets], &mut loss)
                .expect("the tensors fit");
            losses.push(loss[0].get(0).as_f64());
        }
        assert!(losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
        assert!(losses[STEPS - 1] < losses[0], "nothing was learnt: {losses:?}");
        let states = session.states();
        let (known, known_losses) = first.get_or_insert_with(|| (states.clone(), losses.clone()));
        assert_eq!(losses, *known_losses, "losses with {threads} workers");
        for ((name, found), (_, known)) in states.iter().zip(known.iter()) {
            assert_eq!(different_bits(found, known), None, "`{name}` with {threads} workers");
        }
    }
}
