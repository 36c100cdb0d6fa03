//! Who has a key: a file, or an SQLite database.
//!
//! - *In*: the file or database, and the limits that keys may have amounts of their own for.
//! - *Out*: [`Key`]s, or every problem with its place: line and column of a file, the key's name in a database.
//! - *Never*: a key itself; what is kept are hashes.

mod database;
mod entry;
mod file;

pub use database::Database;
pub use entry::Entry;
pub use file::parse_keys;

use std::path::Path;

use filters::traffic::settings::{Key, Limit};

use crate::problem::{Problem, Problems};

/// Largest file of keys: some 200,000 of them.
const MAX_FILE: u64 = 64 << 20;

/// Read all keys.
///
/// # Errors
/// All problems of the file or database, or the one that kept it from being read.
pub fn load_keys(path: &Path, limits: &[Limit]) -> Result<Vec<Key>, Problems> {
    if Database::is_one(path) {
        return Database::keys(path, limits);
    }
    let name = path.display().to_string();
    let text = crate::read(path, MAX_FILE)
        .map_err(|e| Problems::one(&name, Problem::whole_file(format!("cannot read it: {e}; llm-lens key create makes it"))))?;
    parse_keys(&name, &text, limits)
}
