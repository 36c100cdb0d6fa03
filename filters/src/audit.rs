//! Entries of the audit log.
//!
//! - *In*: a finding, the text it covers, a key.
//! - *Out*: an [`Entry`]: caller, rule, place, and a keyed hash of the match.
//! - *Never*: the text. Equal hashes show equal texts; the text itself cannot be recovered without
//!   the key and a guess.

use hmac::{Hmac, Mac};
use serde::Serialize;
use sha2::Sha256;

/// Findings of one request beyond this are only counted.
pub const MAX_FINDINGS: usize = 200;

/// One line of the audit log.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry<'r> {
    /// When it was found, by the wall clock.
    #[serde(with = "lens::record::rfc3339")]
    pub at: u64,
    /// The request's id.
    pub request_id: &'r str,
    /// The gateway's own id, where the client chose `request_id`, which may be one of several
    /// requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique_id: Option<&'r str>,
    /// The trace, if the client has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<&'r str>,
    /// The client's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<std::net::IpAddr>,
    /// The route.
    pub route: &'r str,
    /// The guardrail.
    pub guardrail: &'r str,
    /// `enforce` or `observe`.
    pub mode: &'static str,
    /// `input` or `output`.
    pub side: &'static str,
    /// The filter with the finding.
    pub filter: &'r str,
    /// The rule.
    pub rule: &'r str,
    /// The kind of the finding, such as `EMAIL_ADDRESS`.
    pub kind: &'r str,
    /// The action: `flag`, `redact` or `block`.
    pub action: &'static str,
    /// The score, 0 to 1.
    pub score: f32,
    /// The index of the text in the prompt, or the choice of the answer.
    pub text: u64,
    /// The channel of an answer; absent for prompts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<&'static str>,
    /// Where it begins, in bytes of the decoded text.
    pub start: u64,
    /// Where it ends.
    pub end: u64,
    /// HMAC-SHA-256 of the match, its first 16 bytes in hexadecimal; absent where the match is the
    /// whole text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

/// Makes the keyed hashes.
#[derive(Clone)]
pub struct Hasher(Hmac<Sha256>);

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hasher(***)")
    }
}

impl Hasher {
    /// A hasher with that key, of any length.
    pub fn new(key: &[u8]) -> Self {
        Hasher(Hmac::new_from_slice(key).expect("invariant: HMAC takes keys of any length"))
    }

    /// The hash of a match.
    pub fn hash(&self, text: &str) -> String {
        let mut mac = self.0.clone();
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2.
    #[test]
    fn hash_matches_rfc_4231() {
        assert_eq!(
            Hasher::new(b"Jefe").hash("what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c7"
        );
        assert_eq!(format!("{:?}", Hasher::new(b"Jefe")), "Hasher(***)");
    }
}
