//! Recurrent networks: sequences of vectors.

use super::{Net, classify};
use crate::nn::layers::{Dense, Recurrent};
use crate::nn::{Optimiser, Sequential, Training};

pub(super) static LSTM: Net = Net {
    name: "lstm",
    about: "128 LSTM cells over 32 steps of 64 features, then 10 dense",
    layers: lstm,
    example: &[32, 64],
    target: None,
    batch: 32,
    training,
    trained_as: None,
};

/// 128 LSTM cells, then 10 dense on the last step's result.
pub fn lstm() -> Sequential {
    Sequential::new()
        .named("rnn", Recurrent::lstm(128))
        .named("out", Dense::new(10))
}

/// PyTorch adds two biases at every gate and trains both, so that their sum, the one here, moves twice as far.
fn training() -> Training {
    Training {
        rate_factors: vec![("rnn.bias".to_owned(), 2.0)],
        ..classify(Optimiser::Sgd)
    }
}
