//! Constructors that keep the rule tables at one line a rule.
//!
//! - *In*: what differs from rule to rule.
//! - *Out*: a [`Pattern`].
//! - *Never*: judgement. That lives in the checks.

use std::borrow::Cow::Borrowed;

use crate::finding::Family;
use crate::pattern::Pattern;

/// Words that vouch for a candidate, and the score once they have.
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
    }
}

/// A rule on a credential whose shape speaks for itself.
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
    }
}

/// A rule on a credential that is one only in company.
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
