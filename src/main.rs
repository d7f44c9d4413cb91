//! The command line; see [`cli`].

mod cli;

/// A compiler allocates much and briefly, on several threads: see BENCHMARKS.md.
#[cfg(all(feature = "mimalloc", target_os = "linux"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::run()
}
