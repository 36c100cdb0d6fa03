//! Edits of an event's data; all other bytes stay unchanged.
//!
//! - *In*: the bytes of one event as received (for SSE including field names and line ends), and
//!   [`Edit`]s of its data.
//! - *Out*: the same bytes with the edits applied.
//! - *Never*: a document parsed and serialized again. Bytes outside the edits stay as they are,
//!   including vendor fields and white space.

use std::borrow::Cow;
use std::ops::Range;

use crate::json::{Malformed, Scan, Text};
use crate::reader::Framing;

/// A replacement of bytes in an event's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Byte range in the data.
    pub at: Range<usize>,
    /// Replacement bytes.
    pub with: Vec<u8>,
}

/// Token counts of an answer that several engines generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerUsage {
    /// Tokens of the client's prompt; `None`: unknown.
    pub prompt_tokens: Option<u64>,
    /// Generated tokens of all engines.
    pub completion_tokens: u64,
}

/// A piece of data: its offset in the data, and its range in the event's bytes.
type Segment = (usize, Range<usize>);

/// The data of an event, framing removed.
pub fn event_data(framing: Framing, event: &[u8]) -> Vec<u8> {
    let pieces: Vec<&[u8]> =
        segments(framing, event).into_iter().filter_map(|(_, at)| event.get(at)).collect();
    pieces.join(&b'\n')
}

/// Apply the edits to the event. If two edits overlap, the later one starts where the earlier one
/// ends; an edit inside an earlier one is dropped. Returns `None` if an edit is outside the data or
/// spans two data lines; the event must then not be forwarded.
pub fn apply(framing: Framing, event: &[u8], edits: &mut [Edit]) -> Option<Vec<u8>> {
    edits.sort_by_key(|edit| edit.at.start);
    let segments = segments(framing, event);
    let mut out = Vec::with_capacity(event.len() + 64);
    let mut written = 0;
    for edit in edits {
        let (start, at) = segments.iter().rev().find(|(start, _)| *start <= edit.at.start)?;
        let place = at.start + edit.at.start - start..at.start + edit.at.end.saturating_sub(*start);
        if place.start > place.end || place.end > at.end {
            return None;
        }
        out.extend_from_slice(event.get(written..place.start.max(written))?);
        if place.start >= written || place.end > written {
            out.extend_from_slice(&edit.with);
        }
        written = written.max(place.end);
    }
    out.extend_from_slice(event.get(written..)?);
    Some(out)
}

/// The event of an OpenAI stream with these counts in its `usage`. Members that it does not have
/// are not added. Without `usage`, or if it cannot be edited, the event stays as it is.
pub fn set_usage(framing: Framing, event: &[u8], usage: AnswerUsage) -> Cow<'_, [u8]> {
    let mut edits = Vec::new();
    let data = event_data(framing, event);
    let read = Scan::new(&data).object(|key, v| match key {
        b"usage" => edit_usage(v, usage, &mut edits),
        // Groq has it there as well.
        b"x_groq" => v.object(|key, v| match key {
            b"usage" => edit_usage(v, usage, &mut edits),
            _ => Ok(()),
        }),
        _ => Ok(()),
    });
    let edited = read.ok().and_then(|()| apply(framing, event, &mut edits));
    edited.map_or(Cow::Borrowed(event), Cow::Owned)
}

fn edit_usage(
    scan: &mut Scan<'_>,
    usage: AnswerUsage,
    edits: &mut Vec<Edit>,
) -> Result<(), Malformed> {
    let AnswerUsage { prompt_tokens: prompt, completion_tokens: completion } = usage;
    scan.object(|key, v| match key {
        b"prompt_tokens" => edit_count(v, edits, |_| prompt),
        b"completion_tokens" => edit_count(v, edits, |_| Some(completion)),
        b"total_tokens" => {
            edit_count(v, edits, |_| prompt.map(|prompt| prompt.saturating_add(completion)))
        }
        // The text before the resume point may come from the cache, and is not of the prompt.
        b"prompt_tokens_details" => v.object(|key, v| match key {
            b"cached_tokens" => edit_count(v, edits, |cached| prompt.map(|all| cached.min(all))),
            _ => Ok(()),
        }),
        _ => Ok(()),
    })
}

/// Replace a count, unless its new value is unknown.
fn edit_count(
    scan: &mut Scan<'_>,
    edits: &mut Vec<Edit>,
    new: impl FnOnce(u64) -> Option<u64>,
) -> Result<(), Malformed> {
    scan.peek();
    let start = scan.offset();
    if let Some(count) = scan.count()?.and_then(new) {
        edits.push(Edit { at: start..scan.offset(), with: count.to_string().into_bytes() });
    }
    Ok(())
}

fn segments(framing: Framing, event: &[u8]) -> Vec<Segment> {
    let trimmed = event.trim_ascii_start();
    match framing {
        Framing::Sse => data_lines(event),
        Framing::Ndjson => vec![(
            0,
            event.len() - trimmed.len()
                ..event.len() - trimmed.len() + trimmed.trim_ascii_end().len(),
        )],
        Framing::Json | Framing::Opaque => vec![(0, 0..event.len())],
    }
}

/// The values of an event's `data` lines.
fn data_lines(event: &[u8]) -> Vec<Segment> {
    let mut found = Vec::new();
    let (mut at, mut data) = (0, 0);
    while at < event.len() {
        let rest = event.get(at..).unwrap_or_default();
        let len = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
        let line = rest.get(..len).unwrap_or_default();
        let mark = if at == 0 && line.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        if let Some(value) = value_of_data(line.get(mark..).unwrap_or_default()) {
            let start = at + len - value;
            found.push((data, start..at + len));
            data += value + 1;
        }
        at += len + if rest.get(len..len + 2) == Some(b"\r\n") { 2 } else { 1 };
    }
    found
}

/// The length of the value, if the line is a `data` field.
fn value_of_data(line: &[u8]) -> Option<usize> {
    let rest = line.strip_prefix(b"data")?;
    let value = match rest {
        [] => rest,
        [b':', b' ', value @ ..] | [b':', value @ ..] => value,
        _ => return None,
    };
    Some(value.len())
}

/// Visit every string of a document with its key (of the nearest enclosing object) and its range
/// without quotes. A value whose key is in `erase` is visited as a whole, without descending into
/// it.
///
/// # Errors
/// [`Malformed`] if the data is not JSON or bytes follow the document. `found` may have been called
/// before.
pub fn visit_strings<'d>(
    data: &'d [u8],
    erase: &[&[u8]],
    found: &mut impl FnMut(&[u8], Found<'d>),
) -> Result<(), Malformed> {
    let mut scan = Scan::new(data);
    visit(&mut scan, (b"", erase), found)?;
    if scan.at_end() {
        Ok(())
    } else {
        Err(Malformed { at: scan.offset(), why: "trailing bytes after the document" })
    }
}

/// What [`strings`] visits.
#[derive(Clone, Debug)]
pub enum Found<'d> {
    /// A string and the range of its bytes.
    Text(Text<'d>, Range<usize>),
    /// The range of a value whose key is in `erase`.
    Erased(Range<usize>),
}

fn visit<'d>(
    scan: &mut Scan<'d>,
    (key, erase): (&[u8], &[&[u8]]),
    found: &mut impl FnMut(&[u8], Found<'d>),
) -> Result<(), Malformed> {
    let first = scan.peek();
    let start = scan.offset();
    if erase.contains(&key) {
        scan.skip()?;
        found(key, Found::Erased(start..scan.offset()));
        return Ok(());
    }
    match first {
        Some(b'{') => scan.object(|key, scan| visit(scan, (key, erase), found)),
        Some(b'[') => scan.array(|_, scan| visit(scan, (key, erase), found)),
        Some(b'"') => {
            if let Some(text) = scan.text()? {
                let at = start + 1;
                found(key, Found::Text(text, at..at + text.raw().len()));
            }
            Ok(())
        }
        _ => scan.skip(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(data: &[u8], what: &str, with: &str) -> Edit {
        let at = String::from_utf8_lossy(data).find(what).unwrap();
        Edit { at: at..at + what.len(), with: with.into() }
    }

    #[test]
    fn only_what_is_edited_changes() {
        let event = b": c\r\nid: 7\r\ndata: {\"a\":\"secret\",\r\ndata:\"b\": [\"more\"] }\r\nretry: 1\r\n\r\n";
        let bytes = event_data(Framing::Sse, event);
        assert_eq!(bytes, b"{\"a\":\"secret\",\n\"b\": [\"more\"] }");
        let mut edits = vec![edit(&bytes, "more", "[MORE]"), edit(&bytes, "secret", "***")];
        let want = b": c\r\nid: 7\r\ndata: {\"a\":\"***\",\r\ndata:\"b\": [\"[MORE]\"] }\r\nretry: 1\r\n\r\n";
        assert_eq!(apply(Framing::Sse, event, &mut edits).unwrap(), want);
        assert_eq!(apply(Framing::Sse, event, &mut []).unwrap(), event);
        let marked = b"\xEF\xBB\xBFdata:{\"a\":1}\n\n";
        assert_eq!(
            apply(Framing::Sse, marked, &mut [edit(b"{\"a\":1}", "1", "null")]).unwrap(),
            b"\xEF\xBB\xBFdata:{\"a\":null}\n\n"
        );
        let line = b"\n {\"a\":\"x\"}\r\n";
        assert_eq!(
            apply(Framing::Ndjson, line, &mut [edit(b"{\"a\":\"x\"}", "x", "y")]).unwrap(),
            b"\n {\"a\":\"y\"}\r\n"
        );
    }

    #[test]
    fn overlapping_edits_merge_and_edits_outside_the_data_fail() {
        let (event, edit) =
            (b"data: abcdef\n\n", |at: Range<usize>, with: &str| Edit { at, with: with.into() });
        assert_eq!(
            apply(Framing::Sse, event, &mut [edit(1..4, "X"), edit(2..6, "Y")]).unwrap(),
            b"data: aXY\n\n"
        );
        assert_eq!(
            apply(Framing::Sse, event, &mut [edit(1..4, "X"), edit(2..3, "Y")]).unwrap(),
            b"data: aXef\n\n"
        );
        assert_eq!(
            apply(Framing::Sse, event, &mut [edit(0..0, "X"), edit(0..1, "Y")]).unwrap(),
            b"data: XYbcdef\n\n"
        );
        let torn = b"data: {\"a\":\ndata: 1}\n\n";
        assert_eq!(apply(Framing::Sse, torn, &mut [edit(1..7, "X")]), None, "over two lines");
        assert_eq!(apply(Framing::Sse, b": comment\n\n", &mut [edit(0..1, "X")]), None);
        assert!(visit_strings(b"{\"a\":1} joe", &[], &mut |_, _| {}).is_err());
    }

    #[test]
    fn usage_is_replaced_where_the_event_has_it() {
        let event = b"data: {\"id\":\"a\",\"choices\":[],\ndata: \"usage\": {\"prompt_tokens\": 59.0,\"completion_tokens\":84,\"total_tokens\":143,\"prompt_tokens_details\":{\"cached_tokens\":48},\"completion_tokens_details\":null}}\r\n\r\n";
        let usage = AnswerUsage { prompt_tokens: Some(20), completion_tokens: 114 };
        let want = "data: {\"id\":\"a\",\"choices\":[],\ndata: \"usage\": {\"prompt_tokens\": 20,\"completion_tokens\":114,\"total_tokens\":134,\"prompt_tokens_details\":{\"cached_tokens\":20},\"completion_tokens_details\":null}}\r\n\r\n";
        let set = set_usage(Framing::Sse, event, usage);
        assert_eq!(String::from_utf8_lossy(&set), want);
        let unknown = AnswerUsage { prompt_tokens: None, ..usage };
        let set = set_usage(Framing::Sse, event, unknown);
        let want = String::from_utf8_lossy(event).replace(":84", ":114");
        assert_eq!(String::from_utf8_lossy(&set), want);
        for same in ["data: {\"usage\":null}\n\n", "data: {\"usage\":{\"prompt_tokens\":5\n\n"] {
            assert_eq!(&*set_usage(Framing::Sse, same.as_bytes(), usage), same.as_bytes());
        }
    }

    #[test]
    fn every_string_is_visited() {
        let document = br#"{"a":"x","b":[{"c":["y\n"]},2,null],"logprobs":{"content":[{"token":"x"}]},"d":{"logprobs":null}}"#;
        let mut seen = Vec::new();
        visit_strings(document, &[b"logprobs"], &mut |key, found| {
            let (text, at) = match found {
                Found::Text(text, at) => (text.decode().into_owned(), at),
                Found::Erased(at) => ("erased".into(), at),
            };
            seen.push((
                String::from_utf8_lossy(key).into_owned(),
                text,
                String::from_utf8_lossy(&document[at]).into_owned(),
            ));
        })
        .unwrap();
        let want = [
            ("a", "x", "x"),
            ("c", "y\n", "y\\n"),
            ("logprobs", "erased", r#"{"content":[{"token":"x"}]}"#),
            ("logprobs", "erased", "null"),
        ];
        assert_eq!(seen, want.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())));
    }
}
