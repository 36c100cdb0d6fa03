//! Detectors, normalizer and streaming scanner.
//!
//! - *In*: texts, whole or as they flow; the rules that an operator has switched on.
//! - *Out*: [`Finding`](finding::Finding)s: what, where, how sure; in streams the text with matches
//!   masked.
//! - *Never*: a network, a model server, a clock, a socket. The same text gives the same findings.
//!
//! Whole texts go through [`scan`], which sees all of a text before it decides; streams go through
//! [`stream`], which decides as early as it may. Both run the same tables and ask the same
//! [`boundary`] questions. What has no pattern (attacks on the model, insults) is judged by the
//! crate `classifier`, over [`normalise`]d text.
#![deny(clippy::indexing_slicing)]

pub mod boundary;
pub mod finding;
pub mod normalise;
pub mod pattern;
pub mod pii;
pub mod scan;
pub mod secrets;
pub mod stream;
mod table;

/// Every rule of the tables: personal data, then credentials.
pub fn rules() -> Vec<&'static pattern::Pattern> {
    pii::patterns().chain(secrets::patterns()).collect()
}
