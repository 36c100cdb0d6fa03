//! A JSON string as it stands in the input: a slice and whether it holds escapes.

use std::borrow::Cow;

/// The bytes between two quotes, not yet decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<'a> {
    raw: &'a [u8],
    escaped: bool,
}

impl<'a> Text<'a> {
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

    /// Whether the string is empty.
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// The part from byte `at` of the raw text on, if there is one.
    pub fn from_byte(&self, at: usize) -> Option<Text<'a>> {
        self.raw.get(at..).map(|raw| Text { raw, escaped: self.escaped })
    }

    /// The text with its escapes resolved. A lone surrogate and bytes that are not UTF-8 become U+FFFD.
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

    /// Give each decoded piece to `sink` until it refuses one; whether none was refused.
    fn unescape(&self, mut sink: impl FnMut(&[u8]) -> bool) -> bool {
        let mut rest = self.raw;
        loop {
            let plain = memchr::memchr(b'\\', rest).unwrap_or(rest.len());
            let (head, tail) = rest.split_at(plain);
            if !head.is_empty() && !sink(head) {
                return false;
            }
            let Some(&kind) = tail.get(1) else { return true };
            let (c, used) = match kind {
                b'n' => ('\n', 2),
                b't' => ('\t', 2),
                b'r' => ('\r', 2),
                b'b' => ('\u{8}', 2),
                b'f' => ('\u{c}', 2),
                b'u' => code_point(tail),
                other => (char::from(other), 2),
            };
            if !sink(c.encode_utf8(&mut [0; 4]).as_bytes()) {
                return false;
            }
            rest = tail.get(used..).unwrap_or_default();
        }
    }
}

/// The code point of `\uXXXX`, or of a surrogate pair of two such escapes, and how many bytes it took.
fn code_point(tail: &[u8]) -> (char, usize) {
    let Some(high) = hex4(tail.get(2..6)) else { return (char::REPLACEMENT_CHARACTER, tail.len().min(2)) };
    if (0xD800..0xDC00).contains(&high)
        && tail.get(6..8) == Some(b"\\u")
        && let Some(low @ 0xDC00..0xE000) = hex4(tail.get(8..12))
    {
        let c = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
        return (char::from_u32(c).unwrap_or(char::REPLACEMENT_CHARACTER), 12);
    }
    (char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER), 6)
}

fn hex4(digits: Option<&[u8]>) -> Option<u32> {
    let digits = std::str::from_utf8(digits?).ok()?;
    u32::from_str_radix(digits, 16).ok()
}
