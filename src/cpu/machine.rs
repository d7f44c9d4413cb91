//! Assembled bytes made executable, for tests alone: the JIT's module does this for users.

use memmap2::{Mmap, MmapMut};

use super::isa::Level;

/// One assembled function.
pub struct Machine {
    code: Mmap,
}

impl Machine {
    /// Copies the bytes to executable memory.
    pub fn new(bytes: &[u8]) -> Machine {
        let mut code = MmapMut::map_anon(bytes.len()).expect("memory for code");
        code.copy_from_slice(bytes);
        Machine {
            code: code.make_exec().expect("executable memory"),
        }
    }

    /// The function as a contraction tile; valid while this lives.
    pub fn tile(&self) -> unsafe extern "sysv64" fn(*const u8, *const u8, *mut u8) {
        // SAFETY: `super::tile::assemble` made the bytes, for this signature.
        unsafe { std::mem::transmute(self.code.as_ptr()) }
    }

    /// The function as the body of a vector loop; valid while this lives.
    pub fn wide(&self) -> unsafe extern "sysv64" fn(*mut u64, u64, u64) {
        // SAFETY: `super::wide::Lowered` made the bytes, for this signature.
        unsafe { std::mem::transmute(self.code.as_ptr()) }
    }
}

/// The assembled levels that this machine runs.
pub fn levels() -> Vec<Level> {
    let mut levels = Vec::new();
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        levels.push(Level::Avx2);
    }
    if is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
    {
        levels.push(Level::Avx512);
    }
    levels
}
