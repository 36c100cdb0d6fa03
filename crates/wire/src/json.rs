//! A pull scanner over raw JSON bytes.
//!
//! - *In*: a complete JSON text (an event's data, a request body).
//! - *Out*: the values that the caller requests, as slices of the input; everything else is
//!   skipped.
//! - *Never*: a tree, an allocation for an unused value, recursion on nested input.
//!
//! Structure is checked strictly: a mismatched bracket, an unterminated string or a missing comma
//! is an error, because a lenient scanner and a strict engine would read the same document
//! differently. Skipped values are checked for structure only; the engine validates the rest.

mod cut;
pub mod strict;
mod text;

pub(crate) use cut::{Tail, last_value};
pub use cut::{is_cut, last_members};
pub use text::Text;

use std::fmt::Write as _;

use memchr::memchr2;

/// Maximum nesting depth, as in serde_json. A deeper document is rejected.
pub const MAX_DEPTH: u8 = 128;
/// Maximum bytes of a number or literal. No meaningful number is longer.
pub const MAX_SCALAR: usize = 512;
/// Maximum decoded bytes of a key that contains escapes. A longer key matches no known member.
const MAX_ESCAPED_KEY: usize = 64;
/// Above this, floating point skips whole numbers.
const EXACT: f64 = (1u64 << 53) as f64;

/// Why a text is not valid JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{why} at byte {at}")]
pub struct Malformed {
    /// Offset in the scanned bytes.
    pub at: usize,
    /// Short description of the problem.
    pub why: &'static str,
}

type Result<T> = std::result::Result<T, Malformed>;

/// A position in a JSON text. A copy is a bookmark to return to.
///
/// Every method that reads a value consumes exactly one value of any type: reading a number at a
/// string returns `None` and skips the string.
#[derive(Clone, Copy, Debug)]
pub struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: u8,
}

impl<'a> Scan<'a> {
    /// Start at the first byte of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Scan { bytes, at: 0, depth: 0 }
    }

    /// The offset of the next unread byte.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// Whether only white space is left.
    pub fn at_end(&mut self) -> bool {
        self.peek().is_none()
    }

    /// Skip white space and return the first byte of the next value.
    #[inline]
    pub fn peek(&mut self) -> Option<u8> {
        while let Some(&b) = self.bytes.get(self.at) {
            if !matches!(b, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(b);
            }
            self.at += 1;
        }
        None
    }

    /// Visit the members of an object. A value that `each` does not read is skipped.
    ///
    /// # Errors
    /// [`Malformed`] if the text is not JSON, or the error of `each`.
    #[inline]
    pub fn object(&mut self, mut each: impl FnMut(&[u8], &mut Self) -> Result<()>) -> Result<()> {
        if self.peek() != Some(b'{') {
            return self.skip();
        }
        self.enter()?;
        if self.peek() == Some(b'}') {
            return self.leave();
        }
        loop {
            let key = self.string()?;
            self.expect(b':', "missing colon")?;
            self.peek();
            let start = self.at;
            if key.is_escaped() {
                let mut room = [0; MAX_ESCAPED_KEY];
                let name = key.decode_into(&mut room).unwrap_or_default();
                each(name, self)?;
            } else {
                each(key.raw(), self)?;
            }
            if self.at == start {
                self.skip()?;
            }
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => return self.leave(),
                _ => return self.fail("missing comma or brace"),
            }
        }
    }

    /// Visit the elements of an array with their index. An element that `each` does not read is
    /// skipped.
    ///
    /// # Errors
    /// [`Malformed`] if the text is not JSON, or the error of `each`.
    #[inline]
    pub fn array(&mut self, mut each: impl FnMut(usize, &mut Self) -> Result<()>) -> Result<()> {
        if self.peek() != Some(b'[') {
            return self.skip();
        }
        self.enter()?;
        if self.peek() == Some(b']') {
            return self.leave();
        }
        for index in 0.. {
            self.peek();
            let start = self.at;
            each(index, self)?;
            if self.at == start {
                self.skip()?;
            }
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => return self.leave(),
                _ => return self.fail("missing comma or bracket"),
            }
        }
        Ok(())
    }

    /// The next value if it is a string.
    ///
    /// # Errors
    /// [`Malformed`] where the text is not JSON.
    #[inline]
    pub fn text(&mut self) -> Result<Option<Text<'a>>> {
        if self.peek() == Some(b'"') {
            return self.string().map(Some);
        }
        self.skip().map(|()| None)
    }

    /// The next value as written, including quotes.
    ///
    /// # Errors
    /// [`Malformed`] where the text is not JSON.
    pub fn verbatim(&mut self) -> Result<Text<'a>> {
        self.peek();
        let start = self.at;
        self.skip()?;
        Ok(Text::plain(self.bytes.get(start..self.at).unwrap_or_default()))
    }

    /// The next value if it is a non-negative integer that fits `u64`.
    ///
    /// # Errors
    /// [`Malformed`] where the text is not JSON.
    pub fn uint(&mut self) -> Result<Option<u64>> {
        match self.peek() {
            Some(b'0'..=b'9') => {}
            _ => return self.skip().map(|()| None),
        }
        let digits = self.scalar()?;
        Ok(std::str::from_utf8(digits).ok().and_then(|d| d.parse().ok()))
    }

    /// The next value if it is a whole, non-negative number in any spelling. JSON has one kind of
    /// number, and some servers compute counts in floating point: `21.0`, `1.4e1`.
    ///
    /// # Errors
    /// [`Malformed`] where the text is not JSON.
    pub fn count(&mut self) -> Result<Option<u64>> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return self.skip().map(|()| None);
        }
        let Ok(word) = std::str::from_utf8(self.scalar()?) else { return Ok(None) };
        let float = || word.parse().ok().filter(|n: &f64| n.fract() == 0.0 && *n <= EXACT);
        Ok(word.parse().ok().or_else(|| float().map(|n| n as u64)))
    }

    /// The next value multiplied by `unit` and rounded, if it is a non-negative number and the
    /// product is at most 2^53.
    ///
    /// # Errors
    /// [`Malformed`] where the text is not JSON.
    pub fn scaled(&mut self, unit: f64) -> Result<Option<u64>> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return self.skip().map(|()| None);
        }
        let word = std::str::from_utf8(self.scalar()?).unwrap_or_default();
        let scaled = word.parse().ok().map(|n: f64| (n * unit).round());
        Ok(scaled.filter(|n| *n <= EXACT).map(|n| n as u64))
    }

    /// The next value if it is `true` or `false`.
    ///
    /// # Errors
    /// [`Malformed`] where the text is not JSON.
    pub fn boolean(&mut self) -> Result<Option<bool>> {
        match self.peek() {
            Some(b't' | b'f') => Ok(match self.scalar()? {
                b"true" => Some(true),
                b"false" => Some(false),
                _ => None,
            }),
            _ => self.skip().map(|()| None),
        }
    }

    /// Skip the next value.
    ///
    /// # Errors
    /// [`Malformed`] where the text is not JSON.
    #[inline]
    pub fn skip(&mut self) -> Result<()> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'{' | b'[') => self.skip_nested(),
            Some(_) => self.scalar().map(|_| ()),
            None => self.fail("missing value"),
        }
    }

    /// Skip an object or array by matching brackets. One bit per level records which kind is open.
    fn skip_nested(&mut self) -> Result<()> {
        let mut open: u128 = 0;
        let mut levels: u8 = 0;
        loop {
            let Some(&b) = self.bytes.get(self.at) else { return self.fail("unclosed bracket") };
            match b {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => {
                    if self.depth + levels >= MAX_DEPTH {
                        return self.fail("nested too deep");
                    }
                    open = (open << 1) | u128::from(b == b'{');
                    levels += 1;
                }
                b'}' | b']' => {
                    if (open & 1 == 1) != (b == b'}') {
                        return self.fail("mismatched bracket");
                    }
                    open >>= 1;
                    levels -= 1;
                    if levels == 0 {
                        self.at += 1;
                        return Ok(());
                    }
                }
                _ => {}
            }
            self.at += 1;
        }
    }

    #[inline]
    fn string(&mut self) -> Result<Text<'a>> {
        if self.peek() != Some(b'"') {
            return self.fail("missing quote");
        }
        let start = self.at + 1;
        let mut from = start;
        let mut escaped = false;
        loop {
            let rest = self.bytes.get(from..).unwrap_or_default();
            let Some(hit) = find_quote(rest) else { return self.fail("unterminated string") };
            let at = from + hit;
            if self.bytes.get(at) == Some(&b'"') {
                self.at = at + 1;
                let raw = self.bytes.get(start..at).unwrap_or_default();
                return Ok(if escaped { Text::escaped(raw) } else { Text::plain(raw) });
            }
            escaped = true;
            from = at + 2;
        }
    }

    fn scalar(&mut self) -> Result<&'a [u8]> {
        let start = self.at;
        let rest = self.bytes.get(start..).unwrap_or_default();
        let within = rest.get(..MAX_SCALAR + 1).unwrap_or(rest);
        let len = within.iter().position(|b| !is_scalar(*b)).unwrap_or(within.len());
        match len {
            0 => self.fail("unexpected byte"),
            n if n > MAX_SCALAR => self.fail("number too long"),
            n => {
                self.at = start + n;
                Ok(rest.get(..n).unwrap_or_default())
            }
        }
    }

    #[inline]
    fn expect(&mut self, byte: u8, why: &'static str) -> Result<()> {
        if self.peek() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        self.fail(why)
    }

    #[inline]
    fn enter(&mut self) -> Result<()> {
        if self.depth >= MAX_DEPTH {
            return self.fail("nested too deep");
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    #[inline]
    fn leave(&mut self) -> Result<()> {
        self.depth -= 1;
        self.at += 1;
        Ok(())
    }

    #[cold]
    fn fail<T>(&self, why: &'static str) -> Result<T> {
        Err(Malformed { at: self.at, why })
    }
}

/// Offset of the first quote or backslash. Checks the first 32 bytes a word at a time: most keys
/// and values of an event are too short for a vectorized search to pay off.
#[inline]
pub(crate) fn find_quote(bytes: &[u8]) -> Option<usize> {
    const WORDS: usize = 4;
    let mut at = 0;
    while at < WORDS * 8 {
        let Some(word) = bytes.get(at..).and_then(|b| b.first_chunk::<8>()) else { break };
        let word = u64::from_le_bytes(*word);
        let hits = bytes_equal(word, b'"') | bytes_equal(word, b'\\');
        if hits != 0 {
            return Some(at + hits.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    memchr2(b'"', b'\\', bytes.get(at..)?).map(|hit| at + hit)
}

/// Set the high bit of each byte of `word` that equals `byte`. Only the lowest set bit is reliable;
/// the ones above it may be false positives.
#[inline]
fn bytes_equal(word: u64, byte: u8) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let zeroed = word ^ (ONES * u64::from(byte));
    zeroed.wrapping_sub(ONES) & !zeroed & (ONES << 7)
}

/// Maximum nesting depth of objects and arrays. `document` must be valid JSON.
pub fn nesting(document: &[u8]) -> u64 {
    let (mut deepest, mut depth, mut at) = (0u64, 0u64, 0);
    while let Some(byte) = document.get(at) {
        at += 1;
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                // Skip to the closing quote; a backslash escapes the byte after it.
                while let Some(hit) = find_quote(document.get(at..).unwrap_or_default()) {
                    let escape = document.get(at + hit) == Some(&b'\\');
                    at += hit + 1 + usize::from(escape);
                    if !escape {
                        break;
                    }
                }
            }
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// Whether a byte may occur in a number or a literal.
#[inline]
fn is_scalar(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.')
}

/// `text` as JSON string content: quotes, backslashes and control characters escaped.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => {
                // Writing to a `String` never fails.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(text: &str) -> Result<(Option<u64>, Option<String>)> {
        let (mut n, mut s) = (None, None);
        let mut scan = Scan::new(text.as_bytes());
        scan.object(|key, v| {
            match key {
                b"n" => n = v.uint()?,
                b"s" => s = v.text()?.map(|t| t.decode().into_owned()),
                _ => {}
            }
            Ok(())
        })?;
        assert!(scan.at_end(), "{text}");
        Ok((n, s))
    }

    #[test]
    fn reads_what_is_asked_and_skips_the_rest() {
        let text = r#" {"a":[1,{"n":9}],"n": 7 ,"b":"\"n\":8","s":"x\u00e9\ud83d\ude42\n","c":null,"d":-1.5e+3} "#;
        assert_eq!(facts(text), Ok((Some(7), Some("xé🙂\n".into()))));
    }

    #[test]
    fn a_key_written_with_escapes_is_the_same_key() {
        assert_eq!(facts(r#"{"\u006e":3}"#).unwrap().0, Some(3));
    }

    #[test]
    fn counts_are_whole_numbers_in_any_spelling() {
        for (text, count) in [
            ("21", Some(21)),
            ("21.0", Some(21)),
            ("1.4e1", Some(14)),
            ("0", Some(0)),
            ("21.5", None),
            ("-1", None),
            ("1e300", None),
            ("18446744073709551615", Some(u64::MAX)),
            ("\"21\"", None),
        ] {
            assert_eq!(Scan::new(text.as_bytes()).count(), Ok(count), "{text}");
        }
    }

    #[test]
    fn member_of_another_type_reads_as_none() {
        assert_eq!(facts(r#"{"n":"7","s":{"s":"no"}}"#), Ok((None, None)));
    }

    #[test]
    fn structure_is_strict() {
        for bad in [
            "{",
            "{\"n\"}",
            "{\"n\":1",
            "{\"n\":1 \"s\":2}",
            "{\"n\":[}}",
            "{\"n\":\"x}",
            "{\"n\":,}",
            "{n:1}",
            "{\"a\":[1,{]}]}",
        ] {
            assert!(facts(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn quotes_are_found_at_every_offset() {
        for len in 0..80 {
            for at in 0..len {
                for quote in [b'"', b'\\'] {
                    // Bytes that differ from a quote in one bit, and bytes with the high bit set,
                    // must not match.
                    let mut text = vec![b'#'; len];
                    text.iter_mut().step_by(3).for_each(|b| *b = 0xA2);
                    text[at] = quote;
                    assert_eq!(find_quote(&text), Some(at), "length {len}");
                    text[at] = b'x';
                    assert_eq!(find_quote(&text), None);
                }
            }
        }
    }

    #[test]
    fn nesting_ignores_brackets_in_strings() {
        assert_eq!(nesting(br#"{"a":[1,{"b":"[[[{{{\\"}],"c":"\"[[","d":[]}"#), 3);
        assert_eq!([nesting(b"1"), nesting(b"[]"), nesting(b"")], [0, 1, 0]);
    }

    #[test]
    fn depth_and_number_length_are_bounded() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(127), "]".repeat(127));
        assert!(facts(&deep).is_ok());
        let deeper = format!("{{\"a\":{}1{}}}", "[".repeat(128), "]".repeat(128));
        assert_eq!(facts(&deeper).unwrap_err().why, "nested too deep");
        assert_eq!(
            facts(&format!("{{\"n\":{}}}", "1".repeat(513))).unwrap_err().why,
            "number too long"
        );
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_skips_what_serde_accepts(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
        ) {
            let _ = Scan::new(&bytes).skip();
        }

        #[test]
        fn agrees_with_serde_on_strings(s in ".*", n in proptest::num::u64::ANY) {
            let text = serde_json::json!({"x": [s.clone()], "s": s, "n": n}).to_string();
            proptest::prop_assert_eq!(facts(&text), Ok((Some(n), Some(s))));
        }
    }
}
