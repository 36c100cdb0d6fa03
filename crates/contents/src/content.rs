//! The content of a request as it is stored: redacted texts, and what is missing.
//!
//! - *In*: redacted texts.
//! - *Out*: MessagePack for files, JSON for the admin page.
//! - *Never*: a text in the output of `Debug`.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A word of a closed set.
pub type Word = Cow<'static, str>;

/// Prompt and answer of one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// The unique id of the request.
    pub unique_id: String,
    /// Its id, which the client may have chosen.
    pub request_id: String,
    /// When it ended, Unix microseconds.
    pub at: u64,
    /// Its route.
    pub route: String,
    /// What was sent to the engine, or would have been.
    pub prompt: Part<PromptText>,
    /// What the engine sent.
    pub answer: Part<AnswerText>,
}

/// The texts of a prompt or of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part<T> {
    /// The texts.
    pub texts: Vec<T>,
    /// Whether they were longer than `contents.max_text`, or memory was short.
    pub cut: bool,
    /// Why texts are missing for another reason: `not_parsed`, `not_checked`,
    /// `too_many_findings`, or the outcome of a request without a complete answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<Word>,
}

impl<T> Default for Part<T> {
    fn default() -> Self {
        Part { texts: Vec::new(), cut: false, incomplete: None }
    }
}

/// A text of a prompt.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptText {
    /// Its role, such as `user`.
    pub role: Word,
    /// The redacted text.
    pub text: String,
}

/// A text of an answer.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerText {
    /// The choice.
    pub choice: u32,
    /// The channel, such as `content` or `tool_arguments`.
    pub channel: Word,
    /// The tool call, counted from 0.
    pub index: u32,
    /// The redacted text.
    pub text: String,
}

impl fmt::Debug for PromptText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PromptText({}, {} bytes)", self.role, self.text.len())
    }
}

impl fmt::Debug for AnswerText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AnswerText({}, {} bytes)", self.channel, self.text.len())
    }
}

/// A text with its source.
pub(crate) trait Labeled {
    /// The text.
    fn text_mut(&mut self) -> &mut String;
}

impl Labeled for PromptText {
    fn text_mut(&mut self) -> &mut String {
        &mut self.text
    }
}

impl Labeled for AnswerText {
    fn text_mut(&mut self) -> &mut String {
        &mut self.text
    }
}
