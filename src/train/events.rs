//! Logs that other programs read: TensorBoard's event files, and a line of JSON an epoch.
//!
//! An event file is a list of records (length, checksum, bytes, checksum), each a protocol buffer of TensorFlow's `event.proto`, of which
//! scalars need a small part.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use super::callbacks::{Callback, Epoch, Flow};
use super::metrics::Scores;
use crate::error::Error;
use crate::session::Session;

/// What the loss and the accuracy on each part of the data are called.
const TRAINING: [&str; 2] = ["training/loss", "training/accuracy"];
const VALIDATION: [&str; 2] = ["validation/loss", "validation/accuracy"];

/// The measures of an epoch, by name.
fn measures(epoch: &Epoch) -> Vec<(&'static str, f64)> {
    let of = |names: [&'static str; 2], scores: Option<Scores>| {
        let loss = scores.map(|scores| (names[0], scores.loss));
        let accuracy = scores.and_then(|scores| Some((names[1], scores.accuracy?)));
        loss.into_iter().chain(accuracy)
    };
    let mut found = vec![("objective", epoch.objective), ("step_ms", epoch.step_ms)];
    found.extend(of(TRAINING, epoch.training));
    found.extend(of(VALIDATION, epoch.validation));
    found
}

/// Writes what TensorBoard shows: `tensorboard --logdir FOLDER`.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    file: File,
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, tag = "2")]
    simple_value: f32,
}

impl EventLog {
    /// A new file in this folder, with the name that TensorBoard looks for.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(folder: &Path) -> Result<EventLog, Error> {
        std::fs::create_dir_all(folder).map_err(|reason| Error::file(folder, reason))?;
        let path = folder.join(format!("events.out.tfevents.{:010.0}.netloom", now()));
        let file = File::create(&path).map_err(|reason| Error::file(&path, reason))?;
        let mut log = EventLog { path, file };
        log.write(Event {
            wall_time: now(),
            file_version: Some("brain.Event:2".to_owned()),
            ..Event::default()
        })?;
        Ok(log)
    }

    fn write(&mut self, event: Event) -> Result<(), Error> {
        let record = record(&event.encode_to_vec());
        self.file
            .write_all(&record)
            .map_err(|reason| Error::file(&self.path, reason))
    }
}

impl Callback for EventLog {
    fn after_epoch(&mut self, epoch: &Epoch, _: &mut Session) -> Result<Flow, Error> {
        let value = |(tag, value): (&str, f64)| Value {
            tag: tag.to_owned(),
            simple_value: value as f32,
        };
        self.write(Event {
            wall_time: now(),
            step: epoch.number as i64,
            summary: Some(Summary {
                value: measures(epoch).into_iter().map(value).collect(),
            }),
            ..Event::default()
        })?;
        Ok(Flow::Continue)
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    let passed = SystemTime::now().duration_since(UNIX_EPOCH);
    passed.map_or(0.0, |passed| passed.as_secs_f64())
}

/// The bytes with their length and both checksums.
fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked(&length).to_le_bytes());
    record.extend(bytes);
    record.extend(masked(bytes).to_le_bytes());
    record
}

/// The CRC-32C of some bytes (Castagnoli's polynomial, reflected), rotated and shifted as the format wants it.
fn masked(bytes: &[u8]) -> u32 {
    let crc = !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    });
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Appends a line of JSON for each epoch.
#[derive(Debug)]
pub struct JsonLog {
    path: PathBuf,
}

impl JsonLog {
    /// To this file.
    pub fn new(path: impl Into<PathBuf>) -> JsonLog {
        JsonLog { path: path.into() }
    }

    /// The epochs in a file that such a log wrote, in order; none if there is no such file.
    ///
    /// # Errors
    /// If it cannot be read, or a line is not of such a log; with the line.
    pub fn read(path: &Path) -> Result<Vec<Epoch>, Error> {
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = std::fs::read_to_string(path).map_err(|reason| Error::file(path, reason))?;
        let epoch = |(at, line): (usize, &str)| {
            parsed(line).ok_or_else(|| Error::file(path, format!("line {}: `{line}` tells of no epoch", at + 1)))
        };
        text.lines().enumerate().map(epoch).collect()
    }
}

/// The epoch that a line of a [`JsonLog`] tells of.
fn parsed(line: &str) -> Option<Epoch> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    // A measure that was no finite number is `null`.
    let measure = |name: &str| line.get(name).map(|value| value.as_f64().unwrap_or(f64::NAN));
    let scores = |[loss, accuracy]: [&str; 2]| {
        Some(Scores {
            loss: measure(loss)?,
            accuracy: measure(accuracy),
        })
    };
    Some(Epoch {
        number: usize::try_from(line.get("epoch")?.as_u64()?).ok()?,
        objective: measure("objective")?,
        validation: scores(VALIDATION),
        training: scores(TRAINING),
        step_ms: measure("step_ms")?,
    })
}

impl Callback for JsonLog {
    fn after_epoch(&mut self, epoch: &Epoch, _: &mut Session) -> Result<Flow, Error> {
        let fail = |reason: std::io::Error| Error::file(&self.path, reason);
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)
            .map_err(fail)?;
        let mut line = serde_json::Map::new();
        line.insert("epoch".to_owned(), epoch.number.into());
        line.extend(
            measures(epoch)
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.into())),
        );
        writeln!(file, "{}", serde_json::Value::Object(line)).map_err(fail)?;
        Ok(Flow::Continue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720's example: the CRC-32C of 32 zeros is aa 36 91 8a.
    #[test]
    fn checksums_are_castagnolis() {
        let unmasked = |bytes: &[u8]| masked(bytes).wrapping_sub(0xa282_ead8).rotate_left(15);
        assert_eq!(unmasked(&[0; 32]).to_le_bytes(), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(unmasked(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn records_hold_scalars() {
        let value = Value {
            tag: "objective".to_owned(),
            simple_value: 0.5,
        };
        let event = Event {
            step: 3,
            summary: Some(Summary { value: vec![value] }),
            ..Event::default()
        };
        let bytes = record(&event.encode_to_vec());
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(bytes.len(), 8 + 4 + length + 4);
        assert_eq!(Event::decode(&bytes[12..12 + length]).unwrap(), event);
    }
}
