//! Tokenizers in a build without the feature `tokenizer`: prompts are estimated.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

/// A tokenizer file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("tokenizer {path}: {why}")]
pub struct TokenizerError {
    path: String,
    why: String,
}

/// There is no value of this type.
#[derive(Debug)]
pub struct Tokenizer(Infallible);

impl Tokenizer {
    /// Always fails, with an error that names the feature.
    pub fn load(path: &Path, _: &[Arc<Tokenizer>]) -> Result<Arc<Self>, TokenizerError> {
        let why = "this build was made without the feature `tokenizer`".to_owned();
        Err(TokenizerError { path: path.display().to_string(), why })
    }

    /// Never called.
    pub fn count(&self, _: &str, _: bool) -> Option<u64> {
        match self.0 {}
    }
}
