//! Errors of loading and of scoring.
//!
//! - *In*: facts from the other modules.
//! - *Out*: sentences an operator can act upon; they name the file, the setting or the tensor at
//!   fault.
//! - *Never*: text that was scored; a status code.

use std::path::PathBuf;

/// Why a classifier could not be loaded. Nothing of it is left running.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A setting is out of its range, or contradicts another one or the tokenizer.
    #[error("setting {name}: {reason}")]
    Setting {
        /// The field of [`Settings`](crate::Settings).
        name: &'static str,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// A file cannot be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file as the settings name it.
        path: PathBuf,
        /// The I/O error.
        source: std::io::Error,
    },
    /// A file is larger than the settings allow.
    #[error("{} has more than {max_bytes} bytes, the maximum that the settings allow", path.display())]
    FileTooLarge {
        /// The file as the settings name it.
        path: PathBuf,
        /// The bound, in bytes.
        max_bytes: u64,
    },
    /// The tokenizer file is not a usable tokenizer.
    #[error("{} is not a usable tokenizer: {reason}", path.display())]
    Tokenizer {
        /// The file as the settings name it.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The model file is no ONNX model, or it does not run.
    #[error("{} is not a usable ONNX model: {reason}", path.display())]
    Model {
        /// The file as the settings name it.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An input of the model is missing, unknown, or of an unexpected type or shape.
    #[error("model input {name:?}: {reason}")]
    Input {
        /// The input's name in the graph.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The model has no output that could be the logits.
    #[error("model output: {reason}")]
    Output {
        /// What is wrong with it.
        reason: String,
    },
    /// The model has a different number of scores than the settings have labels.
    #[error("the model returns {model} scores, the settings have {settings} labels")]
    Labels {
        /// Scores of the model.
        model: usize,
        /// Labels in the settings.
        settings: usize,
    },
}

/// Why a text has no scores. The classifier stays usable.
#[derive(Debug, thiserror::Error)]
pub enum InferenceError {
    /// The text is larger than the settings allow; it was not tokenized.
    #[error("the text has {bytes} bytes, the settings allow {max_bytes}")]
    TextTooLarge {
        /// Size of the text, in bytes.
        bytes: usize,
        /// The bound, in bytes.
        max_bytes: usize,
    },
    /// The text has no tokens and the tokenizer adds no special tokens, so there is nothing to
    /// score.
    #[error("the text has no tokens, there is nothing to score")]
    NoTokens,
    /// The tokenizer failed.
    #[error("the tokenizer failed: {reason}")]
    Tokenizer {
        /// The tokenizer's error.
        reason: String,
    },
    /// The model failed.
    #[error("the model failed: {reason}")]
    Model {
        /// The model's error.
        reason: String,
    },
    /// The model returned a score that is not finite.
    #[error("the score of label {label:?} is not finite")]
    NotFinite {
        /// The first label with such a score.
        label: String,
    },
}
