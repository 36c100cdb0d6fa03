//! Masks as cuts that leave a text JSON.
//!
//! - *In*: the parts of a text, and a span to mask.
//! - *Out*: [`Cut`]s inside strings and of whole numbers.
//! - *Never*: a cut of punctuation, or of the name of a member whose value is masked too: a name
//!   identifies a credential, and the tool that reads the arguments needs it.

use std::borrow::Cow;
use std::ops::Range;

use wire::json::{Text, escaped};

use crate::lexer::{Kind, Lexer, Part};

/// A replacement of bytes of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The bytes.
    pub span: Range<usize>,
    /// What to write there, escaped for its place in the text.
    pub with: String,
}

/// What a mask does to a number of a document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numbers {
    /// It becomes a string with the replacement.
    #[default]
    Replaced,
    /// It stays, so that a tool with a fixed schema accepts the document.
    Kept,
}

/// How far a mask was turned into cuts. The span of a mask may grow.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    numbers: Numbers,
    /// Up to where.
    upto: usize,
    /// The replacement was written.
    placed: bool,
    /// The beginning of the number that was last replaced.
    number: Option<usize>,
    /// Whether names are left as they are; decided with the first part.
    keeps_names: Option<bool>,
}

impl Shape {
    /// A mask that was not turned into cuts yet.
    pub fn new(numbers: Numbers) -> Self {
        Shape { numbers, ..Shape::default() }
    }

    /// Appends the cuts of `mask` in the parts that were read since the last call. `with` returns
    /// the replacement of a value, given the part, its bytes, and whether it is the first.
    pub fn cut(
        &mut self,
        parts: &[&Part],
        mask: Range<usize>,
        with: &mut dyn FnMut(&Part, &Range<usize>, bool) -> String,
        cuts: &mut Vec<Cut>,
    ) {
        let touched = |part: &&&Part| part.span.start < mask.end && part.span.end > mask.start;
        let has_value = parts
            .iter()
            .filter(touched)
            .any(|part| matches!(part.kind, Kind::Value | Kind::Number | Kind::Plain));
        let keeps_names = *self.keeps_names.get_or_insert(has_value);
        for part in parts.iter().filter(touched) {
            if part.span.end <= self.upto {
                continue;
            }
            let from = part.span.start.max(mask.start).max(self.upto);
            let span = from..part.span.end.min(mask.end).max(from);
            match part.kind {
                Kind::Structure | Kind::Word => {}
                Kind::Number if self.numbers == Numbers::Kept => {}
                Kind::Name if keeps_names => {}
                Kind::Name | Kind::Value | Kind::Plain => {
                    let instead = with(part, &span, !self.placed);
                    self.placed = true;
                    if !span.is_empty() {
                        cuts.push(Cut { span, with: in_string(&instead, part.depth) });
                    }
                }
                Kind::Number => self.cut_number(part, &mask, with, cuts),
            }
            self.upto = self.upto.max(part.span.end.min(mask.end));
        }
    }

    /// A number becomes a string. If its first digits are not under the mask, and so are sent, the
    /// rest of it becomes a zero.
    fn cut_number(
        &mut self,
        part: &Part,
        mask: &Range<usize>,
        with: &mut dyn FnMut(&Part, &Range<usize>, bool) -> String,
        cuts: &mut Vec<Cut>,
    ) {
        let span = part.span.start.max(mask.start).max(self.upto)..part.span.end;
        let is_new = self.number.replace(part.span.start) != Some(part.span.start);
        let instead = match (is_new, part.span.start >= mask.start) {
            (false, _) => String::new(),
            (true, false) => "0".into(),
            (true, true) => {
                let instead = with(part, &span, !self.placed);
                quoted(&instead, part.depth)
            }
        };
        self.placed = true;
        self.upto = span.end;
        cuts.push(Cut { span, with: instead });
    }

    /// Whether the last part belongs to a number that was replaced, so that the rest of it goes
    /// too.
    pub fn is_in(&self, last: Option<&Part>) -> bool {
        last.is_some_and(|part| part.kind == Kind::Number && self.number == Some(part.span.start))
    }
}

/// The content of a string in a document inside `depth` strings.
fn in_string(text: &str, depth: usize) -> String {
    (0..=depth).fold(text.to_owned(), |text, _| escaped(&text))
}

/// A string in a document inside `depth` strings.
fn quoted(text: &str, depth: usize) -> String {
    (0..depth).fold(format!("\"{}\"", escaped(text)), |text, _| escaped(&text))
}

/// The value that some bytes of a part stand for.
fn value(text: &str, part: &Part, span: &Range<usize>) -> String {
    let written = text.get(span.clone()).unwrap_or_default();
    let layers = match part.kind {
        Kind::Number => part.depth,
        Kind::Plain => 0,
        _ => part.depth + 1,
    };
    (0..layers).fold(written.to_owned(), |text, _| {
        let decoded: Cow<'_, str> = Text::new(text.as_bytes(), text.contains('\\')).decode();
        decoded.into_owned()
    })
}

/// The cuts of many spans of a whole text, in its order and without overlaps. `with` returns the
/// replacement of a value of a span, given the number of the span, the value, and whether it is
/// the first one of the span.
pub fn cut_all(
    text: &str,
    spans: &[Range<usize>],
    numbers: Numbers,
    with: &mut dyn FnMut(usize, &str, bool) -> String,
) -> Vec<Cut> {
    let mut lexer = Lexer::default();
    lexer.push(text);
    lexer.end();
    let parts: Vec<&Part> = lexer.parts().iter().collect();
    let mut cuts = Vec::new();
    for (number, span) in spans.iter().enumerate() {
        let first = parts.partition_point(|part| part.span.end <= span.start);
        let last = parts.partition_point(|part| part.span.start < span.end);
        let near = parts.get(first..last.max(first)).unwrap_or_default();
        let mut with = |part: &Part, bytes: &Range<usize>, first: bool| {
            with(number, &value(text, part, bytes), first)
        };
        Shape::new(numbers).cut(near, span.clone(), &mut with, &mut cuts);
    }
    cuts.sort_by_key(|cut| cut.span.start);
    let mut end = 0;
    cuts.retain(|cut| {
        let apart = cut.span.start >= end;
        end = end.max(cut.span.end);
        apart
    });
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(text: &str, needles: &[&str]) -> String {
        let spans: Vec<_> = needles
            .iter()
            .map(|needle| text.find(needle).map(|at| at..at + needle.len()).expect("it is there"))
            .collect();
        let mut out = text.to_owned();
        let mut with = |_, _: &str, first| if first { "[K]" } else { "" }.into();
        for cut in cut_all(text, &spans, Numbers::Replaced, &mut with).into_iter().rev() {
            out.replace_range(cut.span, &cut.with);
        }
        out
    }

    #[test]
    fn only_values_are_cut_and_numbers_become_strings() {
        for (text, needle, want) in [
            (r#"{"pw":"x1","n":4}"#, r#"pw":"x1""#, r#"{"pw":"[K]","n":4}"#),
            (r#"{"n":-55,"m":4}"#, "-55", r#"{"n":"[K]","m":4}"#),
            (r#"{"n":-55,"m":4}"#, "55", r#"{"n":-0,"m":4}"#),
            (r#"{"n":55.1}"#, "55", r#"{"n":"[K]"}"#),
            (r#"{"a":["AB","CD"]}"#, r#"B","C"#, r#"{"a":["A[K]","D"]}"#),
            (r#"{"j@x.org":1}"#, "j@x.org", r#"{"[K]":1}"#),
            (r#"{"b":"{\"n\":55}"}"#, "55", r#"{"b":"{\"n\":\"[K]\"}"}"#),
            (r#"{"b":"[\"{\\\"n\\\":5}\"]"}"#, "5", r#"{"b":"[\"{\\\"n\\\":\\\"[K]\\\"}\"]"}"#),
            ("say 55", "55", "say [K]"),
        ] {
            assert_eq!(masked(text, &[needle]), want, "{text}");
        }
    }

    #[test]
    fn numbers_can_be_kept() {
        let text = r#"{"card":4111111111111111,"to":"j@x.org"}"#;
        let spans = [8..24, 31..38];
        let cuts = cut_all(text, &spans, Numbers::Kept, &mut |_, _, _| "[K]".into());
        assert_eq!(cuts, [Cut { span: 31..38, with: "[K]".into() }]);
    }

    #[test]
    fn values_are_decoded_and_replacements_escaped_for_their_depth() {
        let text = r#"{"a":"x\"\u0040","b":"{\"c\":\"y\\\"z\"}"}"#;
        let mut seen = Vec::new();
        let span = 6..text.len() - 2;
        let cuts =
            cut_all(text, std::slice::from_ref(&span), Numbers::Replaced, &mut |_, value, _| {
                seen.push(value.to_owned());
                "\"".into()
            });
        assert_eq!(seen, ["x\"@", "y\"z"]);
        assert_eq!([&*cuts[0].with, &*cuts[1].with], [r#"\""#, r#"\\\""#]);
    }

    proptest::proptest! {
        /// Documents, also inside strings of each other, stay documents whatever is masked.
        #[test]
        fn what_parsed_before_parses_after(
            values in proptest::collection::vec("[a-z0-9@ \"\\\\\\né{}\\[\\],:-]{0,12}", 1..5),
            number in proptest::num::i64::ANY,
            depth in 0usize..3,
            spans in proptest::collection::vec((0usize..400, 1usize..60), 1..4),
        ) {
            let mut document = serde_json::json!({"number": number, "list": values, "f": -1.5e7});
            for _ in 0..depth {
                document = serde_json::json!({"in": document.to_string(), "n": [number, null]});
            }
            let text = document.to_string();
            // A match begins and ends at whole escapes.
            let units: Vec<usize> = starts(&text);
            let at = |byte: usize| units[byte * (units.len() - 1) / 460];
            let spans: Vec<_> =
                spans.iter().map(|(from, length)| at(*from)..at(from + length)).collect();
            let mut out = text.clone();
            let mut with = |_, _: &str, _| "[K\"]".to_owned();
            for cut in cut_all(&text, &spans, Numbers::Replaced, &mut with).into_iter().rev() {
                out.replace_range(cut.span, &cut.with);
            }
            let parsed = serde_json::from_str::<serde_json::Value>(&out);
            proptest::prop_assert!(parsed.is_ok(), "{text}\n{out}");
        }
    }

    /// The positions of characters, each with the backslashes before it, and the end.
    fn starts(text: &str) -> Vec<usize> {
        let mut starts = Vec::new();
        let mut slashed = false;
        for (at, c) in text.char_indices() {
            if !slashed {
                starts.push(at);
            }
            slashed = c == '\\';
        }
        starts.push(text.len());
        starts
    }
}
