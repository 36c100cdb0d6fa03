//! Credentials: keys of providers by their published shapes, and values that an assignment gives away.
//!
//! - *In*: nothing; these are tables.
//! - *Out*: [`PATTERNS`].
//! - *Never*: a placeholder. `<your-key>`, `xxxx`, `${TOKEN}` and `changeme` are documentation.

mod assigned;
mod checks;
mod provider;
mod wrapped;

use crate::pattern::Pattern;

const ALL: [&[Pattern]; 3] = [provider::PATTERNS, wrapped::PATTERNS, assigned::PATTERNS];
const COUNT: usize = ALL[0].len() + ALL[1].len() + ALL[2].len();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which would say so")]
const fn joined() -> [Pattern; COUNT] {
    let mut all = [provider::PATTERNS[0]; COUNT];
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

/// Every rule on credentials.
pub const PATTERNS: &[Pattern] = &JOINED;
