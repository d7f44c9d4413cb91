//! Free ranges of an arena, found by size and joined with their neighbours.

use std::collections::{BTreeMap, BTreeSet};

/// The free ranges before an end that moves on where none fits.
///
/// Invariant: the two lists hold the same ranges, no two of which touch, and none is empty.
#[derive(Debug)]
pub(super) struct Gaps {
    /// The length of each range, by its offset.
    by_offset: BTreeMap<usize, usize>,
    /// Length and offset of each range.
    by_bytes: BTreeSet<(usize, usize)>,
    end: usize,
}

impl Gaps {
    /// None, and an end at `start`.
    pub fn from(start: usize) -> Gaps {
        Gaps {
            by_offset: BTreeMap::new(),
            by_bytes: BTreeSet::new(),
            end: start,
        }
    }

    /// Where the last range ever taken ends.
    pub fn end(&self) -> usize {
        self.end
    }

    /// Takes so many bytes from the tightest range; from behind the end if none is long enough.
    pub fn take(&mut self, bytes: usize) -> usize {
        let Some(&(found, offset)) = self.by_bytes.range((bytes, 0)..).next() else {
            let offset = self.end;
            self.end += bytes;
            return offset;
        };
        self.remove(offset, found);
        self.insert(offset + bytes, found - bytes);
        offset
    }

    /// Gives back what was taken.
    pub fn give_back(&mut self, mut offset: usize, mut bytes: usize) {
        if let Some((&before, &length)) = self.by_offset.range(..offset).next_back()
            && before + length == offset
        {
            self.remove(before, length);
            (offset, bytes) = (before, length + bytes);
        }
        if let Some(&length) = self.by_offset.get(&(offset + bytes)) {
            self.remove(offset + bytes, length);
            bytes += length;
        }
        self.insert(offset, bytes);
    }

    fn insert(&mut self, offset: usize, bytes: usize) {
        if bytes > 0 {
            self.by_offset.insert(offset, bytes);
            self.by_bytes.insert((bytes, offset));
        }
    }

    fn remove(&mut self, offset: usize, bytes: usize) {
        self.by_offset.remove(&offset);
        self.by_bytes.remove(&(bytes, offset));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_join_and_the_tightest_range_is_taken() {
        let mut gaps = Gaps::from(100);
        let taken: Vec<usize> = [10, 20, 5, 7].into_iter().map(|bytes| gaps.take(bytes)).collect();
        assert_eq!(taken, [100, 110, 130, 135]);
        gaps.give_back(110, 20);
        gaps.give_back(135, 7);
        assert_eq!(gaps.take(6), 135);
        gaps.give_back(130, 5);
        assert_eq!(gaps.take(25), 110);
        gaps.give_back(100, 10);
        assert_eq!(gaps.take(30), 142);
        assert_eq!(gaps.end(), 172);
    }
}
