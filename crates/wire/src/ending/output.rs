//! The output of a Responses stream so far, which its closing events repeat.
//!
//! - *In*: the data of forwarded events.
//! - *Out*: the `.done` events of open items, and the items for `response.incomplete`.
//! - *Never*: more than [`MAX_BYTES`] of a stream. A longer output is not repeated.

use std::fmt::Write;

use crate::json::{Malformed, Scan};

/// Maximum bytes of items and texts that are kept.
const MAX_BYTES: usize = 1 << 20;

/// The output of a stream so far. JSON strings are kept as written.
#[derive(Clone, Debug, Default)]
pub struct ResponseOutput {
    items: Vec<Item>,
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Item {
    /// `output_index`.
    index: u64,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    /// The whole item, from its `.done` event.
    Done(String),
    /// An open message: its id, and the texts of its parts by `content_index`.
    Message { id: String, parts: Vec<(u64, String)> },
    /// An open call of a function.
    Call { id: String, call_id: String, name: String, arguments: String },
    /// An open item of another kind. It has no meaningful unfinished form.
    Other,
}

/// Members of an event, as written.
#[derive(Default)]
struct Members {
    kind: String,
    index: u64,
    content_index: u64,
    delta: String,
    /// The item, and members of it.
    item: String,
    item_kind: String,
    id: String,
    call_id: String,
    name: String,
}

impl ResponseOutput {
    /// Record a forwarded event.
    pub fn passed(&mut self, data: &[u8]) {
        if self.bytes > MAX_BYTES {
            return;
        }
        let mut members = Members::default();
        if read(&mut Scan::new(data), &mut members).is_err() {
            return;
        }
        let index = members.index;
        match &*members.kind {
            "response.output_item.added" => {
                self.bytes += members.id.len() + members.call_id.len() + members.name.len();
                let content = match &*members.item_kind {
                    "message" => Content::Message { id: members.id, parts: Vec::new() },
                    "function_call" => Content::Call {
                        id: members.id,
                        call_id: members.call_id,
                        name: members.name,
                        arguments: String::new(),
                    },
                    _ => Content::Other,
                };
                self.items.push(Item { index, content });
            }
            "response.output_item.done" => {
                self.bytes += members.item.len();
                let content = Content::Done(members.item);
                match self.items.iter_mut().find(|item| item.index == index) {
                    Some(item) => item.content = content,
                    None => self.items.push(Item { index, content }),
                }
            }
            "response.output_text.delta" | "response.function_call_arguments.delta" => {
                self.bytes += members.delta.len();
                self.append(index, members.content_index, &members.delta);
            }
            _ => {}
        }
        if self.bytes > MAX_BYTES {
            self.items = Vec::new();
        }
    }

    fn append(&mut self, index: u64, at: u64, delta: &str) {
        let Some(item) = self.items.iter_mut().find(|item| item.index == index) else { return };
        match &mut item.content {
            Content::Message { parts, .. } => {
                match parts.iter_mut().find(|(known, _)| *known == at) {
                    Some((_, text)) => text.push_str(delta),
                    None => parts.push((at, delta.to_owned())),
                }
            }
            Content::Call { arguments, .. } => arguments.push_str(delta),
            Content::Done(_) | Content::Other => {}
        }
    }

    /// Append the `.done` events of open items, numbered from `number` on, and return all items.
    pub(super) fn close(&self, number: &mut u64, out: &mut String) -> String {
        let mut items = Vec::new();
        for Item { index, content } in &self.items {
            let mut event = |kind: &str, members: &str| {
                // Writing to a `String` never fails.
                let _ = write!(
                    out,
                    "event: {kind}\ndata: {{\"type\":\"{kind}\",\"sequence_number\":{number},\"output_index\":{index},{members}}}\n\n"
                );
                *number += 1;
            };
            let item = match content {
                Content::Other => continue,
                Content::Done(item) => {
                    items.push(item.clone());
                    continue;
                }
                Content::Message { id, parts } => {
                    let mut content = Vec::new();
                    for (at, text) in parts {
                        let part = format!(
                            "{{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":\"{text}\"}}"
                        );
                        let place = format!("\"item_id\":\"{id}\",\"content_index\":{at}");
                        event(
                            "response.output_text.done",
                            &format!("{place},\"text\":\"{text}\",\"logprobs\":[]"),
                        );
                        event("response.content_part.done", &format!("{place},\"part\":{part}"));
                        content.push(part);
                    }
                    format!(
                        "{{\"id\":\"{id}\",\"type\":\"message\",\"role\":\"assistant\",\"status\":\"incomplete\",\"content\":[{}]}}",
                        content.join(",")
                    )
                }
                Content::Call { id, call_id, name, arguments } => format!(
                    "{{\"id\":\"{id}\",\"type\":\"function_call\",\"call_id\":\"{call_id}\",\"name\":\"{name}\",\"arguments\":\"{arguments}\",\"status\":\"incomplete\"}}"
                ),
            };
            event("response.output_item.done", &format!("\"item\":{item}"));
            items.push(item);
        }
        items.join(",")
    }
}

fn read(scan: &mut Scan<'_>, members: &mut Members) -> Result<(), Malformed> {
    scan.object(|key, v| {
        match key {
            b"type" => members.kind = text(v)?,
            b"output_index" => members.index = v.uint()?.unwrap_or_default(),
            b"content_index" => members.content_index = v.uint()?.unwrap_or_default(),
            b"delta" => members.delta = text(v)?,
            b"item" => {
                let item = v.verbatim()?;
                members.item = String::from_utf8_lossy(item.raw()).into_owned();
                Scan::new(item.raw()).object(|key, v| {
                    match key {
                        b"type" => members.item_kind = text(v)?,
                        b"id" => members.id = text(v)?,
                        b"call_id" => members.call_id = text(v)?,
                        b"name" => members.name = text(v)?,
                        _ => {}
                    }
                    Ok(())
                })?;
            }
            _ => {}
        }
        Ok(())
    })
}

/// A string as written between its quotes; empty for other values.
fn text(scan: &mut Scan<'_>) -> Result<String, Malformed> {
    let text = scan.text()?;
    Ok(text.map(|text| String::from_utf8_lossy(text.raw()).into_owned()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_items_are_closed_with_their_text() {
        let mut output = ResponseOutput::default();
        for data in [
            r#"{"type":"response.output_item.added","output_index":0,"item":{"id":"rs","type":"reasoning"}}"#,
            r#"{"type":"response.output_item.done","output_index":0,"item":{"id":"rs","type":"reasoning","summary":[]}}"#,
            r#"{"type":"response.output_item.added","output_index":1,"item":{"id":"msg","type":"message"}}"#,
            r#"{"type":"response.output_text.delta","output_index":1,"content_index":0,"delta":"a \ud83d"}"#,
            r#"{"type":"response.output_text.delta","output_index":1,"content_index":0,"delta":"\ude00\"b\""}"#,
            r#"{"type":"response.output_item.added","output_index":2,"item":{"id":"fc","type":"function_call","call_id":"c","name":"f"}}"#,
            r#"{"type":"response.function_call_arguments.delta","output_index":2,"delta":"{\"a\":"}"#,
        ] {
            output.passed(data.as_bytes());
        }
        let (mut number, mut events) = (7, String::new());
        let items = output.close(&mut number, &mut events);
        let items: serde_json::Value = serde_json::from_str(&format!("[{items}]")).expect("JSON");
        assert_eq!(items[0]["summary"], serde_json::json!([]));
        assert_eq!(items[1]["content"][0]["text"], "a 😀\"b\"");
        assert_eq!(items[1]["status"], "incomplete");
        assert_eq!(items[2]["arguments"], "{\"a\":");
        let kinds: Vec<&str> = events.lines().filter_map(|l| l.strip_prefix("event: ")).collect();
        assert_eq!(
            kinds,
            [
                "response.output_text.done",
                "response.content_part.done",
                "response.output_item.done",
                "response.output_item.done"
            ]
        );
        assert_eq!(number, 11);
        for data in events.lines().filter_map(|line| line.strip_prefix("data: ")) {
            assert!(serde_json::from_str::<serde_json::Value>(data).is_ok(), "{data}");
        }
    }

    #[test]
    fn long_output_is_not_repeated() {
        let mut output = ResponseOutput::default();
        output.passed(
            br#"{"type":"response.output_item.added","output_index":0,"item":{"id":"m","type":"message"}}"#,
        );
        let delta = format!(
            r#"{{"type":"response.output_text.delta","output_index":0,"delta":"{}"}}"#,
            "x".repeat(MAX_BYTES / 2)
        );
        (0..4).for_each(|_| output.passed(delta.as_bytes()));
        let (mut number, mut events) = (0, String::new());
        assert_eq!((output.close(&mut number, &mut events), &*events), (String::new(), ""));
    }
}
