//! Boundaries of matches.
//!
//! - *In*: the bytes next to a candidate: four before it, four behind it.
//! - *Out*: yes or no.
//! - *Never*: more of the text, because a stream does not have it.

use crate::pattern::Pattern;

/// Bytes checked before and after a candidate.
pub(super) const NEAR: usize = crate::boundary::AFTER_BYTES;

/// The boundary rules of a scanner.
#[derive(Clone, Copy, Debug)]
pub struct Edges {
    /// Whether any match may begin with this byte, given the bytes before it (the nearest last; at
    /// most four, fewer at the text's beginning).
    pub can_begin: fn(&[u8], u8) -> bool,
    /// The same for one rule.
    pub starts: fn(&Pattern, &[u8], u8) -> bool,
    /// Whether a match of a rule may end with this byte, given the bytes behind it (at most four,
    /// fewer at the text's end).
    pub ends: fn(&Pattern, u8, &[u8]) -> bool,
}

impl Default for Edges {
    /// No match begins or ends inside an ASCII-alphanumeric run.
    fn default() -> Self {
        Edges {
            can_begin,
            starts: |_, before, first| can_begin(before, first),
            ends: |_, last, behind| !joined(Some(&last), behind.first()),
        }
    }
}

impl Edges {
    /// The checks of [`boundary`](crate::boundary), which the rules of the tables need.
    pub fn tables() -> Self {
        use crate::boundary;
        Edges {
            can_begin: boundary::can_begin,
            starts: boundary::starts_clean,
            ends: boundary::ends_clean,
        }
    }
}

fn can_begin(before: &[u8], first: u8) -> bool {
    !joined(before.last(), Some(&first))
}

fn joined(left: Option<&u8>, right: Option<&u8>) -> bool {
    left.is_some_and(u8::is_ascii_alphanumeric) && right.is_some_and(u8::is_ascii_alphanumeric)
}

impl Edges {
    /// By byte and byte after it, both ASCII: whether a match may begin with the second.
    pub(super) fn pairs(&self) -> Box<[u128; 128]> {
        let mut pairs = Box::new([0; 128]);
        for (left, into) in (0u8..).zip(pairs.iter_mut()) {
            for right in 0..128u8 {
                *into |= u128::from((self.can_begin)(&[left], right)) << right;
            }
        }
        pairs
    }

    /// Whether a match may end; `None` if that depends on a byte that has not arrived.
    pub(super) fn ends(&self, rule: &Pattern, last: u8, behind: &[u8], more: bool) -> Option<bool> {
        // Text arrives in whole characters: of ASCII two bytes count, of others the first one.
        let known = match behind {
            [] => false,
            [next, ..] => behind.len() >= 2 || *next >= 0x80,
        };
        if known || !more {
            return Some((self.ends)(rule, last, behind));
        }
        let &[next] = behind else { return None };
        let mut answers =
            b"0aZ.-/~ \xC3".iter().map(|byte| (self.ends)(rule, last, &[next, *byte]));
        let first = answers.next()?;
        answers.all(|answer| answer == first).then_some(first)
    }
}
