//! Fields of a record that queries filter, count and group by.

use std::borrow::Cow;

use lens::Record;

/// A field of a record with few values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Field {
    /// Name of the route.
    Route = 1,
    /// Name of the backend; absent if none was called.
    Backend = 2,
    /// Model that the client requested.
    Model = 3,
    /// Public name of the key.
    Caller = 4,
    /// Owner of the key.
    Owner = 5,
    /// How the request ended.
    Outcome = 6,
    /// Stable error code.
    ErrorCode = 7,
    /// HTTP status sent to the client.
    Status = 8,
    /// Whether the answer was a stream.
    Stream = 9,
}

/// Number of fields.
pub(crate) const FIELDS: usize = Field::ALL.len();
/// Microseconds of an hour.
pub(crate) const HOUR_US: u64 = 3_600_000_000;
/// Maximum bytes of a label in the dictionary. The record keeps the whole text.
const MAX_LABEL_BYTES: usize = 256;

/// The values of a record in the order of [`Field::ALL`]: label ids, a status, or a flag.
pub(crate) type Values = [Option<i64>; FIELDS];

/// A value before its label has an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'r> {
    Label(&'r str),
    Number(i64),
}

impl Field {
    /// All fields.
    pub const ALL: [Field; 9] = [
        Field::Route,
        Field::Backend,
        Field::Model,
        Field::Caller,
        Field::Owner,
        Field::Outcome,
        Field::ErrorCode,
        Field::Status,
        Field::Stream,
    ];

    /// The name in queries, which is the column's, too.
    pub fn name(self) -> &'static str {
        match self {
            Field::Route => "route",
            Field::Backend => "backend",
            Field::Model => "model",
            Field::Caller => "caller",
            Field::Owner => "owner",
            Field::Outcome => "outcome",
            Field::ErrorCode => "error_code",
            Field::Status => "status",
            Field::Stream => "stream",
        }
    }

    /// The field with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Field::ALL.into_iter().find(|field| field.name() == name)
    }

    /// Number of the field in tables.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Position in [`Values`].
    pub(crate) fn index(self) -> usize {
        self as usize - 1
    }

    /// The value in a record.
    pub(crate) fn value(self, record: &Record) -> Option<Value<'_>> {
        let label = |text| Value::Label(cut_label(text));
        match self {
            Field::Route => Some(label(&record.route)),
            Field::Backend => record.backend.as_deref().map(label),
            Field::Model => record.model_requested.as_deref().map(label),
            Field::Caller => record.caller.as_deref().map(label),
            Field::Owner => record.owner.as_deref().map(label),
            Field::Outcome => Some(label(record.outcome.name())),
            Field::ErrorCode => record.error_code.as_deref().map(label),
            Field::Status => record.http_status.map(|status| Value::Number(status.into())),
            Field::Stream => Some(Value::Number(record.stream.into())),
        }
    }

    /// The value in a record as text.
    pub fn text(self, record: &Record) -> Option<Cow<'_, str>> {
        self.value(record).map(|value| self.value_text(value))
    }

    /// The value that a query names, as [`Field::text`] has it; `None` if the field cannot have
    /// it.
    pub fn parse_text(self, text: &str) -> Option<Cow<'_, str>> {
        self.parse(text).map(|value| self.value_text(value))
    }

    fn value_text(self, value: Value<'_>) -> Cow<'_, str> {
        match value {
            Value::Label(text) => Cow::Borrowed(text),
            Value::Number(number) => Cow::Owned(self.number_text(number).unwrap_or_default()),
        }
    }

    /// The value that a query names; `None` if the field cannot have it.
    pub(crate) fn parse(self, text: &str) -> Option<Value<'_>> {
        match self {
            Field::Status => text.parse::<u16>().ok().map(|status| Value::Number(status.into())),
            Field::Stream => text.parse::<bool>().ok().map(|flag| Value::Number(flag.into())),
            _ => Some(Value::Label(cut_label(text))),
        }
    }

    /// The text of a value that is no label; `None`: it is a label's id.
    pub(crate) fn number_text(self, value: i64) -> Option<String> {
        match self {
            Field::Status => Some(value.to_string()),
            Field::Stream => Some((value != 0).to_string()),
            _ => None,
        }
    }
}

/// The part of a label that the dictionary has.
fn cut_label(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_LABEL_BYTES)).unwrap_or(text)
}

/// An unsigned number as SQLite has it. Numbers above 2^63 are clamped; none of ours is.
pub(crate) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number of SQLite; negative ones, which are never written, are 0.
pub(crate) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
