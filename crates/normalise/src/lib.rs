//! Removes disguises from a text.
//!
//! - *In*: a text as sent, and limits.
//! - *Out*: a [`Normal`]: the folded text, the decoded runs as [`DecodedText`]s, and a map back to
//!   the bytes as sent.
//! - *Never*: a panic, a judgement, more output than the limits allow, more than linear time.
//!
//! Plain ASCII without an encoded run costs one copy and one scan over the bytes. [`typography`]
//! folds less, and folds streams as well.
#![deny(clippy::indexing_slicing)]

mod confusable;
mod encoded;
mod fold;
mod map;
mod scan;
pub mod typography;
mod words;

use std::ops::Range;

use map::Map;

/// The limits for one text.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum bytes of input; the rest is left out and [`Normal::truncated`] is set.
    pub max_input: usize,
    /// Bytes of folded text and views together.
    pub max_output: usize,
    /// Views of one text.
    pub max_views: usize,
    /// Maximum nested encodings that are decoded.
    pub max_depth: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_input: 1 << 20, max_output: 2 << 20, max_views: 256, max_depth: 2 }
    }
}

/// How a run was disguised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disguise {
    /// Base64, standard or URL alphabet.
    Base64,
    /// Pairs of hexadecimal digits.
    Hex,
    /// `%41`.
    Percent,
    /// `&#65;`, `&amp;`.
    Entities,
    /// Rotated by thirteen letters.
    Rot13,
    /// Written backwards.
    Reversed,
    /// Digits and signs for letters.
    Leet,
    /// One letter at a time.
    Spaced,
}

impl Disguise {
    /// All disguises, in the order of [`name`](Self::name)s in reports.
    pub const ALL: [Disguise; 8] = [
        Disguise::Base64,
        Disguise::Hex,
        Disguise::Percent,
        Disguise::Entities,
        Disguise::Rot13,
        Disguise::Reversed,
        Disguise::Leet,
        Disguise::Spaced,
    ];

    /// The name used in records.
    pub fn name(self) -> &'static str {
        match self {
            Disguise::Base64 => "base64",
            Disguise::Hex => "hex",
            Disguise::Percent => "percent",
            Disguise::Entities => "entities",
            Disguise::Rot13 => "rot13",
            Disguise::Reversed => "reversed",
            Disguise::Leet => "leet",
            Disguise::Spaced => "spaced",
        }
    }
}

/// A run of the text, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodedText {
    /// The outermost disguise.
    pub disguise: Disguise,
    /// The decoded text, with nested disguises undone.
    pub text: String,
    /// The run in the text as sent.
    pub span: Range<usize>,
    /// The number of nested disguises that were undone.
    pub depth: u8,
    /// The run in [`Normal::text`].
    pub at: Range<usize>,
}

/// Counts of characters that were folded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Invisible characters and direction controls taken out.
    pub invisible: u32,
    /// Tag characters (U+E0000 block) read as text.
    pub tags: u32,
    /// Look-alikes of other scripts folded to Latin.
    pub confusable: u32,
    /// Compatibility forms folded by NFKC.
    pub compatibility: u32,
}

/// A normalized text.
#[derive(Clone, Debug, Default)]
pub struct Normal {
    /// The folded text.
    pub text: String,
    /// The decoded runs, in order and without overlaps.
    pub views: Vec<DecodedText>,
    /// Counts of what was folded.
    pub marks: Marks,
    /// Whether something was left out because of the limits.
    pub truncated: bool,
    map: Map,
}

/// Normalizes `text` within `limits`.
pub fn normalise(text: &str, limits: &Limits) -> Normal {
    let room = limits.max_input.min(limits.max_output).min(u32::MAX as usize / 2);
    let end = (0..=room.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    let read = text.get(..end).unwrap_or_default();
    let mut normal = if read.is_ascii() {
        Normal { text: read.to_owned(), ..Normal::default() }
    } else {
        fold::fold(read, limits.max_output)
    };
    normal.truncated |= read.len() < text.len();
    let mut left = limits.max_output.saturating_sub(normal.text.len());
    let found = scan::scan(&normal.text, limits.max_views);
    let mut views = Vec::with_capacity(found.len());
    for run in found {
        let Some((inner, depth)) = unfold(&normal.text, &run, limits, left) else { continue };
        if inner.len() > left {
            normal.truncated = true;
            continue;
        }
        left -= inner.len();
        views.push(DecodedText {
            disguise: run.disguise,
            text: inner,
            span: normal.original(run.at.clone()),
            depth,
            at: run.at,
        });
    }
    normal.views = views;
    normal
}

/// The decoded text of a run, and the number of nested disguises. `None`: the run is not a text.
fn unfold(text: &str, run: &scan::Run, limits: &Limits, left: usize) -> Option<(String, u8)> {
    let mut inner = run.decode(text.get(run.at.clone())?)?;
    let mut depth = 1;
    while depth < limits.max_depth.max(1) && inner.len() <= left {
        if !inner.is_ascii() {
            inner = fold::fold(&inner, left).text;
        }
        let runs = scan::scan(&inner, limits.max_views);
        if runs.is_empty() {
            break;
        }
        let next = substitute(&inner, &runs);
        if next == inner {
            break;
        }
        inner = next;
        depth += 1;
    }
    Some((inner, depth))
}

/// `text` with its runs decoded in place.
fn substitute(text: &str, runs: &[scan::Run]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for run in runs {
        let Some(decoded) = text.get(run.at.clone()).and_then(|t| run.decode(t)) else { continue };
        out.push_str(text.get(from..run.at.start).unwrap_or_default());
        out.push_str(&decoded);
        from = run.at.end;
    }
    out.push_str(text.get(from..).unwrap_or_default());
    out
}

impl Normal {
    /// The span in the text as sent of a span of [`text`](Self::text).
    pub fn original(&self, span: Range<usize>) -> Range<usize> {
        self.map.original(span, self.text.len())
    }

    /// The text in reading order, with every disguised run replaced by its view.
    pub fn plain(&self) -> impl Iterator<Item = &str> {
        let mut from = 0;
        let cut = self.views.iter().flat_map(move |view| {
            let before = self.text.get(from..view.at.start).unwrap_or_default();
            from = view.at.end;
            [before, view.text.as_str()]
        });
        let last = self.views.last().map_or(0, |v| v.at.end);
        cut.chain(std::iter::once(self.text.get(last..).unwrap_or_default()))
            .filter(|s| !s.is_empty())
    }
}

#[cfg(test)]
mod tests;
