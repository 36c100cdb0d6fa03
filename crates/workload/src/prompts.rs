//! Prompts of a length distribution, from a file, or of a trace.
//!
//! - *In*: a distribution, or a JSONL file: strings, `{"prompt": ...}`, `{"messages": [...]}` or
//!   conversations as ShareGPT has them.
//! - *Out*: the prompts of a conversation by its number.
//! - *Never*: a line that is skipped. A line of another form is an error with its number.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::length::Length;
use crate::trace::TraceRequest;

/// Where prompts come from.
#[derive(Clone, Debug)]
pub enum Prompts {
    /// Generated from random words.
    Made(Length),
    /// Taken from a file in turn.
    FromFile {
        /// The file.
        file: PathBuf,
        /// Its prompts.
        prompts: Vec<FilePrompt>,
    },
    /// Of the lengths of a trace.
    Trace(Vec<TraceRequest>),
}

/// A line of a prompt file.
#[derive(Clone, Debug, PartialEq)]
pub enum FilePrompt {
    /// `{"prompt": "..."}` or a bare JSON string.
    Text(String),
    /// `{"messages": [...]}`, sent unchanged.
    Messages(Value),
    /// `{"conversations": [...]}`: the messages of the user, in turn.
    Turns(Vec<Turn>),
}

/// A message of the user in a recorded conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// The message.
    pub user: String,
    /// The recorded answer, if there is one.
    pub answer: Option<String>,
}

impl Prompts {
    /// Read a JSONL file.
    ///
    /// # Errors
    /// What is wrong, with the line's number.
    pub fn from_file(path: &Path) -> Result<Self, String> {
        let name = path.display();
        let text = crate::read_file(path)?;
        let mut prompts = Vec::new();
        for (at, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            let value: Value = serde_json::from_str(line)
                .map_err(|e| format!("{name}:{}:{}: {e}", at + 1, e.column()))?;
            let prompt = file_prompt(&value).map_err(|why| format!("{name}:{}: {why}", at + 1))?;
            prompts.push(prompt);
        }
        if prompts.is_empty() {
            Err(format!("{name}: the file has no prompts"))
        } else {
            Ok(Prompts::FromFile { file: path.to_owned(), prompts })
        }
    }

    /// The prompts as reports show them. `unit` is that of lengths.
    pub fn json(&self, unit: &str) -> Value {
        match self {
            Prompts::Made(length) => {
                let mut value = length.json();
                if unit != "words" {
                    value["unit"] = json!(unit);
                }
                value
            }
            Prompts::FromFile { file, prompts } => {
                json!({"kind": "file", "file": file.display().to_string(), "prompts": prompts.len(), "digest": digest(prompts)})
            }
            Prompts::Trace(requests) => {
                let bytes = requests.iter().flat_map(TraceRequest::bytes);
                json!({"kind": "trace", "prompts": requests.len(), "digest": crate::digest(bytes)})
            }
        }
    }
}

fn file_prompt(value: &Value) -> Result<FilePrompt, String> {
    if let Some(text) = value.as_str().or_else(|| value["prompt"].as_str()) {
        return Ok(FilePrompt::Text(text.to_owned()));
    }
    if let Some(messages) = value.get("messages") {
        return Ok(FilePrompt::Messages(messages.clone()));
    }
    let list = value.get("conversations").or_else(|| value.get("conversation"));
    let list = list
        .and_then(Value::as_array)
        .ok_or("neither \"prompt\", \"messages\" nor \"conversations\"")?;
    let mut turns: Vec<Turn> = Vec::new();
    for message in list {
        let text = message["value"].as_str().or_else(|| message["content"].as_str());
        let text = text.ok_or("a message of the conversation has no \"value\"")?.to_owned();
        let from = message["from"].as_str().or_else(|| message["role"].as_str()).unwrap_or("");
        match (from, turns.last_mut()) {
            ("human" | "user", _) => turns.push(Turn { user: text, answer: None }),
            ("gpt" | "assistant" | "chatgpt" | "bard" | "bing", Some(turn)) => {
                turn.answer = Some(text);
            }
            // Conversations may begin with an answer or a system message.
            ("gpt" | "assistant" | "chatgpt" | "bard" | "bing" | "system" | "tool", _) => {}
            (other, _) => return Err(format!("{other:?} is not a side of a conversation")),
        }
    }
    if turns.is_empty() {
        return Err("the conversation has no message of the user".into());
    }
    Ok(FilePrompt::Turns(turns))
}

/// Reports of files with the same prompts have the same digest.
fn digest(prompts: &[FilePrompt]) -> String {
    let bytes = prompts.iter().flat_map(|prompt| {
        let mut bytes = match prompt {
            FilePrompt::Text(text) => text.as_bytes().to_vec(),
            FilePrompt::Messages(messages) => messages.to_string().into_bytes(),
            FilePrompt::Turns(turns) => {
                turns.iter().flat_map(|turn| [turn.user.as_bytes(), &[0xfe]].concat()).collect()
            }
        };
        bytes.push(0xff);
        bytes
    });
    crate::digest(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<FilePrompt>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.jsonl");
        std::fs::write(&path, text).unwrap();
        match Prompts::from_file(&path)? {
            Prompts::FromFile { prompts, .. } => Ok(prompts),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lines_of_every_form_are_read() {
        let text = r#"
            "a"
            {"prompt": "b"}
            {"messages": [{"role": "user", "content": "c"}]}
            {"id": "1", "conversations": [{"from": "gpt", "value": "0"}, {"from": "human", "value": "d"}, {"from": "gpt", "value": "e"}, {"from": "human", "value": "f"}]}
        "#;
        let prompts = read(text).unwrap();
        let turn = |user: &str, answer: Option<&str>| Turn {
            user: user.into(),
            answer: answer.map(str::to_owned),
        };
        assert_eq!(prompts[0], FilePrompt::Text("a".into()));
        assert_eq!(prompts[1], FilePrompt::Text("b".into()));
        assert!(matches!(&prompts[2], FilePrompt::Messages(m) if m[0]["content"] == "c"));
        assert_eq!(prompts[3], FilePrompt::Turns(vec![turn("d", Some("e")), turn("f", None)]));
    }

    #[test]
    fn lines_of_another_form_are_errors_with_their_number() {
        for (bad, wanted) in [
            ("", "no prompts"),
            ("\"a\"\n{}", "p.jsonl:2: neither"),
            ("{", "p.jsonl:1:"),
            ("{\"conversations\": []}", "no message of the user"),
            ("{\"conversations\": [{\"from\": \"cat\", \"value\": \"x\"}]}", "\"cat\""),
            ("{\"conversations\": [{\"from\": \"human\"}]}", "no \"value\""),
        ] {
            let error = read(bad).unwrap_err();
            assert!(error.contains(wanted), "{bad}: {error}");
        }
    }
}
