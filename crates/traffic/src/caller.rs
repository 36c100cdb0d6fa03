//! Callers and their credentials.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::Pattern;

/// Maximum bytes of a credential. A token with many groups has some kilobytes.
const MAX_CREDENTIAL: usize = 16 << 10;

/// An authenticated client, and what it may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The key's public name, the subject of a token, or `anonymous`.
    pub id: Arc<str>,
    /// Owner: its usage and limits include this caller.
    pub owner: Arc<str>,
    /// Routes it may use; none named: all.
    pub routes: Vec<Pattern>,
    /// Models it may use; none named: all.
    pub models: Vec<Pattern>,
    /// Priority in queues, 0 to 9.
    pub priority: u8,
    /// Own amounts for limits, by name.
    pub limits: BTreeMap<Arc<str>, u64>,
    /// Expiry in Unix microseconds.
    pub expires: Option<u64>,
}

/// Result of verifying a credential.
#[derive(Debug)]
pub enum Identity {
    /// It is valid.
    Valid(Arc<Caller>),
    /// It is invalid, from an unknown issuer, or expired.
    Invalid,
    /// The keys of its issuer have not been fetched yet.
    KeysPending,
}

impl Caller {
    /// The default priority, in the middle.
    pub const PRIORITY: u8 = 5;

    /// The caller of requests without a credential.
    pub fn anonymous() -> Self {
        let name: Arc<str> = "anonymous".into();
        Caller {
            id: name.clone(),
            owner: name,
            routes: Vec::new(),
            models: Vec::new(),
            priority: Caller::PRIORITY,
            limits: BTreeMap::new(),
            expires: None,
        }
    }

    /// Whether it may use a route.
    pub fn may_use(&self, route: &str) -> bool {
        Pattern::allow(&self.routes, route)
    }

    /// Whether it may use a model.
    pub fn may_use_model(&self, model: &str) -> bool {
        Pattern::allow(&self.models, model)
    }
}

/// The credential of a request: the first of `Authorization: Bearer`, `x-api-key` and `api-key`. An
/// empty one if that field is present but has no valid credential; `None` without these fields.
pub fn credential<'h>(field: impl Fn(&str) -> Option<&'h [u8]>) -> Option<&'h str> {
    let bearer = |value: &'h [u8]| {
        let (scheme, rest) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(rest)
    };
    let (shown, value) = match field("authorization") {
        Some(value) => (true, bearer(value)),
        None => {
            let value = field("x-api-key").or_else(|| field("api-key"));
            (value.is_some(), value)
        }
    };
    let fits = |value: &&[u8]| {
        !value.is_empty() && value.len() <= MAX_CREDENTIAL && value.iter().all(u8::is_ascii_graphic)
    };
    let text = value
        .map(<[u8]>::trim_ascii)
        .filter(fits)
        .and_then(|value| std::str::from_utf8(value).ok());
    shown.then(|| text.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credential_is_read_from_three_fields() {
        let of = |fields: &'static [(&'static str, &'static [u8])]| {
            credential(move |name| {
                fields.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
            })
        };
        assert_eq!(of(&[("authorization", b"bEaReR  k1 ")]), Some("k1"));
        assert_eq!(of(&[("x-api-key", b"k2")]), Some("k2"));
        assert_eq!(of(&[("api-key", b"k3")]), Some("k3"));
        assert_eq!(of(&[]), None);
        // Present but invalid: the caller is not anonymous.
        for bad in [
            &[("authorization", &b"Basic abc"[..])][..],
            &[("authorization", b"Bearer ")],
            &[("x-api-key", b"a b")],
            &[("api-key", b"\xff")],
        ] {
            assert_eq!(of(Box::leak(bad.to_vec().into_boxed_slice())), Some(""), "{bad:?}");
        }
    }
}
