//! Texts of exact numbers of tokens.
//!
//! - *In*: a `tokenizer.json` in Hugging Face's format.
//! - *Out*: texts whose encoding, without special tokens, has the number of tokens asked for.
//! - *Never*: a panic of the tokenizer that leaves this module.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::{WORDS, words};

/// Largest file: the largest vocabularies take some 35 MiB.
const MAX_FILE: u64 = 256 << 20;
/// Lengths with which a new tokenizer is tried.
const TRIED: [u32; 6] = [1, 2, 3, 17, 100, 1_000];
/// Texts that are tried for a length.
const MAX_TEXTS: u32 = 8;
/// Beside [`WORDS`], for tokenizers of small vocabularies.
const LETTERS: [&str; 5] = ["a", "i", "x", "1", "."];

/// A tokenizer, and words that are one token for it.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// One token at the beginning of a text.
    leads: Vec<&'static str>,
    /// One token after a space.
    words: Vec<&'static str>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("leads", &self.leads)
            .field("words", &self.words)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Loads a file.
    ///
    /// # Errors
    /// Why it cannot be read, or that no texts of exact lengths can be made with it.
    pub fn load(path: &Path) -> Result<Self, String> {
        let name = path.display();
        let wrong = |why: String| format!("tokenizer {name}: {why}");
        let size = std::fs::metadata(path).map_err(|e| wrong(e.to_string()))?.len();
        if size > MAX_FILE {
            return Err(wrong(format!("is larger than {} MiB", MAX_FILE >> 20)));
        }
        let text = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
        let read = || -> Result<tokenizers::Tokenizer, String> {
            let mut inner = tokenizers::Tokenizer::from_bytes(&text).map_err(|e| e.to_string())?;
            inner.with_padding(None);
            inner.with_truncation(None).map_err(|e| e.to_string())?;
            Ok(inner)
        };
        let inner = catch_unwind(AssertUnwindSafe(read))
            .unwrap_or_else(|_| Err("the tokenizer panicked".into()))
            .map_err(wrong)?;
        let mut tokenizer = Tokenizer { inner, leads: Vec::new(), words: Vec::new() };
        let is = |text: &str, tokens| tokenizer.count(text) == Some(tokens);
        let leads = WORDS.iter().chain(&LETTERS).filter(|lead| is(lead, 1)).copied();
        let leads: Vec<&str> = leads.collect();
        let follows = |word: &&&str| leads.iter().all(|lead| is(&format!("{lead} {word}"), 2));
        let words = WORDS.iter().chain(&LETTERS).filter(follows).copied().collect();
        (tokenizer.leads, tokenizer.words) = (leads, words);
        let mut random = SmallRng::seed_from_u64(1);
        let has_both = !tokenizer.leads.is_empty() && !tokenizer.words.is_empty();
        let is_exact = |length: u32| tokenizer.exact(length, &mut random).is_some();
        if !has_both || !TRIED.into_iter().all(is_exact) {
            return Err(wrong("no text of an exact number of tokens can be made with it".into()));
        }
        Ok(tokenizer)
    }

    /// The number of tokens in a text; `None`: the tokenizer failed.
    pub(super) fn count(&self, text: &str) -> Option<u32> {
        let encoded =
            catch_unwind(AssertUnwindSafe(|| self.inner.encode_fast(text, false))).ok()?;
        u32::try_from(encoded.ok()?.len()).ok()
    }

    pub(super) fn text(&self, length: u32, random: &mut SmallRng) -> String {
        self.exact(length, random).unwrap_or_else(|| self.likely(length, random))
    }

    /// A text of exactly this length; `None` if the words of none that was tried add up.
    fn exact(&self, length: u32, random: &mut SmallRng) -> Option<String> {
        (0..MAX_TEXTS)
            .map(|_| self.likely(length, random))
            .find(|text| self.count(text) == Some(length))
    }

    /// A text that has this length if its words add up.
    fn likely(&self, length: u32, random: &mut SmallRng) -> String {
        let lead = self.leads[random.random_range(0..self.leads.len())];
        match length.saturating_sub(1) {
            0 => lead.to_owned(),
            more => format!("{lead} {}", words(more, &self.words, random)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tokenizer of bytes with a token for some words after a space, as in byte-level BPE.
    fn file(folder: &Path) -> std::path::PathBuf {
        let mut vocabulary = serde_json::Map::new();
        let add = |vocabulary: &mut serde_json::Map<String, serde_json::Value>, token: &str| {
            let id = vocabulary.len();
            vocabulary.entry(token.to_owned()).or_insert(id.into());
        };
        for letter in "abcdefghijklmnopqrstuvwxyz.1Ġ".chars() {
            add(&mut vocabulary, &letter.to_string());
        }
        let mut merges: Vec<String> = Vec::new();
        for word in ["sea", "wide", "fog"] {
            let mut made = "Ġ".to_owned();
            for letter in word.chars() {
                let merge = format!("{made} {letter}");
                made.push(letter);
                add(&mut vocabulary, &made);
                if !merges.contains(&merge) {
                    merges.push(merge);
                }
            }
        }
        let text = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "post_processor": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": merges},
        });
        let path = folder.join("tokenizer.json");
        std::fs::write(&path, text.to_string()).unwrap();
        path
    }

    #[test]
    fn texts_have_exactly_the_tokens_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = Tokenizer::load(&file(folder.path())).unwrap();
        // The others are letters for it.
        assert_eq!(tokenizer.leads, LETTERS);
        assert_eq!(tokenizer.words, ["sea", "wide", "fog"]);
        let mut random = SmallRng::seed_from_u64(5);
        for length in (1..200).chain([1_024, 8_000]) {
            let text = tokenizer.text(length, &mut random);
            assert_eq!(tokenizer.count(&text), Some(length), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_tokenizer_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.json");
        std::fs::write(&path, "{}").unwrap();
        assert!(Tokenizer::load(&path).unwrap_err().contains("t.json: "));
        assert!(Tokenizer::load(&folder.path().join("none")).is_err());
    }
}
