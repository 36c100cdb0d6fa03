//! Addresses on networks, and the numbers of cards and accounts.
//!
//! - *In*: nothing; a table and its checks.
//! - *Out*: e-mail, URL, IP, MAC, card, IBAN.
//! - *Never*: an address that a parser of the standard library refuses.

use super::checks;
use crate::pattern::Pattern;
use crate::table::pii;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The table.
pub(crate) const PATTERNS: &[Pattern] = &[
    pii("pii.email", "EMAIL_ADDRESS", EMAIL, 320, Some(email), 0.95, None),
    pii("pii.url", "URL", URL, 2048, None, 0.85, None),
    pii("pii.url_www", "URL", WWW, 1024, None, 0.8, None),
    pii("pii.domain", "URL", DOMAIN, 253, Some(domain), 0.6, None),
    pii("pii.ipv4", "IP_ADDRESS", IPV4, 18, Some(ipv4), 0.8, None),
    pii("pii.ipv6", "IP_ADDRESS", IPV6, 64, Some(ipv6), 0.85, None),
    pii("pii.mac", "MAC_ADDRESS", MAC, 17, Some(mac), 0.85, None),
    pii(
        "pii.mac_dotted",
        "MAC_ADDRESS",
        r"[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}",
        14,
        Some(mac),
        0.8,
        None,
    ),
    pii(
        "pii.card",
        "CREDIT_CARD",
        r"[1-6][0-9]{2,5}(?:[ \-]?[0-9]){9,16}",
        38,
        Some(checks::card),
        0.9,
        None,
    ),
    pii(
        "pii.iban",
        "IBAN_CODE",
        r"[A-Za-z]{2}[0-9]{2}(?:[ \-]?[0-9A-Za-z]){11,29}",
        66,
        Some(checks::iban),
        0.95,
        None,
    ),
];

const EMAIL: &str = r"[A-Za-z0-9][A-Za-z0-9._%+\-]{0,63}@(?:[A-Za-z0-9][A-Za-z0-9\-]{0,62}\.){1,8}[A-Za-z][A-Za-z0-9\-]{1,62}";
const URL: &str = concat!(
    r"(?i:https?|ftps?|sftp|wss?|ldaps?|rtsp|rtmp|coap|mqtts?)://",
    r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]{1,2000}[A-Za-z0-9/\-_~=&+%#]"
);
const WWW: &str =
    r"(?i:www)\.[A-Za-z0-9\-]{1,63}\.[A-Za-z0-9\-._~:/?#@!$&*+,;=%]{0,900}[A-Za-z0-9/]";
const DOMAIN: &str = r"(?:[A-Za-z0-9][A-Za-z0-9\-]{0,62}\.){1,8}[A-Za-z]{2,24}(?:/[A-Za-z0-9\-._~/?&=%]{0,80}[A-Za-z0-9/])?";
const IPV4: &str = r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(?:/[0-9]{1,2})?";
const IPV6: &str = concat!(
    r"(?:[0-9A-Fa-f]{0,4}:){2,7}(?:[0-9A-Fa-f]{1,4}|[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3})?",
    r"(?:%[A-Za-z0-9]{1,15})?(?:/[0-9]{1,3})?"
);
const MAC: &str = r"[0-9A-Fa-f]{2}(?:(?::[0-9A-Fa-f]{2}){5}|(?:-[0-9A-Fa-f]{2}){5})";

fn email(text: &str) -> bool {
    let Some((local, host)) = text.split_once('@') else { return false };
    let tld = host.rsplit('.').next().unwrap_or_default();
    let named = tld.bytes().all(|b| b.is_ascii_alphabetic()) || tld.starts_with("xn--");
    named
        && !local.contains("..")
        && !local.ends_with('.')
        && !host.contains("-.")
        && !tld.ends_with('-')
}

/// Top-level domains that people write without a scheme and that are not also file endings or
/// method names.
const TLDS: &[&str] = &[
    "com", "org", "net", "edu", "gov", "mil", "int", "io", "ai", "dev", "app", "info", "biz",
    "online", "site", "shop", "store", "tech", "cloud", "xyz", "blog", "news", "agency", "co",
    "eu", "uk", "us", "de", "fr", "it", "es", "nl", "be", "at", "ch", "se", "no", "dk", "fi", "ie",
    "pt", "pl", "cz", "sk", "hu", "ro", "bg", "gr", "tr", "ru", "ua", "cn", "jp", "kr", "tw", "hk",
    "sg", "my", "th", "vn", "in", "au", "nz", "ca", "mx", "br", "ar", "cl", "za", "il", "ae", "sa",
    "ke", "ng", "eg", "lu", "lt", "lv", "ee", "hr", "si", "is", "tv", "gg",
];

/// A host without a scheme: a known top-level domain, and before it a label of more than one letter
/// (not `e.g`, `U.S`).
fn domain(text: &str) -> bool {
    let host = text.split('/').next().unwrap_or_default();
    let Some((rest, tld)) = host.rsplit_once('.') else { return false };
    let labels_sound = rest.split('.').all(|l| !l.is_empty() && !l.ends_with('-'));
    let long = rest
        .rsplit('.')
        .next()
        .is_some_and(|l| l.len() > 1 && l.bytes().any(|b| b.is_ascii_alphabetic()));
    // `word.In` is a missing space after a full stop, not India.
    let one_case = tld.bytes().all(|b| b.is_ascii_lowercase())
        || host.bytes().all(|b| !b.is_ascii_lowercase());
    let short_word = matches!(
        tld,
        "in" | "it" | "is" | "no" | "my" | "us" | "at" | "be" | "si" | "de" | "es" | "so"
    ) && !rest.contains('.');
    labels_sound
        && long
        && one_case
        && !short_word
        && TLDS.contains(&tld.to_ascii_lowercase().as_str())
}

fn ipv4(text: &str) -> bool {
    let (address, length) = text.split_once('/').unwrap_or((text, "0"));
    address.parse::<Ipv4Addr>().is_ok() && length.parse::<u8>().is_ok_and(|n| n <= 32)
}

/// An address that the standard library parses, except C++ paths: `a::b` needs a digit or four
/// groups.
fn ipv6(text: &str) -> bool {
    let (rest, length) = text.split_once('/').unwrap_or((text, "0"));
    let address = rest.split('%').next().unwrap_or_default();
    let groups = address.split(':').filter(|g| !g.is_empty()).count();
    let telling = address.bytes().any(|b| b.is_ascii_digit()) || groups > 3;
    telling && address.parse::<Ipv6Addr>().is_ok() && length.parse::<u8>().is_ok_and(|n| n <= 128)
}

/// Neither the unspecified nor the broadcast address.
fn mac(text: &str) -> bool {
    let mut hex = text.bytes().filter(u8::is_ascii_hexdigit).map(|b| b.to_ascii_lowercase());
    let first = hex.next().unwrap_or(b'0');
    !((first == b'0' || first == b'f') && hex.all(|b| b == first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        assert!(domain("shop.invalid-name.co.uk") && domain("openbsd.org"));
        assert!(!domain("os.path") && !domain("e.g") && !domain("end.In") && !domain("done.it"));
    }

    #[test]
    fn addresses() {
        assert!(ipv6("2001:db8::42/64") && ipv6("::1") && ipv6("fe80::7%en0"));
        assert!(!ipv6("::") && !ipv6("a::b") && !ipv4("1.2.3.256"));
        assert!(mac("02:00:5e:10:00:01") && !mac("ff:ff:ff:ff:ff:ff"));
    }
}
