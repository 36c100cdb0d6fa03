//! Constructors that keep the rule tables at one line a rule.
//!
//! - *In*: what differs from rule to rule.
//! - *Out*: a [`Pattern`].
//! - *Never*: logic of a rule; that is in the checks.

use std::borrow::Cow::Borrowed;

use crate::finding::Family;
use crate::pattern::Pattern;

/// Maximum bytes of a secret that ends with its alphabet only, however long it is.
pub(crate) const LONG: usize = 1 << 20;

/// Context words of a candidate, and its score if one of them is present.
pub(crate) type Context = Option<(&'static [&'static str], f32)>;

/// A rule on personal data.
pub(crate) const fn pii(
    rule: &'static str,
    kind: &'static str,
    regex: &'static str,
    longest: usize,
    check: Option<fn(&str) -> bool>,
    score: f32,
    context: Context,
) -> Pattern {
    Pattern {
        rule: Borrowed(rule),
        kind: Borrowed(kind),
        family: Family::Pii,
        regex: Borrowed(regex),
        longest,
        check,
        score,
        context,
        close: false,
    }
}

/// A rule for a credential that its format identifies.
pub(crate) const fn secret(
    rule: &'static str,
    kind: &'static str,
    regex: &'static str,
    longest: usize,
    check: Option<fn(&str) -> bool>,
    score: f32,
) -> Pattern {
    Pattern {
        rule: Borrowed(rule),
        kind: Borrowed(kind),
        family: Family::Secret,
        regex: Borrowed(regex),
        longest,
        check,
        score,
        context: None,
        close: false,
    }
}

/// A rule for a credential that needs a context word.
pub(crate) const fn vouched(
    rule: &'static str,
    kind: &'static str,
    regex: &'static str,
    longest: usize,
    check: Option<fn(&str) -> bool>,
    context: Context,
) -> Pattern {
    let mut pattern = secret(rule, kind, regex, longest, check, 0.2);
    pattern.context = context;
    pattern
}

/// The same rule with another check.
pub(crate) const fn checked(mut pattern: Pattern, check: fn(&str) -> bool) -> Pattern {
    pattern.check = Some(check);
    pattern
}

/// The same rule with context words close to the candidate only.
pub(crate) const fn close(mut pattern: Pattern) -> Pattern {
    pattern.close = true;
    pattern
}
