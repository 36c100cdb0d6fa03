//! The hash of a chain: SHA-256, or HMAC-SHA-256 under the operator's key.
//!
//! - *In*: a key, the hash of the line before, the text of a line.
//! - *Out*: the hash of the line.
//! - *Never*: the key in a log or an error.

use std::fmt;

use hmac::{Hmac, Mac};
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::chain::{Digest, bytes_of_hex, write_hex};

/// Separates these hashes from others with the same key.
const DOMAIN: &[u8] = b"llm-lens audit chain 1\n";
/// Input of the id of a key.
const ID_DOMAIN: &[u8] = b"llm-lens audit chain key id 1\n";

/// Names a key without revealing it, so that a line shows the key that it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId([u8; 4]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        bytes_of_hex(text.as_bytes()).map(KeyId).ok_or_else(|| D::Error::custom("not a key id"))
    }
}

/// The operator's key of a chain. Without it, any program that can write the file can make a chain
/// anew.
#[derive(Clone)]
pub struct ChainKey {
    mac: Hmac<Sha256>,
    id: KeyId,
}

impl fmt::Debug for ChainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChainKey(*** {})", self.id)
    }
}

impl ChainKey {
    /// A key of any length.
    pub fn new(key: &[u8]) -> Self {
        let mac: Hmac<Sha256> =
            Mac::new_from_slice(key).expect("invariant: HMAC takes keys of any length");
        let named = mac.clone().chain_update(ID_DOMAIN).finalize().into_bytes();
        let mut id = [0; 4];
        id.iter_mut().zip(named).for_each(|(to, from)| *to = from);
        ChainKey { mac, id: KeyId(id) }
    }

    /// The name of the key in lines.
    pub fn id(&self) -> KeyId {
        self.id
    }
}

/// The hash of a line with this text after a line with the hash `previous`.
pub(crate) fn hash(key: Option<&ChainKey>, previous: &Digest, text: &[u8]) -> Digest {
    let parts = [DOMAIN, &previous.0, text];
    Digest(match key {
        Some(key) => {
            let mut mac = key.mac.clone();
            parts.iter().for_each(|part| mac.update(part));
            mac.finalize().into_bytes().into()
        }
        None => {
            let mut sha = Sha256::new();
            parts.iter().for_each(|part| sha.update(part));
            sha.finalize().into()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_stays_secret_and_its_id_differs_from_that_of_another() {
        let (one, two) = (ChainKey::new(b"sixteen-and-more"), ChainKey::new(b"another"));
        assert_eq!(format!("{one:?}"), format!("ChainKey(*** {})", one.id()));
        assert_ne!(one.id(), two.id());
        assert_eq!(one.id().to_string().len(), 8);
        let zero = Digest::default();
        assert_ne!(hash(Some(&one), &zero, b"x"), hash(Some(&two), &zero, b"x"));
        assert_ne!(hash(Some(&one), &zero, b"x"), hash(None, &zero, b"x"));
    }
}
