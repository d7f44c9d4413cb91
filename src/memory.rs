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
    Some(line_bytes(&text, "MemAvailable")? + line_bytes(&text, "SwapFree").unwrap_or(0))
}

/// What this process has in memory now, in bytes, where the system tells.
pub fn resident() -> Option<usize> {
    of_process("VmRSS")
}

/// The most that it has had.
pub fn most_resident() -> Option<usize> {
    of_process("VmHWM")
}

fn of_process(name: &str) -> Option<usize> {
    line_bytes(&std::fs::read_to_string("/proc/self/status").ok()?, name)
}

/// The bytes in the line of that name of such a file.
fn line_bytes(text: &str, name: &str) -> Option<usize> {
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<usize>().ok()? << 10)
}

/// What running a program will take, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What the process has in memory before, code included.
    pub process: usize,
    /// The most that it has had, while it compiled perhaps.
    pub process_at_most: usize,
    /// The states.
    pub states: usize,
    /// What states are prepared from, while that is done.
    pub prepared_from: usize,
    /// Intermediate values.
    pub arena: usize,
    /// Arguments and results.
    pub ports: usize,
}

impl Planned {
    /// The most of it that is there together.
    pub fn bytes(&self) -> usize {
        // What states are prepared from has gone when the rest comes.
        let planned = self.process + self.states + self.prepared_from.max(self.arena + self.ports);
        planned.max(self.process_at_most)
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.process, "this process so far"),
            (self.states, "states"),
            (self.prepared_from, "what they are prepared from"),
            (self.arena, "arena"),
            (self.ports, "arguments and results"),
        ];
        let mb = |bytes: usize| bytes as f64 / 1e6;
        let parts = parts.iter().filter(|(bytes, _)| *bytes > 0);
        let parts: Vec<String> = parts.map(|(bytes, what)| format!("{:.1} {what}", mb(*bytes))).collect();
        write!(f, "memory planned: {:.1} MB ({})", mb(self.bytes()), parts.join(", "))
    }
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
