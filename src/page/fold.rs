//! Repeated blocks: a list whose parts recur one after the other, as a tree.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

/// The longest part that is looked for.
const LONGEST: usize = 128;
/// Rounds from which a single item that recurs is folded; two are shown.
const FEWEST_SINGLES: usize = 3;
/// Nested repeats are found one level a pass.
const MOST_LEVELS: usize = 8;

/// A part of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// The element at that position.
    One(usize),
    /// Rounds that look alike.
    Repeat(Vec<Vec<Item>>),
}

/// Folds a list, given what each element looks like: equal numbers look alike.
pub fn fold(looks: &[u64]) -> Vec<Item> {
    let mut items: Vec<(u64, Item)> = looks
        .iter()
        .enumerate()
        .map(|(at, look)| (*look, Item::One(at)))
        .collect();
    for _ in 0..MOST_LEVELS {
        let before = items.len();
        let mut period = 1;
        while period <= LONGEST && 2 * period <= items.len() {
            items = fold_period(items, period);
            period += 1;
        }
        if items.len() == before {
            break;
        }
    }
    items.into_iter().map(|(_, item)| item).collect()
}

/// Folds what recurs after so many items.
fn fold_period(mut items: Vec<(u64, Item)>, period: usize) -> Vec<(u64, Item)> {
    let fewest = if period == 1 { FEWEST_SINGLES } else { 2 };
    let mut folded = Vec::with_capacity(items.len());
    let mut at = 0;
    while at < items.len() {
        let alike = |a: usize, b: usize| (0..period).all(|i| items[a + i].0 == items[b + i].0);
        let mut rounds = 1;
        while at + (rounds + 1) * period <= items.len() && alike(at, at + rounds * period) {
            rounds += 1;
        }
        if rounds < fewest {
            folded.push(std::mem::replace(&mut items[at], (0, Item::One(0))));
            at += 1;
            continue;
        }
        let mut hasher = DefaultHasher::new();
        // How often is not part of the look, so that stages of a network fold whatever their depth.
        for (look, _) in &items[at..at + period] {
            look.hash(&mut hasher);
        }
        let mut round = |number: usize| -> Vec<Item> {
            let start = at + number * period;
            let taken = items[start..start + period].iter_mut();
            taken.map(|item| std::mem::replace(&mut item.1, Item::One(0))).collect()
        };
        folded.push((hasher.finish(), Item::Repeat((0..rounds).map(&mut round).collect())));
        at += rounds * period;
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a2(bc)` for `abcbc`.
    fn text(items: &[Item], looks: &[u8]) -> String {
        let one = |item: &Item| match item {
            Item::One(at) => (looks[*at] as char).to_string(),
            Item::Repeat(rounds) => {
                let texts: Vec<String> = rounds.iter().map(|round| text(round, looks)).collect();
                format!("{}({})", rounds.len(), texts[0])
            }
        };
        items.iter().map(one).collect()
    }

    #[test]
    fn blocks_fold_and_stages_of_blocks() {
        for (list, expected) in [
            ("", ""),
            ("abc", "abc"),
            ("aab", "aab"),
            ("aaab", "3(a)b"),
            ("abcbcd", "a2(bc)d"),
            ("sabbbabbbbe", "s2(a3(b))e"),
            ("xyzxyzxyz", "3(xyz)"),
        ] {
            let looks: Vec<u64> = list.bytes().map(u64::from).collect();
            assert_eq!(text(&fold(&looks), list.as_bytes()), expected, "{list}");
        }
    }

    #[test]
    fn every_element_stays_in_its_place() {
        let looks: Vec<u64> = (0..5000).map(|at| at % 7 % 3).collect();
        fn positions(items: &[Item], found: &mut Vec<usize>) {
            for item in items {
                match item {
                    Item::One(at) => found.push(*at),
                    Item::Repeat(rounds) => rounds.iter().for_each(|round| positions(round, found)),
                }
            }
        }
        let mut found = Vec::new();
        positions(&fold(&looks), &mut found);
        assert_eq!(found, (0..5000).collect::<Vec<_>>());
    }
}
