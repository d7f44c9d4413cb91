//! Files that are broken, by chance or by intent: refused by name, without a panic, and without more memory than a file of their length may take.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;
use std::path::Path;

use netloom::Error;
use netloom::formats::{npz, safetensors};
use netloom::ir::{Tensor, text};
use netloom::train::Dataset;
use proptest::prelude::*;

thread_local! {
    /// The largest block that this thread has asked for.
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn note(bytes: usize) {
    // A thread that ends asks too, when it has no variables any more.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(bytes)));
}

/// The system's allocator, which remembers the largest block.
struct Watching;

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's guarantees are the system allocator's requirements.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(address, layout) }
    }

    unsafe fn realloc(&self, address: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        note(bytes);
        // SAFETY: as above.
        unsafe { System.realloc(address, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// The largest block that reading one of these files, of some hundred bytes, may take.
const MOST_BYTES: usize = 1 << 20;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("a file");
}

/// A file of each format, as netloom writes it or reads it.
fn good_files() -> [Vec<u8>; 4] {
    let folder = folder();
    let arrays = [
        (
            "a".to_owned(),
            Tensor::from_f32([2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        ),
        ("b".to_owned(), Tensor::from_i64([2], &[7, 8])),
    ];
    let path = folder.path().join("file");
    safetensors::save(&path, &arrays).expect("a file");
    let first = std::fs::read(&path).expect("it was written");
    npz::save(&path, &arrays).expect("a file");
    let second = std::fs::read(&path).expect("it was written");
    [
        first,
        second,
        vec![0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 2, 1, 2, 3, 4],
        TEXT.as_bytes().to_vec(),
    ]
}

/// A graph as text, with numbers that sizes follow from.
const TEXT: &str = "graph(x: f32[8,64], w: f32[64,16]) {
  %2: f32[8,16] = einsum \"mk,kn->mn\" x, w
  %3: f32[4,32] = reshape [4,32] %2
  %4: f32[9,4,32] = broadcast [9,4,32] %3
  return y = %4
}
";

/// Reads bytes as each format; what is refused is refused with the file's name.
fn read_all(bytes: &[u8]) {
    LARGEST.set(0);
    let folder = folder();
    let path = folder.path().join("given");
    write(&path, bytes);
    let mut errors = Vec::new();
    errors.extend(safetensors::load(&path).err());
    errors.extend(npz::load(&path).err());
    errors.extend(Dataset::from_idx(&path, &path).err());
    for error in errors {
        let message = error.to_string();
        assert!(
            message.contains("given") || matches!(error, Error::Usage(_)),
            "{message}"
        );
    }
    if let Ok(source) = std::str::from_utf8(bytes) {
        let _ = text::parse_program("given", source);
    }
    let largest = LARGEST.get();
    assert!(
        largest <= MOST_BYTES,
        "a block of {largest} bytes for {} bytes",
        bytes.len()
    );
}

#[test]
fn files_cut_short_anywhere() {
    for file in good_files() {
        (0..file.len()).for_each(|length| read_all(&file[..length]));
    }
}

#[test]
fn an_array_that_claims_to_be_huge() {
    let folder = folder();
    let path = folder.path().join("huge.npz");
    let [_, file, ..] = good_files();
    let shape = b"(2, 3)";
    let at = file
        .windows(shape.len())
        .position(|window| window == shape)
        .expect("the header is not compressed");
    // Rust's and NumPy's readers skip the spaces that follow the header.
    for claim in ["(999999999999, 9)", "(99999999999999999, 999999999999999)"] {
        let mut changed = file.clone();
        let end = at
            + file[at..]
                .iter()
                .position(|&byte| byte == b'}')
                .expect("the header ends");
        let rest = file[at + shape.len()..=end].to_vec();
        changed[at..][..claim.len()].copy_from_slice(claim.as_bytes());
        changed[at + claim.len()..][..rest.len()].copy_from_slice(&rest);
        write(&path, &changed);
        let message = npz::load(&path).expect_err("there are six elements").to_string();
        assert!(message.contains("huge.npz"), "{message}");
    }
}

#[test]
fn an_archive_that_claims_to_unpack_to_much() {
    let [_, mut file, ..] = good_files();
    // In an entry of the list of contents: the length before packing.
    let entry = file
        .windows(4)
        .position(|bytes| bytes == b"PK\x01\x02")
        .expect("a zip archive");
    file[entry + 24..][..4].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    read_all(&file);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn files_with_bytes_changed(which in 0..4usize, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut file = good_files()[which].clone();
        for (place, byte) in changes {
            let at = place.index(file.len());
            file[at] = byte;
        }
        read_all(&file);
    }

    #[test]
    fn files_of_anything(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read_all(&bytes);
    }
}

#[test]
fn packed_pictures_that_unpack_without_end_are_refused() {
    let folder = folder();
    let path = folder.path().join("bomb.gz");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&[0, 0, 8, 1, 0xff, 0xff, 0xff, 0xff]).expect("memory");
    packed.write_all(&vec![0; 1 << 24]).expect("memory");
    write(&path, &packed.finish().expect("memory"));
    let message = Dataset::from_idx(&path, &path)
        .expect_err("it is shorter than it says")
        .to_string();
    assert!(message.contains("bomb.gz"), "{message}");
}
