//! What a schedule for CPUs may decide otherwise than its cost model does: a closed list, each decision with the values it may take.
//!
//! `netloom`'s tuner times the values and stores the best by kernel; schedules ask [`Target::tuned`](crate::Target::tuned). Every value is
//! valid for every kernel and every machine: one that does not apply, or asks for more than there is, changes nothing.

use std::collections::BTreeMap;

use crate::kernel::Kernel;

/// A decision with real alternatives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Decision {
    /// The results along a side of Winograd's squares; 0 computes convolutions directly. Results depend on it.
    Winograd,
    /// Whether Winograd's filters are transformed before the image is, or where they are used.
    FiltersFirst,
    /// The most rows of a tile.
    Rows,
    /// The columns of a tile, where the machine has registers enough.
    Columns,
    /// The columns that one task computes side by side.
    Strip,
    /// The bytes by which the far side of a contraction is fetched ahead of the tile; 0 fetches nothing.
    Ahead,
    /// Whether one worker runs the kernel alone.
    Alone,
    /// Whether a matrix unit, where there is one, computes a contraction whose filter is in no pieces, see [`crate::pieces`]; results depend on it.
    Matrix,
}

impl Decision {
    /// Every decision, its name in files, and the values it may take: the order in which they are tried, those that change most first.
    pub const ALL: [(Decision, &str, &[usize]); 8] = [
        (Decision::Matrix, "matrix", &[0, 1]),
        (Decision::Winograd, "winograd", &[0, 2, 4, 6]),
        (Decision::FiltersFirst, "filters_first", &[0, 1]),
        (Decision::Columns, "columns", &[16, 32]),
        (Decision::Rows, "rows", &[4, 6, 8, 10, 12, 14, 20]),
        (Decision::Strip, "strip", &[32, 64, 128, 256, 512]),
        (Decision::Ahead, "ahead", &[0, 4 << 10, 8 << 10, 16 << 10]),
        (Decision::Alone, "alone", &[0, 1]),
    ];
}

/// What was decided for one kernel; the cost model decides the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Decisions(BTreeMap<Decision, usize>);

impl Decisions {
    /// What was decided, if it was.
    pub fn get(&self, decision: Decision) -> Option<usize> {
        self.0.get(&decision).copied()
    }

    /// The same with one more decided, or decided anew.
    ///
    /// # Panics
    /// If the decision may not take the value.
    pub fn with(mut self, decision: Decision, value: usize) -> Decisions {
        let is_row = |row: &(Decision, &str, &[usize])| row.0 == decision && row.2.contains(&value);
        assert!(Decision::ALL.iter().any(is_row), "{decision:?} may not be {value}");
        self.0.insert(decision, value);
        self
    }

    /// Whether nothing was decided.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every decision taken.
    pub fn iter(&self) -> impl Iterator<Item = (Decision, usize)> {
        self.0.iter().map(|(&decision, &value)| (decision, value))
    }
}

/// The decisions taken for kernels, by [`Kernel::key`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tuned(BTreeMap<u64, Decisions>);

impl Tuned {
    /// Nothing is decided.
    pub const NOTHING: Tuned = Tuned(BTreeMap::new());

    /// Decides for the kernels of a key.
    pub fn set(&mut self, key: u64, decisions: Decisions) {
        self.0.insert(key, decisions);
    }

    /// What was decided for the kernels of a key.
    pub fn get(&self, key: u64) -> Option<&Decisions> {
        self.0.get(&key)
    }

    /// What was decided for a kernel.
    pub fn of(&self, kernel: &Kernel) -> Decisions {
        // Without decisions nobody pays for the key.
        match self.is_empty() {
            true => Decisions::default(),
            false => self.get(kernel.key()).cloned().unwrap_or_default(),
        }
    }

    /// Whether nothing is decided.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every key with what was decided, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Decisions)> {
        self.0.iter().map(|(&key, decisions)| (key, decisions))
    }
}
