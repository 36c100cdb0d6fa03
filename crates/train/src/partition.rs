//! Partitions of the rows, whose parts are held out in turn.
//!
//! - *In*: rows.
//! - *Out*: the part of each row, and which rows must not be trained on for it.
//! - *Never*: two rows of one origin in different parts; a near-duplicate of a held-out row in
//!   training.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};

use crate::data::Row;

/// Number of parts of a partition by source.
const SOURCE_PARTS: usize = 8;

/// A partition.
#[derive(Debug)]
pub struct Partition {
    /// The part of each row; `None`: it is always trained on, and never measured.
    parts: Vec<Option<usize>>,
    /// Groups with rows in a part.
    groups: Vec<HashSet<usize>>,
}

impl Partition {
    /// Whole origins of texts, in eight parts of about equal numbers of attacks, toxic and harmless
    /// rows.
    pub fn by_source(rows: &[Row]) -> Self {
        let mut families: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, row) in rows.iter().enumerate().filter(|(_, row)| !row.own) {
            families.entry(row.family()).or_default().push(at);
        }
        let mut families: Vec<Vec<usize>> = families.into_values().collect();
        families.sort_by_key(|rows| Reverse(rows.len()));
        let mut loads = [[0usize; 6]; SOURCE_PARTS];
        let kind = |row: &Row| row.file as usize * 2 + usize::from(row.positive);
        let mut parts = vec![None; rows.len()];
        for family in families {
            let Some(first) = family.first().and_then(|at| rows.get(*at)).map(kind) else {
                continue;
            };
            let load = |part: &usize| loads.get(*part).and_then(|load| load.get(first)).copied();
            let part = (0..SOURCE_PARTS).min_by_key(load).unwrap_or(0);
            for at in family {
                let (Some(row), Some(slot)) = (rows.get(at), parts.get_mut(at)) else { continue };
                *slot = Some(part);
                if let Some(load) = loads.get_mut(part).and_then(|load| load.get_mut(kind(row))) {
                    *load += 1;
                }
            }
        }
        Self::new(rows, parts, SOURCE_PARTS)
    }

    /// Each language but English; English rows and those without a language are always trained on.
    pub fn by_language(rows: &[Row]) -> Self {
        let mut languages: Vec<&str> = rows.iter().map(|row| row.lang.as_str()).collect();
        languages.sort_unstable();
        languages.dedup();
        languages.retain(|lang| !matches!(*lang, "" | "en"));
        let part = |row: &Row| languages.iter().position(|lang| *lang == row.lang);
        let parts = rows.iter().map(part).collect();
        Self::new(rows, parts, languages.len())
    }

    fn new(rows: &[Row], parts: Vec<Option<usize>>, count: usize) -> Self {
        let mut groups = vec![HashSet::new(); count];
        for (row, part) in rows.iter().zip(&parts) {
            if let Some(groups) = part.and_then(|part| groups.get_mut(part)) {
                groups.insert(row.group);
            }
        }
        Partition { parts, groups }
    }

    /// Number of parts.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether there is no part.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Whether a row is in a part.
    pub fn holds(&self, part: usize, row: usize) -> bool {
        self.parts.get(row).copied().flatten() == Some(part)
    }

    /// Whether a row may be trained on while a part is held out.
    pub(crate) fn trains(&self, part: usize, at: usize, row: &Row) -> bool {
        let near = |groups: &HashSet<usize>| groups.contains(&row.group);
        row.own || (!self.holds(part, at) && !self.groups.get(part).is_some_and(near))
    }
}
