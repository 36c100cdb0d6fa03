//! The identity of a record, and the set of identities that a partition has.
//!
//! - *In*: sequence numbers, mostly ascending.
//! - *Out*: whether one is new; the ranges that changed, to be written.
//! - *Never*: an entry per record. Numbers without gaps are one range.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The identity of a record. A record that is delivered twice has the same key twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordKey {
    /// Name of the gateway.
    pub instance: Arc<str>,
    /// Number of its start: Unix milliseconds.
    pub epoch: u64,
    /// Number of the record since the start, from 0.
    pub sequence: u64,
}

/// A set of sequence numbers, as ranges.
#[derive(Debug, Default)]
pub(crate) struct Ranges {
    /// First and last number of each range.
    ranges: BTreeMap<u64, u64>,
    /// First numbers of ranges that were added, extended or merged since the last
    /// [`Ranges::take_changes`].
    changed: BTreeSet<u64>,
}

impl Ranges {
    pub(crate) fn contains(&self, number: u64) -> bool {
        self.ranges.range(..=number).next_back().is_some_and(|(_, last)| *last >= number)
    }

    /// Add a number. Returns false if the set has it.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        if self.contains(number) {
            return false;
        }
        let before = self.ranges.range(..number).next_back();
        let first = match before {
            Some((first, last)) if last.checked_add(1) == Some(number) => *first,
            _ => number,
        };
        let next = number.checked_add(1);
        let last = next.and_then(|next| self.ranges.remove(&next)).inspect(|_| {
            self.changed.extend(next);
        });
        self.ranges.insert(first, last.unwrap_or(number));
        self.changed.insert(first);
        true
    }

    /// Add a range that is stored already.
    pub(crate) fn load(&mut self, first: u64, last: u64) {
        self.ranges.insert(first, last);
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
}
