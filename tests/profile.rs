//! Profiles: every kernel of a run, named by its nodes and where they were written.

mod support;

use netloom::ir::{Tensor, sample};
use netloom::nn::training::{TRAIN_STEP, program};
use netloom::nn::zoo;
use netloom::{Cpu, Device, Session, compile, profile};
use serde_json::Value;

#[test]
fn a_trace_names_nodes_and_places() {
    traced(Cpu::native().into());
    #[cfg(feature = "vulkan")]
    if let Some(device) = support::vulkan() {
        traced(device.into());
    }
}

fn traced(device: Device) {
    let net = zoo::find("lenet").expect("a network");
    let (input, target) = (net.input(4), net.target(4));
    let whole = program(&(net.layers)(), &input, &target, &(net.training)()).expect("a valid network");
    let program = whole.only(TRAIN_STEP);
    let executable = compile(&program, device).expect("a valid program");
    let session = Session::new(executable.into(), 1, 1).expect("memory");
    let arguments = [sample::tensor(&input, &mut 1), sample::tensor(&target, &mut 2)];
    let inputs: Vec<&Tensor> = arguments.iter().collect();
    let slices = profile::slices(&program, TRAIN_STEP, &session, &inputs).expect("it runs");
    let plan = session.executable().plan(TRAIN_STEP).expect("an entry");
    assert_eq!(
        slices.len(),
        plan.kernel_runs(),
        "as many calls as the compiled step makes"
    );
    assert!(plan.bytes_moved() > plan.kernel_runs());
    let conv = slices
        .iter()
        .find(|slice| slice.kernel.contains("conv"))
        .expect("a convolution");
    assert!(
        conv.nodes.iter().any(|node| node.contains("= conv ")),
        "{:?}",
        conv.nodes
    );
    assert!(
        conv.places.iter().any(|place| place.contains("convolution.rs:")),
        "{:?}",
        conv.places
    );
    assert!(conv.flops > 0.0 && conv.bytes > 0);

    let trace: Value = serde_json::from_str(&profile::trace(TRAIN_STEP, &slices)).expect("it is JSON");
    let events = trace["traceEvents"].as_array().expect("a list");
    let complete: Vec<&Value> = events.iter().filter(|event| event["ph"] == "X").collect();
    assert_eq!(complete.len(), slices.len());
    // One kernel at a time: each begins after the one before has ended.
    for pair in complete.windows(2) {
        let number = |event: &Value, field: &str| event[field].as_f64().expect("a number");
        assert!(number(pair[0], "ts") + number(pair[0], "dur") <= number(pair[1], "ts") + 1e-3);
    }
    assert!(complete.iter().all(|event| event["args"]["source"].is_array()));
}
