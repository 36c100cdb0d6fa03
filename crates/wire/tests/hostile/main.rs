//! Hostile bytes: the rewriter makes only the edits it is given, and the request scanner misses no
//! prompt.
//!
//! - *In*: documents with odd strings and names, framed in every way; the same with bytes changed,
//!   cut and nested.
//! - *Out*: equality with `serde_json` where the input is JSON, and no panic where it is not.
//! - *Never*: a clock; what could grow is bounded by counts.
//!
//! `make test` runs a few cases of each property, `make fuzz` a million (`PROPTEST_CASES`).
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod documents;
mod requests;
mod rewriting;

use proptest::prelude::ProptestConfig;

/// `few` cases, or the number in the environment.
fn config(few: u32) -> ProptestConfig {
    let told = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { told.cases } else { few };
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 50_000, ..told }
}
