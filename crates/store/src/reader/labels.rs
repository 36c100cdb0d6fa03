//! Labels of a partition: ids of texts, and texts of ids.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension as _};

use crate::field::Value;

/// The number that a value has in a partition; `None`: no record there has the value.
pub(super) fn number(db: &Connection, value: Value<'_>) -> rusqlite::Result<Option<i64>> {
    match value {
        Value::Number(number) => Ok(Some(number)),
        Value::Label(text) => db
            .prepare_cached("SELECT id FROM labels WHERE text = ?1")?
            .query_row([text], |row| row.get(0))
            .optional(),
    }
}

/// Texts of labels, read once each.
#[derive(Debug, Default)]
pub(super) struct Texts {
    known: HashMap<i64, String>,
}

impl Texts {
    /// The text of a label.
    pub(super) fn text(&mut self, db: &Connection, id: i64) -> rusqlite::Result<String> {
        if let Some(text) = self.known.get(&id) {
            return Ok(text.clone());
        }
        let text: Option<String> = db
            .prepare_cached("SELECT text FROM labels WHERE id = ?1")?
            .query_row([id], |row| row.get(0))
            .optional()?;
        let text = text.unwrap_or_default();
        self.known.insert(id, text.clone());
        Ok(text)
    }
}
