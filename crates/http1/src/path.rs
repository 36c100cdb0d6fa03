//! Rejects paths that two servers can read as different paths.
//!
//! - *In*: a method and the target of a request.
//! - *Out*: the fact that makes the path ambiguous, if there is one.
//! - *Never*: repair. A path is matched, authorized, counted and forwarded as the client wrote it.
//!
//! Routes, keys and guardrails decide by the path. Servers differ in what they resolve before they
//! dispatch: some decode escapes, some merge slashes, some resolve dot segments. If a path changes
//! under any of these, the backend could serve a request that the gateway never checked.

use std::borrow::Cow;

/// Characters that need no escape, besides letters and digits (RFC 3986, 2.3).
const UNRESERVED: &[u8] = b"-._~";

/// Check the path of a target in origin form.
///
/// `GET /v1/models/ORG%2FNAME` is accepted: official clients escape the slash in a model's name,
/// and both readings are a model below the same path.
pub(super) fn check(method: &str, target: &str) -> Result<(), &'static str> {
    let raw = target.split_once('?').map_or(target, |(path, _)| path);
    if is_plain(raw) {
        return Ok(());
    }
    if raw.contains(['\\', ';']) {
        return Err("a backslash or a semicolon");
    }
    let mut escaped_slash = false;
    let path = decoded(raw, &mut escaped_slash)?;
    if path.contains("//") {
        return Err("an empty segment");
    }
    if path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err("a `.` or `..` segment");
    }
    let reads = matches!(method, "GET" | "HEAD");
    if escaped_slash && !(reads && raw.starts_with("/v1/models/")) {
        return Err("an escaped slash");
    }
    Ok(())
}

/// Whether a path has only letters, digits, `-`, `_` and single slashes, as most have.
fn is_plain(path: &str) -> bool {
    let mut before = 0;
    path.bytes().all(|byte| {
        let is_single = byte != b'/' || before != b'/';
        before = byte;
        is_single && (byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_'))
    })
}

/// A path that [`check`] has accepted, or a part of it, with its escapes decoded.
pub fn decode(path: &str) -> Cow<'_, str> {
    decoded(path, &mut false).unwrap_or(Cow::Borrowed(path))
}

/// A name as one segment of a path: everything but unreserved characters is escaped.
pub fn encode(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            byte if byte.is_ascii_alphanumeric() || UNRESERVED.contains(&byte) => {
                out.push(char::from(byte));
            }
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The path with its escapes decoded. Escapes of characters that need none (RFC 3986, 2.3), of
/// control characters and of delimiters of a path are errors; escaped slashes are reported.
fn decoded<'p>(path: &'p str, escaped_slash: &mut bool) -> Result<Cow<'p, str>, &'static str> {
    if !path.contains('%') {
        return Ok(Cow::Borrowed(path));
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut parts = path.split('%');
    bytes.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        let digits = part.get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte.ok_or("an incomplete escape")? {
            byte if byte.is_ascii_alphanumeric() || UNRESERVED.contains(&byte) => {
                return Err("an escape of a character that needs none");
            }
            byte if byte.is_ascii_control() || b"%\\;?#".contains(&byte) => {
                return Err("an escape of a control character or delimiter");
            }
            byte => {
                *escaped_slash |= byte == b'/';
                bytes.push(byte);
            }
        }
        bytes.extend_from_slice(part.get(2..).unwrap_or_default().as_bytes());
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| "an escape that is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::{check, decode, encode};

    #[test]
    fn names_survive_encoding() {
        for name in ["linden-7b", "org/name", "claude:1 x", "caf\u{e9}"] {
            assert_eq!(decode(&encode(name)), name);
        }
        assert_eq!(encode("org/name:1"), "org%2Fname%3A1");
    }

    #[test]
    fn paths_with_one_reading_pass() {
        for path in [
            "/",
            "/v1/chat/completions",
            "/v1/chat/completions/?a=/../b//c;%73",
            "/model/anthropic.claude-3%3A0/invoke",
            "/v1/models/..x",
            "/caf%C3%A9%20x",
        ] {
            assert_eq!(check("POST", path), Ok(()), "{path}");
        }
        assert_eq!(check("GET", "/v1/models/org%2Fname"), Ok(()));
    }

    #[test]
    fn paths_with_two_readings_do_not() {
        for (path, why) in [
            ("/v1/chat/completion%73", "an escape of a character that needs none"),
            ("/v1//chat/completions", "an empty segment"),
            ("//v1/chat/completions", "an empty segment"),
            ("/v1/./chat/completions", "a `.` or `..` segment"),
            ("/public/../v1/chat/completions", "a `.` or `..` segment"),
            ("/public/..", "a `.` or `..` segment"),
            ("/public/%2e%2e/v1/chat/completions", "an escape of a character that needs none"),
            ("/public/%252e%252e/v1", "an escape of a control character or delimiter"),
            ("/v1/chat\\completions", "a backslash or a semicolon"),
            ("/v1/chat/completions;x", "a backslash or a semicolon"),
            ("/v1/chat%5Ccompletions", "an escape of a control character or delimiter"),
            ("/v1/chat%2fcompletions", "an escaped slash"),
            ("/v1/x%2F..%2Fchat/completions", "a `.` or `..` segment"),
            ("/v1/chat%2F/completions", "an empty segment"),
            ("/v1/chat%c0%afcompletions", "an escape that is not UTF-8"),
            ("/v1/chat%", "an incomplete escape"),
            ("/v1/chat%zz", "an incomplete escape"),
            ("/v1/chat%+1", "an incomplete escape"),
            ("/v1/chat%00", "an escape of a control character or delimiter"),
            ("/v1/models/org%2Fname", "an escaped slash"),
        ] {
            assert_eq!(check("POST", path), Err(why), "{path}");
        }
        let up = "/v1/models/x%2F..%2F..%2Ffiles";
        assert_eq!(check("GET", up), Err("a `.` or `..` segment"));
        assert_eq!(check("GET", "/v1%2Fmodels/x"), Err("an escaped slash"));
        assert_eq!(check("GET", "/v1/files/a%2Fb"), Err("an escaped slash"));
    }
}
