//! Hostile texts: the scanners, the normaliser and the classifiers keep their promises on them.
//!
//! - *In*: the rules' own expressions, odd characters, encodings inside one another, cuts anywhere.
//! - *Out*: the same answer at every cut, bounded work, bounded memory, no panic.
//! - *Never*: a clock where steps can be counted; the few limits in seconds are a thousand times
//!   what a linear pass takes.
//!
//! `make test` runs a few cases of each property, `make fuzz` a million (`PROPTEST_CASES`), and
//! larger texts of the fixed ones.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod fragments;
mod normal;
mod sizes;
mod streams;

use proptest::prelude::ProptestConfig;

/// Whether this is `make fuzz`.
fn deep() -> bool {
    std::env::var_os("PROPTEST_CASES").is_some()
}

/// `few` cases, or the number in the environment.
fn config(few: u32) -> ProptestConfig {
    let told = ProptestConfig::default();
    let cases = if deep() { told.cases } else { few };
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 50_000, ..told }
}
