//! A set of sequence numbers, as ranges.
//!
//! - *In*: numbers, mostly ascending.
//! - *Out*: whether one is new; the ranges that changed, to be written.
//! - *Never*: an entry per number. Numbers without gaps are one range.

use std::collections::{BTreeMap, BTreeSet};

/// Numbers that a partition has.
#[derive(Debug, Default)]
pub(crate) struct Ranges {
    /// First and last number of each range. There is a gap between two ranges.
    ranges: BTreeMap<u64, u64>,
    /// First numbers of ranges that were added, extended or merged since the last
    /// [`Ranges::take_changes`].
    changed: BTreeSet<u64>,
}

impl Ranges {
    /// The ranges of a file, which may touch and overlap.
    pub(crate) fn from_file(stored: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut ranges = Ranges::default();
        stored.into_iter().for_each(|(first, last)| ranges.add(first, last));
        ranges.changed.clear();
        ranges
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        self.ranges.range(..=number).next_back().is_some_and(|(_, last)| *last >= number)
    }

    /// Add a number. Returns false if the set has it.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        let is_new = !self.contains(number);
        if is_new {
            self.add(number, number);
        }
        is_new
    }

    /// Add all numbers of another set.
    pub(crate) fn merge(&mut self, other: Ranges) {
        other.ranges.into_iter().for_each(|(first, last)| self.add(first, last));
    }

    /// Add a range. It absorbs the ranges that it touches.
    fn add(&mut self, first: u64, mut last: u64) {
        let before = self.ranges.range(..=first).next_back();
        let first = match before {
            Some((begin, end)) if end.saturating_add(1) >= first => *begin,
            _ => first,
        };
        while let Some((begin, end)) = self.next_touching(first, last) {
            self.ranges.remove(&begin);
            self.changed.insert(begin);
            last = last.max(end);
        }
        self.ranges.insert(first, last);
        self.changed.insert(first);
    }

    fn next_touching(&self, first: u64, last: u64) -> Option<(u64, u64)> {
        let mut touching = self.ranges.range(first..=last.saturating_add(1));
        touching.next().map(|(begin, end)| (*begin, *end))
    }

    /// The changed ranges: the first number, and the last one, or `None` if another range has
    /// absorbed it.
    pub(crate) fn take_changes(&mut self) -> Vec<(u64, Option<u64>)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|first| (first, self.ranges.get(&first).copied())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_without_gaps_are_one_range_in_any_order() {
        let mut ranges = Ranges::default();
        assert!([3, 1, 2, 0, 7].into_iter().all(|number| ranges.insert(number)));
        assert!([0, 1, 2, 3, 7].into_iter().all(|number| !ranges.insert(number)));
        assert!(!ranges.contains(4) && ranges.contains(7));
        assert_eq!(ranges.take_changes(), [(0, Some(3)), (1, None), (3, None), (7, Some(7))]);
        assert!(ranges.insert(u64::MAX) && !ranges.insert(u64::MAX));
        assert!(ranges.insert(8));
        assert_eq!(ranges.take_changes(), [(7, Some(8)), (u64::MAX, Some(u64::MAX))]);
    }

    #[test]
    fn ranges_of_several_files_are_one_set() {
        let mut ranges = Ranges::from_file([(10, 20), (0, 100), (101, 110), (200, 210)]);
        assert_eq!(ranges.take_changes(), []);
        ranges.merge(Ranges::from_file([(150, 199), (205, 300)]));
        assert_eq!(ranges.ranges, BTreeMap::from([(0, 110), (150, 300)]));
        assert!(ranges.contains(80) && !ranges.contains(120) && !ranges.contains(301));
    }
}
