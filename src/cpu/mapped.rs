//! Files in memory without a copy of them: their pages are the system's own, fetched as they are first touched.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use memmap2::{Mmap, MmapOptions, UncheckedAdvice};
use netloom_ir::tensor::Keeper;

/// Bytes of a file: all, or some.
pub enum Mapped {
    /// The file's own.
    Map {
        /// What is mapped.
        map: Mmap,
        /// The file.
        file: Arc<File>,
        /// Where in the file it begins.
        start: u64,
    },
    /// What was read from it.
    Read(Vec<u8>),
}

/// Less is read: a mapping takes whole pages, and calls to make and to undo it.
const LEAST_MAPPED_BYTES: u64 = 16 << 10;

impl Mapped {
    /// Opens a file. What is no file, such as a pipe, is read, and so is everything where a mapped file cannot be replaced (Windows).
    ///
    /// # Errors
    /// If the system refuses to open or to read it.
    pub fn open(path: &Path) -> io::Result<Mapped> {
        let file = Arc::new(File::open(path)?);
        let found = file.metadata()?;
        if found.is_file()
            && let Some(mapped) = Mapped::map(&file, 0, found.len())
        {
            return Ok(mapped);
        }
        let mut bytes = Vec::new();
        (&*file).read_to_end(&mut bytes)?;
        Ok(Mapped::Read(bytes))
    }

    /// The same for some bytes of a file.
    ///
    /// # Errors
    /// If it has not that many, or the system refuses.
    pub fn open_part(path: &Path, start: u64, bytes: u64) -> io::Result<Mapped> {
        let file = Arc::new(File::open(path)?);
        if file.metadata()?.len() < start.saturating_add(bytes) {
            return Err(io::Error::other("the file is too short"));
        }
        if let Some(mapped) = Mapped::map(&file, start, bytes) {
            return Ok(mapped);
        }
        let mut read = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
        (&*file).seek(SeekFrom::Start(start))?;
        (&*file).read_exact(&mut read)?;
        Ok(Mapped::Read(read))
    }

    /// Some of these bytes, if they lie here, by themselves. Of a mapping of its own the system brings in no more than it holds; of a larger one it maps
    /// as many pages at once as it has in one piece, so that reading a tensor would bring its neighbours back.
    pub fn part(&self, bytes: &[u8]) -> Option<Mapped> {
        let at = bytes.as_ptr().addr().checked_sub(self.as_ptr().addr())?;
        if at.checked_add(bytes.len())? > self.len() {
            return None;
        }
        let mapped = match self {
            Mapped::Map { file, start, .. } => Mapped::map(file, start + at as u64, bytes.len() as u64),
            Mapped::Read(_) => None,
        };
        Some(mapped.unwrap_or_else(|| Mapped::Read(bytes.to_vec())))
    }

    /// A range that lies within a file, if it is worth it and the system maps it.
    fn map(file: &Arc<File>, start: u64, bytes: u64) -> Option<Mapped> {
        if !cfg!(unix) || bytes < LEAST_MAPPED_BYTES {
            return None;
        }
        let (file, length) = (Arc::clone(file), usize::try_from(bytes).ok()?);
        // SAFETY: the mapping is read-only, and files that netloom writes replace others as a whole. Whoever cuts a file short while it
        // is read ends this process by a signal; no memory of ours is touched.
        let map = unsafe { MmapOptions::new().offset(start).len(length).map(&*file) }.ok()?;
        Some(Mapped::Map { map, file, start })
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Mapped::Map { map, .. } => map,
            Mapped::Read(bytes) => bytes,
        }
    }
}

impl Keeper for Mapped {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn leave(&self, range: Range<usize>) {
        assert!(range.end <= self.len(), "a range of the bytes");
        #[cfg(unix)]
        if let Mapped::Map { map, .. } = self {
            // A system that refuses keeps the pages, which costs memory alone.
            // SAFETY: pages of a file mapped read-only come back from the file when they are touched again.
            let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_file_come_and_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("bytes");
        let bytes: Vec<u8> = (0..12 * LEAST_MAPPED_BYTES).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &bytes).expect("it can be written");
        let file = Mapped::open(&path).expect("it is there");
        for range in [0..7, 5..70_000, 4096..8192, bytes.len()..bytes.len()] {
            let part = file.part(&file[range.clone()]).expect("a part of the file");
            let nested = part.part(&part[..range.len() / 2]).expect("a part of the part");
            assert_eq!(part.bytes(), &bytes[range.clone()]);
            part.leave(0..range.len() / 2);
            assert_eq!(part.bytes(), &bytes[range.clone()]);
            assert_eq!(nested.bytes(), &bytes[range.clone()][..range.len() / 2]);
            drop(part);
            assert_eq!(&file[range.clone()], &bytes[range]);
        }
        assert!(file.part(&bytes).is_none());
        let length = bytes.len() as u64;
        for (start, count) in [(0, 7), (4097, 70_000), (0, length), (length, 0)] {
            let part = Mapped::open_part(&path, start, count).expect("it is there");
            assert!(*part == bytes[start as usize..][..count as usize]);
        }
        for (start, count) in [(0, length + 1), (length + 1, 0), (u64::MAX, 1)] {
            assert!(Mapped::open_part(&path, start, count).is_err());
        }
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
