//! Builds the settings of the store of records from a checked tree.

use std::path::PathBuf;
use std::time::Duration;

use base_url::{BucketUrl, PostgresUrl};
use lens::RecordFormat;

use super::Builder;
use super::url::split_url;
use crate::settings::{Postgres, RecordFiles, RecordStore, RecordUpload, Spill, WhenFull};
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

    pub(super) fn record_files(&mut self, root: &Table) -> RecordFiles {
        let table = self.section(root, "record_files");
        let (rotate_size, keep) = (table.count("rotate_size"), table.given_duration("keep"));
        let rotate_interval = table.duration("rotate_interval");
        if !(4 << 10..=4 << 30).contains(&rotate_size) {
            self.wrong(&table, "rotate_size", "must be from 4KiB to 4GiB");
        }
        if rotate_interval < Duration::from_secs(1) {
            self.wrong(&table, "rotate_interval", "must be at least 1s");
        }
        if keep.is_some_and(|keep| keep < Duration::from_secs(60)) {
            self.wrong(&table, "keep", "must be at least 1m");
        }
        let path = table.text("path").filter(|path| !path.is_empty()).map(PathBuf::from);
        let format = table.text("format").and_then(RecordFormat::from_name).unwrap_or_default();
        let upload = table.table("upload").and_then(|table| self.upload(table));
        if path.is_none() && upload.is_some() {
            let why = "applies to files; set record_files.path, where they wait";
            self.wrong(&table, "upload", why);
        }
        RecordFiles { path, format, rotate_size, rotate_interval, keep, upload }
    }

    fn upload(&mut self, table: &Table) -> Option<RecordUpload> {
        let url = match table.text("url")?.parse::<BucketUrl>() {
            Ok(url) => Some(url),
            Err(why) => {
                self.wrong(table, "url", why.to_string());
                None
            }
        };
        let endpoint = match table.text("endpoint").map(split_url) {
            None => None,
            Some(Ok(endpoint)) => Some(endpoint),
            Some(Err(why)) => {
                self.wrong(table, "endpoint", why);
                return None;
            }
        };
        let region = table.text("region").filter(|region| !region.is_empty()).map(str::to_owned);
        let is_known = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if region.as_ref().is_some_and(|it| it.len() > 64 || !it.chars().all(is_known)) {
            self.wrong(table, "region", "must have only letters, digits and hyphens");
        }
        let key = |name| table.secret(name).cloned();
        let (access_key, secret_key) = (key("access_key"), key("secret_key"));
        if access_key.is_some() != secret_key.is_some() && !table.is_explained("secret_key") {
            self.wrong(table, "secret_key", "must be set together with access_key");
        }
        let (timeout, max_waiting) = (table.duration("timeout"), table.count("max_waiting"));
        if !(Duration::from_secs(1)..=Duration::from_secs(600)).contains(&timeout) {
            self.wrong(table, "timeout", "must be from 1s to 10m");
        }
        if max_waiting < 1 << 20 {
            self.wrong(table, "max_waiting", "must be at least 1MiB");
        }
        self.openable(table, "ca");
        let ca = table.text("ca").filter(|path| !path.is_empty()).map(PathBuf::from);
        let (keys, session_token) = (access_key.zip(secret_key), key("session_token"));
        Some(RecordUpload {
            url: url?,
            endpoint,
            region,
            keys,
            session_token,
            ca,
            timeout,
            max_waiting,
        })
    }
}
