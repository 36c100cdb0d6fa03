//! The dictionary of a partition: texts of fields, each with a small number.
//!
//! - *In*: texts.
//! - *Out*: ids from 1.
//! - *Never*: more than [`MAX_CACHED`] texts in memory: models come from clients.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension as _};

/// Maximum texts in memory. Beyond it, the cache is emptied and fills again.
const MAX_CACHED: usize = 16_384;

/// Cached ids.
#[derive(Debug, Default)]
pub(super) struct Labels {
    ids: HashMap<Box<str>, i64>,
}

impl Labels {
    /// The id of a text, which is added if it is new.
    pub(super) fn id(&mut self, db: &Connection, text: &str) -> rusqlite::Result<i64> {
        if let Some(id) = self.ids.get(text) {
            return Ok(*id);
        }
        let known = db
            .prepare_cached("SELECT id FROM labels WHERE text = ?1")?
            .query_row([text], |row| row.get(0))
            .optional()?;
        let id = match known {
            Some(id) => id,
            None => db.prepare_cached("INSERT INTO labels (text) VALUES (?1)")?.insert([text])?,
        };
        if self.ids.len() >= MAX_CACHED {
            self.ids.clear();
        }
        self.ids.insert(text.into(), id);
        Ok(id)
    }
}
