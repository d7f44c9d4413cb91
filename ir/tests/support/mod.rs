//! What several test files measure graphs with.

#![allow(dead_code, reason = "each test file uses a part")]

pub mod differences;
pub mod kernels;
