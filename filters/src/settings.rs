//! Settings of guardrails. Only `config` builds them.
//!
//! - *In*: checked values.
//! - *Out*: plain data.
//! - *Never*: a default. Defaults are in the schema of `config`, with their reasons.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::kinds::KindSettings;

/// The action on a finding, in order of severity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Not checked.
    #[default]
    Off,
    /// It is recorded.
    Flag,
    /// Masked: as `[KIND]` in answers, as `[KIND_1]` in prompts, where the value can be restored in
    /// the answer.
    Mask,
    /// The request is refused, or the answer ends.
    Block,
}

impl Action {
    /// The action of a word in the settings. `redact` and `mask` mean the same.
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
    /// Protection; its time is recorded as security overhead.
    Guardrail,
    /// Rate limiting and admission.
    Traffic,
}

/// What happens when a filter fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// The request is refused, or the answer ends.
    Closed,
    /// The text passes and the failure is counted.
    Open,
}

/// When a judge checks an answer, and what is held meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JudgeMode {
    /// Text is held until its window has been judged.
    Hold,
    /// Text flows; the stream ends on a bad verdict.
    Cut,
    /// Text flows; the whole answer is judged before its end is sent.
    End,
}

impl JudgeMode {
    /// The mode of a word in the settings.
    pub fn from_word(word: &str) -> Self {
        match word {
            "hold" => JudgeMode::Hold,
            "end" => JudgeMode::End,
            _ => JudgeMode::Cut,
        }
    }
}

/// What happens to undecided text at the maximum hold time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AtHoldTime {
    /// A possible number with a checksum, and a secret with a known prefix, are masked.
    Mask,
    /// All undecided text passes.
    Release,
    /// The answer ends if `Mask` would mask something.
    End,
}

impl AtHoldTime {
    /// The word of the settings.
    pub fn from_word(word: &str) -> Self {
        match word {
            "release" => AtHoldTime::Release,
            "end" => AtHoldTime::End,
            _ => AtHoldTime::Mask,
        }
    }
}

/// What is common to all filters of a chain.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FilterSettings {
    /// The name in records and metrics.
    pub name: Arc<str>,
    /// What it is for.
    pub class: Class,
    /// What happens when it fails.
    pub on_failure: OnFailure,
    /// Deadline of one run; zero: only the common deadline of all judges applies.
    #[serde(serialize_with = "seconds")]
    pub deadline: Duration,
    /// How it judges answers.
    pub mode: JudgeMode,
}

/// Scores above which a text is an attack, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Injection {
    /// Of a finding in user messages.
    pub threshold: f32,
    /// Of one that is blocked, if the action is [`Action::Block`].
    pub block: f32,
    /// Of a finding in tool results and documents.
    pub tool: f32,
    /// Of one that is blocked.
    pub tool_block: f32,
}

/// Minimum scores of findings of toxic language by category, 0 to 1.
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
    /// Of text of any category that is blocked, if the action is [`Action::Block`].
    pub block: f32,
}

/// A filter that is registered by name.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RegisteredFilter {
    /// The settings that every filter has.
    pub declared: FilterSettings,
    /// The name it is registered under.
    pub kind: String,
    /// Its own settings.
    pub with: BTreeMap<String, String>,
}

/// The settings of a guardrail.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GuardrailSettings {
    /// Its name.
    pub name: Arc<str>,
    /// Observe mode: findings are recorded only.
    pub observe: bool,
    /// Attacks on the model in prompts.
    pub input_injection: Action,
    /// Insults in prompts.
    pub input_toxicity: Action,
    /// Personal data in prompts.
    pub input_pii: Action,
    /// Credentials in prompts.
    pub input_secrets: Action,
    /// Kinds of personal data, actions by kind, and exceptions.
    pub pii: KindSettings,
    /// Whether values redacted from a prompt are restored in the answer.
    pub restore: bool,
    /// Insults in answers.
    pub output_toxicity: Action,
    /// Thresholds of attacks.
    pub injection: Injection,
    /// Minimum scores of findings of toxic language.
    pub toxicity: Toxicity,
    /// Personal data in answers.
    pub output_pii: Action,
    /// Credentials in answers.
    pub output_secrets: Action,
    /// Whether masked numbers in JSON stay, instead of becoming strings.
    pub keep_json_numbers: bool,
    /// Maximum bytes held of each text of an answer.
    pub hold_bytes: usize,
    /// Maximum time that they are held.
    #[serde(serialize_with = "seconds")]
    pub hold_time: Duration,
    /// What happens to undecided text then.
    pub at_hold_time: AtHoldTime,
    /// Bytes of an answer's text in one window of the judges.
    pub judge_window: usize,
    /// How the embedded classifier judges answers.
    pub mode: JudgeMode,
    /// Common deadline of all judges of a prompt or a window; zero: none.
    #[serde(serialize_with = "seconds")]
    pub judges_deadline: Duration,
    /// Thresholds and actions of the risk.
    pub risk: RiskSettings,
    /// Bounds on prompts.
    pub sizes: SizeBounds,
    /// Allowed and forbidden topics.
    pub topics: Vec<Topic>,
    /// The operator's own patterns.
    pub rules: Vec<Rule>,
    /// Words planted in system prompts that must not appear in answers.
    pub honeytokens: Vec<Honeytoken>,
    /// The action on a honeytoken in an answer.
    pub on_honeytoken: Action,
    /// A text inserted at the start of every answer; empty: none.
    pub disclaimer: String,
    /// Paths of requests that are not inference and pass unchecked.
    pub passthrough: Vec<String>,
    /// Filters that are registered by name.
    pub filters: Vec<RegisteredFilter>,
    /// Remote and model judges.
    pub judges: Vec<Judge>,
}

impl GuardrailSettings {
    /// What masks do to numbers in JSON.
    pub fn numbers(&self) -> arguments::Numbers {
        if self.keep_json_numbers { arguments::Numbers::Kept } else { arguments::Numbers::Replaced }
    }
}

/// Thresholds of the risk, and their actions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RiskSettings {
    /// Minimum risk of MEDIUM.
    pub medium: f32,
    /// Minimum risk of HIGH.
    pub high: f32,
    /// The action at MEDIUM.
    pub on_medium: Action,
    /// The action at HIGH.
    pub on_high: Action,
}

/// Bounds on a prompt; zero: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SizeBounds {
    /// The action on a prompt beyond a bound.
    pub action: Action,
    /// Tokens, estimated as a quarter of the bytes.
    pub tokens: u64,
    /// Messages.
    pub messages: u64,
    /// Tools offered.
    pub tools: u64,
    /// Nesting depth of objects and arrays.
    pub nesting: u64,
    /// Requested output tokens.
    pub output_tokens: u64,
}

/// A topic, by words or by example.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// Allowed: prompts must be about at least one allowed topic. Otherwise: prompts must not be
    /// about this topic.
    pub allowed: bool,
    /// The action.
    pub action: Action,
    /// Words and phrases; case does not matter.
    pub words: Vec<String>,
    /// Minimum number of different words that make up the topic.
    pub least: usize,
}

/// An operator's rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rule {
    /// Its name.
    pub name: Arc<str>,
    /// A regular expression; empty when there are phrases.
    pub regex: String,
    /// Phrases; case does not matter.
    pub phrases: Vec<String>,
    /// The action in prompts.
    pub input: Action,
    /// The action in answers.
    pub output: Action,
}

/// A word planted in a system prompt. It prints as `***`.
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
    /// `/v1/moderations` of OpenAI and compatible servers.
    Moderation,
    /// A guard model behind chat completions.
    GuardModel,
    /// A classifier behind `/classify` of vLLM.
    Classify,
    /// `/analyze` of Presidio and compatible servers: names, addresses and other personal data.
    Analyzer,
    /// JSON in, verdict out.
    Webhook,
    /// Similarity to example sentences, by `/v1/embeddings`.
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
    /// The settings that every filter has.
    pub declared: FilterSettings,
    /// The kind of judge.
    pub kind: JudgeKind,
    /// The backend to call.
    pub backend: Arc<str>,
    /// Its path there.
    pub path: String,
    /// The model name in the call; empty: none.
    pub model: String,
    /// Prompt and reply format (guard model).
    pub template: Template,
    /// The action on its findings in prompts.
    pub input: Action,
    /// The action on its findings in answers.
    pub output: Action,
    /// Minimum score of a finding, 0 to 1.
    pub threshold: f32,
    /// Categories, labels or entities that count; empty: all that are known for the kind.
    pub categories: Vec<String>,
    /// Example sentences of forbidden texts (embeddings).
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
    /// Whether a finding can mask or block a prompt. If so, a body that cannot be parsed is refused
    /// too.
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
            .chain(self.judges.iter().map(|j| j.input))
            .chain(self.pii.actions.iter().filter_map(|kind| kind.input));
        let acts = own.into_iter().chain(rest).any(|action| action >= Action::Mask);
        // The actions of a registered filter are unknown.
        let stern = |filter: &RegisteredFilter| {
            filter.declared.class == Class::Guardrail
                && filter.declared.on_failure == OnFailure::Closed
        };
        !self.observe && (acts || self.filters.iter().any(stern))
    }
}

impl SizeBounds {
    /// Whether there is any bound.
    pub fn is_bounded(&self) -> bool {
        [self.tokens, self.messages, self.tools, self.nesting, self.output_tokens]
            .iter()
            .any(|bound| *bound > 0)
    }
}
