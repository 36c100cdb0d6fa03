//! One rule of the pattern tables.

use std::borrow::Cow;

use crate::finding::Family;

/// A rule: a regular expression that proposes, a check that disposes.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// A stable name: `pii.email`.
    pub rule: Cow<'static, str>,
    /// The class of the finding: `EMAIL_ADDRESS`.
    pub kind: Cow<'static, str>,
    /// What it is about.
    pub family: Family,
    /// Proposes candidates. Linear-time syntax of the `regex` crates, ASCII classes (`(?-u:...)`
    /// word boundaries only), no look-around, every repetition bounded or a run of a class that
    /// `longest` bounds.
    pub regex: Cow<'static, str>,
    /// No match is longer than this many bytes; streams hold no more for this rule.
    pub longest: usize,
    /// Whether the candidate is one; `None`: all are.
    pub check: Option<fn(&str) -> bool>,
    /// How sure without context, 0 to 1.
    pub score: f32,
    /// Words that make it surer when one stands in the 64 bytes before the candidate (lower case),
    /// and the score then.
    pub context: Option<(&'static [&'static str], f32)>,
}
