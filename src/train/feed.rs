//! How the examples of a step reach the program: put together by the host and passed in, or kept where the program runs and gathered there.

use netloom_ir::{Program, Tensor};

use super::augment::Augmentation;
use super::dataset::Dataset;
use crate::device::Device;
use crate::error::Error;
use crate::nn::resident::{Set, resident, set_name};
use crate::nn::training::{TRAIN_STEP, WATCHED_STEP};
use crate::session::Session;

/// The place that a program has for examples.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// How many there may be.
    examples: usize,
    /// Whether they are pictures, which are moved as they are gathered.
    are_pictures: bool,
}

impl Room {
    /// The program whose training steps gather their batches, with room for as many examples as `data` has. On a CPU, which has them at hand
    /// already, or if they are too many for the device, the program as it is.
    ///
    /// # Errors
    /// None for a program that trains on such data.
    pub fn make(
        program: Program,
        data: &Dataset,
        batch: usize,
        device: &Device,
    ) -> Result<(Program, Option<Room>), Error> {
        let bytes = (data.inputs.bytes().len() + data.targets.bytes().len()) as u64;
        if device.data_bytes().is_none_or(|most| bytes > most) {
            return Ok((program, None));
        }
        let room = Room {
            examples: data.len().max(batch),
            are_pictures: data.inputs.shape().len() == 4,
        };
        let set = |argument, is_moved| Set {
            argument,
            examples: room.examples,
            is_moved,
        };
        let sets = [set("x", room.are_pictures), set("y", false)];
        let mut steps = [TRAIN_STEP, WATCHED_STEP].into_iter();
        let program = steps.try_fold(program, |program, step| match program.entry(step) {
            Some(_) => resident(&program, step, &sets),
            None => Ok(program),
        })?;
        Ok((program, Some(room)))
    }

    /// Why batches of these data are put together by the host all the same, if they are.
    pub fn refuses(&self, data: &Dataset, augment: Option<&Augmentation>) -> Option<String> {
        if data.len() > self.examples {
            let (room, found) = (self.examples, data.len());
            Some(format!("there is room for {room} examples, not for {found}"))
        } else if augment.is_some_and(Augmentation::warps) {
            Some("it is the host that cuts, turns and zooms pictures".to_owned())
        } else {
            None
        }
    }
}

/// The batches of a training, one at a time.
pub struct Feed<'a> {
    data: &'a Dataset,
    augment: Option<Augmentation>,
    room: Option<Room>,
    /// Whether all of the data lie in the room.
    is_kept: bool,
    /// What the host has put together.
    batch: Dataset,
    /// Where in the room the examples of the next step are, and how they are moved.
    places: Vec<Tensor>,
}

impl<'a> Feed<'a> {
    /// Of batches of so many examples. All of the data are brought to the room, if there is enough.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn new(
        data: &'a Dataset,
        augment: Option<Augmentation>,
        batch: usize,
        room: Option<Room>,
        session: &mut Session,
    ) -> Result<Feed<'a>, Error> {
        let is_kept = room.is_some_and(|room| room.refuses(data, augment.as_ref()).is_none());
        if is_kept {
            bring(data, session)?;
        }
        Ok(Feed {
            data,
            augment,
            room,
            is_kept,
            batch: data.select(&vec![0; batch]),
            places: Vec::new(),
        })
    }

    /// Gets the examples at these positions ready for training step `step`.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn load(&mut self, positions: &[usize], step: u64, session: &mut Session) -> Result<(), Error> {
        if !self.is_kept {
            self.data.copy_into(positions, &mut self.batch);
            if let Some(augment) = self.augment {
                augment.apply(step, &mut self.batch.inputs);
            }
        }
        let Some(room) = self.room else { return Ok(()) };
        let count = positions.len();
        let mut moves = Augmentation::shift(0, 0);
        let places: Vec<i64> = if self.is_kept {
            moves = self.augment.unwrap_or(moves);
            positions.iter().map(|&at| at as i64).collect()
        } else {
            bring(&self.batch, session)?;
            (0..count as i64).collect()
        };
        self.places = vec![Tensor::from_i64([count], &places)];
        if room.are_pictures {
            self.places.push(moves.moves(step, count));
        }
        Ok(())
    }

    /// What the step is passed.
    pub fn arguments(&self) -> Vec<&Tensor> {
        match self.room {
            Some(_) => self.places.iter().collect(),
            None => vec![&self.batch.inputs, &self.batch.targets],
        }
    }
}

/// Puts examples where the program gathers them.
fn bring(data: &Dataset, session: &mut Session) -> Result<(), Error> {
    session.set_rows(&set_name("x"), &data.inputs)?;
    session.set_rows(&set_name("y"), &data.targets)
}
