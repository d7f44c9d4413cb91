//! The SPIR-V that is checked in is what its source gives. `UPDATE_GOLDEN=1` writes it anew.

use netloom_shaders::{SHADERS, file, spirv};

#[test]
fn what_is_checked_in_is_made_from_its_source() {
    for &(name, load) in SHADERS {
        let made = spirv(load);
        let path = file(name, "spv");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &made).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        let kept = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(
            kept == made,
            "{} is not what {name}.comp gives: {} bytes, not {}; UPDATE_GOLDEN=1 writes it anew",
            path.display(),
            kept.len(),
            made.len()
        );
    }
}
