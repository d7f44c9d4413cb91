//! The page that shows what the compiler made, opened in a browser without a screen.

#[path = "support/browser.rs"]
mod browser;

use netloom::compile::lower;
use netloom::ir::diff::diff;
use netloom::ir::{Builder, DType, Program, passes};
use netloom::nn::training::{PREDICT, TRAIN_STEP, predictor, program};
use netloom::nn::zoo;
use netloom::page::html;
use netloom::{Cpu, Device};
use serde_json::Value;

/// The most that the page of ResNet-50 may take.
const MOST_BYTES: usize = 5 << 20;
/// The longest that a page may take to open, and to unfold and fold again.
const MOST_MS: f64 = 2000.0;

fn page(title: &str, program: &Program, entry: &str) -> String {
    let device = Device::from(Cpu::native());
    let lowered = lower(program, &device.target()).expect("a valid program");
    html(title, entry, &lowered, &device, None).expect("the entry is there")
}

/// Opens a page, and gives what its own measurement says; nothing if there is no browser.
fn measured(page: &str) -> Option<Value> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("page.html");
    std::fs::write(&path, page).expect("a file");
    let dumped = browser::opened(&format!("file://{}#measure", path.display()), folder.path())?;
    let found = dumped
        .split_once("<pre id=\"measured\">{\"")
        .unwrap_or_else(|| panic!("the page's script failed:\n{}", &dumped[..500]));
    let (json, _) = found.1.split_once("</pre>").expect("the element ends");
    let json = format!("{{\"{json}");
    eprintln!("{json}");
    Some(serde_json::from_str(&json).expect("the page writes JSON"))
}

/// Everything that a page says of itself but times, which a busy machine may stretch threefold.
fn check(found: &Value, nodes: usize) {
    assert_eq!(found["code_whole"], true, "every text unpacks to its length");
    assert_eq!(found["boxes_apart"], true, "no two boxes overlap");
    assert_eq!(found["folded"], found["again"], "folding undoes unfolding");
    assert!(
        found["folded"].as_u64() < found["open"].as_u64(),
        "there is something to fold: {found}"
    );
    assert!(
        found["open"].as_u64() >= Some(nodes as u64),
        "fewer boxes than nodes: {found}"
    );
    assert!(found["hits"].as_u64() > Some(0), "search finds something: {found}");
    assert!(found["details"].as_u64() > Some(100), "details are shown: {found}");
    for name in ["load_ms", "open_ms", "fold_ms"] {
        let took = found[name].as_f64().expect("a number");
        assert!(took <= MOST_MS, "{name} is {took}");
    }
}

#[test]
fn resnet50_opens_and_folds() {
    let net = zoo::find("resnet50").expect("a network");
    let program = predictor(&(net.layers)(), &net.input(1))
        .expect("a valid network")
        .prepared();
    let page = page("resnet50", &program, PREDICT);
    eprintln!("{} bytes", page.len());
    assert!(page.len() <= MOST_BYTES, "{} bytes", page.len());
    assert!(
        !page.contains("http://") && !page.contains("https://"),
        "the page is whole without a network"
    );
    if let Some(found) = measured(&page) {
        check(&found, 100);
        // The image comes in dense, and what is averaged goes to a dense layer.
        assert!(
            (1..=3).contains(&found["relayouts"].as_u64().expect("a number")),
            "layouts change at the borders alone: {found}"
        );
        // Stem, stages of blocks, head.
        assert!(found["folded"].as_u64() <= Some(12), "blocks are folded: {found}");
    }
}

#[test]
fn a_training_step_opens_too() {
    let net = zoo::find("lenet").expect("a network");
    let (input, target) = (net.input(4), net.target(4));
    let program = program(&(net.layers)(), &input, &target, &(net.training)()).expect("a valid network");
    if let Some(found) = measured(&page("a <name> & more", &program, TRAIN_STEP)) {
        check(&found, 60);
    }
}

#[test]
fn five_thousand_nodes_are_usable() {
    let builder = Builder::new();
    let mut x = builder.input("x", DType::F32, [64, 64]);
    let w = builder.input("w", DType::F32, [64, 64]);
    for layer in 0..1300 {
        let y = x.matmul(w).max(0.0);
        x = if layer % 10 == 9 { y + x.sum_all() } else { y * 0.5 + x };
    }
    let graph = builder.finish([("y", x)]).expect("a valid graph");
    assert!(graph.len() >= 5000, "{} nodes", graph.len());
    let program = Program::pure(PREDICT, graph);
    let page = page("deep", &program, PREDICT);
    if let Some(found) = measured(&page) {
        check(&found, 4000);
    }
}

#[test]
fn a_pass_is_seen_as_a_difference() {
    let net = zoo::find("lenet").expect("a network");
    let (input, target) = (net.input(4), net.target(4));
    let program = program(&(net.layers)(), &input, &target, &(net.training)()).expect("a valid network");
    let before = &program.entries[0].graph;
    let after = passes::run(before, &Cpu::native().target(), &mut |_| {});
    let difference = diff(before, &after);
    assert!(!difference.is_empty());
    let page = netloom::page::diff::html("a & b", &[("all passes".to_owned(), difference)]);
    assert!(
        page.contains("<h1>a &amp; b</h1>") && page.contains("class=\"gone\""),
        "{page}"
    );
}
