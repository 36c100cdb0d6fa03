//! Held bytes and cost of the stream scanner, on texts cut into pieces like the tokens of a
//! language model.
//!
//! - *In*: texts: prose, the same prose inside JSON documents, and source files of a folder.
//! - *Out*: held bytes after an event, the share of events with nothing held, speed.
//! - *Never*: a tokenizer. Pieces are cut by one rule, so that figures are reproducible: a word
//!   with the space before it, long words in parts of six letters, signs one by one, digits in
//!   threes.

use std::path::{Path, PathBuf};
use std::time::Instant;

use ::shield::finding::Family;
use ::shield::pattern::Pattern;
use ::shield::stream::{Automata, Channel, Edges, Options};
use anyhow::{Context, Result};
use serde_json::json;

/// Maximum letters of a piece.
const MAX_LETTERS: usize = 6;
/// Maximum digits of a piece.
const MAX_DIGITS: usize = 3;
/// Maximum bytes of all source files together.
const MAX_SOURCE_BYTES: usize = 4 << 20;
/// Number of timed runs; the fastest counts.
const TIMES: usize = 3;

/// The stream section of the report.
pub(super) fn streams(prose: &[&str], code: Option<&Path>) -> Result<String> {
    let wrap = |(at, text): (usize, &&str)| {
        json!({"id": at, "kind": "note", "ok": true, "score": 0.25, "text": text, "tags": ["a", "b"]}).to_string()
    };
    let documents: Vec<String> = prose.iter().enumerate().map(wrap).collect();
    let mut samples = vec![("English", prose.to_vec())];
    let files = code.map(sources).transpose()?.unwrap_or_default();
    if !files.is_empty() {
        samples.push(("code", files.iter().map(String::as_str).collect()));
    }
    samples.push(("JSON", documents.iter().map(String::as_str).collect()));
    let rules = ::shield::rules();
    let secrets: Vec<&'static Pattern> =
        rules.iter().copied().filter(|rule| rule.family == Family::Secret).collect();
    let mut out = String::new();
    for (name, rules) in [("all rules", &rules), ("secrets only", &secrets)] {
        let options = Options { edges: Edges::tables(), ..Options::default() };
        let automata = Automata::new(rules, options).context("the rules do not compile")?;
        for (sample, texts) in &samples {
            out.push_str(&format!("streams, {name:12} {sample:8} {}\n", measure(&automata, texts)));
        }
    }
    Ok(out)
}

/// One line of figures.
fn measure(automata: &Automata, texts: &[&str]) -> String {
    let pieces: Vec<Vec<&str>> = texts.iter().map(|text| pieces(text)).collect();
    let mut held: Vec<usize> = pieces.iter().flat_map(|text| run(automata, text)).collect();
    held.sort_unstable();
    let timed = |_| {
        let began = Instant::now();
        pieces.iter().for_each(|text| feed(automata, text, |_| {}));
        began.elapsed().as_secs_f64()
    };
    let best = (0..TIMES).map(timed).fold(f64::MAX, f64::min);
    let events = held.len().max(1) as f64;
    let at = |share: f64| {
        held.get(((events * share) as usize).min(held.len().saturating_sub(1)))
            .copied()
            .unwrap_or(0)
    };
    let none = held.partition_point(|held| *held == 0) as f64 / events * 100.0;
    let bytes: usize = texts.iter().map(|text| text.len()).sum();
    format!(
        "held p50 {}  p90 {}  p99 {}  max {}  nothing held {none:.1} %  {:.0} MB/s  {:.3} us an event  ({} events)",
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0),
        bytes as f64 / best / 1e6,
        best * 1e6 / events,
        held.len()
    )
}

/// Held bytes after each event of a text.
fn run(automata: &Automata, pieces: &[&str]) -> Vec<usize> {
    let mut held = Vec::with_capacity(pieces.len());
    feed(automata, pieces, |bytes| held.push(bytes));
    held
}

fn feed(automata: &Automata, pieces: &[&str], mut after: impl FnMut(usize)) {
    let mut channel = Channel::new();
    for piece in pieces {
        channel.push(automata, piece, &mut |_| {});
        after(channel.held());
    }
    channel.finish(automata, &mut |_| {});
}

/// Character classes. A piece has characters of one class.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Digit,
    Space,
    Sign,
}

impl Class {
    fn from_char(c: char) -> Self {
        match c {
            ' ' | '\t' => Class::Space,
            c if c.is_alphabetic() => Class::Letter,
            c if c.is_numeric() => Class::Digit,
            _ => Class::Sign,
        }
    }

    /// Maximum characters of this class in a piece.
    fn most(self) -> usize {
        match self {
            Class::Letter => MAX_LETTERS,
            Class::Digit => MAX_DIGITS,
            Class::Space => usize::MAX,
            Class::Sign => 1,
        }
    }
}

/// Cuts a text into pieces. A run of blanks is one piece, without a last space before a word or a
/// sign, which starts the next piece.
fn pieces(text: &str) -> Vec<&str> {
    let (mut pieces, mut start, mut count) = (Vec::new(), 0, 0);
    let mut last = None;
    for (at, c) in text.char_indices() {
        let class = Class::from_char(c);
        let leads = last == Some(Class::Space)
            && matches!(class, Class::Letter | Class::Sign)
            && c != '\n'
            && text[..at].ends_with(' ');
        if leads {
            pieces.extend(text.get(start..at - 1).filter(|blanks| !blanks.is_empty()));
            (start, count) = (at - 1, 0);
        } else if last.is_some() && (last != Some(class) || count >= class.most()) {
            pieces.extend(text.get(start..at));
            (start, count) = (at, 0);
        }
        count += 1;
        last = Some(class);
    }
    pieces.extend(text.get(start..).filter(|rest| !rest.is_empty()));
    pieces
}

/// The Rust files below a folder, in the order of their names.
fn sources(folder: &Path) -> Result<Vec<String>> {
    let (mut files, mut folders) = (Vec::<PathBuf>::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)
            .with_context(|| format!("cannot read {}", folder.display()))?
        {
            let path = entry?.path();
            if path.is_dir()
                && path.file_name().is_some_and(|name| {
                    name != "target" && !name.to_string_lossy().starts_with('.')
                })
            {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    let (mut texts, mut bytes) = (Vec::new(), 0);
    for file in files {
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        bytes += text.len();
        texts.push(text);
        if bytes > MAX_SOURCE_BYTES {
            break;
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_like_tokens_of_a_model() {
        let text = "It costs 12345 or  so: unbelievable, (really).\n    x = a_b";
        let want = [
            "It", " costs", " ", "123", "45", " or", " ", " so", ":", " unbeli", "evable", ",",
            " (", "really", ")", ".", "\n", "   ", " x", " =", " a", "_", "b",
        ];
        assert_eq!(pieces(text), want);
        assert_eq!(pieces(text).concat(), text);
        assert!(pieces("").is_empty());
    }
}
