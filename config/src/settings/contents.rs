//! Settings of stored prompts and answers.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use yaml::Secret;

use super::seconds;

/// Stored prompts and answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Contents {
    /// The folder; `None`: nothing is stored.
    pub path: Option<PathBuf>,
    /// The key of the files: 64 hexadecimal digits.
    pub key: Option<Secret>,
    /// Earlier keys, separated by commas.
    pub previous_keys: Option<Secret>,
    /// Maximum age.
    #[serde(serialize_with = "seconds")]
    pub keep: Duration,
    /// Maximum bytes of the folder.
    pub max_size: u64,
    /// Maximum bytes stored of a prompt, and of an answer.
    pub max_text: usize,
}
