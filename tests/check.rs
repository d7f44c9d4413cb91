//! `check`: silent about what is right; finds what is wrong on purpose, at the right node, and names the stage.

mod support;

use netloom::check::{Compiled, Engine, Interpreter, Options, Outcome, check};
use netloom::compile::Lowered;
use netloom::device::Floats;
use netloom::ir::builder::Builder;
use netloom::ir::kernel::{Exprs, Prim, Stmt, Work, build};
use netloom::ir::passes::{PASSES, Pass};
use netloom::ir::{DType, Graph, Op, Program, Scalar, Target, Tensor, sample};
use netloom::plan::kernels::Makers;
use netloom::{Cpu, Error, schedule};

const USUAL: Options<'static> = Options {
    passes: PASSES,
    makers: Makers::USUAL,
    bisect: true,
};

/// A dense layer, a row's statistic, a loop, and a choice.
fn graph() -> Graph {
    let b = Builder::new();
    let x = b.input("x", DType::F32, [5, 7]);
    let h = x.matmul(b.input("w", DType::F32, [7, 18])).tanh();
    let y = h.softmax(1);
    let least = y.argmin(1);
    b.finish([("y", y), ("sum", (h * h).sum([0])), ("least", least)])
        .expect("a graph")
}

fn outcomes(engines: &mut [Box<dyn Engine>], options: Options<'_>) -> Vec<Outcome> {
    let program = Program::pure("run", graph());
    let inputs = sample::inputs(&program.entries[0].graph, 3);
    check(&program, "run", &inputs, engines, options).unwrap_or_else(|error| panic!("{error}"))
}

fn cpu() -> Vec<Box<dyn Engine>> {
    vec![Box::new(Compiled::on(Cpu::native(), 2))]
}

/// What is to blame for the first difference, and where it is.
fn blamed(engines: &mut [Box<dyn Engine>], options: Options<'_>) -> (String, String) {
    let outcomes = outcomes(engines, options);
    let difference = outcomes[0].difference.clone().expect("something is wrong");
    (difference.blame.unwrap_or_default(), difference.what)
}

#[test]
fn what_is_right_passes_on_every_engine() {
    let mut engines = cpu();
    engines.push(Box::new(Interpreter::of(Cpu::native().target())));
    #[cfg(feature = "vulkan")]
    if let Some(device) = support::vulkan() {
        engines.push(Box::new(Compiled::on(device, 1)));
    }
    for outcome in outcomes(&mut engines, USUAL) {
        assert!(outcome.difference.is_none(), "{outcome:?}");
        assert!(outcome.pieces >= 2, "{outcome:?}");
        assert!(outcome.share > 0.0, "rounding shows somewhere: {outcome:?}");
    }
}

#[test]
fn a_wrong_pass_is_named() {
    fn wrong(graph: &Graph, _: &Target) -> Graph {
        graph.rebuild(|to, node, args| match &node.op {
            Op::Map(map) if map.0.name == "tanh" => args[0],
            op => to.push(op.clone(), args),
        })
    }
    let wrong = |name| Pass {
        name,
        run: wrong,
        bodies_only: false,
        after: &[],
    };
    let right = |at: usize| Pass {
        name: PASSES[at].name,
        run: PASSES[at].run,
        bodies_only: PASSES[at].bodies_only,
        after: &[],
    };
    let passes = [right(0), wrong("forget_tanh"), right(1)];
    let options = Options {
        passes: &passes,
        ..USUAL
    };
    let (blame, what) = blamed(&mut cpu(), options);
    assert_eq!(blame, "pass `forget_tanh`, round 1");
    assert!(what.contains("output `y`"), "{what}");
}

/// `value` as it is not.
fn doubled(exprs: &mut Exprs, value: netloom::ir::kernel::ExprId) -> netloom::ir::kernel::ExprId {
    let dtype = exprs.dtype(value);
    match dtype.is_float() {
        true => exprs.prim(Prim::Add, dtype, &[value, value]),
        false => value,
    }
}

#[test]
fn a_wrong_kernel_is_blamed_on_its_making() {
    let makers = Makers {
        build: |graph, region| {
            let mut kernel = build::build(graph, region);
            if let Work::Stores(stores) = &mut kernel.work {
                stores[0].value = doubled(&mut kernel.exprs, stores[0].value);
            }
            kernel
        },
        ..Makers::USUAL
    };
    let (blame, what) = blamed(&mut cpu(), Options { makers, ..USUAL });
    assert!(blame.starts_with("kernel"), "{blame}, {what}");
}

#[test]
fn a_wrong_nest_is_blamed_on_the_schedule() {
    fn spoil(exprs: &mut Exprs, body: &mut [Stmt]) {
        for stmt in body {
            match stmt {
                Stmt::Loop { body, .. } => spoil(exprs, body),
                Stmt::Store { value, .. } => *value = doubled(exprs, *value),
                _ => {}
            }
        }
    }
    let makers = Makers {
        choose: |kernel, target| {
            let mut nest = schedule::choose(kernel, target);
            spoil(&mut nest.exprs, &mut nest.body);
            nest
        },
        ..Makers::USUAL
    };
    let (blame, what) = blamed(&mut cpu(), Options { makers, ..USUAL });
    assert!(blame.starts_with("schedule"), "{blame}, {what}");
}

/// A CPU some of whose results are spoiled.
struct Spoiled {
    name: &'static str,
    cpu: Compiled,
    /// What becomes of the results of a piece.
    piece: fn(usize, &mut [Tensor]),
    /// What becomes of the results of the whole.
    whole: fn(&mut [(String, Tensor)]),
}

impl Engine for Spoiled {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn target(&self) -> Target {
        self.cpu.target()
    }

    fn floats(&self, dtype: DType) -> Floats {
        self.cpu.floats(dtype)
    }

    fn load(&mut self, pieces: &Lowered) -> Result<(), Error> {
        self.cpu.load(pieces)
    }

    fn run(&mut self, piece: usize, inputs: &[Tensor]) -> Result<Option<Vec<Tensor>>, Error> {
        let mut results = self.cpu.run(piece, inputs)?;
        if let Some(results) = &mut results {
            (self.piece)(piece, results);
        }
        Ok(results)
    }

    fn run_whole(
        &mut self,
        program: &Program,
        entry: &str,
        inputs: &[(String, Tensor)],
    ) -> Result<Option<Vec<(String, Tensor)>>, Error> {
        let mut results = self.cpu.run_whole(program, entry, inputs)?;
        if let Some(results) = &mut results {
            (self.whole)(results);
        }
        Ok(results)
    }
}

#[test]
fn wrong_code_is_blamed_on_the_emitter_and_later_nodes_are_not() {
    // The second piece is off in the last element, by a little more than rounding.
    let broken = Spoiled {
        name: "broken",
        cpu: Compiled::on(Cpu::native(), 1),
        piece: |piece, results| {
            if piece == 1 {
                let last = results[0].count() - 1;
                let value = results[0].get(last).as_f64();
                results[0].set(last, Scalar::Float(value * 1.001).round(DType::F32));
            }
        },
        whole: |_| {},
    };
    let mut engines: Vec<Box<dyn Engine>> = vec![Box::new(broken)];
    engines.extend(cpu());
    let outcomes = outcomes(&mut engines, USUAL);
    let difference = outcomes[0].difference.as_ref().expect("something is wrong");
    assert_eq!(outcomes[0].pieces, 2, "{difference:?}");
    assert!(
        difference
            .blame
            .as_ref()
            .is_some_and(|blame| blame.starts_with("emitter of broken")),
        "{difference:?}"
    );
    assert!(outcomes[1].difference.is_none(), "{:?}", outcomes[1]);
}

#[test]
fn a_wrong_whole_is_blamed_on_the_plan() {
    let bad_plan = Spoiled {
        name: "bad plan",
        cpu: Compiled::on(Cpu::native(), 1),
        piece: |_, _| {},
        whole: |results| {
            let first = results[0].1.get(1);
            results[0].1.set(0, first);
        },
    };
    let mut engines: Vec<Box<dyn Engine>> = vec![Box::new(bad_plan)];
    let (blame, _) = blamed(&mut engines, USUAL);
    assert!(blame.starts_with("plan"), "{blame}");
}

#[test]
fn a_training_step_with_random_numbers_passes() {
    let net = netloom::nn::zoo::find("mlp").expect("a network").for_training();
    let program = netloom::nn::training::program(&(net.layers)(), &net.input(2), &net.target(2), &(net.training)())
        .expect("a program");
    let step = program.only(netloom::nn::training::TRAIN_STEP);
    let graph = &step.entries[0].graph;
    let inputs = sample::inputs(graph, 5);
    let mut engines = cpu();
    #[cfg(feature = "vulkan")]
    if let Some(device) = support::vulkan() {
        engines.push(Box::new(Compiled::on(device, 1)));
    }
    let outcomes = check(&step, netloom::nn::training::TRAIN_STEP, &inputs, &mut engines, USUAL);
    for outcome in outcomes.unwrap_or_else(|error| panic!("{error}")) {
        assert!(outcome.difference.is_none(), "{outcome:?}");
    }
}
