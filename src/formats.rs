//! Files that others read and write too: safetensors and NumPy's `.npz`. Files appear whole or not at all.

pub mod npz;
pub mod onnx;
pub mod safetensors;

use std::path::{Path, PathBuf};

use crate::error::Error;

/// Writes a file beside `path` with `write`, then renames it, so that no reader ever sees half a file. What is no file, such as `/dev/stdout`, is
/// written to.
///
/// # Errors
/// If the folder cannot be made or written; then `path` is as it was.
pub fn write_whole(path: &Path, write: impl FnOnce(&mut std::fs::File) -> std::io::Result<()>) -> Result<(), Error> {
    let fail = |reason: std::io::Error| Error::file(path, reason);
    // A device or a pipe stays what it is: nobody finds half of a file there later.
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        let file = std::fs::OpenOptions::new().write(true).open(path);
        return file.and_then(|mut file| write(&mut file)).map_err(fail);
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(fail)?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.partial", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = std::fs::File::create(&beside)
        .and_then(|mut file| write(&mut file).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|reason| {
        // The partial file may not exist; what went wrong before is what matters.
        let _ = std::fs::remove_file(&beside);
        fail(reason)
    })
}
