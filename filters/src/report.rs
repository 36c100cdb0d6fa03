//! Reports of filters.

use std::borrow::Cow;
use std::ops::Range;

use crate::settings::Action;

/// A name of a rule or a kind: built in, or from the settings.
pub type Name = Cow<'static, str>;

/// The category of a finding. The risk has one score for each category.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Category {
    /// An attack on the model.
    Injection,
    /// Hate, harassment, insults, threats.
    Toxicity,
    /// Personal data.
    Pii,
    /// A credential.
    Secret,
    /// A topic that is not allowed.
    Topic,
    /// A size over its limit.
    Size,
    /// A match of an operator's rule.
    Policy,
    /// A honeytoken, or a system prompt.
    Leak,
    /// What a remote or model judge calls unsafe.
    Unsafe,
}

impl Category {
    /// What is wrong with a prompt that has such a finding, as the end of a sentence.
    pub fn complaint(self) -> &'static str {
        match self {
            Category::Injection => "it looks like an attempt to override instructions",
            Category::Toxicity => "it looks like abusive language",
            Category::Pii => "it contains personal data",
            Category::Secret => "it contains a credential",
            Category::Topic => "its topic is not permitted",
            Category::Size => "it is too large",
            Category::Policy => "it matches a rule of the operator",
            Category::Leak => "it contains protected text",
            Category::Unsafe => "it looks unsafe",
        }
    }

    /// All of them.
    pub const ALL: [Category; 9] = [
        Category::Injection,
        Category::Toxicity,
        Category::Pii,
        Category::Secret,
        Category::Topic,
        Category::Size,
        Category::Policy,
        Category::Leak,
        Category::Unsafe,
    ];

    /// The name in records.
    pub fn name(self) -> &'static str {
        match self {
            Category::Injection => "injection",
            Category::Toxicity => "toxicity",
            Category::Pii => "pii",
            Category::Secret => "secrets",
            Category::Topic => "topic",
            Category::Size => "size",
            Category::Policy => "policy",
            Category::Leak => "leak",
            Category::Unsafe => "unsafe",
        }
    }
}

/// A finding.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The rule that found it: `pii.email`, `judge.moderation`. From a closed set: it becomes a
    /// label.
    pub rule: Name,
    /// The kind that clients see: `EMAIL_ADDRESS`.
    pub kind: Name,
    /// What it is about.
    pub category: Category,
    /// Which text of the subject.
    pub text: usize,
    /// Bytes of that text, at character boundaries.
    pub span: Range<usize>,
    /// The score, 0 to 1.
    pub score: f32,
    /// The action that the filter's settings give it.
    pub action: Action,
}

/// What a filter found in one subject.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The findings, each with its action.
    pub found: Vec<Found>,
    /// Scores by category, 0 to 1, also without a finding. The risk is computed from these and from
    /// the scores of the findings.
    pub scores: Vec<(Category, f32)>,
}

impl Report {
    /// A report with one finding.
    pub fn with_finding(found: Found) -> Self {
        Report { found: vec![found], scores: Vec::new() }
    }

    /// The most severe action of its findings.
    pub fn action(&self) -> Action {
        self.found.iter().map(|found| found.action).max().unwrap_or_default()
    }
}

/// Why a filter failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Failure {
    /// Its deadline passed.
    #[error("it did not answer within its deadline")]
    Deadline,
    /// The common deadline of all judges passed.
    #[error("the judges exceeded their common deadline")]
    JudgesDeadline,
    /// The server is unreachable, or its response ended early.
    #[error("it is unreachable")]
    Unreachable,
    /// It answered with an error.
    #[error("its server responded with an error")]
    Refused,
    /// It answered with status 429, or 500 and more.
    #[error("it is overloaded")]
    Overloaded,
    /// Its response cannot be parsed.
    #[error("its response is invalid")]
    InvalidResponse,
    /// Its circuit breaker is open.
    #[error("its circuit breaker is open after repeated failures")]
    Open,
    /// The text is too long for the filter, and text that it does not check must not pass. The
    /// client can avoid this, so the request is refused even with `on_failure: open`.
    #[error("the text is too long for this filter")]
    TooLong,
    /// Too many texts are waiting for a thread.
    #[error("too many texts are waiting for a thread")]
    Busy,
    /// It panicked, which is a defect.
    #[error("it stopped with an internal error")]
    Panicked,
}

impl Failure {
    /// The word in records and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Failure::Deadline => "deadline",
            Failure::JudgesDeadline => "judges_deadline",
            Failure::Unreachable => "unreachable",
            Failure::Refused => "refused",
            Failure::Overloaded => "overloaded",
            Failure::InvalidResponse => "invalid_response",
            Failure::Open => "breaker_open",
            Failure::TooLong => "too_long",
            Failure::Busy => "busy",
            Failure::Panicked => "panicked",
        }
    }
}
