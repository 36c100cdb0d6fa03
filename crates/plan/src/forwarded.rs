//! The client behind proxies: its address, and the fields that describe it to backends.
//!
//! - *In*: the peer of the connection; `X-Forwarded-*`, `Forwarded` and `Via` of the request.
//! - *Out*: the client's address, for limits and keys; the same fields for the backend.
//! - *Never*: a claim of a peer that is not in `trusted_proxies`. Its fields are replaced.

mod derived;

use std::fmt::Write as _;
use std::net::IpAddr;

use arrayvec::ArrayString;
use config::Settings;
use http1::FieldNames;
use http1::head::{Head, RequestLine};

use crate::Plan;
use derived::Derived;

/// Name of the gateway in `Via`.
const NAME: &str = "llm-lens";
const FOR: &str = "x-forwarded-for";
const PROTO: &str = "x-forwarded-proto";
const HOST: &str = "x-forwarded-host";
const FORWARDED: &str = "forwarded";
const VIA: &str = "via";
/// The longest text of an IPv6 address: 45 bytes.
const ADDRESS_MAX: usize = 45;

/// The other end of a client connection: the client, or a proxy in front of the gateway.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peer {
    /// Its address.
    pub address: Option<IpAddr>,
    /// It is one of `trusted_proxies`.
    pub trusted: bool,
    /// The connection uses TLS.
    pub tls: bool,
    /// The connection uses HTTP/2.
    pub http2: bool,
}

/// The peer of a connection, by the settings in force.
pub fn peer(plan: &Plan, address: Option<IpAddr>, tls: bool, http2: bool) -> Peer {
    let trusted = address.is_some_and(|address| plan.settings.is_trusted(address));
    Peer { address, trusted, tls, http2 }
}

/// The client's address: that of the peer or, behind trusted proxies, the last address in
/// `X-Forwarded-For`, or without it in `Forwarded`, that is not one of them.
pub fn client(plan: &Plan, peer: &Peer, head: &Head<'_, RequestLine<'_>>) -> Option<IpAddr> {
    if !peer.trusted {
        return peer.address;
    }
    let values = |name: &'static str| {
        let fields = head.fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        fields.map(|field| field.value)
    };
    let derived = Derived::new(true, &values).addresses;
    let derived = derived.trim_end_matches(", ").as_bytes();
    let stated = head.fields.iter().rev().filter(|field| field.name.eq_ignore_ascii_case(FOR));
    let derived = (!derived.is_empty()).then_some(derived);
    client_of(&plan.settings, peer, stated.map(|field| field.value).chain(derived))
}

/// The client's address, from the values of `X-Forwarded-For`, the last one first.
pub fn client_of<'v>(
    settings: &Settings,
    peer: &Peer,
    values: impl Iterator<Item = &'v [u8]>,
) -> Option<IpAddr> {
    if !peer.trusted {
        return peer.address;
    }
    let mut last = peer.address;
    for part in values.flat_map(|value| value.rsplit(|byte| *byte == b',')) {
        // Nothing before an invalid address can be attributed.
        let Some(address) = address(part) else { return last };
        last = Some(address);
        if !settings.is_trusted(address) {
            break;
        }
    }
    last
}

/// Whether a field of the client describes the client or its way here. [`fields`] has the ones that
/// are sent instead.
pub fn is_replaced(name: &str) -> bool {
    const OTHERS: FieldNames = FieldNames::new(&[FORWARDED, VIA, "x-real-ip"]);
    let starts = |prefix: &str| {
        name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    starts("x-forwarded-") || OTHERS.contains(name)
}

/// Add the fields for a backend, from those of the request: a trusted proxy's are kept and
/// continued. Those that it does not send are derived from the others, so that all describe the
/// same client.
pub fn fields<'h>(
    peer: &Peer,
    request: impl Iterator<Item = (&'h str, &'h [u8])> + Clone,
    mut add: impl FnMut(&'static str, &[u8]),
) {
    let values = |name: &'static str| {
        request.clone().filter(move |(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    };
    // Begin with the list in a field, to be continued, if it is believed.
    let begin = |out: &mut Vec<u8>, name: &'static str, believed: bool| {
        out.clear();
        for value in values(name).filter(|_| believed) {
            out.extend_from_slice(value);
            out.extend_from_slice(b", ");
        }
    };
    let derived = Derived::new(peer.trusted, &values);
    let first = |name: &'static str| {
        values(name).find(|_| peer.trusted).or_else(|| derived.first(name).map(str::as_bytes))
    };
    let host = values("host").next().filter(|host| is_host(host)).unwrap_or_default();
    let proto = if peer.tls { "https" } else { "http" };
    let address = peer.address.map(|address| address_text(address.to_canonical()));
    let mut chain = Vec::with_capacity(128);
    if let Some(address) = &address {
        begin(&mut chain, FOR, peer.trusted);
        chain.extend_from_slice(derived.addresses.as_bytes());
        chain.extend_from_slice(address.as_bytes());
        add(FOR, &chain);
    }
    add(PROTO, first(PROTO).unwrap_or(proto.as_bytes()));
    if let Some(host) = first(HOST).or_else(|| (!host.is_empty()).then_some(host)) {
        add(HOST, host);
    }
    begin(&mut chain, FORWARDED, peer.trusted && derived.is_forwarded_valid);
    chain.extend_from_slice(derived.elements.as_bytes());
    add_element(&mut chain, address.as_deref(), host, proto);
    add(FORWARDED, &chain);
    // Loops are detected by `Via`, so that of any client is continued (RFC 9110, 7.6.3).
    begin(&mut chain, VIA, true);
    chain.extend_from_slice(if peer.http2 { b"2 " } else { b"1.1 " });
    chain.extend_from_slice(NAME.as_bytes());
    add(VIA, &chain);
}

/// An address as text, without an allocation. The formatter of the standard library takes ten times
/// as long for IPv4.
fn address_text(address: IpAddr) -> ArrayString<ADDRESS_MAX> {
    let mut text = ArrayString::new();
    let IpAddr::V4(address) = address else {
        let _ = write!(text, "{address}");
        return text;
    };
    for (at, octet) in address.octets().into_iter().enumerate() {
        if at > 0 {
            text.push('.');
        }
        for (unit, is_shown) in [(100, octet >= 100), (10, octet >= 10), (1, true)] {
            if is_shown {
                text.push(char::from(b'0' + octet / unit % 10));
            }
        }
    }
    text
}

/// Append an element of `Forwarded` (RFC 7239, section 4).
fn add_element(list: &mut Vec<u8>, address: Option<&str>, host: &[u8], proto: &str) {
    let mut add = |parts: &[&[u8]]| parts.iter().for_each(|part| list.extend_from_slice(part));
    match address {
        Some(address) if address.contains(':') => add(&[b"for=\"[", address.as_bytes(), b"]\""]),
        Some(address) => add(&[b"for=", address.as_bytes()]),
        None => add(&[b"for=unknown"]),
    }
    if !host.is_empty() {
        add(&[b";host=\"", host, b"\""]);
    }
    add(&[b";proto=", proto.as_bytes()]);
}

/// A node of `Forwarded` (RFC 7239, section 6).
fn node(address: Option<IpAddr>) -> String {
    match address.map(|address| address.to_canonical()) {
        Some(IpAddr::V4(address)) => address.to_string(),
        Some(IpAddr::V6(address)) => format!("\"[{address}]\""),
        None => "unknown".to_owned(),
    }
}

/// Whether a value of `Host` can stand in quotes.
fn is_host(host: &[u8]) -> bool {
    host.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(byte))
}

/// An address of `X-Forwarded-For`, which may have a port.
fn address(part: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(part).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(ip, _)| ip);
    let address: IpAddr = match bare {
        Some(address) => address.parse().ok()?,
        None => text.parse().ok().or_else(|| {
            let (address, port) = text.split_once(':')?;
            port.parse::<u16>().ok()?;
            address.parse().ok()
        })?,
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(peer: &Peer, request: &[(&str, &str)]) -> Vec<(&'static str, String)> {
        let mut all = Vec::new();
        fields(
            peer,
            request.iter().map(|(name, value)| (*name, value.as_bytes())),
            |name, value| {
                all.push((name, String::from_utf8(value.to_vec()).expect("text")));
            },
        );
        all
    }

    const CLAIMS: [(&str, &str); 7] = [
        ("Host", "api.example:8080"),
        ("X-Forwarded-For", "1.1.1.1, 2.2.2.2"),
        ("x-forwarded-for", "3.3.3.3"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "public.example"),
        ("Forwarded", "for=1.1.1.1"),
        ("Via", "1.0 old"),
    ];

    #[test]
    fn claims_of_strangers_are_replaced() {
        let address = Some(IpAddr::from([10, 0, 0, 9]));
        let stranger = Peer { address, trusted: false, tls: false, http2: true };
        assert_eq!(
            all(&stranger, &CLAIMS),
            [
                ("x-forwarded-for", "10.0.0.9".to_owned()),
                ("x-forwarded-proto", "http".into()),
                ("x-forwarded-host", "api.example:8080".into()),
                ("forwarded", "for=10.0.0.9;host=\"api.example:8080\";proto=http".into()),
                ("via", "1.0 old, 2 llm-lens".into()),
            ]
        );
    }

    #[test]
    fn claims_of_trusted_proxies_are_continued() {
        let address = Some("2001:db8::1".parse().expect("an address"));
        let proxy = Peer { address, trusted: true, tls: true, http2: false };
        assert_eq!(
            all(&proxy, &CLAIMS),
            [
                ("x-forwarded-for", "1.1.1.1, 2.2.2.2, 3.3.3.3, 2001:db8::1".to_owned()),
                ("x-forwarded-proto", "https".into()),
                ("x-forwarded-host", "public.example".into()),
                (
                    "forwarded",
                    "for=1.1.1.1, for=\"[2001:db8::1]\";host=\"api.example:8080\";proto=https"
                        .into()
                ),
                ("via", "1.0 old, 1.1 llm-lens".into()),
            ]
        );
    }

    #[test]
    fn one_kind_of_field_is_derived_from_the_other() {
        let address = Some(IpAddr::from([127, 0, 0, 1]));
        let proxy = Peer { address, trusted: true, tls: false, http2: false };
        let own = "for=127.0.0.1;host=\"a\";proto=http";
        let fields = |request: &[(&str, &str)]| {
            let sent = all(&proxy, &[&[("host", "a")], request].concat());
            let get = |name| {
                let found = sent.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| value.clone()).unwrap_or_default()
            };
            [FOR, PROTO, HOST, FORWARDED].map(get)
        };
        for (request, want) in [
            (
                &[(FOR, "9.9.9.9"), (PROTO, "https")][..],
                ["9.9.9.9, 127.0.0.1", "https", "a", &format!("for=9.9.9.9;proto=https, {own}")],
            ),
            (
                &[(FOR, "2001:db8::9, x"), (HOST, "b:443")],
                [
                    "2001:db8::9, x, 127.0.0.1",
                    "http",
                    "b:443",
                    &format!("for=\"[2001:db8::9]\";host=\"b:443\", for=unknown, {own}"),
                ],
            ),
            (&[(PROTO, "https")], ["127.0.0.1", "https", "a", &format!("proto=https, {own}")]),
            (&[(PROTO, "a b")], ["127.0.0.1", "a b", "a", own]),
            (
                &[(FORWARDED, "For=\"[2001:db8::9]:80\";Proto=https;host=\"b\", for=_x ;by=c")],
                [
                    "2001:db8::9, unknown, 127.0.0.1",
                    "https",
                    "b",
                    &format!(
                        "For=\"[2001:db8::9]:80\";Proto=https;host=\"b\", for=_x ;by=c, {own}"
                    ),
                ],
            ),
            (
                &[(FORWARDED, "for=9.9.9.9:1"), (PROTO, "https")],
                ["9.9.9.9, 127.0.0.1", "https", "a", &format!("for=9.9.9.9:1, {own}")],
            ),
            (&[(FORWARDED, "for=\"9.9.9.9")], ["127.0.0.1", "http", "a", own]),
        ] {
            assert_eq!(fields(request), want, "{request:?}");
        }
    }

    #[test]
    fn hosts_cannot_break_out_of_their_quotes() {
        let sent = all(&Peer::default(), &[("host", "a\";for=1.2.3.4;x=\"")]);
        assert_eq!(sent[1], ("forwarded", "for=unknown;proto=http".into()));
    }

    #[test]
    fn addresses_are_read_with_and_without_ports() {
        for (text, want) in [
            ("1.2.3.4", "1.2.3.4"),
            (" 1.2.3.4:80 ", "1.2.3.4"),
            ("::1", "::1"),
            ("[::1]:80", "::1"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
        ] {
            assert_eq!(address(text.as_bytes()), want.parse().ok(), "{text}");
        }
        for bad in ["", "unknown", "_hidden", "1.2.3", "1.2.3.4:x", "[::1", "a:1"] {
            assert_eq!(address(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn fields_about_the_client_are_known() {
        for name in ["X-Forwarded-For", "x-forwarded-port", "FORWARDED", "Via", "X-Real-IP"] {
            assert!(is_replaced(name), "{name}");
        }
        for name in ["x-forwarded", "x-request-id", "viable", "é-forwarded-for-is-long"] {
            assert!(!is_replaced(name), "{name}");
        }
    }
}
