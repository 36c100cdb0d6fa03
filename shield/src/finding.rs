//! A finding of a detector.

use std::borrow::Cow;
use std::ops::Range;

/// What a finding is about. Names are those of the labelled data and of operators' rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Personal data.
    Pii,
    /// A credential.
    Secret,
    /// What a rule of the operator's names.
    Policy,
    /// A word planted in a prompt, which no answer must show.
    Leak,
    /// What stands for something that was taken out of a prompt.
    Placeholder,
}

/// Something in a text.
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
    /// How sure, 0 to 1.
    pub score: f32,
}
