//! Keys of the operator, and the key of a file derived from one.
//!
//! - *In*: keys as 64 hexadecimal digits.
//! - *Out*: a key for each file, by HKDF-SHA-256 with the file's salt.
//! - *Never*: a key in a log or an error.

use std::fmt;

use ring::aead::{AES_256_GCM, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::hmac::{self, HMAC_SHA256};

/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// Separates these keys from others of the same secret.
const DOMAIN: &[u8] = b"llm-lens contents file key 1";
/// Input of the id of a key.
const ID_DOMAIN: &[u8] = b"llm-lens contents key id 1";

/// Names a key without revealing it, so that a file shows the key that it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId(pub(crate) [u8; 4]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that is not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 64 hexadecimal digits, such as `openssl rand -hex 32` prints")]
pub struct InvalidKey;

/// A key of the operator.
#[derive(Clone)]
pub struct MasterKey {
    secret: [u8; KEY_BYTES],
    id: KeyId,
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey(*** {})", self.id)
    }
}

impl MasterKey {
    /// A key of 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`InvalidKey`].
    pub fn from_hex(text: &str) -> Result<Self, InvalidKey> {
        let text = text.trim();
        if text.len() != 2 * KEY_BYTES || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(InvalidKey);
        }
        let mut secret = [0; KEY_BYTES];
        for (byte, at) in secret.iter_mut().zip((0..).step_by(2)) {
            let digits = text.get(at..at + 2).unwrap_or_default();
            *byte = u8::from_str_radix(digits, 16).map_err(|_| InvalidKey)?;
        }
        let tag = hmac::sign(&hmac::Key::new(HMAC_SHA256, &secret), ID_DOMAIN);
        let mut id = [0; 4];
        id.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        Ok(MasterKey { secret, id: KeyId(id) })
    }

    /// Its name in files.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The key of a file with this salt.
    pub(crate) fn file_key(&self, salt: &[u8]) -> UnboundKey {
        let key = Salt::new(HKDF_SHA256, salt).extract(&self.secret);
        let key = key.expand(&[DOMAIN], &AES_256_GCM);
        key.expect("invariant: HKDF-SHA-256 expands to 32 bytes").into()
    }
}

/// The key that files are written with, and those that older files need.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The key of new files.
    pub current: MasterKey,
    /// Keys of older files.
    pub previous: Vec<MasterKey>,
}

impl Keys {
    /// The key with this id.
    pub(crate) fn find(&self, id: KeyId) -> Option<&MasterKey> {
        std::iter::once(&self.current).chain(&self.previous).find(|key| key.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_64_digits_and_are_not_printed() {
        let text = "0123456789abcdefABCDEF".repeat(3);
        let key = MasterKey::from_hex(&format!(" {}\n", &text[..64])).unwrap();
        assert_eq!(format!("{key:?}"), format!("MasterKey(*** {})", key.id()));
        let other = MasterKey::from_hex(&text[2..66]).unwrap();
        assert_ne!(key.id(), other.id());
        for wrong in ["", "ab", &text[..63], &text[..65], &format!("{}ä", &text[..62])] {
            assert_eq!(MasterKey::from_hex(wrong).unwrap_err(), InvalidKey, "{wrong}");
        }
        let keys = Keys { current: key.clone(), previous: vec![other.clone()] };
        assert_eq!(keys.find(other.id()).map(MasterKey::id), Some(other.id()));
        assert!(keys.find(KeyId([0; 4])).is_none());
    }
}
