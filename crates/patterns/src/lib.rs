//! Pattern tables of personal data and credentials.
//!
//! - *In*: nothing; these are tables, and the checks that their rows name.
//! - *Out*: [`Pattern`](pattern::Pattern)s for the scanners, and the types of what they find.
//! - *Never*: a scanner. A check sees only the text of a candidate.
#![deny(clippy::indexing_slicing)]

pub mod finding;
pub mod pattern;
pub mod pii;
pub mod secrets;
mod table;

/// Every rule: personal data, then credentials.
pub fn rules() -> Vec<&'static pattern::Pattern> {
    pii::patterns().chain(secrets::patterns()).collect()
}
