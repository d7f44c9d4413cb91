//! What may happen after each epoch.

use std::io::Write;
use std::path::PathBuf;

use super::metrics::Scores;
use crate::error::Error;
use crate::formats::safetensors;
use crate::session::Session;

/// What one epoch brought.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Epoch {
    /// Its number, from 1.
    pub number: usize,
    /// The mean over its steps of what is minimised: the loss and the penalties.
    pub objective: f64,
    /// Loss and accuracy afterwards on the validation data.
    pub validation: Option<Scores>,
    /// The same on as many of the training data.
    pub training: Option<Scores>,
    /// The median time of a step, in milliseconds.
    pub step_ms: f64,
}

impl Epoch {
    /// What early stopping and checkpoints look at: the validation loss, or without validation data the objective.
    pub fn measure(&self) -> f64 {
        self.validation.map_or(self.objective, |scores| scores.loss)
    }
}

/// Whether training goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// With the next epoch.
    Continue,
    /// It ends here.
    Stop,
}

/// Something done after each epoch.
pub trait Callback {
    /// Called when an epoch is done; may read or replace states.
    ///
    /// # Errors
    /// Ends the training.
    fn after_epoch(&mut self, epoch: &Epoch, session: &mut Session) -> Result<Flow, Error>;

    /// Called once when the training is over, unless it was interrupted.
    ///
    /// # Errors
    /// Ends the training.
    fn after_training(&mut self, _: &mut Session) -> Result<(), Error> {
        Ok(())
    }
}

/// Stops when the measure has not improved for `patience` epochs. When the training is over, for whatever reason, the best states are put
/// back.
#[derive(Debug)]
pub struct EarlyStopping {
    patience: usize,
    best: Option<(f64, Vec<(String, netloom_ir::Tensor)>)>,
    waited: usize,
}

impl EarlyStopping {
    /// With so much patience.
    pub fn new(patience: usize) -> EarlyStopping {
        EarlyStopping {
            patience,
            best: None,
            waited: 0,
        }
    }
}

impl Callback for EarlyStopping {
    fn after_epoch(&mut self, epoch: &Epoch, session: &mut Session) -> Result<Flow, Error> {
        if self.best.as_ref().is_none_or(|(best, _)| epoch.measure() < *best) {
            self.best = Some((epoch.measure(), session.states()));
            self.waited = 0;
            return Ok(Flow::Continue);
        }
        self.waited += 1;
        Ok(if self.waited < self.patience {
            Flow::Continue
        } else {
            Flow::Stop
        })
    }

    fn after_training(&mut self, session: &mut Session) -> Result<(), Error> {
        let best = self.best.take();
        best.iter()
            .flat_map(|(_, states)| states)
            .try_for_each(|(name, value)| session.set_state(name, value))
    }
}

/// Saves all states whenever the measure is the best so far, with a note of the measure, so that a resumed training goes on comparing.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    best: f64,
}

impl Checkpoint {
    /// To this safetensors file.
    pub fn new(path: impl Into<PathBuf>) -> Checkpoint {
        Checkpoint {
            path: path.into(),
            best: f64::INFINITY,
        }
    }

    /// To this safetensors file, which an earlier part of the training may have written: only better states replace it.
    ///
    /// # Errors
    /// If the file is there and cannot be read, or a checkpoint did not write it.
    pub fn resumed(path: impl Into<PathBuf>) -> Result<Checkpoint, Error> {
        let path = path.into();
        if !path.exists() {
            return Ok(Checkpoint::new(path));
        }
        let best = safetensors::note(&path, MEASURE)?
            .and_then(|note| note.parse().ok())
            .ok_or_else(|| Error::file(&path, format!("it has no note `{MEASURE}`: no checkpoint wrote it")))?;
        Ok(Checkpoint { path, best })
    }
}

/// What a checkpoint calls the measure in its file.
const MEASURE: &str = "measure";

impl Callback for Checkpoint {
    fn after_epoch(&mut self, epoch: &Epoch, session: &mut Session) -> Result<Flow, Error> {
        if epoch.measure() < self.best {
            self.best = epoch.measure();
            safetensors::save_with_note(&self.path, &session.states(), MEASURE, &self.best.to_string())?;
        }
        Ok(Flow::Continue)
    }
}

/// Appends a line for each epoch to a CSV file, with a header if the file is new.
#[derive(Debug)]
pub struct CsvLog {
    path: PathBuf,
}

impl CsvLog {
    /// To this file.
    pub fn new(path: impl Into<PathBuf>) -> CsvLog {
        CsvLog { path: path.into() }
    }
}

impl Callback for CsvLog {
    fn after_epoch(&mut self, epoch: &Epoch, _: &mut Session) -> Result<Flow, Error> {
        let fail = |reason: std::io::Error| Error::file(&self.path, reason);
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)
            .map_err(fail)?;
        let is_new = file.metadata().map_err(fail)?.len() == 0;
        let mut line = csv::Writer::from_writer(Vec::new());
        let optional = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
        let loss = |scores: Option<Scores>| optional(scores.map(|scores| scores.loss));
        let accuracy = |scores: Option<Scores>| optional(scores.and_then(|scores| scores.accuracy));
        let header = [
            "epoch",
            "objective",
            "training_loss",
            "training_accuracy",
            "validation_loss",
            "validation_accuracy",
            "step_ms",
        ];
        let row = [
            epoch.number.to_string(),
            epoch.objective.to_string(),
            loss(epoch.training),
            accuracy(epoch.training),
            loss(epoch.validation),
            accuracy(epoch.validation),
            epoch.step_ms.to_string(),
        ];
        if is_new {
            line.write_record(header)
                .map_err(|reason| Error::file(&self.path, reason))?;
        }
        line.write_record(&row)
            .map_err(|reason| Error::file(&self.path, reason))?;
        let bytes = line.into_inner().map_err(|reason| Error::file(&self.path, reason))?;
        file.write_all(&bytes).map_err(fail)?;
        Ok(Flow::Continue)
    }
}
