//! Settings of guardrails. Only `config` builds them.
//!
//! - *In*: checked values.
//! - *Out*: plain data.
//! - *Never*: a default. Those stand in the table of settings, with their reasons.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// What is done about a finding. The order is that of severity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is not looked for.
    #[default]
    Off,
    /// It is recorded.
    Flag,
    /// It is taken out: of answers as `[KIND]`, of prompts as `[KIND_1]`, which can be put back
    /// into answers.
    Mask,
    /// The request is refused, or the answer ends.
    Block,
}

impl Action {
    /// The action of a word of the settings. `redact` and `mask` are one thing on either side.
    pub fn from_word(word: &str) -> Self {
        match word {
            "flag" => Action::Flag,
            "mask" | "redact" => Action::Mask,
            "block" => Action::Block,
            _ => Action::Off,
        }
    }

    /// The word in records and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Action::Off => "pass",
            Action::Flag => "flag",
            Action::Mask => "redact",
            Action::Block => "block",
        }
    }
}

/// What a filter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// It keeps harm away; its cost is booked as security's.
    Security,
    /// Rate limiting and admission.
    Traffic,
}

/// What happens when a filter cannot say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// The request is refused, or the answer ends.
    Closed,
    /// It passes, counted.
    Open,
}

/// How an answer is judged by a filter that needs context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Text is released when its window was judged.
    Hold,
    /// Text flows; the stream ends on a bad verdict.
    Cut,
    /// Text flows; the whole is judged before the ending is passed on.
    End,
}

impl Mode {
    /// The mode of a word of the settings.
    pub fn from_word(word: &str) -> Self {
        match word {
            "hold" => Mode::Hold,
            "end" => Mode::End,
            _ => Mode::Cut,
        }
    }
}

/// What is common to all filters of a chain.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Declared {
    /// The name in records and metrics.
    pub name: Arc<str>,
    /// What it is for.
    pub class: Class,
    /// What happens when it cannot say.
    pub on_failure: OnFailure,
    /// How long it may take for one question; zero: as long as the budget allows.
    #[serde(serialize_with = "seconds")]
    pub deadline: Duration,
    /// How it judges answers.
    pub mode: Mode,
}

/// From which score on toxic language of a category is a finding, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Toxicity {
    /// Contempt or violence towards people for what they are.
    pub hate: f32,
    /// Contempt for a person.
    pub insult: f32,
    /// Violence announced or wished.
    pub threat: f32,
    /// Encouragement of self-harm.
    pub self_harm: f32,
    /// Sexual harassment.
    pub sexual: f32,
}

/// A filter that is registered by name.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Named {
    /// How it stands in the chain.
    pub declared: Declared,
    /// The name it is registered under.
    pub kind: String,
    /// Its own settings.
    pub with: BTreeMap<String, String>,
}

/// A guard.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GuardrailSettings {
    /// Its name.
    pub name: Arc<str>,
    /// Nothing is touched.
    pub observe: bool,
    /// Attacks on the model in prompts.
    pub input_injection: Action,
    /// Insults in prompts.
    pub input_toxicity: Action,
    /// Personal data in prompts.
    pub input_pii: Action,
    /// Credentials in prompts.
    pub input_secrets: Action,
    /// What was taken out of a prompt is put back into the answer.
    pub restore: bool,
    /// Insults in answers.
    pub output_toxicity: Action,
    /// From which score on toxic language of a category is a finding.
    pub toxicity: Toxicity,
    /// Personal data in answers.
    pub output_pii: Action,
    /// Credentials in answers.
    pub output_secrets: Action,
    /// Most bytes of a text that wait.
    pub hold_bytes: usize,
    /// How long they may wait.
    #[serde(serialize_with = "seconds")]
    pub hold_time: Duration,
    /// Bytes of an answer's text that are judged at a time.
    pub judge_window: usize,
    /// How the embedded classifier judges answers.
    pub mode: Mode,
    /// Time that all questions to judges about one request may take; zero: no end.
    #[serde(serialize_with = "seconds")]
    pub judges_deadline: Duration,
    /// From scores to a level.
    pub risk: Risk,
    /// Bounds on prompts.
    pub sizes: Sizes,
    /// What may be talked about.
    pub topics: Vec<Topic>,
    /// The operator's own patterns.
    pub rules: Vec<Rule>,
    /// Words planted in system prompts, which no answer must show.
    pub honeytokens: Vec<Honeytoken>,
    /// What is done about a honeytoken.
    pub on_honeytoken: Action,
    /// What every answer must begin with.
    pub disclaimer: String,
    /// Paths that are no inference and may pass unread.
    pub passthrough: Vec<String>,
    /// Filters that are registered by name.
    pub filters: Vec<Named>,
    /// Remote and model judges.
    pub judges: Vec<Judge>,
}

/// From a risk to what is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Risk {
    /// At least this is MEDIUM.
    pub medium: f32,
    /// At least this is HIGH.
    pub high: f32,
    /// What is done at MEDIUM.
    pub on_medium: Action,
    /// What is done at HIGH.
    pub on_high: Action,
}

/// Bounds on a prompt; zero: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// What is done beyond them.
    pub action: Action,
    /// Tokens, estimated as a quarter of the bytes.
    pub tokens: u64,
    /// Messages.
    pub messages: u64,
    /// Tools offered.
    pub tools: u64,
    /// Objects and lists inside one another.
    pub nesting: u64,
    /// Requested output tokens.
    pub output_tokens: u64,
}

/// A topic, by words or by example.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// Prompts must be about an allowed topic, if there is any; else they must not be about this
    /// one.
    pub allowed: bool,
    /// What is done.
    pub action: Action,
    /// Words and phrases; case does not matter.
    pub words: Vec<String>,
    /// How many different ones make the topic.
    pub least: usize,
}

/// A pattern of the operator's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rule {
    /// Its name.
    pub name: Arc<str>,
    /// A regular expression; empty when there are phrases.
    pub regex: String,
    /// Phrases; case does not matter.
    pub phrases: Vec<String>,
    /// What is done about it in prompts.
    pub input: Action,
    /// What is done about it in answers.
    pub output: Action,
}

/// A planted word. It prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Honeytoken(pub String);

impl fmt::Debug for Honeytoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Honeytoken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// Kind of judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum JudgeKind {
    /// `/v1/moderations` of OpenAI and alike.
    Moderation,
    /// A guard model behind chat completions.
    GuardModel,
    /// A classifier behind `/classify` of vLLM.
    Classify,
    /// `/analyze` of Presidio and alike: names, addresses and other personal data.
    Analyzer,
    /// JSON in, verdict out.
    Webhook,
    /// Likeness to example sentences, by `/v1/embeddings`.
    Embeddings,
    /// A classifier in this process.
    Onnx,
}

/// Prompt and reply format of a guard model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Template {
    /// The conversation as messages; `safe`, or `unsafe` and categories on the next line.
    LlamaGuard,
    /// The text as one message; a label such as `BENIGN`, `INJECTION` or `JAILBREAK`.
    PromptGuard,
    /// The text with a question; `yes` when it is harmful.
    YesNo,
}

/// A judge.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judge {
    /// How it stands in the chain.
    pub declared: Declared,
    /// Name and failure mode.
    pub kind: JudgeKind,
    /// The backend to call.
    pub backend: Arc<str>,
    /// Its path there.
    pub path: String,
    /// The model that is named.
    pub model: String,
    /// How a guard model is spoken to.
    pub template: Template,
    /// What is done about its findings in prompts.
    pub input: Action,
    /// What is done about its findings in answers.
    pub output: Action,
    /// Scores from here on are findings, 0 to 1.
    pub threshold: f32,
    /// Categories, labels or entities that count; empty: all that the kind knows.
    pub categories: Vec<String>,
    /// Sentences that a forbidden text is like (embeddings).
    pub examples: Vec<String>,
    /// The texts' language (analyzer).
    pub language: String,
    /// The model's file and its tokenizer's (onnx).
    pub files: Option<ModelFiles>,
}

/// A model in this process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelFiles {
    /// `model.onnx`.
    pub model: PathBuf,
    /// `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// The label of each output.
    pub labels: Vec<String>,
}

/// A duration as seconds.
pub(crate) fn seconds<S: Serializer>(d: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(d.as_secs_f64())
}

impl GuardrailSettings {
    /// Whether a finding in a prompt can change what is sent, or refuse it: then a body that cannot
    /// be read is refused too.
    pub fn acts_on_input(&self) -> bool {
        let own = [
            self.input_injection,
            self.input_toxicity,
            self.input_pii,
            self.input_secrets,
            self.risk.on_medium,
            self.risk.on_high,
            if self.sizes.is_bounded() { self.sizes.action } else { Action::Off },
        ];
        let rest = self
            .topics
            .iter()
            .map(|t| t.action)
            .chain(self.rules.iter().map(|r| r.input))
            .chain(self.judges.iter().map(|j| j.input));
        let acts = own.into_iter().chain(rest).any(|action| action >= Action::Mask);
        // The needs of a custom filter are unknown.
        let stern = |filter: &Named| {
            filter.declared.class == Class::Security
                && filter.declared.on_failure == OnFailure::Closed
        };
        !self.observe && (acts || self.filters.iter().any(stern))
    }
}

impl Sizes {
    /// Whether there is any bound.
    pub fn is_bounded(&self) -> bool {
        [self.tokens, self.messages, self.tools, self.nesting, self.output_tokens]
            .iter()
            .any(|bound| *bound > 0)
    }
}
