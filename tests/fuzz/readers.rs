//! What is fuzzed: every reader of files that others made, on any bytes. None may panic, loop, or take memory that the bytes do not
//! account for; what is read must be whole.
#![allow(dead_code)]

use netloom::formats::{npz, onnx, safetensors};
use netloom::ir::{Tensor, text};

/// An ONNX model, with its open extents bound to 2, and a tensor of ONNX's.
pub fn onnx(bytes: &[u8]) {
    let extents: Vec<(String, usize)> = (onnx::names(bytes).into_iter().flatten())
        .flat_map(|name| (0..4).map(move |axis| (format!("{name}.{axis}"), 2)))
        .collect();
    let binding = onnx::Binding {
        extents: &extents,
        ..onnx::Binding::default()
    };
    if let Ok(graph) = onnx::parse(bytes, binding) {
        netloom::ir::verify::verify(&graph).expect("a model that is read is a valid graph");
    }
    let _ = onnx::parse_tensor(bytes).map(|(_, tensor)| whole(&tensor));
}

/// A safetensors file.
pub fn safetensors(bytes: &[u8]) {
    let tensors = safetensors::parse(bytes).unwrap_or_default();
    tensors.iter().for_each(|(_, tensor)| whole(tensor));
}

/// An NPZ archive.
pub fn npz(bytes: &[u8]) {
    let tensors = npz::parse(bytes).unwrap_or_default();
    tensors.iter().for_each(|(_, tensor)| whole(tensor));
}

/// netloom's text: what is read is the same when it is written and read again.
pub fn text(bytes: &[u8]) {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    if let Ok(program) = text::parse_program("fuzz", source) {
        let again = text::parse_program("again", &program.to_string());
        assert_eq!(again.as_ref(), Ok(&program), "written and read again");
    }
}

/// A tensor has the bytes that its type says.
fn whole(tensor: &Tensor) {
    assert_eq!(tensor.bytes().len(), tensor.ty().len_bytes());
}
