//! Properties that hold for any input: one for each parser of data from a peer.
//!
//! - *In*: bytes. The first ones select where the rest is split.
//! - *Out*: nothing, or a panic that names the violated property.
//! - *Never*: a clock, a file.
//!
//! `make fuzz-parsers` runs them under libFuzzer; `make test` runs them on the captures of real
//! engines, with bytes changed.
#![allow(clippy::missing_panics_doc, reason = "a property panics where it does not hold")]

use http1::body::{BodyError, BodyFraming, BodyReader, Progress};
use http1::head::{HeadLimits, field_buffer, find_end, parse_request, parse_response};
use serde_json::Value;
use wire::json::{MAX_DEPTH, MAX_SCALAR, Scan, escaped, nesting};
use wire::sse::{Decoder, Item};
use wire::{Split, Splitter};

/// Maximum bytes of a frame in a decoder; no input is longer.
const NO_LIMIT: usize = 1 << 24;

/// The end of a head does not depend on how the input is split. A parsed head has no line end in a
/// field, and at most one framing.
pub fn head(data: &[u8]) {
    let Some((cut, data)) = cut_at(data) else { return };
    let limits = HeadLimits::default();
    let whole = find_end(data, 0, limits);
    let (first, _) = data.split_at(cut);
    match find_end(first, 0, limits) {
        Ok(None) => assert_eq!(
            find_end(data, first.len(), limits).ok(),
            whole.ok(),
            "a head that comes in two"
        ),
        Ok(Some(end)) => assert_eq!(whole, Ok(Some(end)), "a head that is found early"),
        Err(_) => assert!(whole.is_err(), "a head that was refused early"),
    }
    let Ok(Some(end)) = whole else { return };
    let head = data.get(..end).expect("invariant: the end of a head is inside");
    let mut fields = field_buffer();
    if let Ok(request) = parse_request(head, &mut fields, limits) {
        assert!(!request.line.target.contains([' ', '\r', '\n']), "{:?}", request.line);
        request.fields.iter().for_each(|field| check_field(field.name, field.value));
        assert!(
            request.framing != BodyFraming::UntilClose,
            "a request does not end with its connection"
        );
        let both =
            request.get("content-length").is_some() && request.get("transfer-encoding").is_some();
        assert!(!both, "two framings");
    }
    for to_head in [false, true] {
        let mut fields = field_buffer();
        if let Ok(response) = parse_response(head, &mut fields, limits, to_head) {
            response.fields.iter().for_each(|field| check_field(field.name, field.value));
            assert!(!to_head || response.framing == BodyFraming::Empty);
        }
    }
}

fn check_field(name: &str, value: &[u8]) {
    assert!(
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'),
        "{name:?}"
    );
    assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "{name}: {value:?}");
}

/// Payload and end of a body do not depend on how it is split.
pub fn body(data: &[u8]) {
    let [kind, size, rest @ ..] = data else { return };
    let Some((cut, data)) = cut_at(rest) else { return };
    let framing = match kind % 4 {
        0 => BodyFraming::Empty,
        1 => BodyFraming::Length(u64::from(*size)),
        2 => BodyFraming::UntilClose,
        _ => BodyFraming::Chunked,
    };
    let (first, second) = data.split_at(cut);
    let whole = read_body(framing, &[data]);
    assert_eq!(read_body(framing, &[first, second]), whole, "{framing:?} cut at {cut}");
    let bytewise: Vec<&[u8]> = data.chunks(1).collect();
    assert_eq!(read_body(framing, &bytewise), whole, "{framing:?} byte by byte");
    assert!(whole.payload.len() + whole.framing <= data.len(), "more than there was");
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Body {
    payload: Vec<u8>,
    /// Bytes of framing.
    framing: usize,
    is_done: bool,
    error: Option<BodyError>,
}

fn read_body(framing: BodyFraming, runs: &[&[u8]]) -> Body {
    let (mut reader, mut body) = (BodyReader::new(framing), Body::default());
    'runs: for run in runs {
        let mut rest = *run;
        loop {
            match reader.next(rest) {
                Ok(Progress::Data { skip, len }) => {
                    assert!(len > 0, "no payload");
                    let end = skip + len;
                    body.payload.extend_from_slice(
                        rest.get(skip..end).expect("payload outside of the run"),
                    );
                    body.framing += skip;
                    rest = rest.get(end..).unwrap_or_default();
                }
                Ok(Progress::More) => {
                    body.framing += rest.len();
                    continue 'runs;
                }
                Ok(Progress::Done { used }) => {
                    body.framing += used;
                    break 'runs;
                }
                Err(error) => {
                    // The position of the error in the run depends on the split.
                    body.framing = 0;
                    body.error = Some(error);
                    break 'runs;
                }
            }
        }
    }
    body.is_done = reader.is_done();
    body
}

/// The frames of a stream do not depend on how it is split.
pub fn sse(data: &[u8]) {
    let Some((cut, data)) = cut_at(data) else { return };
    let whole = frames(&[data]);
    let (first, second) = data.split_at(cut);
    assert_eq!(frames(&[first, second]), whole, "cut at {cut}");
    let bytewise: Vec<&[u8]> = data.chunks(1).collect();
    assert_eq!(frames(&bytewise), whole, "byte by byte");
}

/// Frames and comments of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Frames {
    /// Names and data.
    frames: Vec<(Vec<u8>, Vec<u8>)>,
    comments: usize,
    is_torn: bool,
}

fn frames(runs: &[&[u8]]) -> Frames {
    let (mut decoder, mut all) = (Decoder::new(NO_LIMIT), Frames::default());
    for run in runs {
        let mut last = 0;
        decoder.feed(run, |item| {
            let end = match item {
                Item::Frame(frame) => {
                    all.frames.push((frame.name.to_vec(), frame.data.to_vec()));
                    frame.end
                }
                Item::Comment(end) => {
                    all.comments += 1;
                    end
                }
                Item::Skipped(_, end) => end,
            };
            assert!(
                (last..=run.len()).contains(&end),
                "ends go forward: {end} behind {last} in a run of {}",
                run.len()
            );
            last = end;
        });
    }
    assert!(!decoder.is_skipping());
    // The LF of a split CRLF counts in the run in which it arrives: a difference of one byte is not
    // a torn frame.
    all.is_torn = decoder.unterminated() > 1;
    all
}

/// The scanner accepts whatever `serde_json` parses. Strings are decoded as `serde_json` decodes
/// them, and escaped strings survive a round trip.
pub fn json(data: &[u8]) {
    let mut scan = Scan::new(data);
    let passed = scan.skip().is_ok() && scan.at_end();
    assert!(scan.offset() <= data.len());
    let Ok(text) = std::str::from_utf8(data) else { return };
    let written = format!("\"{}\"", escaped(text));
    assert_eq!(serde_json::from_str::<String>(&written).ok().as_deref(), Some(text), "{written}");
    let read = Scan::new(written.as_bytes()).text().ok().flatten();
    assert_eq!(read.map(|read| read.decode().into_owned()).as_deref(), Some(text), "{written}");
    let Ok(value) = serde_json::from_str::<Value>(text) else { return };
    let long = text
        .split(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c)))
        .any(|scalar| scalar.len() > MAX_SCALAR);
    let deep = nesting(data) > u64::from(MAX_DEPTH);
    assert!(passed || long || deep, "JSON that is not passed over");
    if let (Value::String(want), true) = (&value, passed) {
        let read = Scan::new(data).text().ok().flatten();
        assert_eq!(read.map(|read| read.decode().into_owned()).as_ref(), Some(want));
    }
}

/// The concatenated pieces of a stream are the stream. Its events do not depend on how it is split.
pub fn splitter(data: &[u8]) {
    let Some((cut, data)) = cut_at(data) else { return };
    let (first, second) = data.split_at(cut);
    let (whole, all) = pieces(&[data]);
    assert_eq!(all, data);
    let (events, all) = pieces(&[first, second]);
    assert_eq!(all, data, "cut at {cut}");
    assert_eq!(events, whole, "cut at {cut}");
}

/// The data of events, and all bytes in their order.
fn pieces(runs: &[&[u8]]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let (mut decoder, mut splitter) = (Decoder::new(NO_LIMIT), Splitter::default());
    let (mut events, mut all) = (Vec::new(), Vec::new());
    for run in runs {
        let mut ends = Vec::new();
        decoder.feed(run, |item| {
            ends.push(match item {
                Item::Frame(frame) => (frame.end, Some(frame.data.to_vec())),
                Item::Comment(end) | Item::Skipped(_, end) => (end, None),
            });
        });
        splitter.split(run, ends, |piece| match piece {
            Split::Event(bytes, data, end) => {
                assert!(end <= run.len());
                all.extend_from_slice(&bytes);
                events.push(data);
            }
            Split::Comment(bytes) => all.extend_from_slice(&bytes),
            Split::LineFeed => all.push(b'\n'),
        });
    }
    all.extend_from_slice(&splitter.take_torn());
    (events, all)
}

/// The first two bytes select where the rest is split.
fn cut_at(data: &[u8]) -> Option<(usize, &[u8])> {
    let [high, low, rest @ ..] = data else { return None };
    Some((usize::from(u16::from_be_bytes([*high, *low])) % (rest.len() + 1), rest))
}
