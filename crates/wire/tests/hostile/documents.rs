//! JSON that is legal and ugly, and JSON that is neither.
//!
//! - *In*: the names that the scanners act on.
//! - *Out*: strategies for documents, for what nearly is one, and for events that carry one.
//! - *Never*: a serialiser; documents are written here, with white space and escapes that no
//!   serialiser writes.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;
use wire::Framing;

/// Contents of strings as they are written, each legal by itself.
const PIECES: &[&str] = &[
    "a",
    " ",
    "text",
    "\\n",
    "\\\"",
    "\\\\",
    "\\/",
    "\\u0000",
    "\\u00e9",
    "\\ud83d\\ude00",
    "\\uD834\\udd1e",
    "\\ufeff",
    "é",
    "日本",
    "🦀",
    "\u{202e}",
    "\u{200b}",
    "\u{e0041}",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "data: ",
    "[DONE]",
    "null",
    "system",
    "user",
    "tool",
    "x_output",
    "\u{2028}",
    "\u{7f}",
];

const NAMES: &[&str] = &[
    "model",
    "stream",
    "max_tokens",
    "n",
    "stream_options",
    "include_usage",
    "messages",
    "input",
    "prompt",
    "inputs",
    "system",
    "tools",
    "role",
    "content",
    "type",
    "text",
    "id",
    "tool_calls",
    "arguments",
    "output",
    "logprobs",
    "delta",
    "choices",
    "parameters",
    "echo",
    "m\\u006fdel",
    "\\u0063ontent",
    "",
    "\\\"",
    "image_url",
    "a",
];

const SCALARS: &[&str] =
    &["0", "-1", "18446744073709551616", "1.5e+3", "-0", "true", "false", "null", "7"];

const SPACE: &[&str] = &["", "", "", " ", "\n", "\t ", "\r\n", "  "];

/// Pieces that break a document.
const TROUBLE: &[&[u8]] = &[
    b"\"",
    b"\\",
    b"\\u",
    b"\\ud83d",
    b"\\u12",
    b"{",
    b"[",
    b"}",
    b"]",
    b",",
    b":",
    b"\0",
    b"\xFF",
    b"\xED\xA0\x80",
    b"\xF0\x9F",
    b"\n",
    b"\r",
    b"\n\n",
    b"data:",
    b"\ndata: ",
    b"data",
    b": ",
    b"event: x\n",
    b"\xEF\xBB\xBF",
    b"1e",
    b"--",
    b"tru",
    b"{\"a\":",
    b"[[[[[[[[[[[[[[[[",
    b"{}",
];

/// The content of a string, as written.
pub fn content() -> impl Strategy<Value = String> {
    prop::collection::vec(select(PIECES), 0..6).prop_map(|parts| parts.concat())
}

fn quoted() -> impl Strategy<Value = String> {
    content().prop_map(|text| format!("\"{text}\""))
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![6 => select(NAMES).prop_map(str::to_owned), 1 => content()]
        .prop_map(|name| format!("\"{name}\""))
}

fn space() -> impl Strategy<Value = &'static str> {
    select(SPACE)
}

/// Any value.
pub fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![3 => quoted(), 1 => select(SCALARS).prop_map(str::to_owned)];
    leaf.prop_recursive(5, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec((space(), inner.clone(), space()), 0..5).prop_map(|each| {
                let each: Vec<String> = each
                    .into_iter()
                    .map(|(before, value, behind)| [before, &value, behind].concat())
                    .collect();
                format!("[{}]", each.join(","))
            }),
            members(inner),
        ]
    })
}

fn members(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    prop::collection::vec((space(), name(), space(), value), 0..6).prop_map(|each| {
        let each: Vec<String> = each
            .into_iter()
            .map(|(before, name, behind, value)| {
                format!("{before}{name}{behind}:{behind}{value}{before}")
            })
            .collect();
        format!("{{{}}}", each.join(","))
    })
}

/// An object.
pub fn object() -> impl Strategy<Value = String> {
    members(value())
}

/// Bytes that are no JSON, or only just.
pub fn broken() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => object().prop_map(String::into_bytes),
        6 => select(TROUBLE).prop_map(<[u8]>::to_vec),
        2 => (name(), value()).prop_map(|(name, value)| format!("{{{name}:{value},").into_bytes()),
        2 => prop::collection::vec(any::<u8>(), 0..12),
        1 => (select(TROUBLE), 0..200usize).prop_map(|(piece, times)| piece.repeat(times)),
    ];
    (prop::collection::vec(piece, 0..6), any::<(u16, u16)>(), 0..4u8).prop_map(
        |(pieces, (from, to), fate)| {
            let mut bytes = pieces.concat();
            let (from, to) =
                (usize::from(from) % (bytes.len() + 1), usize::from(to) % (bytes.len() + 1));
            match fate {
                0 => bytes.truncate(to),
                1 => drop(bytes.drain(from.min(to)..from.max(to))),
                _ => {}
            }
            bytes
        },
    )
}

/// An event that carries `document`, and the framing it is in. Documents of event streams go over
/// several lines.
pub fn framed(document: &str, kind: u8) -> (Framing, Vec<u8>) {
    let lines = |prefix: &str, end: &str| {
        let lines = document.replace("\r\n", "\n");
        lines.split('\n').map(|line| format!("{prefix}{line}{end}")).collect::<String>()
    };
    match kind % 6 {
        0 => (Framing::Sse, format!("{}\n", lines("data: ", "\n")).into_bytes()),
        1 => (
            Framing::Sse,
            format!(": note\r\nid: 7\r\n{}retry: 1\r\n\r\n", lines("data:", "\r\n")).into_bytes(),
        ),
        2 => (Framing::Sse, format!("event: delta\r{}\r", lines("data: ", "\r")).into_bytes()),
        3 => (
            Framing::Ndjson,
            format!(" \n{}\r\n", document.replace(['\n', '\r'], " ")).into_bytes(),
        ),
        4 => (Framing::Json, document.as_bytes().to_vec()),
        _ => (Framing::Opaque, document.as_bytes().to_vec()),
    }
}

/// Every string that is a value, decoded, in no order.
pub fn strings_of(value: &Value, into: &mut Vec<String>, skipped: &[&str]) {
    match value {
        Value::String(text) => into.push(text.clone()),
        Value::Array(each) => each.iter().for_each(|value| strings_of(value, into, skipped)),
        Value::Object(each) => {
            each.iter()
                .filter(|(name, _)| !skipped.contains(&name.as_str()))
                .for_each(|(_, value)| strings_of(value, into, skipped));
        }
        _ => {}
    }
}
