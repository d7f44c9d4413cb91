//! How much memory there is: asked before much is taken, because a system that promises more than it has ends the program where it should
//! refuse.

use std::fmt;

/// There is not that much memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} of memory are needed, {}; a smaller batch needs less", Bytes(*needed), Available(*available))]
pub struct TooLittle {
    /// What was asked for, in bytes.
    pub needed: usize,
    /// What there is, where the system tells.
    pub available: Option<usize>,
}

/// Fewer bytes are taken without asking.
const MUCH: usize = 64 << 20;

/// Whether so many bytes may be taken.
///
/// # Errors
/// If the system refuses them, or has less.
pub fn check(needed: usize) -> Result<(), TooLittle> {
    if needed < MUCH {
        return Ok(());
    }
    let available = available();
    let is_refused = Vec::<u8>::new().try_reserve_exact(needed).is_err();
    if is_refused || available.is_some_and(|available| available < needed) {
        return Err(TooLittle { needed, available });
    }
    Ok(())
}

/// The bytes that can be taken before the system runs out of memory, where it tells.
fn available() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<usize>().ok()
    };
    Some((kib("MemAvailable")? + kib("SwapFree").unwrap_or(0)) << 10)
}

/// A number of bytes as people write it.
struct Bytes(usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} GiB", self.0 as f64 / (1u64 << 30) as f64)
    }
}

struct Available(Option<usize>);

impl fmt::Display for Available {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bytes) => write!(f, "{} are to be had", Bytes(bytes)),
            None => f.write_str("which the system refuses"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_is_is_refused() {
        for needed in [1 << 45, usize::MAX] {
            let refused = check(needed).unwrap_err();
            assert_eq!(refused.needed, needed);
        }
        let message = check(1 << 45).unwrap_err().to_string();
        assert!(message.starts_with("32768.00 GiB of memory are needed, "), "{message}");
        assert_eq!(check(MUCH), Ok(()));
    }
}
