//! Lines of a chain: how they are composed and parsed.
//!
//! A line is the JSON object of a finding with more members at its end:
//!
//! | member | content |
//! |---|---|
//! | `previous` | hash of the line before; in the first line of a file |
//! | `unchained` | number and SHA-256 of the bytes before this line that are not of the chain |
//! | `sequence` | number of the line, from 1 |
//! | `key_id` | the key, if the chain has one |
//! | `chain` | hash of this line: all bytes before this member, and the hash before it |
//!
//! - *In*: objects and the head of a chain; bytes of a line.
//! - *Out*: lines and the new head; [`Link`]s.
//! - *Never*: a second spelling of a line: each byte of it is hashed or fixed.

use std::fmt::{self, Write as _};

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};

use crate::key::{ChainKey, KeyId, hash};

/// Maximum bytes of a line.
pub(crate) const MAX_LINE: usize = 1 << 20;
/// What is around the hash at the end of a line.
const BEFORE: &[u8] = b",\"chain\":\"";
const AFTER: &[u8] = b"\"}";

/// A SHA-256 hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest(pub(crate) [u8; 32]);

impl Digest {
    /// Parses 64 hexadecimal digits in lower case.
    pub fn from_hex(text: &str) -> Option<Self> {
        bytes_of_hex(text.as_bytes()).map(Digest)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Digest::from_hex(&text).ok_or_else(|| D::Error::custom("not a hash"))
    }
}

pub(crate) fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// The bytes of hexadecimal digits in lower case; `None` for other texts.
pub(crate) fn bytes_of_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (to, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *to = digit(high)? << 4 | digit(low)?;
    }
    Some(bytes)
}

/// The last line of a chain. The default is the head of an empty chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Its sequence number; 0 in an empty chain.
    pub sequence: u64,
    /// Its hash.
    pub chain: Digest,
}

/// Bytes between two lines of a chain that are not of the chain: a line that a crash cut, or lines
/// of a version without a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unchained {
    /// Their number, line feeds included.
    pub(crate) bytes: u64,
    /// SHA-256 of them.
    pub(crate) sha256: Digest,
}

/// Adds lines to a chain.
pub(crate) struct Linker<'a> {
    pub(crate) head: &'a Head,
    pub(crate) key: Option<&'a ChainKey>,
    pub(crate) unchained: Option<&'a Unchained>,
    /// Whether the line has the hash of the line before it, so that it can be verified without it.
    pub(crate) with_previous: bool,
}

impl Linker<'_> {
    /// The line with its line feed, and the head after it. `object` is a JSON object in one line.
    pub(crate) fn link(&self, object: &str) -> Result<(Vec<u8>, Head), String> {
        let body = object.strip_suffix('}').filter(|body| body.starts_with('{'));
        let body = body.ok_or("the finding is not a JSON object")?;
        let mut line = String::with_capacity(object.len() + 256);
        line.push_str(body);
        let sequence = self.head.sequence.checked_add(1).ok_or("the chain has no next number")?;
        let comma = if body.len() > 1 { "," } else { "" };
        let _ = write!(line, "{comma}");
        if self.with_previous {
            let _ = write!(line, "\"previous\":\"{}\",", self.head.chain);
        }
        if let Some(Unchained { bytes, sha256 }) = self.unchained {
            let _ = write!(line, "\"unchained\":{{\"bytes\":{bytes},\"sha256\":\"{sha256}\"}},");
        }
        let _ = write!(line, "\"sequence\":{sequence}");
        if let Some(key) = self.key {
            let _ = write!(line, ",\"key_id\":\"{}\"", key.id());
        }
        let chain = hash(self.key, &self.head.chain, line.as_bytes());
        let _ = write!(line, ",\"chain\":\"{chain}\"}}");
        if line.len() > MAX_LINE || line.contains('\n') {
            return Err(format!("the finding is longer than {MAX_LINE} bytes or has a line feed"));
        }
        line.push('\n');
        Ok((line.into_bytes(), Head { sequence, chain }))
    }
}

/// A line of a chain, parsed.
#[derive(Debug)]
pub(crate) struct Link<'a> {
    /// The hashed bytes.
    pub(crate) text: &'a [u8],
    pub(crate) members: Members,
}

/// Members of a line that matter to its chain.
#[derive(Debug, Deserialize)]
pub(crate) struct Members {
    #[serde(default)]
    pub(crate) at: Option<String>,
    #[serde(default)]
    pub(crate) previous: Option<Digest>,
    #[serde(default)]
    pub(crate) unchained: Option<Unchained>,
    pub(crate) sequence: u64,
    #[serde(default)]
    pub(crate) key_id: Option<KeyId>,
    pub(crate) chain: Digest,
}

impl<'a> Link<'a> {
    /// Parses a line without its line feed; `None` if it is not a line of a chain.
    pub(crate) fn parse(line: &'a [u8]) -> Option<Self> {
        let rest = line.strip_suffix(AFTER)?;
        let (rest, chain) = rest.split_at_checked(rest.len().checked_sub(64)?)?;
        let text = rest.strip_suffix(BEFORE)?;
        let chain = Digest(bytes_of_hex(chain)?);
        let members: Members = serde_json::from_slice(line).ok()?;
        (members.chain == chain && members.sequence > 0).then_some(Link { text, members })
    }

    /// The head of the chain after this line, as the line states it.
    pub(crate) fn head(&self) -> Head {
        Head { sequence: self.members.sequence, chain: self.members.chain }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_is_parsed_as_it_was_composed() {
        let key = ChainKey::new(b"sixteen-and-more");
        let unchained = Unchained { bytes: 7, sha256: Digest([3; 32]) };
        let head = Head { sequence: 41, chain: Digest([7; 32]) };
        let linker = Linker {
            head: &head,
            key: Some(&key),
            unchained: Some(&unchained),
            with_previous: true,
        };
        let (line, next) = linker.link(r#"{"at":"now","rule":"x"}"#).unwrap();
        let link = Link::parse(line.strip_suffix(b"\n").unwrap()).unwrap();
        assert_eq!((link.head(), next.sequence), (next, 42));
        assert_eq!(link.members.at.as_deref(), Some("now"));
        assert_eq!(link.members.previous, Some(head.chain));
        assert_eq!(link.members.unchained.as_ref(), Some(&unchained));
        assert_eq!(link.members.key_id, Some(key.id()));
        assert_eq!(hash(Some(&key), &head.chain, link.text), next.chain);
        // The text of a line without members has no comma at its begin.
        let (line, _) = Linker { key: None, unchained: None, with_previous: false, ..linker }
            .link("{}")
            .unwrap();
        assert!(line.starts_with(b"{\"sequence\":42,\"chain\":\""));
    }

    #[test]
    fn what_is_no_finding_of_one_line_is_refused() {
        let head = Head::default();
        let linker = Linker { head: &head, key: None, unchained: None, with_previous: false };
        for bad in ["", "[]", "{\n}", &format!("{{\"x\":\"{}\"}}", "x".repeat(MAX_LINE))] {
            assert!(linker.link(bad).is_err());
        }
        let last = Head { sequence: u64::MAX, ..head };
        assert!(Linker { head: &last, ..linker }.link("{}").is_err());
    }

    #[test]
    fn other_lines_are_not_of_a_chain() {
        let digest = Digest([10; 32]).to_string();
        let good = format!(r#"{{"sequence":1,"chain":"{digest}"}}"#);
        assert!(Link::parse(good.as_bytes()).is_some());
        for bad in [
            "",
            "{}",
            "\u{0}",
            &good.replace('a', "A"),
            &good.replace(":1,", ":0,"),
            &good.replace(":1,", ":-1,"),
            &good.replace(":1,", ":1,\"sequence\":1,"),
            &good.replace(":1,", ":1,\"key_id\":\"xyz\","),
            &format!("{good} "),
            &good[1..],
        ] {
            assert!(Link::parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
