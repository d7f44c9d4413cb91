//! Training on data: data sets, the fitting loop, metrics, checkpoints, pictures.
//!
//! Reading order: [`dataset`], [`model`], [`callbacks`], [`metrics`], [`report`], [`classic`].

pub mod callbacks;
pub mod classic;
pub mod dataset;
pub mod metrics;
pub mod model;
pub mod report;

pub use callbacks::{Callback, Checkpoint, CsvLog, EarlyStopping, Epoch, Flow};
pub use dataset::{Dataset, Shift};
pub use model::{FitOptions, History, Model, ModelOptions};
