//! Local text classifiers (ONNX).
//!
//! - *In*: an ONNX text classifier and its `tokenizer.json`, both named by the operator; texts.
//! - *Out*: a score from 0 to 1 for each label, and how much of the text was read for it.
//! - *Never*: a network, a download, a thread of its own, a decision; a panic that reaches the
//!   caller.
//!
//! The model runs on tract instead of ONNX Runtime: tract is a Rust crate, ONNX Runtime a binary
//! that its build script downloads. A call keeps one core busy for milliseconds to seconds, so
//! async callers must use blocking threads. tract and tokenizers may panic on malicious files;
//! every call into them catches panics and returns an error.

mod classifier;
mod error;
mod fence;
mod file;
mod graph;
mod model;
mod scores;
mod settings;
mod tokens;
mod windows;

pub use classifier::{Classifier, TextScores};
pub use error::{InferenceError, LoadError};
pub use settings::{Activation, Settings};
