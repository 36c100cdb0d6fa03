//! Categories of toxic language.
//!
//! - *In*: a normal text, and the classifier's toxicity score of it.
//! - *Out*: one score for each category, 0 if no phrase of `toxic.txt` matches.
//! - *Never*: a score by words alone if they are common in harmless text: those need the
//!   classifier.
//!
//! A phrase has a weight *w*, the classifier a score *t*. The score of a category is
//! `sigmoid(logit(t) + w)`, with the heaviest phrase of the category. A weight of six raises the
//! 0.3 % of an ordinary text to one half; a weight of one needs 27 %. A negated phrase has no
//! weight. One sign of a report, a quotation, a game or of care next to a phrase leaves a part of
//! its weight, two leave nothing. The log-odds are summed because a noisy-or raised harmless texts
//! with common words as much as others (AUC 0.895 instead of 0.907).

mod table;

use std::collections::HashMap;
use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickKind, BuildError, Input, MatchKind};

use super::hash::{roll, word_hash};
use shield::normalise::Normal;
use table::{Classes, Gap, Known, Met, Part, Phrase, Reader};

/// A category of toxic language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ToxicCategory {
    /// Contempt or violence towards people for what they are.
    Hate,
    /// Contempt for a person.
    Insult,
    /// Violence announced or wished.
    Threat,
    /// Encouragement of self-harm.
    SelfHarm,
    /// Sexual harassment.
    Sexual,
}

impl ToxicCategory {
    /// All categories, in the order of their scores.
    pub const ALL: [ToxicCategory; 5] = [
        ToxicCategory::Hate,
        ToxicCategory::Insult,
        ToxicCategory::Threat,
        ToxicCategory::SelfHarm,
        ToxicCategory::Sexual,
    ];

    /// The name used in rules and in the table of phrases.
    pub fn name(self) -> &'static str {
        match self {
            ToxicCategory::Hate => "hate",
            ToxicCategory::Insult => "insult",
            ToxicCategory::Threat => "threat",
            ToxicCategory::SelfHarm => "self_harm",
            ToxicCategory::Sexual => "sexual",
        }
    }
}

/// Bytes on either side of a rare word that may belong to its sentence.
const REACH: usize = 200;
/// Words that a gap may hold.
const GAP: usize = 3;
/// Words before a phrase in which a negation cancels it.
const BEFORE: usize = 4;
/// A pseudo-word that marks the beginning of a sentence.
const BEGIN: &str = "^";
/// The part of its weight that a phrase keeps if it is reported, quoted or part of a game.
const SOFT: f32 = 0.3;

/// One number a category.
type Weights = [f32; ToxicCategory::ALL.len()];

/// The compiled table. One pass over a text finds its rare words; only sentences with one are read
/// word by word. (Finding rare words by a hash of each word was slower: 16 us instead of 11 on 4
/// KiB.)
#[derive(Debug)]
pub struct Table {
    rare: AhoCorasick,
    words: HashMap<u64, Classes>,
    known: Known,
    phrases: Vec<Phrase>,
}

#[derive(Clone, Copy, Debug)]
struct Token {
    word: u64,
    classes: Classes,
    quoted: bool,
}

impl Table {
    /// Reads the table that is compiled in.
    pub fn new() -> Result<Self, BuildError> {
        let mut reader = Reader::default();
        include_str!("toxic.txt").lines().for_each(|line| reader.line(line));
        let rare = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::LeftmostLongest)
            .kind(Some(AhoCorasickKind::DFA))
            .build(&reader.rare)?;
        Ok(Self { rare, words: reader.words, known: reader.known, phrases: reader.phrases })
    }

    /// The scores of a text that the classifier gives `t`.
    pub fn scores(&self, normal: &Normal, t: f32) -> Weights {
        let mut weights = Weights::default();
        if normal.views.is_empty() {
            self.find(&normal.text, &mut weights);
        } else {
            let plain: Vec<&str> = normal.plain().collect();
            self.find(&plain.join(" "), &mut weights);
        }
        weights.map(|w| if w > 0.0 { joined(w, t) } else { 0.0 })
    }

    fn find(&self, text: &str, weights: &mut Weights) {
        let mut at = 0;
        let mut tokens = Vec::new();
        while let Some(found) = self.rare.find(Input::new(text).span(at..text.len())) {
            at = found.end();
            if !alone(text.as_bytes(), found.range()) {
                continue;
            }
            let sentence = sentence(text, found.range());
            at = at.max(sentence.end);
            self.read(text.get(sentence).unwrap_or_default(), &mut tokens);
            self.judge(&tokens, weights);
        }
    }

    /// Reads the words of a sentence into `tokens`. A trait and the word for people that follows it
    /// become one token.
    fn read(&self, sentence: &str, tokens: &mut Vec<Token>) {
        tokens.clear();
        tokens.push(Token { word: word_hash(BEGIN), classes: 0, quoted: false });
        let (mut word, mut length, mut quoted) = (0u64, 0u32, false);
        for c in sentence.chars().chain([' ']) {
            if c.is_alphanumeric() {
                (word, length) =
                    (roll(word, c.to_lowercase().next().unwrap_or(c) as u32), length + 1);
            } else if !matches!(c, '\'' | '’') {
                if length > 0 {
                    self.push(
                        Token {
                            word,
                            classes: self.words.get(&word).copied().unwrap_or(0),
                            quoted,
                        },
                        tokens,
                    );
                    (word, length) = (0, 0);
                }
                quoted ^= matches!(c, '"' | '“' | '”');
            }
        }
    }

    fn push(&self, mut token: Token, tokens: &mut Vec<Token>) {
        if token.classes & self.known.slur != 0 {
            token.classes |= self.known.group;
        }
        match tokens.last_mut() {
            Some(last)
                if last.classes & self.known.prefix != 0
                    && token.classes & self.known.folk != 0 =>
            {
                last.classes |= self.known.group
            }
            _ => tokens.push(token),
        }
    }

    fn judge(&self, tokens: &[Token], weights: &mut Weights) {
        let all =
            tokens.iter().fold(Met::default(), |all, token| all.with(token.classes, token.word));
        for phrase in &self.phrases {
            let known = |category: &ToxicCategory| {
                weights.get(*category as usize).is_some_and(|w| *w >= phrase.weight)
            };
            if phrase.categories.iter().all(known)
                || phrase.parts.iter().any(|part| !part.optional && !part.met.meets(all))
            {
                continue;
            }
            for start in 0..tokens.len() {
                let Some(end) = self.match_parts(tokens, start, &phrase.parts) else { continue };
                let weight = phrase.weight * self.share(phrase, tokens, start, end);
                for category in &phrase.categories {
                    if let Some(w) = weights.get_mut(*category as usize) {
                        *w = w.max(weight);
                    }
                }
            }
        }
    }

    /// Matches `parts` at `at`; returns where the match ends.
    fn match_parts(&self, tokens: &[Token], at: usize, parts: &[Part]) -> Option<usize> {
        let Some((part, rest)) = parts.split_first() else { return Some(at) };
        let most = if part.gap == Gap::Nothing { 0 } else { GAP };
        for skip in 0..=most {
            let token = tokens.get(at + skip)?;
            if (token.classes & part.met.classes != 0 || part.words.contains(&token.word))
                && let Some(end) = self.match_parts(tokens, at + skip + 1, rest)
            {
                return Some(end);
            }
            let passable = match part.gap {
                Gap::Small => token.classes & self.known.small != 0,
                _ => token.classes & self.known.not == 0,
            };
            if !passable {
                break;
            }
        }
        if part.optional { self.match_parts(tokens, at, rest) } else { None }
    }

    /// The part of its weight that a phrase keeps in its surroundings, 0 to 1.
    fn share(&self, phrase: &Phrase, tokens: &[Token], start: usize, end: usize) -> f32 {
        let before = tokens.get(start.saturating_sub(BEFORE)..start).unwrap_or_default();
        if before.iter().any(|token| token.classes & self.known.not != 0) {
            return 0.0;
        }
        let soft = |category: &ToxicCategory| match category {
            ToxicCategory::Hate | ToxicCategory::Sexual => self.known.report,
            ToxicCategory::SelfHarm => self.known.report | self.known.harmless | self.known.care,
            ToxicCategory::Insult | ToxicCategory::Threat => {
                self.known.report | self.known.harmless
            }
        };
        let soft = phrase.categories.iter().fold(0, |all, category| all | soft(category));
        // A single word often describes its author: "I am a proud ...".
        let soft = if phrase.parts.len() > 1 { soft } else { soft | self.known.own };
        let around = tokens.iter().enumerate().filter(|(i, _)| !(start..end).contains(i));
        let signs = around.filter(|(_, token)| token.classes & soft != 0).count();
        let quoted = tokens.get(start).is_some_and(|token| token.quoted);
        match signs + usize::from(quoted) {
            0 => 1.0,
            1 => SOFT,
            _ => 0.0,
        }
    }
}

/// Adds the weight of a phrase to the log-odds of the classifier; returns the score.
fn joined(weight: f32, t: f32) -> f32 {
    let odds = t / (1.0 - t).max(f32::EPSILON) * weight.exp();
    odds / (1.0 + odds)
}

/// Whether a match is a word of its own.
fn alone(text: &[u8], found: Range<usize>) -> bool {
    let letter =
        |at: Option<usize>| at.and_then(|at| text.get(at)).is_some_and(u8::is_ascii_alphanumeric);
    !letter(found.start.checked_sub(1)) && !letter(Some(found.end))
}

/// The sentence around a match, within [`REACH`].
fn sentence(text: &str, found: Range<usize>) -> Range<usize> {
    let ends = |b: &u8| matches!(b, b'.' | b'?' | b'!' | b'\n');
    let bytes = text.as_bytes();
    let from = found.start.saturating_sub(REACH);
    let before = bytes.get(from..found.start).unwrap_or_default();
    let from = before.iter().rposition(ends).map_or(from, |i| from + i + 1);
    let after = bytes.get(found.end..).unwrap_or_default();
    let to = found.end + after.iter().take(REACH).position(ends).unwrap_or(REACH.min(after.len()));
    let inner = |at: &usize| text.is_char_boundary(*at);
    (from..=found.start).find(inner).unwrap_or(found.start)
        ..(found.end..=to).rev().find(inner).unwrap_or(found.end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shield::normalise::{Limits, normalise};

    fn scores(text: &str, t: f32) -> Weights {
        Table::new().expect("table").scores(&normalise(text, &Limits::default()), t)
    }

    #[test]
    fn light_phrases_need_a_high_classifier_score() {
        let [hate, insult, ..] = scores("that bitch", 0.01);
        assert!(hate == 0.0 && insult > 0.01 && insult < 0.05, "{insult}");
        let [_, insult, ..] = scores("that bitch", 0.4);
        assert!(insult > 0.5, "{insult}");
        let [.., self_harm, _] = scores("kys", 0.003);
        assert!(self_harm > 0.5, "{self_harm}");
        assert_eq!(scores("kys", 1.0).map(|s| s <= 1.0), [true; 5]);
    }

    #[test]
    fn surroundings_reduce_the_weight_of_a_phrase() {
        let of = |text: &str| scores(text, 0.1).into_iter().fold(0.0, f32::max);
        let plain = of("I hate immigrants");
        let reported = of("People say I hate immigrants");
        assert!(plain > reported && reported > 0.1);
        assert_eq!(of("\"I hate immigrants\", he said"), 0.0);
        assert_eq!(of("It is not that I hate immigrants"), 0.0);
        assert_eq!(of("I hate this. Immigrants came."), 0.0, "a phrase ends with its sentence");
        assert_eq!(
            of("skilled hoers, assassins and therapists"),
            0.0,
            "a part of a word does not match"
        );
    }

    #[test]
    fn words_beyond_ascii_and_long_sentences_are_read() {
        let far = "é".repeat(300);
        let [hate, ..] = scores(&format!("{far} Death to all immigrants {far}"), 0.1);
        assert!(hate > 0.9);
        let [.., sexual] = scores("“Sénd” me your nudes: send me nudes’", 0.1);
        assert!(sexual > 0.1);
    }
}
