//! Local text classifiers (ONNX).
//!
//! - *In*: an ONNX text classifier and its `tokenizer.json`, both named by the operator; texts.
//! - *Out*: a score from 0 to 1 for each label, and how much of the text was read for it.
//! - *Never*: a network, a download, a thread of its own, a decision; a panic that leaves the
//!   crate.
//!
//! The model runs on tract, not on ONNX Runtime: tract is Rust from the registry, the other is a
//! binary that its build fetches. A call keeps one core busy for as long as the model takes
//! (milliseconds to seconds), so an async caller belongs on a blocking pool. tract and tokenizers
//! may panic on files made to hurt them; every call into them is fenced and a panic becomes an
//! error.

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

pub use classifier::{Classifier, Reading};
pub use error::{LoadError, ScoreError};
pub use settings::{Activation, Settings};
