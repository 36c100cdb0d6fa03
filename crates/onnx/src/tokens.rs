//! Tokenizes texts and cuts them into windows for the model.
//!
//! - *In*: a `tokenizer.json` in HuggingFace's format; texts.
//! - *Out*: [`Window`]s, each with the special tokens that the tokenizer's post-processor adds
//!   (`[CLS] .. [SEP]`).
//! - *Never*: truncation or padding by the tokenizer file, whose values come from training; a
//!   special token parsed from the text: `[SEP]` in a prompt is tokenized as letters, not as a
//!   separator.
//!
//! A text is tokenized once and then cut. The special tokens are determined at load, by
//! post-processing a marker token. This supports every kind of post-processor and costs nothing per
//! window.

use crate::error::{InferenceError, LoadError};
use crate::fence::fenced;
use crate::file;
use crate::settings::Settings;
use crate::windows::{self, Shape};
use std::path::Path;
use tokenizers::{Encoding, Token, Tokenizer};

/// A token id outside of any vocabulary.
const MARKER: u32 = u32::MAX;

/// Input of one run of the model: ids and token types, of equal length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Window {
    pub ids: Vec<i64>,
    pub types: Vec<i64>,
}

/// The windows of a text in order, and the number of windows that were skipped.
#[derive(Debug)]
pub(crate) struct Cut {
    pub windows: Vec<Window>,
    pub skipped_windows: usize,
}

/// The tokenizer, the special tokens around a window, and the shape of the windows.
pub(crate) struct Cutter {
    tokenizer: Tokenizer,
    before: Window,
    after: Window,
    /// The token type of the text itself.
    kind: i64,
    shape: Shape,
    pad: i64,
    /// The id of some ordinary word.
    ordinary: i64,
}

impl Cutter {
    pub fn load(settings: &Settings) -> Result<Self, LoadError> {
        let path = settings.tokenizer.as_path();
        let bytes = file::read(path, settings.max_tokenizer_bytes)?;
        let tokenizer =
            fenced(|| Tokenizer::from_bytes(&bytes)).map_err(|reason| unusable(path, reason))?;
        Self::new(tokenizer, settings)
    }

    fn new(mut tokenizer: Tokenizer, settings: &Settings) -> Result<Self, LoadError> {
        let path = settings.tokenizer.as_path();
        let pad = tokenizer.get_padding().map_or(0, |padding| i64::from(padding.pad_id));
        tokenizer.with_padding(None).set_encode_special_tokens(true);
        fenced(|| tokenizer.with_truncation(None).map(|_| ()))
            .map_err(|reason| unusable(path, reason))?;
        let marker = Encoding::from_tokens(vec![Token::new(MARKER, "x".to_owned(), (0, 1))], 0);
        let framed = fenced(|| tokenizer.post_process(marker, None, true))
            .map_err(|reason| unusable(path, reason))?;
        let Some((before, kind, after)) = frame(&framed) else {
            return Err(unusable(
                path,
                "its post-processor does not contain the text exactly once".to_owned(),
            ));
        };
        let framing = before.ids.len() + after.ids.len();
        let room = settings.max_tokens.saturating_sub(framing);
        if room == 0 {
            let reason = format!(
                "{} leaves no room beside the tokenizer's {framing} special tokens",
                settings.max_tokens
            );
            return Err(LoadError::Setting { name: "max_tokens", reason });
        }
        if settings.overlap > room / 2 {
            let reason = format!(
                "{} is more than half of the {room} tokens of text in a window",
                settings.overlap
            );
            return Err(LoadError::Setting { name: "overlap", reason });
        }
        let word = fenced(|| tokenizer.encode_fast("the", false))
            .ok()
            .and_then(|word| word.get_ids().first().copied());
        let ordinary = word.map_or(pad, i64::from);
        let shape = Shape { room, overlap: settings.overlap, max_windows: settings.max_windows };
        Ok(Self { tokenizer, before, after, kind, shape, pad, ordinary })
    }

    /// The windows of `text`, at least one.
    pub fn cut(&self, text: &str) -> Result<Cut, InferenceError> {
        let encoding = fenced(|| self.tokenizer.encode_fast(text, false))
            .map_err(|reason| InferenceError::Tokenizer { reason })?;
        let ids = encoding.get_ids();
        if ids.is_empty() && self.before.ids.is_empty() && self.after.ids.is_empty() {
            return Err(InferenceError::NoTokens);
        }
        let (ranges, skipped_windows) = windows::cut(ids.len(), self.shape);
        let windows = ranges.into_iter().map(|range| {
            self.framed(ids.get(range).unwrap_or_default().iter().map(|id| i64::from(*id)))
        });
        Ok(Cut { windows: windows.collect(), skipped_windows })
    }

    /// The shortest and the longest window that [`Cutter::cut`] can return, for the trial runs.
    /// They are filled with an ordinary word: in some models padding has no position, which would
    /// hide that the model has too few.
    pub fn trial_windows(&self) -> [Window; 2] {
        let shortest = usize::from(self.before.ids.is_empty() && self.after.ids.is_empty());
        [shortest, self.shape.room]
            .map(|length| self.framed(std::iter::repeat_n(self.ordinary, length)))
    }

    /// The id that windows are padded with; 0 if the tokenizer has none (the mask hides it).
    pub fn pad(&self) -> i64 {
        self.pad
    }

    fn framed(&self, text: impl Iterator<Item = i64>) -> Window {
        let mut window = self.before.clone();
        window.ids.extend(text);
        window.types.resize(window.ids.len(), self.kind);
        window.ids.extend(&self.after.ids);
        window.types.extend(&self.after.types);
        window
    }
}

/// The tokens before and after the marker, and the marker's type; `None` unless the marker occurs
/// exactly once.
fn frame(encoding: &Encoding) -> Option<(Window, i64, Window)> {
    let ids = encoding.get_ids();
    let types = encoding.get_type_ids();
    let at = ids.iter().position(|id| *id == MARKER)?;
    let window = |ids: &[u32], types: &[u32]| Window { ids: widened(ids), types: widened(types) };
    let before = window(ids.get(..at)?, types.get(..at)?);
    let after = window(ids.get(at + 1..)?, types.get(at + 1..)?);
    let again = after.ids.contains(&i64::from(MARKER));
    (!again).then_some((before, i64::from(*types.get(at)?), after))
}

fn widened(numbers: &[u32]) -> Vec<i64> {
    numbers.iter().map(|number| i64::from(*number)).collect()
}

fn unusable(path: &Path, reason: String) -> LoadError {
    LoadError::Tokenizer { path: path.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits words at whitespace, adds `[CLS]` and `[SEP]`, and has a truncation and a padding
    /// that must be ignored.
    const JSON: &str = r#"{"version":"1.0",
        "truncation":{"direction":"Right","max_length":3,"strategy":"LongestFirst","stride":0},
        "padding":{"strategy":{"Fixed":9},"direction":"Right","pad_to_multiple_of":null,"pad_id":1,"pad_type_id":0,"pad_token":"[PAD]"},
        "added_tokens":[{"id":3,"content":"[SEP]","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
        "normalizer":null,"pre_tokenizer":{"type":"Whitespace"},
        "post_processor":{"type":"BertProcessing","sep":["[SEP]",3],"cls":["[CLS]",2]},"decoder":null,
        "model":{"type":"WordLevel","unk_token":"[UNK]","vocab":{"[UNK]":0,"[PAD]":1,"[CLS]":2,"[SEP]":3,"a":4,"b":5}}}"#;

    fn cutter(json: &str, change: impl FnOnce(&mut Settings)) -> Result<Cutter, LoadError> {
        let mut settings =
            Settings { overlap: 1, ..Settings::new("m", "t", vec!["x".into(), "y".into()]) };
        change(&mut settings);
        Cutter::new(Tokenizer::from_bytes(json).unwrap(), &settings)
    }

    fn ids(cut: Cut) -> Vec<Vec<i64>> {
        cut.windows.into_iter().map(|window| window.ids).collect()
    }

    #[test]
    fn every_window_is_framed_and_nothing_is_truncated_or_padded() {
        let cutter = cutter(JSON, |settings| settings.max_tokens = 5).unwrap();
        assert_eq!(cutter.pad(), 1);
        assert_eq!(ids(cutter.cut("a b a b a").unwrap()), [[2, 4, 5, 4, 3], [2, 4, 5, 4, 3]]);
        assert_eq!(ids(cutter.cut("").unwrap()), [[2, 3]]);
        assert_eq!(
            cutter.trial_windows().map(|window| window.ids),
            [vec![2, 3], vec![2, 0, 0, 0, 3]]
        );
    }

    #[test]
    fn a_special_token_in_the_text_is_text() {
        let cutter = cutter(JSON, |_| ()).unwrap();
        let window = ids(cutter.cut("a [SEP] b").unwrap()).remove(0);
        assert_eq!(window.iter().filter(|id| **id == 3).count(), 1, "{window:?}");
    }

    #[test]
    fn without_a_frame_an_empty_text_has_no_tokens() {
        let bare = JSON
            .replace(r#"{"type":"BertProcessing","sep":["[SEP]",3],"cls":["[CLS]",2]}"#, "null");
        let cutter = cutter(&bare, |_| ()).unwrap();
        assert!(matches!(cutter.cut("  "), Err(InferenceError::NoTokens)));
        assert_eq!(ids(cutter.cut("a").unwrap()), [[4]]);
        assert_eq!(cutter.trial_windows()[0].ids, [0]);
    }

    #[test]
    fn bounds_that_leave_no_room_are_refused() {
        let named = |change: fn(&mut Settings)| match cutter(JSON, change) {
            Err(LoadError::Setting { name, .. }) => name,
            other => panic!("{:?}", other.err()),
        };
        assert_eq!(named(|settings| settings.max_tokens = 2), "max_tokens");
        assert_eq!(named(|settings| (settings.max_tokens, settings.overlap) = (12, 6)), "overlap");
    }
}
