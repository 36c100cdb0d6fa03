//! Keys in an SQLite database: one table, which other programs may write as well.
//!
//! - *In*: the database's path, and the limits for which keys may have own amounts.
//! - *Out*: [`Key`]s, or all problems, each with the id of its key.
//! - *Never*: a written entry that cannot be read afterwards.
//!
//! The gateway watches the file and its write-ahead log, so that a change takes effect like one of
//! a key file.

use std::path::Path;
use std::time::Duration;

use rusqlite::types::Type;
use rusqlite::{Connection, OpenFlags, Row, params};

use super::entry::{Checker, Entry};
use crate::settings::{Key, Limit};

/// Maximum number of keys that are read.
const MAX_KEYS: usize = 500_000;
/// Maximum wait for the lock of another writer.
const BUSY: Duration = Duration::from_secs(2);

const TABLE: &str = "CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY NOT NULL,
    hash TEXT,
    certificate TEXT,
    subject TEXT,
    owner TEXT NOT NULL,
    created TEXT,
    expires TEXT,
    revoked INTEGER NOT NULL DEFAULT 0,
    routes TEXT NOT NULL DEFAULT '[]',
    models TEXT NOT NULL DEFAULT '[]',
    priority INTEGER NOT NULL DEFAULT 5,
    limits TEXT NOT NULL DEFAULT '{}'
) STRICT";
const COLUMNS: &str = "id, hash, certificate, subject, owner, created, expires, revoked, routes, models, priority, limits";

/// A key database, open for changes.
#[derive(Debug)]
pub struct Database {
    connection: Connection,
}

/// Why a database of keys cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// SQLite cannot read the file.
    #[error("cannot read the file: {0}")]
    Read(rusqlite::Error),
    /// SQLite cannot change it.
    #[error("cannot change the file: {0}")]
    Change(rusqlite::Error),
    /// It has more rows than the maximum.
    #[error("has more than {MAX_KEYS} keys")]
    TooMany,
    /// It has invalid rows.
    #[error("{}", .0.join("; "))]
    Rows(Vec<String>),
}

impl Database {
    /// Read all rows, each with its key; `None` if it is revoked.
    ///
    /// # Errors
    /// All problems of the rows, or why the database cannot be read.
    pub fn keys(path: &Path, limits: &[Limit]) -> Result<Vec<(Entry, Option<Key>)>, DatabaseError> {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
            .map_err(DatabaseError::Read)?;
        connection.busy_timeout(BUSY).map_err(DatabaseError::Read)?;
        check(read(&connection).map_err(DatabaseError::Read)?, limits)
    }

    /// Open a database, or create one that only its owner can read.
    ///
    /// # Errors
    /// Why it cannot be opened or created.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)?;
        let open = || -> rusqlite::Result<Connection> {
            let connection = Connection::open(path)?;
            connection.busy_timeout(BUSY)?;
            connection.execute(TABLE, [])?;
            Ok(connection)
        };
        Ok(Database { connection: open().map_err(std::io::Error::other)? })
    }

    /// Add a key, unless the database would be invalid afterwards.
    ///
    /// # Errors
    /// The problems that the database would have, or why it cannot be written.
    pub fn add(&mut self, entry: &Entry, limits: &[Limit]) -> Result<(), DatabaseError> {
        let json = |value: serde_json::Value| value.to_string();
        Checker::new(limits).new_key(entry).map_err(|wrong| {
            DatabaseError::Rows(wrong.into_iter().map(|one| problem(entry, one)).collect())
        })?;
        self.change(Some(limits), |change| {
            let insert = format!("INSERT INTO keys ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)");
            change.execute(
                &insert,
                params![
                    entry.id,
                    entry.hash,
                    entry.certificate,
                    entry.subject,
                    entry.owner,
                    entry.created,
                    entry.expires,
                    entry.revoked,
                    json(entry.routes.as_slice().into()),
                    json(entry.models.as_slice().into()),
                    entry.priority,
                    json(serde_json::json!(entry.limits)),
                ],
            )
        })
        .map(|_| ())
    }

    /// Revoke a key. Returns false if there is no such key, or if it is already revoked.
    ///
    /// # Errors
    /// Why the database cannot be written.
    pub fn revoke(&mut self, id: &str) -> Result<bool, DatabaseError> {
        // An invalid entry must not prevent revoking another one.
        let changed = self.change(None, |change| {
            change.execute("UPDATE keys SET revoked = 1 WHERE id = ?1 AND revoked = 0", [id])
        })?;
        Ok(changed > 0)
    }

    /// Change the table. With `limits`, the change is rolled back if a row would be invalid.
    fn change<T>(
        &mut self,
        limits: Option<&[Limit]>,
        change: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, DatabaseError> {
        let transaction = self.connection.transaction().map_err(DatabaseError::Change)?;
        let done = change(&transaction).map_err(DatabaseError::Change)?;
        if let Some(limits) = limits {
            check(read(&transaction).map_err(DatabaseError::Change)?, limits)?;
        }
        transaction.commit().map_err(DatabaseError::Change)?;
        Ok(done)
    }
}

fn read(connection: &Connection) -> rusqlite::Result<Vec<Entry>> {
    let mut query = connection
        .prepare(&format!("SELECT {COLUMNS} FROM keys ORDER BY rowid LIMIT {}", MAX_KEYS + 1))?;
    query.query_map([], entry)?.collect()
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
        let at = row.as_ref().column_index(column)?;
        let text: String = row.get(at)?;
        serde_json::from_str(&text)
            .map_err(|e| rusqlite::Error::FromSqlConversionFailure(at, Type::Text, e.into()))
    }
    Ok(Entry {
        id: row.get("id")?,
        hash: row.get("hash")?,
        certificate: row.get("certificate")?,
        subject: row.get("subject")?,
        owner: row.get("owner")?,
        created: row.get("created")?,
        expires: row.get("expires")?,
        revoked: row.get("revoked")?,
        routes: json(row, "routes")?,
        models: json(row, "models")?,
        priority: row.get("priority")?,
        limits: json::<serde_json::Map<String, serde_json::Value>>(row, "limits")?
            .into_iter()
            .map(|(name, amount)| {
                (name, amount.as_str().map_or_else(|| amount.to_string(), str::to_owned))
            })
            .collect(),
    })
}

/// All rows with their keys, or all problems, each with the id of its key.
fn check(
    entries: Vec<Entry>,
    limits: &[Limit],
) -> Result<Vec<(Entry, Option<Key>)>, DatabaseError> {
    if entries.len() > MAX_KEYS {
        return Err(DatabaseError::TooMany);
    }
    let (mut checker, mut problems, mut keys) = (Checker::new(limits), Vec::new(), Vec::new());
    for entry in entries {
        match checker.key(&entry) {
            Ok(key) => keys.push((entry, key)),
            Err(wrong) => problems.extend(wrong.into_iter().map(|one| problem(&entry, one))),
        }
    }
    if problems.is_empty() { Ok(keys) } else { Err(DatabaseError::Rows(problems)) }
}

fn problem(entry: &Entry, (field, message): (&str, String)) -> String {
    format!("key {:?}: {field}: {message}", entry.id)
}

#[cfg(test)]
mod tests {
    use super::super::is_database;
    use super::*;

    fn path(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("llm-lens-keys-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder.join(name)
    }

    fn entry(id: &str, byte: u8) -> Entry {
        Entry {
            id: id.into(),
            hash: Some(format!("{byte:02x}").repeat(32)),
            owner: "x".into(),
            priority: 5,
            ..Entry::default()
        }
    }

    #[test]
    fn added_key_is_read_until_it_is_revoked() {
        let path = path("good.db");
        let whole = Entry {
            certificate: None,
            created: Some("2026-01-01".into()),
            expires: Some("2027-01-31".into()),
            routes: vec!["chat*".into()],
            models: vec!["m".into()],
            ..entry("a", 1)
        };
        let subject = Entry { hash: None, subject: Some("CN=robot".into()), ..entry("b", 0) };
        let mut database = Database::open(&path).unwrap();
        database.add(&whole, &[]).unwrap();
        database.add(&subject, &[]).unwrap();
        assert_eq!(read(&database.connection).unwrap(), [whole, subject]);
        assert!(is_database(&path));
        let keys = || Database::keys(&path, &[]).unwrap().into_iter().filter_map(|(_, key)| key);
        assert_eq!(keys().count(), 2);
        assert_eq!(
            [
                database.revoke("a").unwrap(),
                database.revoke("a").unwrap(),
                database.revoke("c").unwrap()
            ],
            [true, false, false]
        );
        assert_eq!(keys().count(), 1);
        // Entries of other programs are validated, too, and reported with the key's id.
        assert!(
            database
                .add(&entry("d e", 2), &[])
                .unwrap_err()
                .to_string()
                .contains("key \"d e\": id:")
        );
        assert!(database.add(&entry("a", 3), &[]).is_err());
        let limits = [("fast".to_owned(), "3".to_owned())].into();
        let unknown = database.add(&Entry { limits, ..entry("c", 4) }, &[]).unwrap_err();
        assert!(unknown.to_string().contains("no rate limit \"fast\""), "{unknown}");
        database
            .connection
            .execute("INSERT INTO keys (id, owner, expires) VALUES ('z', 'x', 'soon')", [])
            .unwrap();
        let problems = Database::keys(&path, &[]).unwrap_err().to_string();
        assert!(
            problems.contains("key \"z\": expires") && problems.contains("key \"z\": hash"),
            "{problems}"
        );
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn invalid_values_are_reported() {
        let path = path("none.db");
        assert!(
            Database::keys(&path, &[]).unwrap_err().to_string().contains("cannot read the file")
        );
        std::fs::write(&path, b"SQLite format 3\0 and then nothing of the kind").unwrap();
        assert!(
            Database::keys(&path, &[]).unwrap_err().to_string().contains("cannot read the file")
        );
        std::fs::remove_file(path).unwrap();
    }
}
