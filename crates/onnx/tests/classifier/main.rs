//! The classifier as its users see it, on tiny models that the tests write themselves.
//!
//! - *In*: models and tokenizers out of [`tiny`] and [`encoder`], whole or spoilt.
//! - *Out*: what is scored, what is refused and with which words, what a call costs.
//! - *Never*: a file from elsewhere, a network.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "in a test a panic is the finding"
)]

mod encoder;
mod gateway;
mod graph;
mod refusals;
mod scoring;
mod shapes;
mod speed;
mod tiny;
