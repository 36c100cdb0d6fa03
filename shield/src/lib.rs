//! Scanners of whole texts and of streams.
//!
//! - *In*: texts, whole or streamed; the rules that the operator has enabled.
//! - *Out*: [`Finding`](finding::Finding)s: kind, span and score; for streams, also the text with
//!   matches masked.
//! - *Never*: a network, a model server, a clock, a socket. The same text gives the same findings.
//!
//! [`scan`] checks whole texts and sees all of a text before it decides. [`stream`] checks streams
//! and decides as early as possible. Both use the same tables and the same [`boundary`] checks.
//! Attacks on the model and toxic language have no pattern: the crate `classifier` scores them, on
//! [`normalise`]d text.
#![deny(clippy::indexing_slicing)]

pub mod boundary;
mod context;
pub mod scan;
pub mod stream;

pub use normalise::{self, typography};
pub use patterns::{finding, pattern, pii, rules, secrets};
