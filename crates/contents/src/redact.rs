//! Replaces findings in texts, whatever their action.
//!
//! - *In*: texts, and the spans of findings in them.
//! - *Out*: texts with `[KIND]` for each span, and for each further occurrence of a value that was
//!   found: a number that context identified once is replaced where it has no context, too.
//! - *Never*: a byte of a span.

use std::collections::BTreeMap;
use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};

use crate::content::Word;

/// Maximum spans in a prompt or an answer. Texts with more are not stored.
pub(crate) const MAX_SPANS: usize = 4096;
/// Length of the values that are replaced wherever they occur. Shorter ones occur in words.
const VALUE_BYTES: std::ops::RangeInclusive<usize> = 4..=512;
/// Maximum bytes of all values of a request. The spans of further ones are replaced, only.
const MAX_VALUE_BYTES: usize = 256 << 10;

/// A finding in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Bytes of the text. An empty range means the whole text.
    pub range: Range<usize>,
    /// The kind of the finding.
    pub kind: Word,
}

/// A text before its redaction. It is never printed.
#[derive(Default)]
pub(crate) struct RawText {
    pub(crate) text: String,
    pub(crate) spans: Vec<Span>,
}

impl std::fmt::Debug for RawText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RawText({} bytes, {} spans)", self.text.len(), self.spans.len())
    }
}

impl RawText {
    /// The text with its spans replaced. Their values go to `values`.
    pub(crate) fn redact(self, values: &mut Values) -> String {
        let RawText { text, spans } = self;
        let mut spans: Vec<Span> = spans
            .into_iter()
            .map(|Span { range, kind }| {
                let range = if range.is_empty() { 0..text.len() } else { range };
                Span { range: floor(&text, range.start)..ceil(&text, range.end), kind }
            })
            .filter(|span| !span.range.is_empty())
            .collect();
        spans.sort_by_key(|span| (span.range.start, std::cmp::Reverse(span.range.end)));
        let (mut redacted, mut end) = (String::with_capacity(text.len()), 0);
        for Span { range, kind } in spans {
            values.add(text.get(range.clone()).unwrap_or_default(), &kind);
            if range.start >= end {
                redacted.push_str(text.get(end..range.start).unwrap_or_default());
                push_kind(&mut redacted, &kind);
            }
            end = end.max(range.end);
        }
        redacted.push_str(text.get(end..).unwrap_or_default());
        redacted
    }
}

fn push_kind(to: &mut String, kind: &str) {
    to.push('[');
    to.push_str(kind);
    to.push(']');
}

/// The last character boundary at or before `at`.
pub(crate) fn floor(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// The first character boundary at or after `at`.
pub(crate) fn ceil(text: &str, at: usize) -> usize {
    (at.min(text.len())..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len())
}

/// The values that were found in a request, with their kinds.
#[derive(Default)]
pub(crate) struct Values {
    known: BTreeMap<String, Word>,
    bytes: usize,
}

impl Values {
    fn add(&mut self, value: &str, kind: &Word) {
        let fits =
            VALUE_BYTES.contains(&value.len()) && self.bytes + value.len() <= MAX_VALUE_BYTES;
        if fits && !self.known.contains_key(value) {
            self.bytes += value.len();
            self.known.insert(value.to_owned(), kind.clone());
        }
    }

    /// Replaces these values in texts. `None` if that is not possible.
    pub(crate) fn replacer(self) -> Option<Replacer> {
        let (values, kinds): (Vec<String>, Vec<Word>) = self.known.into_iter().unzip();
        if values.is_empty() {
            return Some(Replacer(None));
        }
        let automaton =
            AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&values).ok()?;
        Some(Replacer(Some((automaton, kinds))))
    }
}

/// Replaces values wherever they occur.
pub(crate) struct Replacer(Option<(AhoCorasick, Vec<Word>)>);

impl Replacer {
    /// Replaces the values in a text.
    pub(crate) fn replace(&self, text: &mut String) {
        let Some((automaton, kinds)) = &self.0 else { return };
        if !automaton.is_match(text.as_str()) {
            return;
        }
        let mut replaced = String::with_capacity(text.len());
        automaton.replace_all_with(text, &mut replaced, |found, _, to| {
            push_kind(to, kinds.get(found.pattern().as_usize()).map_or("VALUE", |kind| kind));
            true
        });
        *text = replaced;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn redact(text: &str, spans: &[(Range<usize>, &'static str)]) -> String {
        let spans =
            spans.iter().map(|(range, kind)| Span { range: range.clone(), kind: (*kind).into() });
        let mut values = Values::default();
        let raw = RawText { text: text.to_owned(), spans: spans.collect() };
        let mut redacted = raw.redact(&mut values);
        values.replacer().unwrap().replace(&mut redacted);
        redacted
    }

    #[test]
    fn spans_that_overlap_leave_no_byte() {
        assert_eq!(redact("write to ann@x.org.", &[(9..18, "MAIL")]), "write to [MAIL].");
        let both = [(6..10, "TWO"), (2..8, "ONE")];
        assert_eq!(redact("a secret text", &both), "a [ONE]ext");
        assert_eq!(redact("a secret text", &[(2..8, "ONE"), (3..5, "TWO")]), "a [ONE] text");
        assert_eq!(redact("ab", &[(0..1, "A"), (1..2, "B")]), "[A][B]");
        assert_eq!(redact("some text", &[(0..0, "TOXIC")]), "[TOXIC]");
    }

    /// A judge may report any offsets.
    #[test]
    fn wrong_spans_are_widened_and_bounded() {
        assert_eq!(redact("aäb", &[(2..3, "X")]), "a[X]b");
        assert_eq!(redact("aäb", &[(1..2, "X")]), "a[X]b");
        assert_eq!(redact("abc", &[(1..usize::MAX, "X")]), "a[X]");
        assert_eq!(redact("abc", &[(7..9, "X")]), "abc");
        assert_eq!(redact("", &[(0..0, "X")]), "");
    }

    #[test]
    fn value_is_replaced_where_it_has_no_context() {
        let text = "my ssn is 078051120, so use 078051120x";
        assert_eq!(redact(text, &[(10..19, "SSN")]), "my ssn is [SSN], so use [SSN]x");
        assert_eq!(redact("an ant", &[(0..2, "SHORT")]), "[SHORT] ant", "words keep short values");
    }

    proptest! {
        #[test]
        fn no_value_of_a_span_is_left(
            text in "[a-d ä]{0,60}",
            cuts in proptest::collection::vec((0..70usize, 1..20usize), 0..6),
        ) {
            let spans: Vec<_> =
                cuts.iter().map(|(start, length)| (*start..start + length, "K")).collect();
            let redacted = redact(&text, &spans);
            for (range, _) in &spans {
                let value = &text[floor(&text, range.start)..ceil(&text, range.end)];
                prop_assert!(value.len() < 4 || !redacted.contains(value), "{value:?}: {redacted:?}");
            }
        }
    }
}
