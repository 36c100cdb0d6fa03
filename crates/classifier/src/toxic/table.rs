//! Reads the table of toxic phrases; `toxic.txt` documents its format.
//!
//! - *In*: the table that is compiled in.
//! - *Out*: the parts of each phrase, the classes of each word, the rare words.
//! - *Never*: an error at run time: a test reads every line.

use std::collections::HashMap;

use super::super::hash::word_hash;
use super::ToxicCategory;

/// Classes of words, one bit each.
pub(super) type Classes = u32;

/// An approximate set of the words and classes of a sentence, or of a part of a phrase.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Met {
    pub(super) classes: Classes,
    /// One bit for all words with the same last six bits of their hash.
    pub(super) words: u64,
}

impl Met {
    pub(super) fn with(self, classes: Classes, word: u64) -> Met {
        Met { classes: self.classes | classes, words: self.words | 1 << (word % 64) }
    }

    pub(super) fn meets(self, other: Met) -> bool {
        self.classes & other.classes != 0 || self.words & other.words != 0
    }
}

/// The words that may precede a part of a phrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gap {
    Nothing,
    Small,
    Any,
}

/// One part of a phrase: any word of some classes, or one of some words.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) met: Met,
    pub(super) words: Vec<u64>,
    pub(super) gap: Gap,
    pub(super) optional: bool,
}

/// One line of the table.
#[derive(Debug)]
pub(super) struct Phrase {
    pub(super) categories: Vec<ToxicCategory>,
    pub(super) weight: f32,
    pub(super) parts: Vec<Part>,
}

/// The classes that the code refers to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    pub(super) group: Classes,
    pub(super) prefix: Classes,
    pub(super) folk: Classes,
    pub(super) slur: Classes,
    pub(super) small: Classes,
    pub(super) not: Classes,
    pub(super) report: Classes,
    pub(super) harmless: Classes,
    pub(super) care: Classes,
    pub(super) own: Classes,
}

/// Reads the table line by line.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) rare: Vec<&'static str>,
    pub(super) words: HashMap<u64, Classes>,
    names: Vec<&'static str>,
    pub(super) known: Known,
    pub(super) phrases: Vec<Phrase>,
}

impl Reader {
    pub(super) fn line(&mut self, line: &'static str) {
        let Some((what, rest)) = line.split_once(": ").filter(|_| !line.starts_with('#')) else {
            return;
        };
        match what.split_once(' ') {
            Some(("class", name)) => self.class(name, rest),
            Some((categories, weight)) => self.phrase(categories, weight, rest),
            None => {}
        }
    }

    fn class(&mut self, name: &'static str, words: &'static str) {
        let bit = 1 << self.names.len();
        let bare = name.trim_start_matches('*');
        if bare != name {
            self.rare.extend(words.split_whitespace());
        }
        self.names.push(bare);
        words
            .split_whitespace()
            .for_each(|word| *self.words.entry(word_hash(word)).or_default() |= bit);
        match bare {
            "group" => self.known.group = bit,
            "trait" => self.known.prefix = bit,
            "folk" => self.known.folk = bit,
            "slur" => self.known.slur = bit,
            "small" => self.known.small = bit,
            "not" => self.known.not = bit,
            "report" => self.known.report = bit,
            "harmless" => self.known.harmless = bit,
            "care" => self.known.care = bit,
            "own" => self.known.own = bit,
            _ => {}
        }
    }

    fn phrase(&mut self, categories: &str, weight: &str, parts: &'static str) {
        let categories = categories
            .split('+')
            .filter_map(|name| ToxicCategory::ALL.into_iter().find(|toxic| toxic.name() == name))
            .collect();
        let mut phrase =
            Phrase { categories, weight: weight.parse().unwrap_or(0.0), parts: Vec::new() };
        let mut gap = Gap::Nothing;
        for part in parts.split_whitespace() {
            gap = match part {
                "~" => Gap::Small,
                ".." => Gap::Any,
                _ => {
                    let part = self.part(part, gap);
                    phrase.parts.push(part);
                    Gap::Nothing
                }
            };
        }
        self.phrases.push(phrase);
    }

    fn part(&mut self, part: &'static str, gap: Gap) -> Part {
        let optional = part.starts_with('[');
        let (part, rare) = part
            .trim_matches(['[', ']'])
            .strip_prefix('*')
            .map_or((part.trim_matches(['[', ']']), false), |part| (part, true));
        let mut read = Part { met: Met::default(), words: Vec::new(), gap, optional };
        for word in part.split('|') {
            match word.strip_prefix('{').and_then(|word| word.strip_suffix('}')) {
                Some(class) => {
                    read.met.classes |=
                        self.names.iter().position(|name| *name == class).map_or(0, |bit| 1 << bit)
                }
                None => {
                    let hash = word_hash(word);
                    read.met = read.met.with(0, hash);
                    read.words.push(hash);
                    if rare {
                        self.rare.push(word);
                    }
                }
            }
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_can_be_read_and_met() {
        let text = include_str!("../toxic.txt");
        let mut reader = Reader::default();
        text.lines().for_each(|line| reader.line(line));
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
        assert_eq!(lines, reader.names.len() + reader.phrases.len());
        assert!(reader.names.len() <= Classes::BITS as usize);
        for phrase in &reader.phrases {
            assert!(
                !phrase.categories.is_empty() && phrase.weight > 0.0 && phrase.weight <= 6.0,
                "{phrase:?}"
            );
        }
        for name in text.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
            assert!(name == "class" || reader.names.contains(&name), "{name}");
        }
        // A phrase without a rare word would never be looked for.
        let rare: Vec<u64> = reader.rare.iter().map(|word| word_hash(word)).collect();
        for phrase in &reader.phrases {
            let members = |part: &Part| -> Vec<u64> {
                let of_class = reader
                    .words
                    .iter()
                    .filter(|(_, classes)| **classes & part.met.classes != 0)
                    .map(|(word, _)| *word);
                of_class.chain(part.words.iter().copied()).collect()
            };
            let sure = |part: &&Part| {
                !part.optional && members(part).iter().all(|word| rare.contains(word))
            };
            assert!(phrase.parts.iter().any(|part| sure(&part)), "{phrase:?}");
        }
    }
}
