//! Entries of keys, from a key file or a database, and their validation.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::sync::Arc;

use crate::Pattern;
use crate::settings::{DOLLAR, Key, Limit, Per, Proof, Unit};

/// An entry as written: from a key file, or a row of a database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its public name.
    pub id: String,
    /// HMAC-SHA-256 of the key under the settings' secret, in hexadecimal.
    pub hash: Option<String>,
    /// Instead of `hash`: SHA-256 fingerprint of a client certificate.
    pub certificate: Option<String>,
    /// Instead of `hash`: a name in a client certificate.
    pub subject: Option<String>,
    /// Owner.
    pub owner: String,
    /// Creation time; informational.
    pub created: Option<String>,
    /// Expiry time.
    pub expires: Option<String>,
    /// Whether it is revoked.
    pub revoked: bool,
    /// Routes it may use.
    pub routes: Vec<String>,
    /// Models it may use.
    pub models: Vec<String>,
    /// Priority in queues.
    pub priority: u8,
    /// Own amounts for limits, by name.
    pub limits: BTreeMap<String, String>,
}

impl Entry {
    /// The entry as a line of a key file.
    pub fn line(&self) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let list =
            |texts: &[String]| texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ");
        let mut line = format!("- {{id: {}, owner: {}", quoted(&self.id), quoted(&self.owner));
        let texts = [
            ("hash", &self.hash),
            ("certificate", &self.certificate),
            ("subject", &self.subject),
            ("created", &self.created),
            ("expires", &self.expires),
        ];
        // Writing to a string does not fail.
        for (name, text) in texts {
            if let Some(text) = text {
                let _ = write!(line, ", {name}: {}", quoted(text));
            }
        }
        for (name, texts) in [("routes", &self.routes), ("models", &self.models)] {
            if !texts.is_empty() {
                let _ = write!(line, ", {name}: [{}]", list(texts));
            }
        }
        if !self.limits.is_empty() {
            let limits: Vec<_> = self
                .limits
                .iter()
                .map(|(name, amount)| format!("{}: {}", quoted(name), quoted(amount)))
                .collect();
            let _ = write!(line, ", limits: {{{}}}", limits.join(", "));
        }
        if self.revoked {
            line.push_str(", revoked: true");
        }
        let _ = write!(line, ", priority: {}}}", self.priority);
        line
    }
}

/// Problems of an entry: field and message.
pub type Wrong = Vec<(&'static str, String)>;

/// Validates entries one after the other, because their ids and proofs must be unique.
#[derive(Debug)]
pub struct Checker<'l> {
    limits: &'l [Limit],
    ids: HashSet<String>,
    proofs: HashSet<Proof>,
}

impl<'l> Checker<'l> {
    /// A checker for keys that may have own amounts for `limits`.
    pub fn new(limits: &'l [Limit]) -> Self {
        Checker { limits, ids: HashSet::new(), proofs: HashSet::new() }
    }

    /// The key of a new entry, whose amounts must have an effect.
    ///
    /// # Errors
    /// As [`key`](Self::key), and amounts for limits that the settings do not have.
    pub fn new_key(&mut self, entry: &Entry) -> Result<Option<Key>, Wrong> {
        let key = self.key(entry);
        let unused = key.iter().flatten().flat_map(|key| &key.unused_limits);
        let wrong: Wrong = unused
            .map(|name| {
                ("limits", format!("the settings have no rate limit {name:?} with `per: key`"))
            })
            .collect();
        if wrong.is_empty() { key } else { Err(wrong) }
    }

    /// The key of an entry; `None` if it is revoked. An amount for a limit that the settings do not
    /// have, or no longer have, has no effect.
    ///
    /// # Errors
    /// All invalid fields of the entry, with what is expected.
    pub fn key(&mut self, entry: &Entry) -> Result<Option<Key>, Wrong> {
        let mut wrong = self.names(entry);
        let proof = proof(entry);
        match proof {
            None => wrong.push((
                "hash",
                "exactly one of hash, certificate (64 hexadecimal digits each) and subject is \
                    required; `llm-lens key create` writes a hash"
                    .into(),
            )),
            Some(proof) if !self.proofs.insert(proof) => {
                wrong.push(("hash", "another entry has the same credential".into()))
            }
            Some(_) => {}
        }
        let expires = entry.expires.as_deref().map(instant);
        if expires == Some(None) {
            wrong.push((
                "expires",
                "is not a time (for example \"2027-01-31\" or \"2027-01-31T12:00:00Z\")".into(),
            ));
        }
        if entry.priority > 9 {
            wrong.push(("priority", "must be 0 to 9".into()));
        }
        let (mut limits, mut unused_limits) = (BTreeMap::new(), Vec::new());
        for (name, amount) in &entry.limits {
            match self.limit(name).map(|limit| own_amount(limit, amount)) {
                Some(Ok(units)) => drop(limits.insert(Arc::from(name.as_str()), units)),
                Some(Err(why)) => wrong.push(("limits", why)),
                None => unused_limits.push(Arc::from(name.as_str())),
            }
        }
        let (Some(proof), true) = (proof, wrong.is_empty()) else { return Err(wrong) };
        // A revoked certificate is refused, even if its subject belongs to another entry.
        let is_tombstone = entry.revoked && matches!(proof, Proof::Certificate(_));
        let patterns = |texts: &[String]| texts.iter().map(|text| Pattern::new(text)).collect();
        let key = Key {
            id: entry.id.as_str().into(),
            proof,
            owner: entry.owner.as_str().into(),
            expires: if is_tombstone { Some(0) } else { expires.flatten() },
            routes: patterns(&entry.routes),
            models: patterns(&entry.models),
            priority: entry.priority,
            limits,
            unused_limits,
        };
        Ok((!entry.revoked || is_tombstone).then_some(key))
    }

    fn names(&mut self, entry: &Entry) -> Wrong {
        let (id, owner, mut wrong) = (&entry.id, &entry.owner, Wrong::new());
        if id.is_empty()
            || id.len() > 64
            || !id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        {
            wrong.push((
                "id",
                format!(
                    "{id:?} is not a name; use up to 64 letters, digits, \"-\", \"_\" and \".\""
                ),
            ));
        }
        if id == "anonymous" {
            wrong.push(("id", "is reserved for requests without a key".into()));
        }
        if !self.ids.insert(id.clone()) {
            wrong.push(("id", format!("the id {id:?} is used twice")));
        }
        if owner.is_empty() || owner.len() > 128 || owner.chars().any(char::is_control) {
            wrong.push(("owner", "must be a name of up to 128 characters".into()));
        }
        wrong
    }

    /// The limit of that name, if keys may have own amounts for it.
    fn limit(&self, name: &str) -> Option<&'l Limit> {
        self.limits.iter().find(|limit| *limit.name == *name && limit.per == Per::Key)
    }
}

fn own_amount(limit: &Limit, amount: &str) -> Result<u64, String> {
    let units = amount
        .parse::<f64>()
        .ok()
        .map(|n| if limit.unit == Unit::Cost { n * DOLLAR as f64 } else { n });
    let units = units.filter(|units| (1.0..9e18).contains(units));
    units
        .map(|units| units as u64)
        .ok_or_else(|| format!("{amount:?} is not an amount of {}", limit.unit.name()))
}

fn proof(entry: &Entry) -> Option<Proof> {
    match (&entry.hash, &entry.certificate, &entry.subject) {
        (Some(hash), None, None) => unhex(hash).map(Proof::Key),
        (None, Some(fingerprint), None) => {
            unhex(&fingerprint.replace(':', "")).map(Proof::Certificate)
        }
        (None, None, Some(name)) => {
            (!name.is_empty() && name.len() <= 1024).then(|| Proof::subject(name))
        }
        _ => None,
    }
}

/// Parse an instant, or a date (midnight UTC), to Unix microseconds.
fn instant(text: &str) -> Option<u64> {
    let at =
        text.parse::<jiff::Timestamp>().or_else(|_| format!("{text}T00:00:00Z").parse()).ok()?;
    u64::try_from(at.as_microsecond()).ok()
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
