//! The command line; see [`cli`].

mod cli;

/// A compiler allocates much and briefly, on several threads: see BENCHMARKS.md.
#[cfg(all(feature = "jemalloc", target_os = "linux"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    cli::run()
}
