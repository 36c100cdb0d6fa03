//! Names of objects for files of the sink.
//!
//! - *In*: the name of a file, the host.
//! - *Out*: `date=2026-11-30/records-TIME-PROCESS-NUMBER-HOST.FORMAT`, which engines of queries
//!   read as a partition of the column `date`.
//! - *Never*: a name for a file that is not complete.

use std::path::Path;

use lens::RecordFormat;

use super::finisher::PREFIX;

/// Maximum characters of a host in a name.
const MAX_HOST: usize = 63;

/// The name of the object of a complete file of records; `None` for other files.
pub(crate) fn object_name(file: &str, host: &str) -> Option<String> {
    let format = RecordFormat::from_path(Path::new(file))?;
    let stem = file.strip_suffix(format.extension())?.strip_suffix('.')?;
    let digits = stem.strip_prefix(PREFIX)?.get(..8)?;
    let is_own = digits.bytes().all(|byte| byte.is_ascii_digit())
        && stem.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !is_own {
        return None;
    }
    let (year, month, day) = (digits.get(..4)?, digits.get(4..6)?, digits.get(6..)?);
    let is_known = |c: &char| c.is_ascii_alphanumeric() || *c == '-' || *c == '_';
    let host: String = host.chars().filter(is_known).take(MAX_HOST).collect();
    Some(format!("date={year}-{month}-{day}/{stem}-{host}.{}", format.extension()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_files_have_objects() {
        let file = "records-20261130T235959Z-19af1b2c-0.parquet";
        assert_eq!(
            object_name(file, "gw-1.example/..").as_deref(),
            Some("date=2026-11-30/records-20261130T235959Z-19af1b2c-0-gw-1example.parquet")
        );
        for other in [
            "records-20261130T235959Z-19af1b2c-0.parquet.partial",
            "records-20261130T235959Z-19af1b2c-0.parquet.tmp",
            "records-20261130T00-24h-0.sqlite",
            "records-2026.jsonl",
            "records-20261130T00..-0.jsonl",
            "upload.lock",
            "mine.parquet",
            "records-\u{e9}\u{e9}\u{e9}\u{e9}1.csv",
        ] {
            assert_eq!(object_name(other, "h"), None, "{other}");
        }
    }
}
