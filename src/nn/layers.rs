//! Layers: functions from a value to a value, with parameters. The first axis of every value is the batch.

mod chain;
mod convolution;
mod dense;
mod imported;
mod local;
mod normalisation;
mod recurrent;
mod regular;

use netloom_ir::builder::{Builder, Val};
use netloom_ir::cost::{self, Flops};
use netloom_ir::tensor::Type;

use super::scope::{Mode, Scope, States};
use crate::error::Error;

pub use chain::{Auxiliary, Block, Branches, Residual, Sequential};
pub use convolution::{AdaptiveAveragePool, Conv, GlobalPool, Pool, PoolOf};
pub use dense::{Dense, Embedding, Flatten};
pub use imported::Imported;
pub use local::LocallyConnected;
pub use normalisation::{BatchNorm, LayerNorm, LocalResponseNorm};
pub use recurrent::{Bidirectional, CARRIED, Cell, Recurrent, TimeDistributed};
pub use regular::{Activation, Dropout};

/// A part of a network.
pub trait Layer {
    /// The kind, as `summary` shows it: `Dense(500)`.
    fn describe(&self) -> String;

    /// Adds the layer to the graph. Parameters are asked for at `scope`; what does not fit is reported by the builder.
    fn build<'g>(&self, scope: &Scope<'g>, x: Val<'g>) -> Val<'g>;

    /// The layers that `summary` shows instead of this one, if it is no more than a chain of them.
    fn chain(&self) -> Option<&Sequential> {
        None
    }
}

/// The functional form: a closure as a layer, for whatever is not a chain.
///
/// Layers are functions too: in a closure they are applied with `build`, each at a scope of its own.
///
/// ```
/// use netloom::nn::layers::{Activation, Dense, Function, Layer};
///
/// /// Two layers with a way around them: `relu(x + second(relu(first(x))))`.
/// fn residual(units: usize) -> impl Layer {
///     Function::new("Residual", move |scope, x| {
///         let inner = Dense::new(units).build(&scope.enter("first"), x).relu();
///         (x + Dense::new(units).build(&scope.enter("second"), inner)).relu()
///     })
/// }
///
/// let net = netloom::nn::Sequential::new().then(Dense::new(64)).then(residual(64)).then(Activation::Tanh);
/// ```
pub struct Function<F> {
    name: &'static str,
    build: F,
}

impl<F: for<'g> Fn(&Scope<'g>, Val<'g>) -> Val<'g>> Function<F> {
    /// A closure under a name that `summary` shows.
    pub fn new(name: &'static str, build: F) -> Function<F> {
        Function { name, build }
    }
}

impl<F: for<'g> Fn(&Scope<'g>, Val<'g>) -> Val<'g>> Layer for Function<F> {
    fn describe(&self) -> String {
        self.name.to_owned()
    }

    fn build<'g>(&self, scope: &Scope<'g>, x: Val<'g>) -> Val<'g> {
        (self.build)(scope, x)
    }
}

/// One line of a summary.
#[derive(Clone, Debug, PartialEq)]
pub struct SummaryRow {
    /// The layer's kind.
    pub layer: String,
    /// The type of its result.
    pub output: Type,
    /// Trained elements.
    pub parameters: usize,
    /// Floating-point operations of prediction.
    pub flops: Flops,
}

/// What a network consists of, for an input of that type (its first axis the batch).
///
/// # Errors
/// If the layers do not fit the input or each other.
pub fn summary(net: &dyn Layer, input: &Type) -> Result<Vec<SummaryRow>, Error> {
    let builder = Builder::new();
    let states = std::rc::Rc::new(std::cell::RefCell::new(States::default()));
    let scope = Scope::new(&builder, Mode::Inference, states);
    let x = builder.input("x", input.dtype, input.shape.clone());
    let mut lines = Vec::new();
    let y = summarise(net, &scope, x, &mut lines);
    let graph = builder.finish([("y", y)])?;
    let mut nodes = graph.nodes();
    let rows = lines.into_iter().map(|line| {
        // What a layer computes are the nodes that it has added; the next one's come after them.
        let own = nodes.by_ref().take(line.nodes);
        SummaryRow {
            layer: line.layer,
            output: line.output,
            parameters: line.parameters,
            flops: own.map(|(_, node)| cost::flops(&graph, node)).sum(),
        }
    });
    Ok(rows.collect())
}

/// A summary as text, with the sums below.
pub fn summary_table(rows: &[SummaryRow]) -> String {
    let line = |layer: &str, output: &str, parameters: &str, mflop: &str| {
        format!("{layer:<26} {output:<26} {parameters:>12} {mflop:>10}\n")
    };
    let flops: Flops = rows.iter().map(|row| row.flops).sum();
    let parameters: usize = rows.iter().map(|row| row.parameters).sum();
    let mflop = |flops: Flops| format!("{:.2}", flops.all / 1e6);
    let each = rows.iter().map(|row| {
        line(
            &row.layer,
            &row.output.to_string(),
            &row.parameters.to_string(),
            &mflop(row.flops),
        )
    });
    line("layer", "output", "parameters", "Mflop")
        + &each.collect::<String>()
        + &line("total", "", &parameters.to_string(), &mflop(flops))
        + &format!(
            "{:.1} % of the operations are in contractions\n",
            100.0 * flops.contractions / flops.all.max(1.0)
        )
}

/// A line of a summary while the graph is being built.
struct Line {
    layer: String,
    output: Type,
    parameters: usize,
    /// Nodes added to the graph.
    nodes: usize,
}

/// Builds a layer and adds a line for it, or one for each layer of a chain.
fn summarise<'g>(layer: &dyn Layer, scope: &Scope<'g>, x: Val<'g>, lines: &mut Vec<Line>) -> Val<'g> {
    if let Some(chain) = layer.chain() {
        return (chain.layers(scope)).fold(x, |x, (scope, layer)| summarise(layer, &scope, x, lines));
    }
    let before: usize = lines.iter().map(|line| line.parameters).sum();
    let y = layer.build(scope, x);
    let nodes_before: usize = lines.iter().map(|line| line.nodes).sum();
    lines.push(Line {
        layer: layer.describe(),
        output: y.ty(),
        parameters: scope.states().borrow().parameter_count() - before,
        nodes: scope.builder().len() - nodes_before,
    });
    y
}
