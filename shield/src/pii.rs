//! Personal data that has a shape: addresses of machines and people, numbers of cards, accounts, phones and citizens.
//!
//! - *In*: nothing; these are tables.
//! - *Out*: [`PATTERNS`], general rules first, national ones after.
//! - *Never*: names, places, dates in general: those have no shape, and a table that pretends otherwise cries wolf.

#[expect(clippy::indexing_slicing, reason = "a month from 1 to 12")]
mod checks;
mod coin;
mod national;
#[expect(clippy::indexing_slicing, reason = "digits, and a position modulo the table")]
mod national_checks;
mod net;
mod phone;

use crate::pattern::Pattern;

/// All tables one after another.
const ALL: [&[Pattern]; 4] = [net::PATTERNS, phone::PATTERNS, coin::PATTERNS, national::PATTERNS];
const COUNT: usize = ALL[0].len() + ALL[1].len() + ALL[2].len() + ALL[3].len();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which would say so")]
const fn joined() -> [Pattern; COUNT] {
    let mut all = [net::PATTERNS[0]; COUNT];
    let (mut table, mut at) = (0, 0);
    while table < ALL.len() {
        let mut row = 0;
        while row < ALL[table].len() {
            all[at] = ALL[table][row];
            row += 1;
            at += 1;
        }
        table += 1;
    }
    all
}

static JOINED: [Pattern; COUNT] = joined();

/// The first rule, for places that need any.
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
pub(crate) const FIRST: &Pattern = &net::PATTERNS[0];

/// Every rule on personal data.
pub const PATTERNS: &[Pattern] = &JOINED;
