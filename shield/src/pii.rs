//! Personal data that has a shape: addresses of machines and people, numbers of cards, accounts,
//! phones and citizens.
//!
//! - *In*: nothing; these are tables.
//! - *Out*: [`patterns`], general rules first, national ones after.
//! - *Never*: names, places, dates in general: those have no shape, and a table that pretends
//!   otherwise cries wolf.

#[expect(clippy::indexing_slicing, reason = "a month from 1 to 12")]
mod checks;
mod coin;
mod national;
#[expect(clippy::indexing_slicing, reason = "digits, and a position modulo the table")]
mod national_checks;
mod net;
mod phone;

use crate::pattern::Pattern;

/// The first rule, for places that need any.
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
pub(crate) const FIRST: &Pattern = &net::PATTERNS[0];

/// Every rule on personal data.
pub fn patterns() -> impl Iterator<Item = &'static Pattern> {
    [net::PATTERNS, phone::PATTERNS, coin::PATTERNS, national::PATTERNS].into_iter().flatten()
}
