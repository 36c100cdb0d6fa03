//! The labels of a sample, encoded once for all samples that share them.
//!
//! - *In*: names from the code, arbitrary values.
//! - *Out*: bytes in one format.
//! - *Never*: a value that breaks out of its quotes: the text formats escape it.

use super::format::Format;
use super::proto;

/// Encoded labels in insertion order. Two sets in the same format are equal if their names and
/// values are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::export) struct Labels(Vec<u8>);

impl Labels {
    pub(super) fn none() -> Labels {
        Labels(Vec::new())
    }

    /// These labels plus one more.
    pub(super) fn with(&self, format: Format, name: &str, value: &str) -> Labels {
        let mut encoded = Vec::with_capacity(self.0.len() + name.len() + value.len() + 8);
        encoded.extend_from_slice(&self.0);
        match format {
            Format::Text | Format::OpenMetrics => {
                if !encoded.is_empty() {
                    encoded.push(b',');
                }
                encoded.extend_from_slice(name.as_bytes());
                encoded.extend_from_slice(b"=\"");
                escape(value, &mut encoded);
                encoded.push(b'"');
            }
            // A field of the sample's message; further fields are appended.
            Format::Protobuf => {
                let pair = proto::LabelPair { name: name.to_owned(), value: value.to_owned() };
                prost::encoding::message::encode(proto::METRIC_LABEL, &pair, &mut encoded);
            }
        }
        Labels(encoded)
    }

    pub(super) fn encoded(&self) -> &[u8] {
        &self.0
    }
}

/// Escape a label's value, or a help text of OpenMetrics, for the text formats.
pub(super) fn escape(value: &str, out: &mut Vec<u8>) {
    for byte in value.bytes() {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'"' => out.extend_from_slice(b"\\\""),
            b'\n' => out.extend_from_slice(b"\\n"),
            other => out.push(other),
        }
    }
}
