//! Settings of a classifier.
//!
//! - *In*: paths, labels, bounds.
//! - *Out*: [`Settings`] whose ranges [`Classifier::load`](crate::Classifier::load) has checked.
//! - *Never*: a file read; checks that need the files happen when these are loaded.

use crate::error::LoadError;
use std::path::PathBuf;

/// Default window length: the positions of BERT and most models derived from it.
const DEFAULT_MAX_TOKENS: usize = 512;
/// Maximum window length: the cost of attention grows with its square.
const MAX_TOKENS: usize = 8192;
/// Default overlap: a phrase of about fifty words that is cut by the end of a window is whole in
/// the next one.
const DEFAULT_OVERLAP: usize = 64;
/// Default maximum windows: about 3,600 tokens with the other defaults, a long message. Each window
/// costs one run of the model.
const MAX_WINDOWS: usize = 8;
/// Default maximum text. Tokenizing it takes about a second (measured: a Unigram vocabulary of
/// 128,000, dev build), much less than scoring all of it.
const MAX_TEXT_BYTES: usize = 1 << 20;
/// Default maximum model file. A base-size model in 32-bit floats (DeBERTa with its vocabulary) has
/// 740 MB.
const MAX_MODEL_BYTES: u64 = 1 << 30;
/// Default maximum tokenizer file. The largest multilingual vocabularies have about 35 MB.
const MAX_TOKENIZER_BYTES: u64 = 64 << 20;
/// Maximum labels. Text classifiers have tens; more means a language model by mistake.
const MAX_LABELS: usize = 1024;

/// How logits become scores from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// One label is right: the scores of a window sum to 1.
    #[default]
    Softmax,
    /// Labels apply independently (multi-label).
    Sigmoid,
}

/// Files, labels and bounds. [`Settings::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The `model.onnx`. Weights must be inside: external data files are refused.
    pub model: PathBuf,
    /// The `tokenizer.json` that the model was trained with.
    pub tokenizer: PathBuf,
    /// Names by index of the model's output; 1 to 1024, distinct.
    pub labels: Vec<String>,
    /// Activation of the logits. Default softmax.
    pub activation: Activation,
    /// Tokens in a window, special tokens included; 1 to 8192, default 512. Not more than the model
    /// has positions.
    pub max_tokens: usize,
    /// Tokens shared by neighboring windows; at most half of a window, default 64.
    pub overlap: usize,
    /// Maximum windows read of a text; at least 1, default 8. Of a longer text the first and the
    /// last windows are read.
    pub max_windows: usize,
    /// Maximum size of a text in bytes; larger ones are refused. Default 1 MiB.
    pub max_text_bytes: usize,
    /// Maximum size of the model file in bytes; a larger one is refused. Default 1 GiB. Loading
    /// briefly needs about three times the file's size.
    pub max_model_bytes: u64,
    /// Maximum size of the tokenizer file in bytes; a larger one is refused. Default 64 MiB.
    pub max_tokenizer_bytes: u64,
}

impl Settings {
    /// Settings with every default.
    pub fn new(
        model: impl Into<PathBuf>,
        tokenizer: impl Into<PathBuf>,
        labels: Vec<String>,
    ) -> Self {
        Self {
            model: model.into(),
            tokenizer: tokenizer.into(),
            labels,
            activation: Activation::default(),
            max_tokens: DEFAULT_MAX_TOKENS,
            overlap: DEFAULT_OVERLAP,
            max_windows: MAX_WINDOWS,
            max_text_bytes: MAX_TEXT_BYTES,
            max_model_bytes: MAX_MODEL_BYTES,
            max_tokenizer_bytes: MAX_TOKENIZER_BYTES,
        }
    }

    /// Checks the ranges that do not depend on the files.
    pub(crate) fn check(&self) -> Result<(), LoadError> {
        let wrong = |name, reason: String| Err(LoadError::Setting { name, reason });
        if self.labels.is_empty() || self.labels.len() > MAX_LABELS {
            return wrong(
                "labels",
                format!("{} labels; write 1 to {MAX_LABELS}", self.labels.len()),
            );
        }
        for (index, label) in self.labels.iter().enumerate() {
            if label.is_empty() || self.labels.iter().take(index).any(|earlier| earlier == label) {
                return wrong(
                    "labels",
                    format!("{label:?} at index {index} is empty or a duplicate"),
                );
            }
        }
        if self.labels.len() == 1 && self.activation == Activation::Softmax {
            return wrong(
                "activation",
                "the softmax of a single label is always 1; write sigmoid".to_owned(),
            );
        }
        if self.max_tokens == 0 || self.max_tokens > MAX_TOKENS {
            return wrong("max_tokens", format!("{} is not in 1 to {MAX_TOKENS}", self.max_tokens));
        }
        if self.max_windows == 0 {
            return wrong("max_windows", "0 is not allowed; write at least 1".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_range_is_checked() {
        let good = Settings::new("m", "t", vec!["a".into(), "b".into()]);
        good.check().unwrap();
        let named = |change: fn(&mut Settings)| {
            let mut settings = good.clone();
            change(&mut settings);
            match settings.check() {
                Err(LoadError::Setting { name, .. }) => name,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(named(|s| s.labels.clear()), "labels");
        assert_eq!(named(|s| s.labels = vec!["a".into(), "a".into()]), "labels");
        assert_eq!(named(|s| s.labels = vec![String::new()]), "labels");
        assert_eq!(named(|s| s.labels.truncate(1)), "activation");
        assert_eq!(named(|s| s.max_tokens = 0), "max_tokens");
        assert_eq!(named(|s| s.max_tokens = MAX_TOKENS + 1), "max_tokens");
        assert_eq!(named(|s| s.max_windows = 0), "max_windows");
    }
}
