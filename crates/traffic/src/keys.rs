//! API keys, stored and looked up as keyed hashes.
//!
//! - *In*: entries of the key file, the secret of the hashes, a presented key.
//! - *Out*: its [`Caller`].
//! - *Never*: a key in plain text; a timing leak: a presented key is always hashed before the
//!   lookup, and a client cannot choose a hash without the secret.

#[cfg(feature = "sqlite")]
mod database;
mod entry;

#[cfg(feature = "sqlite")]
pub use database::{Database, DatabaseError};
pub use entry::{Checker, Entry, Wrong};

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::caller::Caller;
use super::settings::{Key, Proof};

/// The first bytes of every SQLite database.
const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Maximum keys that a warning names.
const MAX_NAMED: usize = 5;
/// File extensions that identify a database that does not exist yet.
const SQLITE_SUFFIXES: [&str; 3] = ["db", "sqlite", "sqlite3"];

/// Whether the keys at `path` are kept in an SQLite database: by its first bytes, or by its name
/// where it is empty or missing.
pub fn is_database(path: &Path) -> bool {
    let mut magic = [0; SQLITE_MAGIC.len()];
    match std::fs::File::open(path).map(|mut file| std::io::Read::read_exact(&mut file, &mut magic))
    {
        Ok(Ok(())) => magic == *SQLITE_MAGIC,
        _ => path
            .extension()
            .is_some_and(|end| SQLITE_SUFFIXES.iter().any(|known| end.eq_ignore_ascii_case(known))),
    }
}

/// Hashes keys under a secret.
#[derive(Clone)]
pub struct KeyHasher(Hmac<Sha256>);

impl fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHasher(***)")
    }
}

impl KeyHasher {
    /// A hasher with that secret.
    pub fn new(secret: &str) -> Self {
        KeyHasher(
            Hmac::new_from_slice(secret.as_bytes())
                .expect("invariant: HMAC takes keys of any length"),
        )
    }

    /// HMAC-SHA-256 of a key.
    pub fn hash(&self, key: &str) -> [u8; 32] {
        let mut mac = self.0.clone();
        mac.update(key.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

/// All keys.
#[derive(Clone, Debug)]
pub struct Keys {
    hasher: KeyHasher,
    known: HashMap<Proof, Arc<Caller>>,
    /// By limit that does not exist: the first keys that have an amount for it, and their number.
    unused: BTreeMap<Arc<str>, (Vec<Arc<str>>, usize)>,
}

impl Keys {
    /// The keys of a file.
    pub fn new(hasher: KeyHasher, keys: Vec<Key>) -> Self {
        let mut unused: BTreeMap<Arc<str>, (Vec<Arc<str>>, usize)> = BTreeMap::new();
        let caller = |key: Key| {
            for limit in key.unused_limits {
                let (named, count) = unused.entry(limit).or_default();
                *count += 1;
                named.extend((*count <= MAX_NAMED).then(|| key.id.clone()));
            }
            let caller = Caller {
                id: key.id,
                owner: key.owner,
                routes: key.routes,
                models: key.models,
                priority: key.priority,
                limits: key.limits,
                expires: key.expires,
            };
            (key.proof, Arc::new(caller))
        };
        let known = keys.into_iter().map(caller).collect();
        Keys { hasher, known, unused }
    }

    /// One sentence for each limit that keys have amounts for and that does not exist.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.unused.iter().map(|(limit, (named, count))| {
            let mut keys = named.iter().map(|id| format!("{id:?}")).collect::<Vec<_>>().join(", ");
            if *count > named.len() {
                keys.push_str(&format!(" and {} more", count - named.len()));
            }
            format!(
                "auth.keys: the amounts of {keys} for the rate limit {limit:?} have no effect; the \
                 settings have no such limit with `per: key`"
            )
        })
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The caller of a key, if it exists and has not expired.
    pub fn find(&self, shown: &str, wall_us: u64) -> Option<Arc<Caller>> {
        self.caller_of(&Proof::Key(self.hasher.hash(shown)), wall_us)
    }

    /// The caller of a certificate, by the first of its proofs that has an entry, even an expired
    /// one.
    pub fn find_certificate(&self, proves: &[Proof], wall_us: u64) -> Option<Arc<Caller>> {
        let known = proves.iter().find(|proof| self.known.contains_key(proof))?;
        self.caller_of(known, wall_us)
    }

    fn caller_of(&self, proof: &Proof, wall_us: u64) -> Option<Arc<Caller>> {
        let caller = self.known.get(proof)?;
        caller.expires.is_none_or(|end| wall_us < end).then(|| caller.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(hasher: &KeyHasher, text: &str, expires: Option<u64>) -> Key {
        Key {
            id: "k_1".into(),
            proof: Proof::Key(hasher.hash(text)),
            owner: "a".into(),
            expires,
            routes: vec![],
            models: vec![],
            priority: 5,
            limits: Default::default(),
            unused_limits: Vec::new(),
        }
    }

    #[test]
    fn amounts_without_a_limit_are_warned_of_once_for_each_limit() {
        let hasher = KeyHasher::new("secret");
        let with = |id: &str, unused: &[&str]| Key {
            id: id.into(),
            unused_limits: unused.iter().map(|limit| (*limit).into()).collect(),
            ..key(&hasher, id, None)
        };
        let mut all = vec![with("a", &["fast", "slow"]), with("b", &["fast"]), with("c", &[])];
        all.extend(["d", "e", "f", "g"].map(|id| with(id, &["fast"])));
        let warnings: Vec<_> = Keys::new(hasher.clone(), all).warnings().collect();
        assert_eq!(warnings.len(), 2);
        assert!(
            warnings[0].contains(
                "\"a\", \"b\", \"d\", \"e\", \"f\" and 1 more for the rate limit \"fast\""
            ),
            "{warnings:?}"
        );
        assert!(warnings[1].contains("of \"a\" for the rate limit \"slow\""), "{warnings:?}");
    }

    #[test]
    fn keys_are_found_until_they_expire() {
        let hasher = KeyHasher::new("secret");
        let keys = Keys::new(hasher.clone(), vec![key(&hasher, "good", Some(100))]);
        assert_eq!(keys.find("good", 99).unwrap().owner, "a".into());
        assert!(
            keys.find("good", 100).is_none()
                && keys.find("bad", 0).is_none()
                && keys.find("", 0).is_none()
        );
        assert!(
            Keys::new(KeyHasher::new("another"), vec![key(&hasher, "good", None)])
                .find("good", 0)
                .is_none()
        );
        assert!(!format!("{keys:?}").contains("secret"));
    }
}
