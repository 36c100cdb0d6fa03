//! One rule of the pattern tables.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use crate::finding::Family;

/// Whether a text that matched a rule is allowed, and so no finding.
pub type Allow = Arc<dyn Fn(&Pattern, &str) -> bool + Send + Sync>;

/// A rule: a regular expression that finds candidates, and a check that confirms them.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// A stable name: `pii.email`.
    pub rule: Cow<'static, str>,
    /// The class of the finding: `EMAIL_ADDRESS`.
    pub kind: Cow<'static, str>,
    /// What it is about.
    pub family: Family,
    /// Finds candidates. Linear-time syntax of the `regex` crates with ASCII classes (word
    /// boundaries only as `(?-u:...)`) and without look-around. Every repetition is bounded, or is
    /// a run of a class that `longest` bounds.
    pub regex: Cow<'static, str>,
    /// No match is longer than this many bytes; streams hold no more for this rule.
    pub longest: usize,
    /// Whether a candidate is a finding; `None`: all candidates are.
    pub check: Option<fn(&str) -> bool>,
    /// The score without a context word, 0 to 1.
    pub score: f32,
    /// Context words (lower case), and the score if one of them is in the 64 bytes before the
    /// candidate.
    pub context: Option<(&'static [&'static str], f32)>,
    /// Whether a context word counts only if it ends in the 32 bytes before the candidate.
    pub close: bool,
}

impl Pattern {
    /// The range of the value in a match, or in the beginning of one. Rules for values that a name
    /// announces (`GENERIC_SECRET`) match the name as well, which is no part of the finding.
    pub fn value(&self, text: &str) -> Range<usize> {
        if self.kind == "GENERIC_SECRET" { crate::secrets::value(text) } else { 0..text.len() }
    }
}
