//! Fully connected layers, and what stands around them.

use netloom_ir::DType;
use netloom_ir::builder::Val;

use super::Layer;
use crate::nn::init::Initialiser;
use crate::nn::scope::Scope;

/// `y = x · weight + bias`: `[batch, in]` to `[batch, units]`; further axes between are kept. `weight` is `[in, units]`, `bias` `[units]`.
#[derive(Clone, Debug)]
pub struct Dense {
    /// The number of outputs.
    pub units: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// How the weight starts.
    pub weight_init: Initialiser,
    /// How the bias starts.
    pub bias_init: Initialiser,
}

impl Dense {
    /// With a bias; weights start Xavier uniform, the bias at zero.
    pub fn new(units: usize) -> Dense {
        Dense {
            units,
            bias: true,
            weight_init: Initialiser::XavierUniform,
            bias_init: Initialiser::Zeros,
        }
    }

    /// The same with weights that start so.
    #[must_use]
    pub fn init(self, weight_init: Initialiser) -> Dense {
        Dense { weight_init, ..self }
    }
}

impl Layer for Dense {
    fn describe(&self) -> String {
        format!("Dense({})", self.units)
    }

    #[track_caller]
    fn build<'g>(&self, scope: &Scope<'g>, x: Val<'g>) -> Val<'g> {
        let Some(&inputs) = x.shape().last().filter(|_| x.rank() >= 2 || x.is_poison()) else {
            return scope
                .builder()
                .problem(format!("dense: takes [batch, …, inputs], found {}", x.ty()));
        };
        let weight = scope.matrix("weight", [inputs, self.units], &self.weight_init);
        let y = x.matmul(weight);
        if self.bias {
            y + scope.parameter("bias", [self.units], &self.bias_init)
        } else {
            y
        }
    }
}

/// All axes but the first become one.
#[derive(Clone, Copy, Debug)]
pub struct Flatten;

impl Layer for Flatten {
    fn describe(&self) -> String {
        "Flatten".to_owned()
    }

    fn build<'g>(&self, _: &Scope<'g>, x: Val<'g>) -> Val<'g> {
        let shape = x.shape();
        let Some((&batch, rest)) = shape.split_first() else {
            return x;
        };
        x.reshape([batch, rest.iter().product()])
    }
}

/// A row of `weight`, `[entries, width]`, for each integer of the input: `[batch, …]` to `[batch, …, width]`.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// The number of different integers.
    pub entries: usize,
    /// The length of a row.
    pub width: usize,
    /// How the rows start.
    pub init: Initialiser,
}

impl Embedding {
    /// Rows that start standard normal.
    pub fn new(entries: usize, width: usize) -> Embedding {
        Embedding {
            entries,
            width,
            init: Initialiser::Gaussian(1.0),
        }
    }
}

impl Layer for Embedding {
    fn describe(&self) -> String {
        format!("Embedding({}, {})", self.entries, self.width)
    }

    #[track_caller]
    fn build<'g>(&self, scope: &Scope<'g>, x: Val<'g>) -> Val<'g> {
        if !x.is_poison() && !x.dtype().is_int() {
            let wanted = DType::I64;
            return scope
                .builder()
                .problem(format!("embedding: takes integers such as {wanted}, found {}", x.ty()));
        }
        scope
            .parameter("weight", [self.entries, self.width], &self.init)
            .gather(x, 0)
    }
}
