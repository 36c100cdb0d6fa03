//! Trains the classifiers from labeled texts, and measures them.
//!
//! - *In*: the text of `injection.jsonl`, `toxicity.jsonl` and `benign.jsonl`.
//! - *Out*: a [`Model`](classifier::Model); metrics on sources that were held out.
//! - *Never*: randomness, time or the number of threads in the weights: the same data gives the
//!   same file.

pub mod data;
mod fit;
pub mod metrics;
mod partition;
pub mod report;
mod sample;
mod scale;
mod solver;

pub use fit::{Fitter, Hyperparameters, Trained, fit, held_out, hyperparameters};
pub use partition::Partition;
pub use sample::Samples;
