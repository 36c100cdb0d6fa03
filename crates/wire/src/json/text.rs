//! A JSON string as written in the input: a slice, and whether it contains escapes.

use std::borrow::Cow;

/// The bytes between two quotes, not yet decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<'a> {
    raw: &'a [u8],
    escaped: bool,
}

impl<'a> Text<'a> {
    /// Text from the bytes between two quotes. `escaped`: they contain escapes.
    pub fn new(raw: &'a [u8], escaped: bool) -> Self {
        Text { raw, escaped }
    }

    pub(crate) fn plain(raw: &'a [u8]) -> Self {
        Text { raw, escaped: false }
    }

    pub(super) fn escaped(raw: &'a [u8]) -> Self {
        Text { raw, escaped: true }
    }

    /// The bytes as written, escapes not resolved.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// Whether [`raw`](Self::raw) differs from the decoded text.
    pub fn is_escaped(&self) -> bool {
        self.escaped
    }

    /// Bytes and characters of the decoded text.
    pub fn decoded_size(&self) -> (usize, usize) {
        match self.escaped {
            true => self.units().fold((0, 0), |size, (_, c)| (size.0 + c.len_utf8(), size.1 + 1)),
            false => {
                let is_start = |byte: &&u8| **byte as i8 >= -0x40;
                (self.raw.len(), self.raw.iter().filter(is_start).count())
            }
        }
    }

    /// Whether the string is empty.
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// The raw text from byte `at` on; `None` if it is shorter.
    pub fn from_byte(&self, at: usize) -> Option<Text<'a>> {
        self.raw.get(at..).map(|raw| Text { raw, escaped: self.escaped })
    }

    /// The text with its escapes resolved. A lone surrogate and bytes that are not UTF-8 become
    /// U+FFFD.
    pub fn decode(&self) -> Cow<'a, str> {
        if !self.escaped {
            return String::from_utf8_lossy(self.raw);
        }
        let mut out = Vec::with_capacity(self.raw.len());
        self.unescape(|bytes| {
            out.extend_from_slice(bytes);
            true
        });
        Cow::Owned(String::from_utf8_lossy(&out).into_owned())
    }

    /// The text split into characters: for each, its length in raw bytes and its decoded value. The
    /// characters are those of [`decode`](Self::decode); the lengths sum to the raw length.
    pub fn units(&self) -> impl Iterator<Item = (usize, char)> + 'a {
        let (mut rest, escaped) = (self.raw, self.escaped);
        std::iter::from_fn(move || {
            let unit = match rest {
                [] => return None,
                [b'\\', ..] if escaped => escape(rest),
                _ => plain(rest),
            };
            rest = rest.get(unit.0..).unwrap_or_default();
            Some(unit)
        })
    }

    /// Range in the raw text of a byte range of the decoded text. An end inside a character is
    /// widened to the boundary of that character.
    pub fn raw_range(&self, decoded: std::ops::Range<usize>) -> std::ops::Range<usize> {
        self.raw_ranges(std::iter::once(decoded)).next().unwrap_or(self.raw.len()..self.raw.len())
    }

    /// Like [`raw_range`](Self::raw_range), for many ranges in one pass. They must be sorted and
    /// disjoint.
    pub fn raw_ranges(
        &self,
        decoded: impl Iterator<Item = std::ops::Range<usize>>,
    ) -> impl Iterator<Item = std::ops::Range<usize>> {
        let (mut units, mut raw, mut at) = (self.units().peekable(), 0, 0);
        decoded.map(move |span| {
            while let Some((len, c)) = units.next_if(|(_, c)| at + c.len_utf8() <= span.start) {
                raw += len;
                at += c.len_utf8();
            }
            let start = raw;
            while let Some((len, c)) = units.next_if(|_| at < span.end) {
                raw += len;
                at += c.len_utf8();
            }
            start..raw
        })
    }

    /// Decode into `room`; `None` when it does not fit.
    pub(super) fn decode_into<'r>(&self, room: &'r mut [u8]) -> Option<&'r [u8]> {
        let mut len = 0;
        let fits = self.unescape(|bytes| {
            let Some(target) = room.get_mut(len..len + bytes.len()) else { return false };
            target.copy_from_slice(bytes);
            len += bytes.len();
            true
        });
        fits.then(|| room.get(..len)).flatten()
    }

    /// Pass each decoded piece to `sink` until it returns false. Returns whether it accepted all of
    /// them.
    fn unescape(&self, mut sink: impl FnMut(&[u8]) -> bool) -> bool {
        let mut rest = self.raw;
        loop {
            let plain = memchr::memchr(b'\\', rest).unwrap_or(rest.len());
            let (head, tail) = rest.split_at(plain);
            if !head.is_empty() && !sink(head) {
                return false;
            }
            if tail.len() < 2 {
                return true;
            }
            let (used, c) = escape(tail);
            if !sink(c.encode_utf8(&mut [0; 4]).as_bytes()) {
                return false;
            }
            rest = tail.get(used..).unwrap_or_default();
        }
    }
}

/// The unescaped character at the front. Invalid UTF-8 is replaced as in `String::from_utf8_lossy`.
fn plain(rest: &[u8]) -> (usize, char) {
    let Some(chunk) = rest.get(..rest.len().min(4)).unwrap_or_default().utf8_chunks().next() else {
        return (rest.len(), ' ');
    };
    match chunk.valid().chars().next() {
        Some(c) => (c.len_utf8(), c),
        None => (chunk.invalid().len().max(1), char::REPLACEMENT_CHARACTER),
    }
}

/// The escape at the front: its length in bytes and its character. A trailing backslash stands for
/// itself.
fn escape(tail: &[u8]) -> (usize, char) {
    match tail.get(1) {
        Some(b'n') => (2, '\n'),
        Some(b't') => (2, '\t'),
        Some(b'r') => (2, '\r'),
        Some(b'b') => (2, '\u{8}'),
        Some(b'f') => (2, '\u{c}'),
        Some(b'u') => code_point(tail),
        Some(other) => (2, char::from(*other)),
        None => (1, '\\'),
    }
}

/// Length in bytes and character of `\uXXXX`, or of a surrogate pair of two such escapes.
fn code_point(tail: &[u8]) -> (usize, char) {
    let Some(high) = hex4(tail.get(2..6)) else {
        return (tail.len().min(2), char::REPLACEMENT_CHARACTER);
    };
    if (0xD800..0xDC00).contains(&high)
        && tail.get(6..8) == Some(b"\\u")
        && let Some(low @ 0xDC00..0xE000) = hex4(tail.get(8..12))
    {
        let c = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
        return (12, char::from_u32(c).unwrap_or(char::REPLACEMENT_CHARACTER));
    }
    (6, char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER))
}

fn hex4(digits: Option<&[u8]>) -> Option<u32> {
    let digits = std::str::from_utf8(digits?).ok()?;
    u32::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn units_are_the_decoded_text(
            pieces in proptest::collection::vec("[a-c é😀]|\\\\[nt\"\\\\/]|\\\\u00e9|\\\\ud83d|\\\\ude00", 0..12),
            from in 0usize..40,
            len in 0usize..20,
        ) {
            let raw = pieces.concat();
            let text = Text { raw: raw.as_bytes(), escaped: true };
            let decoded: String = text.units().map(|(_, c)| c).collect();
            proptest::prop_assert_eq!(&*decoded, &*text.decode());
            proptest::prop_assert_eq!(text.units().map(|(len, _)| len).sum::<usize>(), raw.len());
            let range = text.raw_range(from..from + len);
            let before: String = Text { raw: &raw.as_bytes()[..range.start], escaped: true }
                .units()
                .map(|(_, c)| c)
                .collect();
            proptest::prop_assert!(before.len() <= from.min(decoded.len()));
            proptest::prop_assert!(decoded.starts_with(&*before));
        }
    }

    #[test]
    fn ranges_of_decoded_text_are_found_in_the_raw_text() {
        let raw = br"a\n\u00e9\ud83d\ude00b";
        let text = Text::escaped(raw);
        assert_eq!(text.decode(), "a\n\u{e9}\u{1f600}b");
        let want = [
            (0..1, "a"),
            (1..2, r"\n"),
            (2..4, r"\u00e9"),
            (2..3, r"\u00e9"),
            (4..8, r"\ud83d\ude00"),
            (8..9, "b"),
            (8..8, ""),
        ];
        for (decoded, want) in want {
            let range = text.raw_range(decoded.clone());
            assert_eq!(std::str::from_utf8(&raw[range]), Ok(want), "{decoded:?}");
        }
        let torn = Text::plain(b"a\xE2\x82b\xFF");
        assert_eq!(torn.units().map(|(_, c)| c).collect::<String>(), torn.decode());
    }
}
