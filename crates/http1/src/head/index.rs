//! Offsets of a parsed request head, stored next to its bytes.
//!
//! A [`Head`] borrows from its buffer, so the two cannot be stored together; offsets can.
//! Rebuilding a head from its offsets costs a tenth of parsing it.

use std::ops::Range;

use arrayvec::ArrayVec;

use super::{Head, MAX_FIELDS, RequestLine};
use crate::body::BodyFraming;

type Span = Range<u32>;

/// The fields of a head that is rebuilt.
pub type FieldList<'a> = ArrayVec<httparse::Header<'a>, MAX_FIELDS>;

/// Offsets of a parsed request head.
#[derive(Clone, Debug)]
pub struct HeadIndex {
    method: Span,
    /// `None`: the target is `/`, derived from an absolute-form target without a path.
    target: Option<Span>,
    http10: bool,
    framing: BodyFraming,
    len: usize,
    /// Name and value of each field.
    fields: Box<[(Span, Span)]>,
}

impl HeadIndex {
    /// The offsets of a head in the bytes that it was parsed from.
    pub fn new(head: &Head<'_, RequestLine<'_>>, bytes: &[u8]) -> Self {
        let span = |part: &[u8]| span(part, bytes).unwrap_or_default();
        HeadIndex {
            method: span(head.line.method.as_bytes()),
            target: self::span(head.line.target.as_bytes(), bytes),
            http10: head.http10,
            framing: head.framing,
            len: head.len,
            fields: head
                .fields
                .iter()
                .map(|field| (span(field.name.as_bytes()), span(field.value)))
                .collect(),
        }
    }

    /// Length of the head in bytes, including the empty line.
    pub fn head_len(&self) -> usize {
        self.len
    }

    /// Rebuild the head, with its fields in `list`. `bytes` must start with the bytes that it was
    /// parsed from.
    pub fn head<'l, 'b: 'l>(
        &self,
        bytes: &'b [u8],
        list: &'l mut FieldList<'b>,
    ) -> Head<'l, RequestLine<'l>> {
        let range = |span: &Span| span.start as usize..span.end as usize;
        let part = |span: &Span| bytes.get(range(span)).unwrap_or_default();
        // Parsing has found the names to be ASCII. Most heads are ASCII as a whole, and checked
        // once.
        let whole = bytes.get(..self.len).and_then(|head| std::str::from_utf8(head).ok());
        let text = |span: &Span| match whole {
            Some(head) => head.get(range(span)).unwrap_or_default(),
            None => std::str::from_utf8(part(span)).unwrap_or_default(),
        };
        let fields = self.fields.iter().take(MAX_FIELDS);
        list.extend(
            fields.map(|(name, value)| httparse::Header { name: text(name), value: part(value) }),
        );
        let line = RequestLine {
            method: text(&self.method),
            target: self.target.as_ref().map_or("/", text),
        };
        Head { line, http10: self.http10, fields: list, framing: self.framing, len: self.len }
    }
}

/// Offsets of `part` in `bytes`; `None` if it is not a slice of `bytes`.
fn span(part: &[u8], bytes: &[u8]) -> Option<Span> {
    let start = part.as_ptr().addr().checked_sub(bytes.as_ptr().addr())?;
    let end = start.checked_add(part.len()).filter(|end| *end <= bytes.len())?;
    Some(u32::try_from(start).ok()?..u32::try_from(end).ok()?)
}

#[cfg(test)]
mod tests {
    use super::super::{HeadLimits, field_buffer, parse_request};
    use super::*;

    #[test]
    fn the_head_is_the_same_from_its_offsets() {
        for text in [
            "POST /v1/chat/completions?a=b HTTP/1.1\r\nhost: a\r\nx-empty:\r\nX-Odd:  \t v \r\ncontent-length: 5\r\n\r\n",
            "GET http://engine HTTP/1.1\r\nhost: engine\r\n\r\n",
            "GET http://engine/models HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: engine\r\nx-name: \u{fc}\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n",
        ] {
            // The head is followed by its body and at another address.
            let moved = format!("{text}hello").into_bytes();
            let (mut first, mut second) = (field_buffer(), FieldList::new());
            let parsed =
                parse_request(text.as_bytes(), &mut first, HeadLimits::default()).expect("a head");
            let index = HeadIndex::new(&parsed, text.as_bytes());
            let again = index.head(&moved, &mut second);
            assert_eq!(format!("{again:?}"), format!("{parsed:?}"), "{text}");
            assert_eq!(index.head_len(), text.len());
        }
    }
}
