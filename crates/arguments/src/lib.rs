//! JSON in texts, above all the arguments of tool calls: masks that leave it JSON.
//!
//! - *In*: a text, whole or piece by piece, and spans of it to mask.
//! - *Out*: [`Cut`]s: what to replace, so that only values change and the text still parses.
//! - *Never*: a JSON tree. A text that is not JSON is cut like any other text.
#![deny(clippy::indexing_slicing)]

mod cut;
mod frame;
mod lexer;

pub use cut::{Cut, Numbers, Shape, cut_all};
pub use lexer::{Kind, Lexer, Part};

/// Whether a text is a whole JSON object or array.
pub fn is_json(text: &str) -> bool {
    let begins = text.trim_ascii_start().starts_with(['{', '[']);
    begins && {
        let mut lexer = Lexer::default();
        lexer.push(text);
        lexer.is_complete()
    }
}
