//! Blocks of memory that machine code works on.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fs::File;
use std::io;
use std::ptr::NonNull;

use memmap2::{MmapMut, MmapOptions};

use super::Error;
use crate::memory::{self, TooLittle};
use crate::plan::ALIGN;

/// Blocks at least this large begin where a huge page does and ask for such pages: weights are streamed, and a page of 4 KiB holds a few rows.
/// Measured, streams in eight rows of a matrix gain up to 20 %.
const HUGE_PAGE: usize = 2 << 20;

/// Zeroed memory aligned to [`ALIGN`], at an address that never changes. Of a large block the system gives pages as they are first touched.
pub struct Block {
    start: NonNull<u8>,
    bytes: usize,
    source: Source,
}

/// Where a block's memory comes from.
enum Source {
    /// The allocator.
    Heap(Layout),
    /// The system, which mapped so many bytes from there for it.
    #[cfg(target_os = "linux")]
    System(NonNull<u8>, usize),
    /// A file, of which the block has copies of those pages that it changes.
    File { _mapped: MmapMut },
}

// SAFETY: a block owns its memory as a `Vec<u8>` does.
unsafe impl Send for Block {}
// SAFETY: shared access only reads.
unsafe impl Sync for Block {}

impl Block {
    /// Zeros.
    ///
    /// # Errors
    /// If the system has not that much memory.
    pub fn zeroed(bytes: usize) -> Result<Block, Error> {
        memory::check(bytes)?;
        #[cfg(target_os = "linux")]
        if bytes >= HUGE_PAGE {
            return Block::mapped(bytes);
        }
        let refused = || Block::refused(bytes);
        let layout = Layout::from_size_align(bytes.max(1), ALIGN).map_err(|_| refused())?;
        // SAFETY: the layout's size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(refused)?;
        Ok(Block {
            start,
            bytes,
            source: Source::Heap(layout),
        })
    }

    /// These bytes.
    ///
    /// # Errors
    /// As [`Block::zeroed`].
    pub fn of(bytes: &[u8]) -> Result<Block, Error> {
        let mut block = Block::zeroed(bytes.len())?;
        block.bytes_mut().copy_from_slice(bytes);
        Ok(block)
    }

    /// Zeros, of which there are many.
    #[cfg(target_os = "linux")]
    fn mapped(bytes: usize) -> Result<Block, Error> {
        use nix::libc;
        // So much more that a huge page's start is within.
        let length = bytes.checked_add(HUGE_PAGE).ok_or_else(|| Block::refused(bytes))?;
        let (access, private) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new mapping, at an address of the system's choice, touches nothing that there is.
        let mapped = unsafe { libc::mmap(std::ptr::null_mut(), length, access, private, -1, 0) };
        if mapped == libc::MAP_FAILED {
            return Err(Block::refused(bytes));
        }
        let mapped = mapped.cast::<u8>();
        let start = mapped.wrapping_add(mapped.align_offset(HUGE_PAGE));
        // The rest has small ones, which the system need not clear beyond the block's end.
        let whole = bytes - bytes % HUGE_PAGE;
        // A kernel without huge pages refuses, which costs speed alone.
        // SAFETY: the range was mapped above, from a page's start, and the advice changes no contents.
        unsafe { libc::madvise(start.cast(), whole, libc::MADV_HUGEPAGE) };
        let found = NonNull::new(start).zip(NonNull::new(mapped));
        let (start, mapped) = found.expect("the system maps nothing at address 0 by itself");
        Ok(Block {
            start,
            bytes,
            source: Source::System(mapped, length),
        })
    }

    /// The contents of a file of that length, which is never changed. Pages are fetched as they are first touched.
    ///
    /// # Errors
    /// If it has another length, or the system refuses to map it.
    pub fn of_file(file: &File, bytes: usize) -> io::Result<Block> {
        let found = file.metadata()?.len();
        if found != bytes as u64 {
            let reason = format!("it holds {found} bytes, and {bytes} are expected");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        // SAFETY: the mapping is private, and files that netloom writes replace others as a whole. Whoever cuts a file short while it is
        // mapped ends this process by a signal; no memory of ours is touched.
        let mut map = unsafe { MmapOptions::new().len(bytes).map_copy(file) }?;
        let start = NonNull::from(&mut map[..]).cast::<u8>();
        assert_eq!(start.addr().get() % ALIGN, 0, "mappings begin where a page does");
        Ok(Block {
            start,
            bytes,
            source: Source::File { _mapped: map },
        })
    }

    fn refused(needed: usize) -> Error {
        let available = None;
        TooLittle { needed, available }.into()
    }

    /// The contents.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the block owns `bytes` initialised bytes from `start`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }

    /// The contents, to be overwritten.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }

    /// The address.
    pub fn address(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        match self.source {
            // SAFETY: allocated with this layout in `zeroed`, freed only here.
            Source::Heap(layout) => unsafe { dealloc(self.start.as_ptr(), layout) },
            #[cfg(target_os = "linux")]
            // SAFETY: mapped so in `mapped`, unmapped only here.
            Source::System(mapped, length) => unsafe {
                nix::libc::munmap(mapped.as_ptr().cast(), length);
            },
            Source::File { .. } => {}
        }
    }
}
