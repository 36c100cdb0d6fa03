//! Validation of a whole document by RFC 8259, for bodies on which a guardrail or a validation
//! acts: a lenient engine would read an invalid one differently.
//!
//! - *In*: a document.
//! - *Out*: the first violation: of UTF-8, of the grammar, or a lone surrogate.
//! - *Never*: recursion, an allocation.

use super::{MAX_DEPTH, MAX_SCALAR, Malformed};

/// Bytes of a string that are checked at a time.
const STEP: usize = 32;

/// Check a document.
///
/// # Errors
/// The first violation. Escaped halves of surrogate pairs are one: the RFC calls the behavior of
/// readers unpredictable.
pub fn check(document: &[u8]) -> Result<(), Malformed> {
    if let Err(error) = std::str::from_utf8(document) {
        return Err(Malformed { at: error.valid_up_to(), why: "invalid UTF-8" });
    }
    let mut walk = Walk { bytes: document, at: 0 };
    // One bit for each open bracket: whether it is an object.
    let (mut open, mut depth): (u128, u8) = (0, 0);
    loop {
        // A value begins here.
        match walk.next_byte() {
            Some(kind @ (b'{' | b'[')) => {
                if depth >= MAX_DEPTH {
                    return walk.fail("nested too deep");
                }
                walk.at += 1;
                let is_object = kind == b'{';
                (open, depth) = ((open << 1) | u128::from(is_object), depth + 1);
                if walk.next_byte() == Some(if is_object { b'}' } else { b']' }) {
                    // Closed below.
                } else {
                    if is_object {
                        walk.key()?;
                    }
                    continue;
                }
            }
            Some(b'"') => walk.string()?,
            Some(_) => walk.scalar()?,
            None => return walk.fail("missing value"),
        }
        // A value has ended: brackets close, or a comma follows.
        loop {
            let next = walk.next_byte();
            if depth == 0 {
                return if next.is_none() { Ok(()) } else { walk.fail("trailing bytes") };
            }
            let is_object = open & 1 == 1;
            match next {
                Some(b'}') if is_object => {}
                Some(b']') if !is_object => {}
                Some(b',') => {
                    walk.at += 1;
                    if is_object {
                        walk.key()?;
                    }
                    break;
                }
                _ => return walk.fail("missing comma or bracket"),
            }
            walk.at += 1;
            (open, depth) = (open >> 1, depth - 1);
        }
    }
}

struct Walk<'d> {
    bytes: &'d [u8],
    at: usize,
}

impl Walk<'_> {
    fn fail<T>(&self, why: &'static str) -> Result<T, Malformed> {
        Err(Malformed { at: self.at, why })
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// The next byte after white space.
    fn next_byte(&mut self) -> Option<u8> {
        while let Some(&byte) = self.bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    /// A key and its colon.
    fn key(&mut self) -> Result<(), Malformed> {
        if self.next_byte() != Some(b'"') {
            return self.fail("missing key");
        }
        self.string()?;
        if self.next_byte() != Some(b':') {
            return self.fail("missing colon");
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Result<(), Malformed> {
        self.at += 1;
        loop {
            let plain = plain_len(self.rest());
            self.at += plain;
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                Some(_) => return self.fail("control character in a string"),
                None => return self.fail("unterminated string"),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Malformed> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => match (self.unit(self.at), self.unit(self.at + 6)) {
                (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => {
                    self.at += 12;
                    Ok(())
                }
                (Some(0xD800..=0xDFFF), _) => self.fail("lone surrogate"),
                (Some(_), _) => {
                    self.at += 6;
                    Ok(())
                }
                (None, _) => self.fail("invalid escape"),
            },
            _ => self.fail("invalid escape"),
        }
    }

    /// The UTF-16 unit of an escape at this position.
    fn unit(&self, at: usize) -> Option<u16> {
        let digits = self.bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
        let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
        let digits = std::str::from_utf8(digits).ok().filter(|_| is_hex)?;
        u16::from_str_radix(digits, 16).ok()
    }

    /// A number or a literal.
    fn scalar(&mut self) -> Result<(), Malformed> {
        let rest = self.rest();
        let ends = |byte: &u8| matches!(byte, b',' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t');
        let len = rest.iter().take(MAX_SCALAR + 1).position(ends);
        let len = len.unwrap_or_else(|| rest.len().min(MAX_SCALAR + 1));
        let scalar = rest.get(..len).unwrap_or_default();
        if len > MAX_SCALAR {
            return self.fail("number too long");
        }
        if !matches!(scalar, b"true" | b"false" | b"null") && !is_number(scalar) {
            return self.fail("invalid value");
        }
        self.at += len;
        Ok(())
    }
}

/// Length of the leading part of a string without quotes, escapes and control characters.
fn plain_len(text: &[u8]) -> usize {
    let is_special = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
    let mut len = 0;
    // Whole steps without a branch for each byte, so that the compiler uses vectors.
    for step in text.chunks_exact(STEP) {
        if step.iter().fold(false, |found, byte| found | is_special(byte)) {
            break;
        }
        len += STEP;
    }
    let rest = text.get(len..).unwrap_or_default();
    len + rest.iter().position(is_special).unwrap_or(rest.len())
}

fn is_number(text: &[u8]) -> bool {
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let whole = digits(text);
    if whole == 0 || (whole > 1 && text.first() == Some(&b'0')) {
        return false;
    }
    let mut rest = text.get(whole..).unwrap_or_default();
    if let Some(fraction) = rest.strip_prefix(b".") {
        let len = digits(fraction);
        if len == 0 {
            return false;
        }
        rest = fraction.get(len..).unwrap_or_default();
    }
    if let Some(exponent) = rest.strip_prefix(b"e").or_else(|| rest.strip_prefix(b"E")) {
        let signed = exponent.strip_prefix(b"+").or_else(|| exponent.strip_prefix(b"-"));
        let exponent = signed.unwrap_or(exponent);
        return !exponent.is_empty() && digits(exponent) == exponent.len();
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn why(document: &[u8]) -> &'static str {
        check(document).map_or_else(|malformed| malformed.why, |()| "")
    }

    #[test]
    fn what_engines_read_differently_is_refused() {
        for (document, want) in [
            (&b"{\"a\":[1,-2.5e+3,{}],\"b\":\"x\\u00e9\\ud83d\\ude00\"} "[..], ""),
            (b"[]", ""),
            (b"{\"a\":\"bob\xff@example.com\"}", "invalid UTF-8"),
            (b"{\"a\":\"bob\xc1\x80example.com\"}", "invalid UTF-8"),
            (b"{\"a\":\"\xed\xa0\x80\"}", "invalid UTF-8"),
            (b"{\"a\":\"bob@exam\0ple.com\"}", "control character in a string"),
            (b"{\"a\":\"two\nlines\"}", "control character in a string"),
            (b"{\"a\":\"\\ud83d\"}", "lone surrogate"),
            (b"{\"a\":\"\\ud83d\\u0041\"}", "lone surrogate"),
            (b"{\"a\":\"\\ude00\"}", "lone surrogate"),
            (b"{\"a\":\"\\x41\"}", "invalid escape"),
            (b"{\"a\":\"\\u00g0\"}", "invalid escape"),
            (b"{\"a\":NaN}", "invalid value"),
            (b"{\"a\":01}", "invalid value"),
            (b"{\"a\":1.}", "invalid value"),
            (b"{\"a\":+1}", "invalid value"),
            (b"{\"a\":'b'}", "invalid value"),
            (b"{\"a\":1,}", "missing key"),
            (b"[1,]", "invalid value"),
            (b"{a:1}", "missing key"),
            (b"{\"a\":1}}", "trailing bytes"),
            (b"[1}", "missing comma or bracket"),
            (b"", "missing value"),
            (b"\xef\xbb\xbf{}", "invalid value"),
        ] {
            assert_eq!(why(document), want, "{}", String::from_utf8_lossy(document));
        }
        let (nested, deep) = ("[".repeat(128) + &"]".repeat(128), "[".repeat(129));
        assert_eq!((why(nested.as_bytes()), why(deep.as_bytes())), ("", "nested too deep"));
    }

    proptest! {
        #[test]
        fn the_verdict_is_that_of_serde(document in r#"[\[\]{}:,"\\ue0-9a\.\-+ \x00-\x1f\u{80}-\u{ff}tr]{0,40}"#) {
            let parsed = serde_json::from_str::<serde_json::Value>(&document);
            // Numbers beyond the range of f64 are valid.
            let in_range = |error: &serde_json::Error| !error.to_string().contains("out of range");
            if parsed.as_ref().err().is_none_or(in_range) {
                prop_assert_eq!(check(document.as_bytes()).is_ok(), parsed.is_ok(), "{}", document);
            }
        }
    }
}
