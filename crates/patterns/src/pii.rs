//! Personal data with a fixed format: network and e-mail addresses, and numbers of cards, accounts,
//! phones and citizens.
//!
//! - *In*: nothing; these are tables.
//! - *Out*: [`patterns`], general rules first, national ones after.
//! - *Never*: names, places, dates in general: they have no fixed format, and a pattern for them
//!   would give too many false positives.

#[expect(clippy::indexing_slicing, reason = "a month from 1 to 12")]
mod checks;
mod coin;
mod national;
#[expect(clippy::indexing_slicing, reason = "digits, and a position modulo the table")]
mod national_checks;
mod net;
mod phone;

use crate::pattern::Pattern;

/// The first rule: a fallback where any rule will do.
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
pub const FIRST: &Pattern = &net::PATTERNS[0];

/// Every rule on personal data.
pub fn patterns() -> impl Iterator<Item = &'static Pattern> {
    [net::PATTERNS, phone::PATTERNS, coin::PATTERNS]
        .into_iter()
        .flatten()
        .chain(national::patterns())
}
