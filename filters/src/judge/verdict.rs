//! Parses the reply of a guard model.
//!
//! - *In*: the text of a reply.
//! - *Out*: a [`Verdict`], or nothing when the reply does not begin with one.
//! - *Never*: a verdict later in the reply: a manipulated model may write `safe` anywhere in it.

use super::reading::bounded;
use super::words::{Words, is_attack, is_harmless};

/// What a guard model decided.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict<'r> {
    /// The text is harmless.
    Safe,
    /// The text is harmful; the model does not name a category.
    Unnamed,
    /// The text is harmful: the labels that the model names, and its score.
    Named(Vec<&'r str>, f32),
}

/// The reply without its reasoning. Some servers omit the opening tag, because it is part of the
/// prompt.
pub(super) fn spoken(content: &str) -> &str {
    content.rsplit_once("</think>").map_or(content, |(_, reply)| reply).trim()
}

/// `safe`, or `unsafe` and a list of hazards.
pub(super) fn hazards(reply: &str) -> Option<Verdict<'_>> {
    let (first, rest) = first_word(reply);
    let mut names = rest
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|name| !name.is_empty())
        .peekable();
    match first {
        // `safe` must be the whole reply.
        word if word.eq_ignore_ascii_case("safe") => {
            names.peek().is_none().then_some(Verdict::Safe)
        }
        word if word.eq_ignore_ascii_case("unsafe") && names.peek().is_none() => {
            Some(Verdict::Unnamed)
        }
        word if word.eq_ignore_ascii_case("unsafe") => Some(Verdict::Named(names.collect(), 1.0)),
        _ => None,
    }
}

/// A label for an attack or for harmless text, or one of the operator's `words`, with an optional
/// score.
pub(super) fn label<'r>(reply: &'r str, words: &Words) -> Option<Verdict<'r>> {
    let (first, rest) = first_word(reply);
    if is_harmless(first) {
        return Some(Verdict::Safe);
    }
    if !is_attack(first) && words.find(first).is_none() {
        return None;
    }
    let said = rest
        .split_whitespace()
        .next()
        .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric() && c != '-'));
    let sure = match said.and_then(|word| word.parse::<f64>().ok()) {
        Some(number) => bounded(number)?,
        None => 1.0,
    };
    Some(Verdict::Named(vec![first], sure))
}

/// Yes or no.
pub(super) fn yes_no(reply: &str) -> Option<Verdict<'_>> {
    match first_word(reply).0 {
        word if word.eq_ignore_ascii_case("no") => Some(Verdict::Safe),
        word if word.eq_ignore_ascii_case("yes") => Some(Verdict::Named(vec!["yes"], 1.0)),
        _ => None,
    }
}

/// The first word without punctuation around it, as in `**yes**,`; and the rest.
fn first_word(reply: &str) -> (&str, &str) {
    let (first, rest) = reply.split_once(char::is_whitespace).unwrap_or((reply, ""));
    (first.trim_matches(|c: char| !c.is_alphanumeric()), rest)
}

#[cfg(test)]
mod tests {
    use super::super::words::ATTACKS;
    use super::*;
    use crate::report::Category;

    #[test]
    fn hazards_are_listed_after_the_verdict() {
        assert_eq!(hazards("safe"), Some(Verdict::Safe));
        assert_eq!(hazards("unsafe"), Some(Verdict::Unnamed));
        assert_eq!(hazards("unsafe\nS1,S10"), Some(Verdict::Named(vec!["S1", "S10"], 1.0)));
        assert_eq!(hazards("Unsafe\n S1, S10\n"), Some(Verdict::Named(vec!["S1", "S10"], 1.0)));
        for wrong in
            ["", "safely", "safe as long as", "I think it is safe", "un safe", "S1", "<think>safe"]
        {
            assert_eq!(hazards(spoken(wrong)), None, "{wrong}");
        }
    }

    #[test]
    fn labels_may_have_a_score() {
        let words = Words::new(ATTACKS, &[], Category::Injection, false);
        assert_eq!(label("BENIGN 0.99", &words), Some(Verdict::Safe));
        assert_eq!(label("label_1", &words), Some(Verdict::Named(vec!["label_1"], 1.0)));
        assert_eq!(
            label("INJECTION (0.75)", &words),
            Some(Verdict::Named(vec!["INJECTION"], 0.75))
        );
        assert_eq!(label("INJECTION: 7", &words), Some(Verdict::Named(vec!["INJECTION"], 1.0)));
        assert_eq!(label("INJECTION -7", &words), Some(Verdict::Named(vec!["INJECTION"], 0.0)));
        assert_eq!(
            label("INJECTION because", &words),
            Some(Verdict::Named(vec!["INJECTION"], 1.0))
        );
        for wrong in ["", "INJECTION NaN", "INJECTION inf", "LABEL_3", "no INJECTION", "NOT_BENIGN"]
        {
            assert_eq!(label(wrong, &words), None, "{wrong}");
        }
    }

    #[test]
    fn yes_and_no_are_whole_words() {
        assert_eq!(yes_no("No."), Some(Verdict::Safe));
        assert_eq!(yes_no("**Yes**, it is"), Some(Verdict::Named(vec!["yes"], 1.0)));
        for wrong in ["", "not sure", "yesterday", "yes/no", "I say yes", "nobody"] {
            assert_eq!(yes_no(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn reasoning_is_not_part_of_the_reply() {
        assert_eq!(spoken("<think>it may be safe</think>\n unsafe\n"), "unsafe");
        assert_eq!(spoken("hm, yes?</think>no"), "no");
        assert_eq!(spoken("  no "), "no");
        assert_eq!(spoken("<think>I wonder"), "<think>I wonder");
    }
}
