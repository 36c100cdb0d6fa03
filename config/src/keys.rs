//! The file of keys.
//!
//! - *In*: the text of the file, and the limits that keys may have amounts of their own for.
//! - *Out*: [`Key`]s, or every problem with its line and column.
//! - *Never*: a key itself; the file has hashes.

use std::collections::HashSet;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use filters::traffic::settings::{DOLLAR, Key, Limit, Per, Proof, Unit};

use crate::build::traffic::patterns;
use crate::problem::{Problem, Problems};
use crate::schema::KEYS;
use crate::tree::{self, Table};

/// Largest file of keys: some 200,000 of them.
const MAX_FILE: u64 = 64 << 20;

/// Read a file of keys.
///
/// # Errors
/// All problems of the file, or the one that kept it from being read.
pub fn load_keys(path: &Path, limits: &[Limit]) -> Result<Vec<Key>, Problems> {
    let name = path.display().to_string();
    let text = crate::read(path, MAX_FILE)
        .map_err(|e| Problems::one(&name, Problem::whole_file(format!("cannot read it: {e}; llm-lens key create makes it"))))?;
    parse_keys(&name, &text, limits)
}

/// Check the text of a file of keys.
///
/// # Errors
/// All problems of the text.
pub fn parse_keys(name: &str, text: &str, limits: &[Limit]) -> Result<Vec<Key>, Problems> {
    let root = tree::read_as(text, &KEYS).map_err(|problems| Problems::new(name, problems))?;
    let mut reader = KeyReader { limits, problems: Vec::new(), ids: HashSet::new(), proofs: HashSet::new() };
    let keys = root.list("keys").iter().filter_map(|table| reader.key(table)).collect();
    if reader.problems.is_empty() { Ok(keys) } else { Err(Problems::new(name, reader.problems)) }
}

struct KeyReader<'l> {
    limits: &'l [Limit],
    problems: Vec<Problem>,
    ids: HashSet<String>,
    proofs: HashSet<Proof>,
}

impl KeyReader<'_> {
    fn wrong(&mut self, table: &Table, field: &str, message: impl Into<String>) {
        self.problems.push(table.place(field).problem(message));
    }

    /// `None`: it is wrong, or revoked.
    fn key(&mut self, table: &Table) -> Option<Key> {
        let id = table.text("id").unwrap_or_default();
        if id.is_empty() || id.len() > 64 || !id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
            self.wrong(table, "id", format!("{id:?} is no name; use up to 64 letters, digits, \"-\", \"_\" and \".\""));
        }
        if id == "anonymous" {
            self.wrong(table, "id", "is the name of those who show no key");
        }
        if !self.ids.insert(id.to_owned()) {
            self.wrong(table, "id", format!("the id {id:?} is used twice"));
        }
        let owner = table.text("owner").unwrap_or_default();
        if owner.is_empty() || owner.len() > 128 || owner.chars().any(char::is_control) {
            self.wrong(table, "owner", "must be a name of up to 128 characters");
        }
        let proof = match (table.text("hash"), table.text("certificate")) {
            (Some(hash), None) => unhex(hash).map(Proof::Key),
            (None, Some(fingerprint)) => unhex(&fingerprint.replace(':', "")).map(Proof::Certificate),
            _ => None,
        };
        match proof {
            None => self.wrong(
                table,
                "hash",
                "must be 64 hexadecimal digits, as `llm-lens key create` writes them; or there must be a certificate instead",
            ),
            Some(proof) if !self.proofs.insert(proof) => self.wrong(table, "hash", "the same key stands twice"),
            Some(_) => {}
        }
        let expires = match table.text("expires").map(instant) {
            Some(None) => {
                self.wrong(table, "expires", "is no time; write for example \"2027-01-31\" or \"2027-01-31T12:00:00Z\"");
                None
            }
            expires => expires.flatten(),
        };
        let limits = table.map("limits").into_iter().filter_map(|(name, amount)| self.own_limit(table, name, &amount)).collect();
        let key = Key {
            id: id.into(),
            proof: proof?,
            owner: owner.into(),
            expires,
            routes: patterns(table, "routes"),
            models: patterns(table, "models"),
            priority: u8::try_from(table.count("priority")).unwrap_or(u8::MAX),
            limits,
        };
        (!table.flag("revoked")).then_some(key)
    }

    fn own_limit(&mut self, table: &Table, name: String, amount: &str) -> Option<(Arc<str>, u64)> {
        let Some(limit) = self.limits.iter().find(|limit| *limit.name == *name && limit.per == Per::Key) else {
            self.wrong(table, "limits", format!("there is no limit {name:?} that is per key in the settings"));
            return None;
        };
        let units = amount.parse::<f64>().ok().map(|n| if limit.of == Unit::Cost { n * DOLLAR as f64 } else { n });
        match units.filter(|units| (1.0..9e18).contains(units)) {
            Some(units) => Some((name.into(), units as u64)),
            None => {
                self.wrong(table, "limits", format!("{amount:?} is no amount of {}", limit.of.name()));
                None
            }
        }
    }
}

/// A date, which begins at midnight by UTC, or an instant; as Unix microseconds.
fn instant(text: &str) -> Option<u64> {
    let at = text.parse::<jiff::Timestamp>().or_else(|_| format!("{text}T00:00:00Z").parse()).ok()?;
    u64::try_from(at.as_microsecond()).ok()
}

/// A new entry, as a line of the file.
#[derive(Clone, Debug, Default)]
pub struct NewKey {
    /// Its public name.
    pub id: String,
    /// The hash.
    pub hash: [u8; 32],
    /// Whose it is.
    pub owner: String,
    /// When it was made.
    pub created: String,
    /// From when on it is none, if ever.
    pub expires: Option<String>,
    /// Routes it may use.
    pub routes: Vec<String>,
    /// Models it may ask for.
    pub models: Vec<String>,
    /// Its place in queues.
    pub priority: u8,
    /// Amounts of its own.
    pub limits: Vec<(String, String)>,
}

impl NewKey {
    /// The line.
    pub fn line(&self) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let list = |texts: &[String]| texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ");
        let mut line = format!(
            "- {{id: {}, hash: \"{}\", owner: {}, created: {}",
            quoted(&self.id),
            hex(&self.hash),
            quoted(&self.owner),
            quoted(&self.created)
        );
        // Writing to a string does not fail.
        if let Some(expires) = &self.expires {
            let _ = write!(line, ", expires: {}", quoted(expires));
        }
        for (name, texts) in [("routes", &self.routes), ("models", &self.models)] {
            if !texts.is_empty() {
                let _ = write!(line, ", {name}: [{}]", list(texts));
            }
        }
        if !self.limits.is_empty() {
            let limits: Vec<_> = self.limits.iter().map(|(name, amount)| format!("{}: {}", quoted(name), quoted(amount))).collect();
            let _ = write!(line, ", limits: {{{}}}", limits.join(", "));
        }
        let _ = write!(line, ", priority: {}}}", self.priority);
        line
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let new = NewKey {
            id: "k_1".into(),
            hash: [7; 32],
            owner: "team \"a\"".into(),
            created: "2026-01-01T00:00:00Z".into(),
            expires: Some("2027-01-31".into()),
            routes: vec!["chat*".into()],
            models: vec!["m".into()],
            priority: 7,
            limits: vec![],
        };
        let keys = parse_keys("k", &format!("keys:\n{}\n", new.line()), &[]).unwrap();
        let key = keys.first().unwrap();
        assert_eq!(
            (&*key.owner, key.priority, key.proof, key.expires),
            ("team \"a\"", 7, Proof::Key([7; 32]), Some(1_801_353_600_000_000))
        );
        assert_eq!((key.routes.len(), key.models.len()), (1, 1));
    }

    #[test]
    fn wrong_entries_are_told_with_their_place() {
        let text = "keys:\n- {id: a, hash: abc, owner: x}\n- {id: a, hash: \"\", owner: x, expires: soon, limits: {fast: 3}}\n";
        let problems = parse_keys("keys.yaml", text, &[]).unwrap_err().to_string();
        for want in [
            "keys.yaml:2:17: keys[0].hash",
            "keys.yaml:3:8: keys[1].id: the id \"a\" is used twice",
            "keys[1].expires: is no time",
            "no limit \"fast\"",
        ] {
            assert!(problems.contains(want), "{want}: {problems}");
        }
    }

    #[test]
    fn revoked_keys_are_none() {
        let line =
            NewKey { id: "a".into(), owner: "x".into(), ..NewKey::default() }.line().replace("priority: 0", "priority: 0, revoked: true");
        assert!(parse_keys("k", &format!("keys:\n{line}"), &[]).unwrap().is_empty());
    }
}
