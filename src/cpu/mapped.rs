//! Files in memory without a copy of them: their pages are the system's own, fetched as they are first touched.

use std::fs::File;
use std::io::{self, Read};
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;
use netloom_ir::tensor::Keeper;

/// The bytes of a file.
pub enum Mapped {
    /// The file itself.
    Map(Mmap),
    /// What was read from it.
    Read(Vec<u8>),
}

/// Smaller files are read: a mapping takes whole pages, and calls to make and to undo it.
const LEAST_MAPPED_BYTES: u64 = 64 << 10;

impl Mapped {
    /// Opens a file. What is no file, such as a pipe, is read, and so is everything where a mapped file cannot be replaced (Windows).
    ///
    /// # Errors
    /// If the system refuses to open or to read it.
    pub fn open(path: &Path) -> io::Result<Mapped> {
        let mut file = File::open(path)?;
        let found = file.metadata()?;
        if cfg!(unix) && found.is_file() && found.len() >= LEAST_MAPPED_BYTES {
            // SAFETY: the mapping is read-only, and files that netloom writes replace others as a whole. Whoever cuts a file short while it
            // is read ends this process by a signal; no memory of ours is touched.
            if let Ok(map) = unsafe { Mmap::map(&file) } {
                return Ok(Mapped::Map(map));
            }
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(Mapped::Read(bytes))
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Mapped::Map(map) => map,
            Mapped::Read(bytes) => bytes,
        }
    }
}

/// Part of a file. Pages that are left, and all when it is dropped, no longer count as this process's memory.
pub struct Part {
    file: Arc<Mapped>,
    range: Range<usize>,
}

impl Part {
    /// Those bytes of a file, if they lie there.
    pub fn of(file: &Arc<Mapped>, bytes: &[u8]) -> Option<Part> {
        let start = bytes.as_ptr().addr().checked_sub(file.as_ptr().addr())?;
        let range = start..start.checked_add(bytes.len())?;
        (range.end <= file.len()).then(|| Part {
            file: Arc::clone(file),
            range,
        })
    }
}

impl Keeper for Part {
    fn bytes(&self) -> &[u8] {
        &self.file[self.range.clone()]
    }

    fn leave(&self, range: Range<usize>) {
        assert!(range.end <= self.range.len(), "a range of the part");
        #[cfg(unix)]
        if let Mapped::Map(map) = &*self.file {
            let start = self.range.start + range.start;
            // A system that refuses keeps the pages, which costs memory alone.
            // SAFETY: pages of a file mapped read-only come back from the file when they are touched again.
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, range.len()) };
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.leave(0..self.range.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_file_come_and_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("bytes");
        let bytes: Vec<u8> = (0..3 * LEAST_MAPPED_BYTES).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &bytes).expect("it can be written");
        let file = Arc::new(Mapped::open(&path).expect("it is there"));
        for range in [0..7, 5..70_000, 4096..8192, bytes.len()..bytes.len()] {
            let part = Part::of(&file, &file[range.clone()]).expect("a part of the file");
            assert_eq!(part.bytes(), &bytes[range.clone()]);
            part.leave(0..range.len() / 2);
            assert_eq!(part.bytes(), &bytes[range.clone()]);
            drop(part);
            assert_eq!(&file[range.clone()], &bytes[range]);
        }
        assert!(Part::of(&file, &bytes).is_none());
    }

    #[test]
    fn what_is_small_or_no_file_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("bytes");
        std::fs::write(&path, [1, 2, 3]).expect("it can be written");
        let file = Mapped::open(&path).expect("it is there");
        assert!(matches!(&file, Mapped::Read(bytes) if *bytes == [1, 2, 3]));
        assert!(Mapped::open(folder.path()).is_err());
        assert!(Mapped::open(&folder.path().join("missing")).is_err());
    }
}
