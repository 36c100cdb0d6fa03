//! Credentials: keys of providers in their published formats, and values that the name they are
//! assigned to identifies.
//!
//! - *In*: nothing; these are tables.
//! - *Out*: [`patterns`].
//! - *Never*: a placeholder. `<your-key>`, `xxxx`, `${TOKEN}` and `changeme` are documentation.

mod assigned;
mod checks;
mod provider;
mod value;
mod wrapped;

use crate::pattern::Pattern;

pub(crate) use value::value;

/// Every rule on credentials.
pub fn patterns() -> impl Iterator<Item = &'static Pattern> {
    [provider::PATTERNS, wrapped::PATTERNS, assigned::PATTERNS].into_iter().flatten()
}
