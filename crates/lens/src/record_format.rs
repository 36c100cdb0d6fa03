//! Formats of files of records.
//!
//! - *In*: a name of the settings or of the command line, or the name of a file.
//! - *Out*: the format, and the end of its files' names.
//! - *Never*: bytes. The crate `files` reads and writes them.

use std::path::Path;

use serde::Serialize;

/// A format of files of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordFormat {
    /// One JSON object a line.
    #[default]
    Jsonl,
    /// Comma-separated values with a header; nested parts are JSON.
    Csv,
    /// MessagePack maps, one after the other.
    Msgpack,
    /// Protobuf messages, each after its length.
    Protobuf,
    /// Arrow IPC, the file format.
    Arrow,
    /// Parquet.
    Parquet,
}

impl RecordFormat {
    /// Names in settings and arguments, and their values.
    pub const WORDS: [(&'static str, RecordFormat); 6] = [
        ("jsonl", RecordFormat::Jsonl),
        ("csv", RecordFormat::Csv),
        ("msgpack", RecordFormat::Msgpack),
        ("protobuf", RecordFormat::Protobuf),
        ("arrow", RecordFormat::Arrow),
        ("parquet", RecordFormat::Parquet),
    ];

    /// The name in settings and arguments.
    pub fn name(self) -> &'static str {
        RecordFormat::WORDS.iter().find(|(_, format)| *format == self).map_or("", |(word, _)| word)
    }

    /// The format with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        RecordFormat::WORDS.iter().find(|(word, _)| *word == name).map(|(_, format)| *format)
    }

    /// The end of the names of its files, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            RecordFormat::Protobuf => "pb",
            other => other.name(),
        }
    }

    /// The format that the end of a file's name states.
    pub fn from_path(path: &Path) -> Option<Self> {
        let end = path.extension()?.to_str()?;
        RecordFormat::WORDS
            .iter()
            .map(|(_, format)| *format)
            .find(|format| format.extension() == end)
    }

    /// Whether a file has columns, which are complete only at its end, instead of rows.
    pub fn is_columnar(self) -> bool {
        matches!(self, RecordFormat::Arrow | RecordFormat::Parquet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ends_lead_back_to_the_format() {
        for (word, format) in RecordFormat::WORDS {
            assert_eq!((format.name(), RecordFormat::from_name(word)), (word, Some(format)));
            let path = Path::new("a.b").with_extension(format.extension());
            assert_eq!(RecordFormat::from_path(&path), Some(format));
        }
        for other in ["a", "a.txt", "a.jsonl.partial", ".jsonl"] {
            assert_eq!(RecordFormat::from_path(Path::new(other)), None, "{other}");
        }
    }
}
