//! Addresses on networks, and the numbers of cards and accounts.
//!
//! - *In*: nothing; a table and its checks.
//! - *Out*: e-mail, URL, IP, MAC, card, IBAN.
//! - *Never*: an address that a parser of the standard library refuses.

use super::checks;
use crate::pattern::Pattern;
use crate::table::{Context, pii};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Between the groups of a number: one separator, two spaces, or a line break.
macro_rules! between {
    () => {
        r"(?:[ .\-/]|  | ?\r?\n ?)"
    };
}
pub(super) use between;

/// The table.
pub(crate) const PATTERNS: &[Pattern] = &[
    pii("pii.email", "EMAIL_ADDRESS", EMAIL, 320, Some(email), 0.95, None),
    pii("pii.url", "URL", URL, 2048, None, 0.85, None),
    pii("pii.url_www", "URL", WWW, 1024, None, 0.8, None),
    pii("pii.domain", "URL", DOMAIN, 253, Some(domain), 0.6, None),
    pii("pii.ipv4", "IP_ADDRESS", IPV4, 18, Some(ipv4), 0.8, None),
    pii("pii.ipv4_reserved", "IP_ADDRESS", IPV4, 18, Some(ipv4_reserved), 0.8, None),
    pii("pii.ipv6", "IP_ADDRESS", IPV6, 64, Some(ipv6), 0.85, None),
    pii("pii.ipv6_reserved", "IP_ADDRESS", IPV6, 64, Some(ipv6_reserved), 0.85, None),
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
    pii("pii.card", "CREDIT_CARD", r"[2-6][0-9]{13,15}", 16, Some(checks::card), 0.9, None),
    pii("pii.card_groups", "CREDIT_CARD", CARD, 40, Some(checks::card), 0.9, None),
    pii(
        "pii.card_any",
        "CREDIT_CARD",
        r"[1-6][0-9]{2,5}(?:[ \-]?[0-9]){9,16}",
        38,
        Some(checks::any_card),
        0.2,
        PAYS,
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
    pii("pii.iban_groups", "IBAN_CODE", IBAN, 80, Some(checks::iban), 0.95, None),
];

/// Words before the number of a card that is not of a common length.
const PAYS: Context = Some((
    &[
        "card",
        "visa",
        "mastercard",
        "maestro",
        "amex",
        "unionpay",
        "pan",
        "kreditkarte",
        "karte",
        "carte",
        "tarjeta",
        "carta",
        "cartão",
        "cartao",
        "kaart",
        "карта",
        "卡号",
        "银行卡",
        "カード",
        "카드",
        "बैंक कार्ड",
        "kart",
    ],
    0.85,
));

/// A letter that may begin the local part of an address: of Latin, Greek, Cyrillic, Armenian,
/// Hebrew, Arabic and Indic scripts.
macro_rules! letter {
    () => {
        r"[\xC3-\xDF][\x80-\xBF]|\xE0[\xA4-\xB7][\x80-\xBF]"
    };
}
/// A letter of a domain: of any script.
macro_rules! domain_letter {
    () => {
        r"[\xC3-\xDF][\x80-\xBF]|[\xE0-\xE1\xE4-\xED][\x80-\xBF][\x80-\xBF]|\xE3[\x81-\xBF][\x80-\xBF]"
    };
}

const EMAIL: &str = concat!(
    r"(?:[A-Za-z0-9]|",
    letter!(),
    r")(?:[A-Za-z0-9._%+\-']|",
    letter!(),
    r"){0,63}@",
    r"(?:(?:[A-Za-z0-9]|",
    domain_letter!(),
    r")(?:[A-Za-z0-9\-]|",
    domain_letter!(),
    r"){0,62}\.){1,8}",
    r"(?:[A-Za-z][A-Za-z0-9\-]{1,62}|(?:",
    domain_letter!(),
    r"){2,8})"
);
const CARD: &str = concat!(
    r"(?:[2-6][0-9]{3}",
    between!(),
    r"[0-9]{4}",
    between!(),
    r"[0-9]{4}",
    between!(),
    r"[0-9]{4}",
    r"|3[0-9]{3}",
    between!(),
    r"[0-9]{6}",
    between!(),
    r"[0-9]{4,5})"
);
const IBAN: &str = concat!(
    r"[A-Z]{2}[0-9]{2}(?:",
    between!(),
    r"[0-9A-Z]{4}){2,7}(?:",
    between!(),
    r"[0-9A-Z]{1,3})?"
);
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

/// A host with a top-level domain of letters; no empty label, no label that begins or ends with a
/// hyphen.
fn email(text: &str) -> bool {
    let Some((local, host)) = text.split_once('@') else { return false };
    let tld = host.rsplit('.').next().unwrap_or_default();
    let named = tld.chars().all(char::is_alphabetic) || tld.starts_with("xn--");
    named
        && !local.contains("..")
        && !local.ends_with('.')
        && !host.contains("-.")
        && !host.contains(".-")
        && !tld.ends_with('-')
        && !is_file(tld)
        // The account of a repository server is no person's.
        && local != "git"
}

/// Whether a file name has an `@`: `logo@2x.png`.
fn is_file(tld: &str) -> bool {
    matches!(
        tld,
        "png" | "jpg" | "jpeg" | "gif" | "svg" | "webp" | "js" | "css" | "service" | "target"
    )
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

fn parse_v4(text: &str) -> Option<Ipv4Addr> {
    let (address, length) = text.split_once('/').unwrap_or((text, "0"));
    length.parse::<u8>().ok().filter(|n| *n <= 32)?;
    address.parse().ok()
}

/// A public address.
fn ipv4(text: &str) -> bool {
    parse_v4(text).is_some_and(|address| !is_reserved_v4(address))
}

/// A private or local address, or one of documentation.
fn ipv4_reserved(text: &str) -> bool {
    parse_v4(text).is_some_and(is_reserved_v4)
}

/// The special ranges of RFC 6890 and multicast; and numbers that are versions rather: `1.0.0.0`.
fn is_reserved_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, d] = address.octets();
    address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || matches!((a, b), (100, 64..=127) | (198, 18..=19) | (0 | 224..=255, _))
        || matches!((a, b, c, d), (192, 0, 0, _) | (_, 0, 0, 0) | (1..=9, 0..=9, 0..=99, 0..=9))
}

fn parse_v6(text: &str) -> Option<Ipv6Addr> {
    let (rest, length) = text.split_once('/').unwrap_or((text, "0"));
    let address = rest.split('%').next().unwrap_or_default();
    let groups = address.split(':').filter(|g| !g.is_empty()).count();
    // Not C++ paths: `a::b` needs a digit or four groups.
    let telling = address.bytes().any(|b| b.is_ascii_digit()) || groups > 3;
    length.parse::<u8>().ok().filter(|n| telling && *n <= 128)?;
    address.parse().ok()
}

/// A public address.
fn ipv6(text: &str) -> bool {
    parse_v6(text).is_some_and(|address| !is_reserved_v6(address))
}

/// As [`ipv4_reserved`].
fn ipv6_reserved(text: &str) -> bool {
    parse_v6(text).is_some_and(is_reserved_v6)
}

/// Loopback, unspecified, local, multicast, and the ranges of documentation.
fn is_reserved_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || matches!(first, 0xfe80..=0xfebf | 0xfc00..=0xfdff | 0..=0xff | 0x3fff)
        || (first, second) == (0x2001, 0xdb8)
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
    fn mail() {
        for address in
            ["müller@firma.de", "kim@bücher.example.de", "иван@почта.рф", "o'neil+x@a.example"]
        {
            assert!(email(address), "{address}");
        }
        assert!(!email("logo@2x.png") && !email("a..b@c.de") && !email("a@x.-b.de"));
        assert!(!email("git@github.com"));
    }

    #[test]
    fn addresses() {
        assert!(ipv6_reserved("2001:db8::42/64") && ipv6_reserved("::1"));
        assert!(ipv6_reserved("fe80::7%en0") && ipv6("2a00:1450:4001:82a::200e"));
        assert!(!ipv6("::") && !ipv6("a::b") && !ipv4("1.2.3.256"));
        assert!(ipv4("93.184.216.34") && !ipv4_reserved("93.184.216.34"));
        for reserved in
            ["127.0.0.1", "10.1.2.3", "192.168.0.7/24", "203.0.113.9", "0.0.0.0", "1.2.3.4"]
        {
            assert!(ipv4_reserved(reserved) && !ipv4(reserved), "{reserved}");
        }
        assert!(mac("02:00:5e:10:00:01") && !mac("ff:ff:ff:ff:ff:ff"));
    }
}
