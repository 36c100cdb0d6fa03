//! Texts of a length: in words, or in tokens of a model's tokenizer.
//!
//! - *In*: a length, and the state of a random number generator.
//! - *Out*: a text of exactly that many words or tokens. The chat template of the engine adds its
//!   own tokens.
//! - *Never*: a text of another length than asked for: a tokenizer with which no exact text can be
//!   made is refused when it is loaded.

#[cfg(feature = "tokenizer")]
mod tokens;
#[cfg(not(feature = "tokenizer"))]
#[path = "text/tokens_off.rs"]
mod tokens;

use std::sync::Arc;

use rand::Rng;
use rand::rngs::SmallRng;

pub use tokens::Tokenizer;

/// Words of generated texts. Most tokenizers have a token for each of them after a space.
pub(crate) const WORDS: [&str; 16] = [
    "sea", "wide", "cold", "ship", "deep", "wind", "salt", "tide", "sail", "port", "wave", "star",
    "rope", "mast", "gull", "fog",
];

/// What lengths of texts count.
#[derive(Clone, Debug)]
pub enum Unit {
    /// Words. A word is about one token.
    Words,
    /// Tokens of this tokenizer.
    Tokens(Arc<Tokenizer>),
}

impl Unit {
    /// A text of this length.
    pub fn text(&self, length: u32, random: &mut SmallRng) -> String {
        match self {
            Unit::Words => words(length, &WORDS, random),
            Unit::Tokens(tokenizer) => tokenizer.text(length, random),
        }
    }

    /// The number of tokens in a text, if there is a tokenizer.
    pub fn count(&self, text: &str) -> Option<u32> {
        match self {
            Unit::Words => None,
            Unit::Tokens(tokenizer) => tokenizer.count(text),
        }
    }

    /// The unit's name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Unit::Words => "words",
            Unit::Tokens(_) => "tokens",
        }
    }
}

/// Words with spaces between them.
fn words(length: u32, of: &[&str], random: &mut SmallRng) -> String {
    let mut text = String::with_capacity(length as usize * 5);
    for i in 0..length {
        if i > 0 {
            text.push(' ');
        }
        text.push_str(of[random.random_range(0..of.len())]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn words_are_counted_and_the_seed_decides() {
        let text = |seed| Unit::Words.text(40, &mut SmallRng::seed_from_u64(seed));
        assert_eq!(text(1).split(' ').count(), 40);
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
    }
}
