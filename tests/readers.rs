//! The readers of files that others made, on files that were damaged: the functions that `tests/fuzz` hands to libFuzzer, here driven by mutations of
//! valid files, which any compiler can do. `NETLOOM_FUZZ_CASES` says how many mutated files each reader is given. No reader may ask for a larger block of
//! memory than a file of that length may take.

#[path = "fuzz/readers.rs"]
mod readers;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use netloom::Error;
use netloom::formats::{npz, safetensors};
use netloom::ir::{DType, Program, Tensor, sample};
use netloom::train::Dataset;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{TestCaseError, TestRunner};

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

/// The largest block that reading one of these files, of some kilobytes, may take.
const MOST_BYTES: usize = 4 << 20;

/// One change to a file.
#[derive(Clone, Debug)]
enum Change {
    /// A byte becomes another.
    Byte(Index, u8),
    /// A number of eight bytes becomes one at the edge of what sizes can be.
    Number(Index, u64),
    /// Bytes are cut out.
    Cut(Index, usize),
    /// Bytes are repeated.
    Repeat(Index, usize),
    /// A piece of another file, or of this one, is put in.
    Splice(Index, Index, usize),
    /// The end is missing.
    End(Index),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    let edges = prop::sample::select(vec![
        0,
        1,
        u64::MAX,
        1 << 63,
        1 << 31,
        u64::from(u32::MAX),
        0x7f7f_7f7f_7f7f_7f7f,
    ]);
    prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        2 => (at(), edges).prop_map(|(at, number)| Change::Number(at, number)),
        1 => (at(), 1..32_usize).prop_map(|(at, length)| Change::Cut(at, length)),
        1 => (at(), 1..32_usize).prop_map(|(at, length)| Change::Repeat(at, length)),
        2 => (at(), at(), 1..64_usize).prop_map(|(at, from, length)| Change::Splice(at, from, length)),
        1 => at().prop_map(Change::End),
    ]
}

fn changed(mut bytes: Vec<u8>, other: &[u8], change: &Change) -> Vec<u8> {
    if bytes.is_empty() {
        return bytes;
    }
    let upto = |start: usize, length: usize, whole: usize| start..(start + length).min(whole);
    match change {
        Change::Byte(at, byte) => {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        Change::Number(at, number) => {
            let range = upto(at.index(bytes.len()), 8, bytes.len());
            let number = number.to_le_bytes();
            bytes[range.clone()].copy_from_slice(&number[..range.len()]);
        }
        Change::Cut(at, length) => {
            let range = upto(at.index(bytes.len()), *length, bytes.len());
            bytes.drain(range);
        }
        Change::Repeat(at, length) => {
            let range = upto(at.index(bytes.len()), *length, bytes.len());
            let piece = bytes[range.clone()].to_vec();
            bytes.splice(range.start..range.start, piece);
        }
        Change::Splice(at, from, length) => {
            let at = at.index(bytes.len());
            let piece = upto(from.index(other.len().max(1)), *length, other.len());
            bytes.splice(at..at, other[piece].iter().copied());
        }
        Change::End(at) => bytes.truncate(at.index(bytes.len())),
    }
    bytes
}

/// Gives a reader a file, which it may not take much memory for.
fn read(reader: fn(&[u8]), file: &[u8]) {
    LARGEST.set(0);
    reader(file);
    let (largest, length) = (LARGEST.get(), file.len());
    assert!(largest <= MOST_BYTES, "a block of {largest} bytes for {length} bytes");
}

/// Gives a reader damaged files, and the first of them cut short anywhere.
fn damage(reader: fn(&[u8]), files: &[Vec<u8>]) {
    files.iter().for_each(|file| read(reader, file));
    (0..files[0].len()).for_each(|length| read(reader, &files[0][..length]));
    let cases = std::env::var("NETLOOM_FUZZ_CASES").map_or(10_000, |cases| cases.parse().expect("a number"));
    let mut runner = TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let strategy = (any::<Index>(), any::<Index>(), prop::collection::vec(change(), 1..8));
    let result = runner.run(&strategy, |(file, other, changes)| {
        let (file, other) = (&files[file.index(files.len())], &files[other.index(files.len())]);
        let bytes = changes
            .iter()
            .fold(file.clone(), |bytes, change| changed(bytes, other, change));
        catch_unwind(AssertUnwindSafe(|| read(reader, &bytes)))
            .map_err(|_| TestCaseError::fail(format!("the reader panics on {} bytes: {bytes:?}", bytes.len())))
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

/// Small tensors of all types that a format has.
fn tensors() -> Vec<(String, Tensor)> {
    let types = DType::ALL
        .into_iter()
        .filter(|dtype| !matches!(dtype, DType::F16 | DType::BF16));
    types
        .map(|dtype| (format!("of {dtype}"), Tensor::zeros(dtype, vec![2, 3])))
        .chain([("empty".to_owned(), Tensor::zeros(DType::F32, vec![0, 7]))])
        .collect()
}

#[test]
fn damaged_onnx_models() {
    // The small models of ONNX's own tests, and their tensors.
    let archive = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/onnx/onnx-open.tar.gz"));
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(&archive.expect("it is in the repository")[..])
        .read_to_end(&mut bytes)
        .expect("it is a gzip file");
    let mut files = Vec::new();
    let mut at = 0;
    while at + 512 <= bytes.len() && bytes[at] != 0 {
        let digits = String::from_utf8_lossy(&bytes[at + 124..at + 135]).into_owned();
        let size = usize::from_str_radix(digits.trim_matches(['\0', ' ']), 8).expect("a size in octal");
        if (1..20_000).contains(&size) && bytes[at + 156] == b'0' {
            files.push(bytes[at + 512..][..size].to_vec());
        }
        at += 512 + size.div_ceil(512) * 512;
    }
    assert!(files.len() > 1000, "{} files", files.len());
    damage(readers::onnx, &files);
}

#[test]
fn damaged_safetensors() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.safetensors");
    safetensors::save(&path, &tensors()).expect("it is written");
    damage(readers::safetensors, &[std::fs::read(&path).expect("it is there")]);
}

#[test]
fn damaged_npz_archives() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.npz");
    let tensors = tensors();
    let files = tensors.chunks(4).map(|arrays| {
        npz::save(&path, arrays).expect("it is written");
        std::fs::read(&path).expect("it is there")
    });
    damage(readers::npz, &files.collect::<Vec<_>>());
}

#[test]
fn damaged_texts() {
    let mut draws = sample::SplitMix(11);
    let graphs = (0..40).map(|_| {
        let choices: Vec<u8> = (0..24).map(|_| draws.bits() as u8).collect();
        sample::graph(&choices, DType::F32)
    });
    let mut files: Vec<Vec<u8>> = graphs
        .map(|graph| Program::pure("main", graph).to_string().into_bytes())
        .collect();
    files.push(
        b"state w: f32[2] = f32[2] [1.0,2.0]\nstate k: f32[2] = graph(seed: u64[]) {\n%0 = broadcast [2] 1.0\nreturn %0\n}\n\
          entry step = graph(w: f32[2], x: f32[2]) {\n%1 = add w, x\nreturn w = %1, y = %1\n}\n"
            .to_vec(),
    );
    let later = [
        include_str!("../ir/tests/golden/text/nest.txt"),
        include_str!("../ir/tests/golden/text/kernel.txt"),
    ];
    files.extend(
        later
            .iter()
            .filter_map(|text| Some(text.split("----").next()?.as_bytes().to_vec())),
    );
    damage(readers::text, &files);
}

/// Pictures as MNIST has them, and what is refused is refused with the file's name.
#[test]
fn damaged_pictures() {
    let pictures = |bytes: &[u8]| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("given");
        std::fs::write(&path, bytes).expect("a file");
        // Pictures and classes may each be whole and not belong together.
        if let Err(error) = Dataset::from_idx(&path, &path) {
            let is_named = error.to_string().contains("given") || matches!(error, Error::Usage(_));
            assert!(is_named, "{error}");
        }
    };
    damage(
        pictures,
        &[vec![0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 2, 1, 2, 3, 4]],
    );
}

/// An archive of one array.
fn archive() -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.npz");
    let array = Tensor::from_f32([2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    npz::save(&path, &[("a".to_owned(), array)]).expect("it is written");
    std::fs::read(&path).expect("it is there")
}

#[test]
fn an_array_that_claims_to_be_huge() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("huge.npz");
    let file = archive();
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
        std::fs::write(&path, &changed).expect("a file");
        let message = npz::load(&path).expect_err("there are six elements").to_string();
        assert!(message.contains("huge.npz"), "{message}");
    }
}

#[test]
fn an_archive_that_claims_to_unpack_to_much() {
    let mut file = archive();
    // In an entry of the list of contents: the length before packing.
    let entry = file
        .windows(4)
        .position(|bytes| bytes == b"PK\x01\x02")
        .expect("a zip archive");
    file[entry + 24..][..4].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    read(readers::npz, &file);
}

/// A list of contents of no members, which says beside that of those on this disk there are so many, from so far on.
#[test]
fn an_archive_that_claims_many_members() {
    let mut file = b"PK\x05\x06".to_vec();
    file.extend([0; 4]);
    file.extend(0xffee_u16.to_le_bytes());
    file.extend([0; 6]);
    file.extend(0x7fff_ffff_u32.to_le_bytes());
    file.extend([0; 2]);
    read(readers::npz, &file);
}

/// The second version of NumPy's format has four bytes for the header's length.
#[test]
fn an_array_whose_header_claims_to_be_long() {
    let mut file = archive();
    let header = file
        .windows(6)
        .position(|bytes| bytes == b"\x93NUMPY")
        .expect("an array");
    file[header + 6] = 2;
    read(readers::npz, &file);
}

#[test]
fn packed_pictures_that_unpack_without_end_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bomb.gz");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&[0, 0, 8, 1, 0xff, 0xff, 0xff, 0xff]).expect("memory");
    packed.write_all(&vec![0; 1 << 24]).expect("memory");
    std::fs::write(&path, packed.finish().expect("memory")).expect("a file");
    let message = Dataset::from_idx(&path, &path)
        .expect_err("it is shorter than it says")
        .to_string();
    assert!(message.contains("bomb.gz"), "{message}");
}
