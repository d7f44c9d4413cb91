//! The generated form of ONNX's file format is what the generator makes of its definition.

use std::path::Path;

#[test]
fn the_generated_code_is_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/formats/onnx");
    let definition = protox::compile(["onnx.proto"], [&folder]).expect("a valid definition");
    let out = tempfile::tempdir().expect("a folder");
    prost_build::Config::new()
        .out_dir(out.path())
        // So that elements of a mapped file are not copied.
        .bytes([".onnx.TensorProto.raw_data"])
        .compile_fds(definition)
        .expect("it generates");
    let generated = std::fs::read_to_string(out.path().join("onnx.rs")).expect("it was written");
    let path = folder.join("proto.rs");
    let kept = std::fs::read_to_string(&path).expect("it is in the repository");
    let (header, body) = kept.split_at(
        kept.find("// This file is @generated")
            .expect("the generator's first line"),
    );
    if std::env::var_os("UPDATE_PROTO").is_some() {
        std::fs::write(&path, format!("{header}{generated}")).expect("it can be written");
        return;
    }
    assert!(
        body == generated,
        "`UPDATE_PROTO=1 cargo test --test onnx_proto` writes it anew"
    );
}
