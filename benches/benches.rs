//! Benchmarks, each a program of its own that prints a table: `cargo bench -p netloom-benches`.
//!
//! `assembled`: the tile and vector bodies against the machine's limit and the `gemm` crate. `elementwise`: whole programs against memcpy and
//! libm. `compile_time`: compilation against the number of nodes. Training steps against other engines: `peers/compare.py`.
