//! Charts and tables as one HTML file: no script, no font, no request to any host.
//!
//! - *In*: titles, points, rows.
//! - *Out*: a page that is readable on a phone, in the dark and on paper.
//! - *Never*: a text that is read as markup.

mod chart;
pub use chart::{Chart, Series, Shape};

mod scale;
pub use scale::{Axis, Scale};

mod bars;
pub use bars::{Bar, Bars};

mod page;
pub use page::{Block, Page, Table, Tile};

/// A text as HTML.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() && c != '\n' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn texts_are_not_markup() {
        assert_eq!(super::escape("<b a='\"&\u{1}"), "&lt;b a=&#39;&quot;&amp; ");
    }
}
