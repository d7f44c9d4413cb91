//! Training on data: data sets, the fitting loop, metrics, checkpoints, pictures.
//!
//! Reading order: [`dataset`], [`table`], [`pictures`], [`augment`], [`model`], [`callbacks`], [`events`], [`metrics`], [`health`], [`insight`], [`report`], [`page`], [`classic`].

pub mod augment;
pub mod callbacks;
pub mod classic;
pub mod dataset;
pub mod events;
mod feed;
pub mod health;
pub mod insight;
pub mod metrics;
pub mod model;
pub mod page;
pub mod pictures;
pub mod report;
pub mod table;

pub use augment::Augmentation;
pub use callbacks::{Callback, Checkpoint, CsvLog, EarlyStopping, Epoch, Flow};
pub use dataset::Dataset;
pub use events::{EventLog, JsonLog};
pub use health::Health;
pub use model::{FitOptions, History, Model, ModelOptions};
