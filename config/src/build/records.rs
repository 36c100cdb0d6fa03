//! Builds the settings of the store of records from a checked tree.

use std::path::PathBuf;
use std::time::Duration;

use base_url::PostgresUrl;

use super::Builder;
use crate::settings::{Postgres, RecordStore, Spill, WhenFull};
use crate::tree::Table;

impl Builder {
    pub(super) fn record_store(&mut self, root: &Table) -> RecordStore {
        let table = self.section(root, "record_store");
        let (keep, max_size) = (table.duration("keep"), table.count("max_size"));
        if keep < Duration::from_secs(3600) {
            self.wrong(&table, "keep", "must be at least 1h");
        }
        if max_size > 0 && max_size < 64 << 20 {
            self.wrong(&table, "max_size", "must be 0 or at least 64MiB");
        }
        let path = table.text("path").filter(|path| !path.is_empty()).map(PathBuf::from);
        let postgres = self.postgres(&table);
        if path.is_some() && table.has("url") {
            let why = "cannot be combined with record_store.path: records go to SQLite files or \
                       to PostgreSQL; remove one of them";
            self.wrong(&table, "url", why);
        }
        if max_size > 0 && table.has("url") {
            let why = "limits a folder of SQLite files; set keep for PostgreSQL, and remove this";
            self.wrong(&table, "max_size", why);
        }
        let spill = table.table("spill").and_then(|table| self.spill(table));
        RecordStore { path, postgres, keep, max_size, spill }
    }

    fn postgres(&mut self, table: &Table) -> Option<Postgres> {
        let Some(url) = table.text("url") else {
            for field in ["password", "ca", "spill"] {
                if table.has(field) && !table.is_explained("url") {
                    self.wrong(table, field, "applies to PostgreSQL; set record_store.url, too");
                }
            }
            return None;
        };
        let url: PostgresUrl = match url.parse() {
            Ok(url) => url,
            Err(why) => {
                self.wrong(table, "url", format!("{why}"));
                return None;
            }
        };
        if crate::discovery::is_forbidden(&url.host) {
            let why = "is a link-local or metadata address; the gateway does not connect to those";
            self.wrong(table, "url", why);
        }
        let ca = table.text("ca").filter(|path| !path.is_empty()).map(PathBuf::from);
        Some(Postgres { url, password: table.secret("password").cloned(), ca })
    }

    fn spill(&mut self, table: &Table) -> Option<Spill> {
        let (max_size, max_age) = (table.count("max_size"), table.given_duration("max_age"));
        if max_size < 1 << 20 {
            self.wrong(table, "max_size", "must be at least 1MiB");
        }
        if max_age.is_some_and(|age| age < Duration::from_secs(60)) {
            self.wrong(table, "max_age", "must be at least 1m");
        }
        let when_full = match table.text("when_full") {
            Some("drop_newest") => WhenFull::DropNewest,
            _ => WhenFull::DropOldest,
        };
        let path = PathBuf::from(table.text("path")?);
        Some(Spill { path, max_size, max_age, when_full })
    }
}
