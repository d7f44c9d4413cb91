//! Offsets in the arena from lifetimes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::gaps::Gaps;
use super::{Base, Place, TempId};

/// Every value in the arena starts at a multiple of this many bytes: a cache line, and the widest vector.
pub const ALIGN: usize = 64;

/// So many values are placed by size: comparing each with each takes some milliseconds.
const MOST_BY_SIZE: usize = 4096;

/// A value and the steps during which its bytes are its own.
#[derive(Debug)]
struct Temp {
    bytes: usize,
    first: usize,
    last: usize,
    /// The number of loops and branches around the place where it was made.
    nesting: usize,
}

/// The values of a plan that live in the arena. Time counts steps in the order in which they are planned.
#[derive(Debug, Default)]
pub struct Temps {
    temps: Vec<Temp>,
    now: usize,
    nesting: usize,
}

impl Temps {
    /// A new value, alive from now.
    pub fn place(&mut self, bytes: usize) -> Place {
        self.temps.push(Temp {
            bytes,
            first: self.now + 1,
            last: self.now + 1,
            nesting: self.nesting,
        });
        Place::new(Base::Temp(TempId(self.temps.len() - 1)), 0, bytes)
    }

    /// A new value, alive from when it is first used.
    pub fn place_for_later(&mut self, bytes: usize) -> Place {
        let place = self.place(bytes);
        if let Some(temp) = self.temps.last_mut() {
            (temp.first, temp.last) = (usize::MAX, 0);
        }
        place
    }

    /// The value is not used after all.
    pub fn give_up(&mut self, place: &Place) {
        if let Base::Temp(id) = place.base {
            self.temps[id.0].bytes = 0;
        }
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.temps.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.temps.is_empty()
    }

    /// The length of each value in bytes.
    pub fn sizes(&self) -> Vec<usize> {
        self.temps.iter().map(|temp| temp.bytes).collect()
    }

    /// Goes on to the next step.
    pub fn advance(&mut self) {
        self.now += 1;
    }

    /// The value is used now.
    pub fn touch(&mut self, place: &Place) {
        if let Base::Temp(id) = place.base {
            let temp = &mut self.temps[id.0];
            temp.first = temp.first.min(self.now);
            temp.last = temp.last.max(self.now);
        }
    }

    /// Whether this is the whole of a value made within the innermost body, so that no other iteration or branch sees it.
    pub fn is_local(&self, place: &Place) -> bool {
        let is_whole = |temp: &Temp| temp.nesting == self.nesting && temp.bytes == place.bytes;
        matches!(place.base, Base::Temp(id) if is_whole(&self.temps[id.0]))
    }

    /// Enters a loop's or branch's bodies; give the result to [`Temps::close`].
    pub fn open(&mut self) -> usize {
        self.nesting += 1;
        self.advance();
        self.now
    }

    /// Leaves the bodies entered at time `start`: values made outside and used inside live until here.
    pub fn close(&mut self, start: usize) {
        self.nesting -= 1;
        self.advance();
        for temp in &mut self.temps {
            if temp.nesting <= self.nesting && temp.last >= start {
                temp.last = self.now;
            }
        }
    }

    /// An offset for each value such that values alive together do not overlap, and the bytes needed in all.
    ///
    /// The largest values are placed first, each in the lowest gap that fits among those placed whose lives overlap its own (Pisarchyk and
    /// Lee, "Efficient memory management for deep neural net inference", 2020, greedy by size). That compares each value with all others, so
    /// where there are very many, the smaller ones lie behind and are placed as time goes on.
    pub fn assign(&self) -> (Vec<usize>, usize) {
        self.assign_by_size(MOST_BY_SIZE)
    }

    /// The same with so many values placed by size.
    fn assign_by_size(&self, most: usize) -> (Vec<usize>, usize) {
        let is_placed = |&at: &usize| self.temps[at].bytes > 0;
        let mut order: Vec<usize> = (0..self.temps.len()).filter(is_placed).collect();
        order.sort_by_key(|&at| (Reverse(self.temps[at].bytes), at));
        let (large, small) = order.split_at(most.min(order.len()));
        let mut offsets = vec![0; self.temps.len()];
        let total = self.place_in_lowest_gaps(large, &mut offsets);
        let total = self.place_in_time(small, total, &mut offsets);
        (offsets, total)
    }

    /// Places values one by one, each in the lowest gap among those before it; gives where the last byte ends.
    fn place_in_lowest_gaps(&self, values: &[usize], offsets: &mut [usize]) -> usize {
        let mut placed: Vec<usize> = Vec::new();
        let mut total = 0;
        for &at in values {
            let temp = &self.temps[at];
            // `placed` is sorted by offset, so one walk finds the lowest gap.
            let mut offset = 0;
            for &other in &placed {
                let neighbour = &self.temps[other];
                if neighbour.last < temp.first || temp.last < neighbour.first {
                    continue;
                }
                if offset + temp.bytes <= offsets[other] {
                    break;
                }
                offset = offset.max((offsets[other] + neighbour.bytes).next_multiple_of(ALIGN));
            }
            offsets[at] = offset;
            total = total.max((offset + temp.bytes).next_multiple_of(ALIGN));
            let position = placed.partition_point(|&other| offsets[other] <= offset);
            placed.insert(position, at);
        }
        total
    }

    /// Places values from `start` on in the order in which their lives begin, each in the tightest gap that ended lives have left; gives where the
    /// last byte ends.
    fn place_in_time(&self, values: &[usize], start: usize, offsets: &mut [usize]) -> usize {
        let mut order = values.to_vec();
        order.sort_by_key(|&at| (self.temps[at].first, at));
        let mut gaps = Gaps::from(start);
        let mut alive: BinaryHeap<Reverse<(usize, usize)>> = BinaryHeap::new();
        let room = |at: usize| self.temps[at].bytes.next_multiple_of(ALIGN);
        for at in order {
            while let Some(&Reverse((last, other))) = alive.peek()
                && last < self.temps[at].first
            {
                alive.pop();
                gaps.give_back(offsets[other], room(other));
            }
            offsets[at] = gaps.take(room(at));
            alive.push(Reverse((self.temps[at].last, at)));
        }
        gaps.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn values_alive_together_do_not_overlap(
            lives in prop::collection::vec((1usize..500, 0usize..20, 0usize..20), 0..40),
            by_size in prop::sample::select(vec![0, 5, MOST_BY_SIZE]),
        ) {
            let temps = Temps {
                temps: lives
                    .iter()
                    .map(|&(bytes, a, b)| Temp { bytes, first: a.min(b), last: a.max(b), nesting: 0 })
                    .collect(),
                ..Temps::default()
            };
            let (offsets, total) = temps.assign_by_size(by_size);
            for (a, left) in temps.temps.iter().enumerate() {
                prop_assert!(offsets[a] + left.bytes <= total);
                prop_assert_eq!(offsets[a] % ALIGN, 0);
                for (b, right) in temps.temps.iter().enumerate().skip(a + 1) {
                    let together = left.first <= right.last && right.first <= left.last;
                    let apart = offsets[a] + left.bytes <= offsets[b] || offsets[b] + right.bytes <= offsets[a];
                    prop_assert!(!together || apart, "{} and {}", a, b);
                }
            }
        }
    }

    /// Three generations of equal values, each alive with the next: two generations take all the room.
    #[test]
    fn equal_values_leave_no_gaps() {
        let life = |at: usize| Temp {
            bytes: 4 * ALIGN,
            first: at / 100,
            last: at / 100 + 1,
            nesting: 0,
        };
        let temps = Temps {
            temps: (0..300).map(life).collect(),
            ..Temps::default()
        };
        for by_size in [0, MOST_BY_SIZE] {
            assert_eq!(temps.assign_by_size(by_size).1, 200 * 4 * ALIGN);
        }
    }
}
