//! Credentials with a structure of their own: tokens, keys, hashes, headers, connection strings,
//! command lines.
//!
//! - *In*: nothing; a table and its checks.
//! - *Out*: rules for URLs, PEM, JWT, crypt(3), HTTP headers and curl.
//! - *Never*: a template with a placeholder in place of the credential.

use super::checks::{entropy, looks_generated, mixed_hex, stands_in, strong};
use crate::pattern::Pattern;
use crate::table::{LONG, secret};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

const URL: &str = concat!(
    r"(?i:https?|ftps?|sftp|ssh|git|svn|postgres(?:ql)?|mysql|mariadb|mongodb|mongodb\+srv|rediss?|amqps?|mssql|sqlserver|smtps?|ldaps?|nats|",
    r"clickhouse|bolt|neo4j|cassandra|oracle|mqtts?|kafka|couchdb|git\+https?|socks[45]h?|imaps?|pop3s?|snowflake|redshift|trino|presto|hive|",
    r"cockroachdb|couchbase|influxdb|elastic|opensearch|vertica|db2|databricks|s3|stomp|wss?|tcp|rtsp|rtmp|smb|webdavs?|rsync|vnc|etcd|consul|",
    r"memcached?|pulsar|rabbitmq|(?:postgresql|mysql)\+[a-z0-9]{2,12})://",
    r"[A-Za-z0-9\-._~%!*+@]{0,100}:[A-Za-z0-9\-._~%!$&'()*+,;=#?^|\[\]{}<>@]{2,128}@[A-Za-z0-9*\-.]{1,200}"
);
/// The label of a private key: `RSA PRIVATE KEY`, `PGP PRIVATE KEY BLOCK`.
macro_rules! pem_label {
    () => {
        r"[A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
    };
}
/// Between the lines of a key: line breaks, also escaped ones, indentation, quotes and operators of
/// strings, and the signs of comments, quotations and differences.
macro_rules! pem_break {
    () => {
        r"(?:\\+[nrt]|[\r\n\t \x22'`,\\()>#|*]| \+[ \r\n\\])+"
    };
}
/// The block itself: header lines, lines of base64 of which all but the last are long, and the end
/// marker. Without one (the text was cut), the long lines.
const PEM: &str = concat!(
    r"-----BEGIN ",
    pem_label!(),
    "(?:",
    pem_break!(),
    r"[A-Za-z\-]+: [ !-\[\]-~]+)*",
    "(?:",
    pem_break!(),
    ")?[A-Za-z0-9+/=]{16,}",
    "(?:",
    pem_break!(),
    "[A-Za-z0-9+/=]{16,})*",
    "(?:(?:",
    pem_break!(),
    "[A-Za-z0-9+/=]{1,15}){0,2}(?:",
    pem_break!(),
    ")?-----END ",
    pem_label!(),
    ")?"
);
const JWT: &str = r"eyJ[A-Za-z0-9_\-]{8,}\.eyJ[A-Za-z0-9_\-]{2,}(?:\.[A-Za-z0-9_\-]*)?";
const CRYPT: &str = concat!(
    r"\$(?:2[abxy]\$[0-9]{2}\$[./A-Za-z0-9]{53}|[156789y](?:\$rounds=[0-9]{1,9})?\$[./A-Za-z0-9]{2,32}\$[./A-Za-z0-9]{20,90}|",
    r"argon2(?:id|i|d)\$[A-Za-z0-9+/=,$]{30,200}|krb5(?:tgs|asrep)\$[0-9]{2}\$[A-Za-z0-9@.:*$\-]{60,2000}|apr1\$[./A-Za-z0-9]{8}\$[./A-Za-z0-9]{22})"
);
const HEADER: &str = concat!(
    r"(?i:(?:proxy-)?authorization|x-[a-z\-]{0,20}(?:token|key|api)|api-key)[\x22']{0,2}[ ]?[:=][ ]?[\x22'`]{0,2}",
    r"(?:(?i:Bearer|Basic|Token|Api-Token|ApiKey|Api-Key|Key|SSWS|Digest) )?[A-Za-z0-9\-._~+/=@]{8,}"
);
const CURL: &str = r"(?:-u|--user)[ =]{1,2}[\x22']?[A-Za-z0-9.@_\-!#%&+=~]{0,64}:[\x22']?[A-Za-z0-9!$%&*+,\-./:=?@^_~#]{0,80}";

/// The table.
pub(crate) const PATTERNS: &[Pattern] = &[
    secret(
        "secret.url_credentials",
        "URL_CREDENTIALS",
        URL,
        460,
        Some(|t| url(t) && strong(url_password(t))),
        0.95,
    ),
    secret(
        "secret.url_credentials_word",
        "URL_CREDENTIALS",
        URL,
        460,
        Some(|t| url(t) && !strong(url_password(t))),
        0.55,
    ),
    secret("secret.pem", "PRIVATE_KEY", PEM, LONG, Some(pem), 0.98),
    secret(
        "secret.pem_base64",
        "PRIVATE_KEY",
        r"LS0tLS1CRUdJTiB[A-Za-z0-9+/=]{60,}",
        LONG,
        Some(pem_base64),
        0.95,
    ),
    secret("secret.jwt", "JWT", JWT, LONG, Some(jwt), 0.95),
    secret("secret.password_hash", "PASSWORD_HASH", CRYPT, 2100, Some(looks_generated), 0.95),
    secret("secret.header", "AUTHORIZATION_HEADER", HEADER, LONG, Some(header), 0.8),
    secret(
        "secret.bearer",
        "AUTHORIZATION_HEADER",
        r"(?i:Bearer):? [A-Za-z0-9\-._~+/]{20,}={0,2}",
        LONG,
        Some(bearer),
        0.8,
    ),
    secret("secret.curl_user", "PASSWORD", CURL, 160, Some(curl), 0.8),
];

/// The password of a URL.
fn url_password(text: &str) -> &str {
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let user_info = rest.rsplit_once('@').map_or("", |(user_info, _)| user_info);
    user_info.split_once(':').map_or("", |(_, password)| password)
}

/// `user:password@host`, where the password is not a variable.
fn url(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else { return false };
    let Some((user_info, host)) = rest.rsplit_once('@') else { return false };
    let Some((_, password)) = user_info.split_once(':') else { return false };
    let example = password == "password" && host.starts_with("localhost");
    let blank = example
        || password.starts_with(['<', '{', '$', '%', '[', '*']) && !password.starts_with("%2");
    !blank
        && !stands_in(password)
        && !host.is_empty()
        && !user_info.contains('/')
        && !user_info.contains('?')
}

/// A header and a body of at least 40 letters and digits.
fn pem(text: &str) -> bool {
    let body = text.split_once("-----BEGIN ").and_then(|(_, rest)| rest.split_once("-----"));
    let body = body.map_or("", |(_, body)| body.split("-----END").next().unwrap_or_default());
    body.bytes().filter(u8::is_ascii_alphanumeric).count() >= 40
}

fn pem_base64(text: &str) -> bool {
    let usable = text.get(..text.len().min(60) / 4 * 4).unwrap_or_default();
    STANDARD_NO_PAD.decode(usable).is_ok_and(|b| memchr::memmem::find(&b, b"PRIVATE KEY").is_some())
}

/// The header is base64 of an object with an algorithm, and the claims can grant something.
fn jwt(text: &str) -> bool {
    let mut parts = text.split('.');
    let decoded = URL_SAFE_NO_PAD.decode(parts.next().unwrap_or_default()).unwrap_or_default();
    let header = decoded.starts_with(b"{")
        && decoded.ends_with(b"}")
        && memchr::memmem::find(&decoded, b"\"alg\"").is_some();
    header && !parts.next().is_some_and(grants_nothing)
}

/// Whether all claims are booleans, nulls or fractions: a signed measurement grants nothing.
/// Unreadable claims count as a credential.
fn grants_nothing(claims: &str) -> bool {
    let decoded = URL_SAFE_NO_PAD.decode(claims).unwrap_or_default();
    let empty = |v: &serde_json::Value| v.is_boolean() || v.is_null() || v.is_f64();
    serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&decoded)
        .is_ok_and(|map| map.values().all(empty))
}

fn header(text: &str) -> bool {
    let Some((_, value)) = text.split_once([':', '=']) else { return false };
    let value = value.trim_start_matches([' ', '"', '\'', '`']);
    let (scheme, token) = value.rsplit_once(' ').unwrap_or(("", value));
    let basic = scheme.eq_ignore_ascii_case("basic");
    if basic {
        return basic_pair(token);
    }
    let mixed =
        token.bytes().any(|b| b.is_ascii_digit()) && token.bytes().any(|b| b.is_ascii_alphabetic());
    token.len() >= 8
        && mixed
        && looks_generated(token)
        && !mixed_hex(token)
        && entropy(token) >= 2.8
}

/// `user:password` in base64.
fn basic_pair(token: &str) -> bool {
    let decoded = STANDARD_NO_PAD.decode(token.trim_end_matches('=')).unwrap_or_default();
    decoded.contains(&b':') && decoded.iter().all(|b| (0x20..0x7f).contains(b))
}

fn bearer(text: &str) -> bool {
    let token = text.split_once(' ').map(|(_, t)| t).unwrap_or_default();
    super::checks::random(token)
}

/// `-u user:password`, where the password is not a variable, a stand-in or the word itself.
fn curl(text: &str) -> bool {
    let pair = text
        .trim_start_matches("--user")
        .trim_start_matches("-u")
        .trim_start_matches([' ', '=', '"', '\'']);
    let Some((user, password)) = pair.split_once(':') else { return false };
    let password = password.trim_start_matches(['"', '\'']);
    let longest = if password.len() > user.len() { password } else { user };
    let words = ["pass", "password", "passwd", "pwd", "secret", "yyy", "xxx"];
    !words.contains(&password)
        && longest.len() >= 6
        && !password.starts_with('$')
        && !stands_in(pair)
        && (password.len() >= 4 || password.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_with_placeholders_are_rejected() {
        assert!(
            url("postgres://bob:hunter22@db.internal")
                && !url("postgres://bob:<password>@db")
                && !url("https://h/a:b@c")
        );
        assert!(
            jwt("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln")
                && !jwt("eyJhbGciOiJIUzI1NiJ9.eyJzY29yZSI6MC41fQ.c2ln")
        );
        assert!(basic_pair("Ym9iOmh1bnRlcjI=") && !basic_pair("bm9jb2xvbg=="));
        assert!(curl("-u bob:hunter22") && !curl("-u user:pass") && !curl("-u bob:$PASS"));
    }
}
