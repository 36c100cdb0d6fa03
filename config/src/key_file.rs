//! Keys: a YAML file, or an SQLite database that `traffic` reads.
//!
//! - *In*: the file or database, and the limits whose amounts a key can override.
//! - *Out*: [`Key`]s, or every problem with its place: line and column of a file, the id of the key
//!   in a database.
//! - *Never*: a key itself; only hashes are kept.

mod edit;
pub use edit::{add_key, revoke_key};

use std::path::Path;

use traffic::keys::{Checker, Entry, is_database};
use traffic::settings::{Key, Limit};

use crate::tree::{self, Table};
use schema::KEYS;
use yaml::{Problem, Problems};

/// Largest key file: some 200,000 keys.
const MAX_FILE: u64 = 64 << 20;

/// Read all keys.
///
/// # Errors
/// All problems of the file or database, or the one that kept it from being read.
pub fn load_keys(path: &Path, limits: &[Limit]) -> Result<Vec<Key>, Problems> {
    Ok(load(path, limits)?.into_iter().filter_map(|(_, key)| key).collect())
}

/// Read all entries, as written; also revoked ones.
///
/// # Errors
/// As [`load_keys`].
pub fn load_key_entries(path: &Path, limits: &[Limit]) -> Result<Vec<Entry>, Problems> {
    Ok(load(path, limits)?.into_iter().map(|(entry, _)| entry).collect())
}

fn load(path: &Path, limits: &[Limit]) -> Result<Vec<(Entry, Option<Key>)>, Problems> {
    let name = path.display().to_string();
    if is_database(path) && path.exists() {
        return from_database(path, limits).map_err(|messages| {
            Problems::new(&name, messages.into_iter().map(Problem::whole_file).collect())
        });
    }
    let text = crate::read(path, MAX_FILE).map_err(|e| {
        let hint = match e.kind() {
            std::io::ErrorKind::NotFound => "; `llm-lens key create` creates one",
            _ => "",
        };
        Problems::one(&name, Problem::whole_file(format!("cannot read the file: {e}{hint}")))
    })?;
    check(&name, &text, limits)
}

#[cfg(feature = "sqlite")]
fn from_database(path: &Path, limits: &[Limit]) -> Result<Vec<(Entry, Option<Key>)>, Vec<String>> {
    use traffic::keys::{Database, DatabaseError};
    Database::keys(path, limits).map_err(|error| match error {
        DatabaseError::Rows(messages) => messages,
        error => vec![error.to_string()],
    })
}

#[cfg(not(feature = "sqlite"))]
fn from_database(_: &Path, _: &[Limit]) -> Result<Vec<(Entry, Option<Key>)>, Vec<String>> {
    Err(vec!["is an SQLite database, which this build cannot read: use a key file, or build with the feature `sqlite`".into()])
}

/// Check the text of a key file.
///
/// # Errors
/// All problems of the text.
pub fn parse_keys(name: &str, text: &str, limits: &[Limit]) -> Result<Vec<Key>, Problems> {
    Ok(check(name, text, limits)?.into_iter().filter_map(|(_, key)| key).collect())
}

/// The entries of a key file, as written; also revoked ones.
fn entries(name: &str, text: &str, limits: &[Limit]) -> Result<Vec<Entry>, Problems> {
    Ok(check(name, text, limits)?.into_iter().map(|(entry, _)| entry).collect())
}

/// Each entry with its key; `None` if it is revoked.
fn check(name: &str, text: &str, limits: &[Limit]) -> Result<Vec<(Entry, Option<Key>)>, Problems> {
    let (root, mut problems) =
        tree::read_partial(text, &KEYS).map_err(|problems| Problems::new(name, problems))?;
    let (mut checker, mut keys) = (Checker::new(limits), Vec::new());
    for table in root.list("keys") {
        let entry = entry(table);
        match checker.key(&entry) {
            Ok(key) => keys.push((entry, key)),
            Err(wrong) => problems.extend(
                wrong
                    .into_iter()
                    .filter(|(field, _)| !is_explained(table, field))
                    .map(|(field, message)| table.place(field).problem(message)),
            ),
        }
    }
    if problems.is_empty() { Ok(keys) } else { Err(Problems::new(name, problems)) }
}

/// Whether a problem of the entry explains that the field is wrong. `hash` stands for all proofs.
fn is_explained(table: &Table, field: &str) -> bool {
    let fields = if field == "hash" { &["hash", "certificate", "subject"][..] } else { &[field] };
    fields.iter().any(|field| table.is_explained(field))
}

fn entry(table: &Table) -> Entry {
    let text = |name| table.text(name).map(str::to_owned);
    Entry {
        id: text("id").unwrap_or_default(),
        hash: text("hash"),
        certificate: text("certificate"),
        subject: text("subject"),
        owner: text("owner").unwrap_or_default(),
        created: text("created"),
        expires: text("expires"),
        revoked: table.flag("revoked"),
        routes: table.texts("routes").to_vec(),
        models: table.texts("models").to_vec(),
        priority: u8::try_from(table.count("priority")).unwrap_or(u8::MAX),
        limits: table.map("limits"),
    }
}

#[cfg(test)]
mod tests {
    use traffic::settings::Proof;

    use super::*;

    fn entry() -> Entry {
        Entry { id: "a".into(), hash: Some("07".repeat(32)), owner: "x".into(), ..Entry::default() }
    }

    #[test]
    fn written_entries_are_parsed() {
        let entry = Entry {
            id: "k_1".into(),
            owner: "team \"a\"".into(),
            created: Some("2026-01-01T00:00:00Z".into()),
            expires: Some("2027-01-31".into()),
            routes: vec!["chat*".into()],
            models: vec!["m".into()],
            priority: 7,
            ..entry()
        };
        let keys = parse_keys("k", &format!("keys:\n{}\n", entry.line()), &[]).unwrap();
        let key = keys.first().unwrap();
        assert_eq!(
            (&*key.owner, key.priority, key.proof, key.expires),
            ("team \"a\"", 7, Proof::Key([7; 32]), Some(1_801_353_600_000_000))
        );
        assert_eq!((key.routes.len(), key.models.len()), (1, 1));
    }

    #[test]
    fn invalid_entries_are_reported_with_their_position() {
        let text = "keys:\n- {id: a, hash: abc, owner: x}\n- {id: a, hash: \"\", owner: x, expires: soon, limits: {fast: 3}}\n\
                    - {id: b, certificate: \"\", subject: CN=x, owner: x}\n";
        let problems = parse_keys("keys.yaml", text, &[]).unwrap_err().to_string();
        for want in [
            "keys.yaml:2:17: keys[0].hash",
            "keys.yaml:3:8: keys[1].id: the id \"a\" is used twice",
            "keys[1].expires: is not a time",
            "keys[2].hash: exactly one of",
        ] {
            assert!(problems.contains(want), "{want}: {problems}");
        }
    }

    #[test]
    fn an_entry_with_a_mistyped_field_reports_its_other_problems_too() {
        let text = "keys:\n- {id: a b, hsah: abc, owner: x, priority: high, expires: soon}\n- {id: b, hash: abc, owner: x, limits: 3}\n";
        let problems = parse_keys("keys.yaml", text, &[]).unwrap_err().to_string();
        for want in ["keys[0].hsah", "keys[0].id", "keys[0].priority", "keys[0].expires: is not a"]
        {
            assert!(problems.contains(want), "{want}: {problems}");
        }
        for want in ["keys[1].hash: exactly one of", "keys[1].limits"] {
            assert!(problems.contains(want), "{want}: {problems}");
        }
        assert!(!problems.contains("keys[0].hash"), "the unknown name explains it: {problems}");
    }

    #[test]
    fn amounts_for_a_removed_limit_have_no_effect() {
        let limits = [("fast".to_owned(), "3".to_owned())].into();
        let line = Entry { limits, ..entry() }.line();
        let keys = parse_keys("k", &format!("keys:\n{line}"), &[]).unwrap();
        let key = keys.first().unwrap();
        assert!(key.limits.is_empty());
        assert_eq!(key.unused_limits, ["fast".into()]);
    }

    #[test]
    fn only_a_missing_file_can_be_created() {
        let path = |name: &str| format!("{}/{name}", env!("CARGO_MANIFEST_DIR"));
        for (name, is_hinted) in
            [("missing.yaml", true), ("missing.db", true), ("src", false), ("Cargo.toml/k", false)]
        {
            let problems = load_keys(Path::new(&path(name)), &[]).unwrap_err().to_string();
            assert_eq!(problems.contains("key create"), is_hinted, "{problems}");
        }
    }

    #[test]
    fn revoked_keys_are_skipped() {
        let line = Entry { revoked: true, ..entry() }.line();
        assert!(parse_keys("k", &format!("keys:\n{line}"), &[]).unwrap().is_empty());
    }
}
