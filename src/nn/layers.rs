//! Layers: functions from a value to a value, with parameters. The first axis of every value is the batch.

mod convolution;
mod dense;
mod normalisation;
mod regular;

use netloom_ir::builder::{Builder, Val};
use netloom_ir::tensor::Type;

use super::scope::{Mode, Scope, States};
use crate::error::Error;

pub use convolution::{Conv, GlobalPool, Pool, PoolOf};
pub use dense::{Dense, Embedding, Flatten};
pub use normalisation::{BatchNorm, LayerNorm};
pub use regular::{Activation, Dropout};

/// A part of a network.
pub trait Layer {
    /// The kind, as `summary` shows it: `Dense(500)`.
    fn describe(&self) -> String;

    /// Adds the layer to the graph. Parameters are asked for at `scope`; what does not fit is reported by the builder.
    fn build<'g>(&self, scope: &Scope<'g>, x: Val<'g>) -> Val<'g>;
}

/// Layers one after the other. Layer `k` asks for its parameters at the scope `k`.
#[derive(Default)]
pub struct Sequential {
    layers: Vec<Box<dyn Layer>>,
}

impl Sequential {
    /// No layer yet: the network that returns its input.
    pub fn new() -> Sequential {
        Sequential::default()
    }

    /// Appends a layer.
    #[must_use]
    pub fn then(mut self, layer: impl Layer + 'static) -> Sequential {
        self.layers.push(Box::new(layer));
        self
    }

    /// The layers.
    pub fn layers(&self) -> &[Box<dyn Layer>] {
        &self.layers
    }
}

impl Layer for Sequential {
    fn describe(&self) -> String {
        format!("Sequential({})", self.layers.len())
    }

    fn build<'g>(&self, scope: &Scope<'g>, x: Val<'g>) -> Val<'g> {
        self.layers
            .iter()
            .enumerate()
            .fold(x, |x, (number, layer)| layer.build(&scope.enter(number), x))
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
}

/// What a network consists of, for an input of that type (its first axis the batch).
///
/// # Errors
/// If the layers do not fit the input or each other.
pub fn summary(net: &Sequential, input: &Type) -> Result<Vec<SummaryRow>, Error> {
    let builder = Builder::new();
    let states = std::rc::Rc::new(std::cell::RefCell::new(States::default()));
    let scope = Scope::new(&builder, Mode::Inference, states);
    let mut x = builder.input("x", input.dtype, input.shape.clone());
    let mut rows = Vec::new();
    let mut before = 0;
    for (number, layer) in net.layers().iter().enumerate() {
        x = layer.build(&scope.enter(number), x);
        let parameters = parameter_count(&scope);
        rows.push(SummaryRow {
            layer: layer.describe(),
            output: x.ty(),
            parameters: parameters - before,
        });
        before = parameters;
    }
    builder.finish([("y", x)])?;
    Ok(rows)
}

fn parameter_count(scope: &Scope<'_>) -> usize {
    let states = scope.states();
    let states = states.borrow();
    let trainable = states
        .states()
        .iter()
        .filter(|state| states.trainable().contains(&state.name));
    trainable.map(|state| state.ty.count()).sum()
}
