//! Trains the classifiers from labeled texts, and measures them.
//!
//! - *In*: the text of `injection.jsonl`, `toxicity.jsonl` and `benign.jsonl`.
//! - *Out*: a [`Model`](classifier::Model); metrics over folds that keep near-duplicates together.
//! - *Never*: randomness, time or the number of threads in the weights: the same data gives the
//!   same file.

pub mod data;
mod fit;
pub mod metrics;
pub mod report;
mod sample;
mod scale;
mod solver;

pub use fit::fit;
pub use sample::Samples;
