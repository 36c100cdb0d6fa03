//! All features of a text: the walk, the phrases, the facts.
//!
//! - *In*: a normal text.
//! - *Out*: features to a [`Sink`], and the first phrase of an attack.
//! - *Never*: a weight.

use std::ops::Range;

use super::features::{Sink, Walk, fact};
use super::lexicon::Lexicon;
use super::phrase::{Family, Phrases};
use shield::normalise::Normal;

/// A phrase of an attack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phrase {
    /// The intent of the phrase.
    pub family: Family,
    /// The span in the text as sent; for a match in a decoded run, the span of the run.
    pub span: Range<usize>,
}

/// Maximum phrases counted in a text or a view; more do not change the result.
const MAX_PHRASES: usize = 32;

/// Reports all features of `normal` to `sink`. Returns the first phrase.
pub fn extract<S: Sink>(
    lexicon: &Lexicon,
    phrases: &Phrases,
    normal: &Normal,
    sink: &mut S,
) -> Option<Phrase> {
    let (first, families) = find(phrases, normal);
    for (i, n) in families.iter().enumerate().filter(|(_, n)| **n > 0) {
        fact(sink, 1 + i as u64, 1);
        if *n > 2 {
            fact(sink, 1 + i as u64, 2);
        }
    }
    let kinds = families.iter().filter(|n| **n > 0).count();
    if kinds > 0 {
        fact(sink, 20, kinds.min(4) as u64);
    }
    let marks = &normal.marks;
    for (which, n) in [(21, marks.invisible > 3), (22, marks.tags > 0), (23, marks.confusable > 3)]
    {
        if n {
            fact(sink, which, 1);
        }
    }
    let disguised: usize = normal.views.iter().map(|v| v.at.len()).sum();
    if disguised * 3 > normal.text.len() {
        fact(sink, 24, 1);
    }
    for view in normal.views.iter().filter(|v| v.at.len() > 12) {
        fact(sink, 25, view.disguise as u64);
    }
    fact(sink, 26, u64::from((normal.text.len().max(8)).ilog2().min(12)));
    Walk::new(lexicon, sink).text(normal);
    first
}

fn find(phrases: &Phrases, normal: &Normal) -> (Option<Phrase>, [u32; 6]) {
    let mut families = [0u32; 6];
    let mut first: Option<Phrase> = None;
    let mut seen = |family: Family, span: Range<usize>| {
        if let Some(n) = families.get_mut(family as usize) {
            *n += 1;
        }
        if first.as_ref().is_none_or(|f| span.start < f.span.start) {
            first = Some(Phrase { family, span });
        }
    };
    for (family, start, end) in phrases.find(&normal.text).take(MAX_PHRASES) {
        seen(family, normal.original(start..end));
    }
    for view in &normal.views {
        for (family, _, _) in phrases.find(&view.text).take(MAX_PHRASES) {
            seen(family, view.span.clone());
        }
    }
    (first, families)
}
