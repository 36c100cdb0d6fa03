//! Stands for the tokenizer in a build without it.

use std::path::Path;

use rand::rngs::SmallRng;

/// A tokenizer that cannot exist.
#[derive(Debug)]
pub enum Tokenizer {}

impl Tokenizer {
    /// Refuses the file.
    ///
    /// # Errors
    /// Always.
    pub fn load(_: &Path) -> Result<Self, String> {
        Err("this build has no tokenizer (feature `tokenizer`)".into())
    }

    pub(super) fn text(&self, _: u32, _: &mut SmallRng) -> String {
        match *self {}
    }

    pub(super) fn count(&self, _: &str) -> Option<u32> {
        match *self {}
    }
}
