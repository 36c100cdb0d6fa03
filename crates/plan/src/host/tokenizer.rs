//! Counting the tokens of a prompt as the engine does.
//!
//! - *In*: a `tokenizer.json` in Hugging Face's format; texts.
//! - *Out*: how many tokens they are.
//! - *Never*: text truncated or padded as the file configures; a panic that leaves this module.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Largest file: the largest vocabularies take some 35 MiB.
const MAX_FILE: u64 = 256 << 20;

/// Modification time and size of a file when it was read.
type Stamp = (SystemTime, u64);

/// A tokenizer file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("tokenizer {path}: {why}")]
pub struct TokenizerError {
    path: String,
    why: String,
}

/// A tokenizer.
pub struct Tokenizer {
    path: PathBuf,
    stamp: Stamp,
    inner: tokenizers::Tokenizer,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Load a file, or reuse the tokenizer in `known` if the file is unchanged.
    pub fn load(path: &Path, known: &[Arc<Tokenizer>]) -> Result<Arc<Self>, TokenizerError> {
        let wrong = |why: String| TokenizerError { path: path.display().to_string(), why };
        let meta = std::fs::metadata(path).map_err(|e| wrong(e.to_string()))?;
        let stamp = (meta.modified().map_err(|e| wrong(e.to_string()))?, meta.len());
        if let Some(known) = known.iter().find(|known| known.path == path && known.stamp == stamp) {
            return Ok(known.clone());
        }
        if meta.len() > MAX_FILE {
            return Err(wrong(format!("is larger than {} MiB", MAX_FILE >> 20)));
        }
        let text = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
        let read = || -> Result<tokenizers::Tokenizer, String> {
            let mut inner = tokenizers::Tokenizer::from_bytes(&text).map_err(|e| e.to_string())?;
            inner.with_padding(None);
            inner.with_truncation(None).map_err(|e| e.to_string())?;
            Ok(inner)
        };
        let inner = catch_unwind(AssertUnwindSafe(read))
            .unwrap_or_else(|_| Err("the tokenizer panicked".into()))
            .map_err(wrong)?;
        Ok(Arc::new(Tokenizer { path: path.to_owned(), stamp, inner }))
    }

    /// Tokens of a text, with special tokens if it is `framed`; `None`: the tokenizer failed.
    pub fn count(&self, text: &str, framed: bool) -> Option<u64> {
        let encoded =
            catch_unwind(AssertUnwindSafe(|| self.inner.encode_fast(text, framed))).ok()?;
        Some(encoded.ok()?.len() as u64)
    }
}
