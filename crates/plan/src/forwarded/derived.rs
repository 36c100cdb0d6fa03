//! `Forwarded` from `X-Forwarded-*`, and the reverse, if a trusted proxy does not send them.
//!
//! - *In*: the values of these fields.
//! - *Out*: the values that the proxy did not send. Lists end with `, ` or are empty.
//! - *Never*: a value that could break out of its element.

use super::{FOR, FORWARDED, HOST, PROTO, address, is_host, node};

/// The values of one kind of field, in the form of the other one.
#[derive(Debug, Default)]
pub(super) struct Derived {
    /// For `Forwarded`.
    pub elements: String,
    /// For `X-Forwarded-For`.
    pub addresses: String,
    /// Whether `Forwarded` can be continued: a quote without an end would swallow what follows.
    pub is_forwarded_valid: bool,
    proto: Option<String>,
    host: Option<String>,
}

impl Derived {
    /// `values` returns the values of a field.
    pub(super) fn new<'h, I>(trusted: bool, values: &impl Fn(&'static str) -> I) -> Self
    where
        I: Iterator<Item = &'h [u8]>,
    {
        if !trusted {
            return Derived::default();
        }
        let forwarded = values(FORWARDED).collect::<Vec<_>>().join(&b","[..]);
        if forwarded.is_empty() {
            return Derived::of_x_forwarded(values);
        }
        let read = Derived::of_forwarded(&String::from_utf8_lossy(&forwarded));
        let is_forwarded_valid = read.is_some();
        let mut derived = Derived { is_forwarded_valid, ..read.unwrap_or_default() };
        if values(FOR).next().is_some() {
            derived.addresses.clear();
        }
        derived
    }

    /// The value of `X-Forwarded-Proto` or `X-Forwarded-Host`.
    pub(super) fn first(&self, name: &str) -> Option<&str> {
        if name == PROTO { self.proto.as_deref() } else { self.host.as_deref() }
    }

    /// The first element has protocol and host: they are those of the client's own request.
    fn of_x_forwarded<'h, I>(values: &impl Fn(&'static str) -> I) -> Self
    where
        I: Iterator<Item = &'h [u8]>,
    {
        let text = |name, is_valid: fn(&[u8]) -> bool| {
            let value = values(name).next().filter(|value| !value.is_empty() && is_valid(value));
            value.and_then(|value| std::str::from_utf8(value).ok())
        };
        let mut first: Vec<String> = Vec::new();
        first.extend(text(HOST, is_host).map(|host| format!("host=\"{host}\"")));
        first.extend(text(PROTO, is_scheme).map(|proto| format!("proto={proto}")));
        let nodes = values(FOR).flat_map(|value| value.split(|byte| *byte == b','));
        let mut elements: Vec<String> =
            nodes.map(|part| format!("for={}", node(address(part)))).collect();
        match elements.first_mut() {
            Some(element) => {
                first.insert(0, std::mem::take(element));
                *element = first.join(";");
            }
            None if first.is_empty() => {}
            None => elements.push(first.join(";")),
        }
        Derived { elements: list(&elements), ..Derived::default() }
    }

    /// `None`: a quoted value has no end.
    fn of_forwarded(text: &str) -> Option<Self> {
        let mut derived = Derived::default();
        let mut addresses = Vec::new();
        for (at, element) in split(text, ',')?.into_iter().enumerate() {
            let mut found = None;
            for pair in split(element, ';')? {
                let (name, value) = pair.split_once('=')?;
                let (name, value) = (name.trim(), value.trim().trim_matches('"'));
                if name.eq_ignore_ascii_case("for") {
                    found = address(value.as_bytes());
                } else if at == 0 && name.eq_ignore_ascii_case("proto") {
                    derived.proto =
                        Some(value.to_owned()).filter(|proto| is_scheme(proto.as_bytes()));
                } else if at == 0 && name.eq_ignore_ascii_case("host") {
                    derived.host = Some(value.to_owned()).filter(|host| is_host(host.as_bytes()));
                }
            }
            addresses.push(found.map_or("unknown".to_owned(), |found| found.to_string()));
        }
        derived.addresses = list(&addresses);
        Some(derived)
    }
}

/// The items of a list that others follow.
fn list(items: &[String]) -> String {
    items.iter().flat_map(|item| [item, ", "]).collect()
}

/// The parts between separators that are not in quotes; `None`: a quote has no end.
fn split(text: &str, separator: char) -> Option<Vec<&str>> {
    let mut is_quoted = false;
    let parts: Vec<&str> = text
        .split(|one| {
            is_quoted ^= one == '"';
            one == separator && !is_quoted
        })
        .collect();
    (!is_quoted).then(|| parts.into_iter().filter(|part| !part.trim().is_empty()).collect())
}

/// Whether a value can stand without quotes.
fn is_scheme(value: &[u8]) -> bool {
    !value.is_empty() && value.iter().all(u8::is_ascii_alphanumeric)
}
