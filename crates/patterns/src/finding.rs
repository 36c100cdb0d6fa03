//! A finding of a detector.

use std::borrow::Cow;
use std::ops::Range;

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Personal data.
    Pii,
    /// A credential.
    Secret,
    /// A match of an operator's rule.
    Policy,
    /// A word planted in a prompt that must not appear in an answer.
    Leak,
    /// A placeholder for a value redacted from a prompt.
    Placeholder,
}

/// A match of a rule in a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The class: `EMAIL_ADDRESS`, `CREDIT_CARD`, `AWS_ACCESS_KEY` ...
    pub kind: Cow<'static, str>,
    /// The rule that found it: `pii.email`, `secret.aws_access_key` ...
    pub rule: Cow<'static, str>,
    /// What it is about.
    pub family: Family,
    /// Bytes of the text, at character boundaries.
    pub span: Range<usize>,
    /// The score, 0 to 1.
    pub score: f32,
}
