//! The rewriter.

use std::ops::Range;

use proptest::prelude::*;
use serde_json::Value;
use wire::Framing;
use wire::rewrite::{Edit, Found, apply, event_data, visit_strings};
use wire::sse::{Decoder, Item};

use super::config;
use super::documents::{broken, content, framed, strings_of, value};

const FRAMINGS: [Framing; 4] = [Framing::Sse, Framing::Ndjson, Framing::Json, Framing::Opaque];

/// What an edit of the properties puts in; no piece of a document holds it.
const MARK: &[u8] = b"\x01\x02";

/// Members that go as a whole; the first erases nothing.
const ERASE: &[&[&[u8]]] = &[&[], &[b"logprobs"], &[b"content", b"logprobs"]];

type Places = Vec<Range<usize>>;

/// The places of all strings of a document.
fn places(document: &[u8], erase: &[&[u8]]) -> Option<(Places, Places)> {
    let (mut texts, mut erased) = (Vec::new(), Vec::new());
    visit_strings(document, erase, &mut |_, found| match found {
        Found::Text(text, at) => {
            assert_eq!(document.get(at.clone()), Some(text.raw()));
            texts.push(at);
        }
        Found::Erased(at) => erased.push(at),
    })
    .ok()?;
    Some((texts, erased))
}

/// The document with the edits, done the plain way.
fn edited(document: &[u8], edits: &[Edit]) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), 0);
    for edit in edits {
        out.extend_from_slice(&document[at..edit.at.start]);
        out.extend_from_slice(&edit.with);
        at = edit.at.end;
    }
    out.extend_from_slice(&document[at..]);
    out
}

proptest! {
    #![proptest_config(config(1500))]

    #[test]
    fn without_edits_nothing_changes(event in broken(), number in 0..4usize) {
        prop_assert_eq!(apply(FRAMINGS[number], &event, &mut []), Some(event));
    }

    /// Whatever the edits: what comes out between the marks are pieces of the event, in order, and
    /// no more is missing than was to go.
    #[test]
    fn only_what_is_edited_changes(
        event in broken(),
        number in 0..4usize,
        spans in prop::collection::vec((0..300usize, 0..300usize), 0..6),
    ) {
        let mut edits: Vec<Edit> =
            spans.iter().map(|span| Edit { at: span.0..span.1, with: MARK.to_vec() }).collect();
        let most: usize = edits.iter().map(|edit| edit.at.len()).sum();
        // An edit without a place is told, and nothing leaves.
        let Some(out) = apply(FRAMINGS[number], &event, &mut edits) else { return Ok(()) };
        let (mut from, mut missing, mut rest, mut first) = (0, 0, out.as_slice(), true);
        loop {
            let at = rest.windows(MARK.len()).position(|window| window == MARK);
            let piece = &rest[..at.unwrap_or(rest.len())];
            let place = match (first, at) {
                // The end of the event, at its end.
                (_, None) => {
                    event.len().checked_sub(piece.len()).filter(|_| event.ends_with(piece))
                }
                (true, _) => event.starts_with(piece).then_some(0),
                (false, _) => (from..=event.len()).find(|at| event[*at..].starts_with(piece)),
            };
            prop_assert!(place.is_some_and(|place| place >= from), "{:?}: {:?}", event, out);
            missing += place.unwrap() - from;
            from = place.unwrap() + piece.len();
            first = false;
            match at {
                Some(at) => rest = &rest[at + MARK.len()..],
                None => break,
            }
        }
        prop_assert!(event.windows(2).any(|two| two == MARK) || missing <= most, "{:?}: {:?}", event, out);
    }

    /// Strings become others and members go to `null`: the document around them is the same, in
    /// every framing, and parses.
    #[test]
    fn edited_documents_stay_documents(
        document in value(),
        with in content(),
        kind in 0..6u8,
        chosen in any::<u64>(),
        erase in prop::sample::select(ERASE),
    ) {
        let (framing, event) = framed(&document, kind);
        let bytes = event_data(framing, &event);
        prop_assert!(serde_json::from_slice::<Value>(&bytes).is_ok(), "{:?}", String::from_utf8_lossy(&event));
        let (texts, erased) = places(&bytes, erase).unwrap();
        let texts = texts.into_iter().enumerate().filter(|(at, _)| chosen >> (at % 64) & 1 == 1);
        let mut edits: Vec<Edit> =
            texts.map(|(_, at)| Edit { at, with: with.clone().into_bytes() }).collect();
        let in_a_line = |at: &Range<usize>| !bytes[at.clone()].contains(&b'\n');
        edits.extend(erased.into_iter().filter(in_a_line).map(|at| Edit { at, with: b"null".to_vec() }));
        edits.sort_by_key(|edit| edit.at.start);
        let want = edited(&bytes, &edits);
        edits.reverse();
        let out = apply(framing, &event, &mut edits).unwrap();
        prop_assert_eq!(event_data(framing, &out), want.clone(), "{:?}", String::from_utf8_lossy(&event));
        prop_assert!(serde_json::from_slice::<Value>(&want).is_ok(), "{:?}", String::from_utf8_lossy(&want));
    }

    /// Each string is visited, and decodes to what `serde_json` reads there.
    #[test]
    fn every_string_is_found(document in value()) {
        let parsed: Value = serde_json::from_str(&document).unwrap();
        let mut found = Vec::new();
        visit_strings(document.as_bytes(), &[], &mut |_, one| {
            if let Found::Text(text, at) = one {
                found.push(text.decode().into_owned());
                assert_eq!(text.raw_range(0..usize::MAX), 0..at.len());
            }
        })
        .unwrap();
        let mut want = Vec::new();
        strings_of(&parsed, &mut want, &[]);
        // Where a name stands twice `serde_json` keeps one.
        for text in want {
            let at = found.iter().position(|one| *one == text);
            prop_assert!(at.is_some(), "{:?} in {}", text, document);
            found.swap_remove(at.unwrap());
        }
    }

    #[test]
    fn no_bytes_bring_the_visitor_down(bytes in broken()) {
        let mut visited = 0;
        let _ = visit_strings(&bytes, &[b"logprobs"], &mut |_, found| {
            let (Found::Text(_, at) | Found::Erased(at)) = found;
            assert!(bytes.get(at).is_some());
            visited += 1;
        });
        prop_assert!(visited <= bytes.len());
    }

    /// What the rewriter takes for the data of an event is what the reader of events gives out.
    #[test]
    fn the_data_is_what_the_reader_reads(event in broken()) {
        let end = event.windows(2).position(|two| two == b"\n\n").map(|at| at + 2);
        let event = &event[..end.unwrap_or(event.len())];
        let mut seen = Vec::new();
        Decoder::new(1 << 20).feed(event, |item| {
            if let Item::Frame(frame) = item {
                seen.push((frame.data.to_vec(), frame.end));
            }
        });
        if let [(read, at)] = seen.as_slice()
            && *at == event.len()
        {
            prop_assert_eq!(&event_data(Framing::Sse, event), read, "{:?}", String::from_utf8_lossy(event));
        }
    }
}

#[test]
fn a_hundred_thousand_brackets() {
    for piece in ["[", "{\"a\":", "[{\"a\":["] {
        let bytes = piece.repeat(100_000).into_bytes();
        let mut visited = 0;
        assert!(visit_strings(&bytes, &[b"a"], &mut |_, _| visited += 1).is_err() && visited == 0);
        assert_eq!(apply(Framing::Json, &bytes, &mut []), Some(bytes));
    }
}
