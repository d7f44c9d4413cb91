//! Compiled pipelines on disk: one file for each device and driver, in which the driver finds them by kernel.
//!
//! A file is written beside the old one and renamed, so that it is whole or not at all. Drivers trust what they are given, so a file that
//! is not exactly what was written is ignored, with a message, and written anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vulkano::device::Device;
use vulkano::pipeline::cache::{PipelineCache, PipelineCacheCreateInfo};

/// What a file begins with.
const MAGIC: &[u8; 16] = b"netloom spirv 1\n";

/// The pipelines of a device.
pub struct Cache {
    /// What the driver looks them up in.
    pub pipelines: Arc<PipelineCache>,
    path: PathBuf,
    loaded_bytes: usize,
    /// Whether it has been said that it cannot be written.
    has_complained: AtomicBool,
}

impl Cache {
    /// The pipelines kept in a folder; none if the driver cannot keep any.
    pub fn open(folder: &Path, device: &Arc<Device>) -> Option<Cache> {
        let properties = device.physical_device().properties();
        let uuid: String = properties
            .pipeline_cache_uuid
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let path = folder.join(format!("vulkan-{uuid}-{:x}.pipelines", properties.driver_version));
        let initial_data = match fs::read(&path) {
            Ok(bytes) => match contents(&bytes) {
                Some(data) => data.to_vec(),
                None => {
                    eprintln!(
                        "note: ignoring {}, which is damaged; it will be written anew",
                        path.display()
                    );
                    Vec::new()
                }
            },
            Err(_) => Vec::new(),
        };
        let loaded_bytes = initial_data.len();
        let info = PipelineCacheCreateInfo {
            initial_data,
            ..PipelineCacheCreateInfo::default()
        };
        // SAFETY: the data is what `PipelineCache::get_data` gave for a device and driver of the same identity: the file's name
        // holds that, and its checksum is right.
        let pipelines = unsafe { PipelineCache::new(Arc::clone(device), info) }.ok()?;
        Some(Cache {
            pipelines,
            path,
            loaded_bytes,
            has_complained: AtomicBool::new(false),
        })
    }

    /// Writes the file if there is something new. Whoever cannot write, because of a full disk say, runs all the same.
    pub fn save(&self) {
        let Ok(data) = self.pipelines.get_data() else { return };
        if data.len() == self.loaded_bytes {
            return;
        }
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let beside = self.path.with_extension(format!("{}", std::process::id()));
        let written = fs::create_dir_all(folder)
            .and_then(|()| fs::write(&beside, file(&data)))
            .and_then(|()| fs::rename(&beside, &self.path));
        if let Err(error) = written {
            let _ = fs::remove_file(&beside);
            if !self.has_complained.swap(true, Ordering::Relaxed) {
                eprintln!(
                    "note: compiled pipelines were not kept: {}: {error}",
                    self.path.display()
                );
            }
        }
    }
}

/// Where caches are: `NETLOOM_CACHE`, or the user's folder of caches.
pub fn usual_folder() -> Option<PathBuf> {
    let from = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    from("NETLOOM_CACHE")
        .or_else(|| Some(from("XDG_CACHE_HOME")?.join("netloom")))
        .or_else(|| Some(from("HOME")?.join(".cache").join("netloom")))
        .or_else(|| Some(from("LOCALAPPDATA")?.join("netloom")))
}

/// A file's bytes: what it is, a checksum, the data.
fn file(data: &[u8]) -> Vec<u8> {
    [&MAGIC[..], &checksum(data).to_le_bytes(), data].concat()
}

/// The data of a file, if it is whole.
fn contents(bytes: &[u8]) -> Option<&[u8]> {
    let rest = bytes.strip_prefix(&MAGIC[..])?;
    let (sum, data) = rest.split_at_checked(8)?;
    (sum == checksum(data).to_le_bytes()).then_some(data)
}

/// FNV-1a.
fn checksum(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |sum, &byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_files_are_read() {
        let whole = file(b"pipelines");
        assert_eq!(contents(&whole), Some(&b"pipelines"[..]));
        for length in 0..whole.len() {
            assert_eq!(contents(&whole[..length]), None, "cut to {length}");
        }
        for place in 0..whole.len() {
            let mut changed = whole.clone();
            changed[place] ^= 1;
            assert_eq!(contents(&changed), None, "byte {place} changed");
        }
    }
}
