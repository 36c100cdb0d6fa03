//! The page around charts and tables.

use std::fmt::Write as _;

use crate::bars::Bars;
use crate::chart::Chart;
use crate::escape;

/// A figure that is read first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    /// What it is.
    pub name: String,
    /// The figure, with its unit.
    pub value: String,
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// Heads of the columns. The first column is text, the others are aligned to the right.
    pub head: Vec<String>,
    /// Rows.
    pub rows: Vec<Vec<String>>,
}

/// A part of a page.
#[derive(Clone, Debug, PartialEq)]
pub enum Block {
    /// Figures in a row.
    Tiles(Vec<Tile>),
    /// Something that the reader must know.
    Warning(String),
    /// A heading.
    Heading(String),
    /// A paragraph.
    Text(String),
    /// A table.
    Table(Table),
    /// A chart.
    Chart(Chart),
    /// Rows of bars.
    Bars(Bars),
    /// Text that is folded until it is opened: its title and its lines.
    Details(String, String),
}

/// A page.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// Its title.
    pub title: String,
    /// The line below the title.
    pub subtitle: String,
    /// Its parts. Charts that follow each other stand side by side where there is room.
    pub blocks: Vec<Block>,
}

const STYLE: &str = include_str!("page.css");

impl Page {
    /// The page as HTML.
    pub fn html(&self) -> String {
        let title = escape(&self.title);
        let mut out = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"><title>{title}</title><style>{STYLE}</style></head>\n<body><main><h1>{title}</h1><p class=\"sub\">{}</p>\n",
            escape(&self.subtitle)
        );
        let mut in_grid = false;
        for block in &self.blocks {
            let (html, is_figure) = html(block);
            if is_figure != in_grid {
                out.push_str(if is_figure { "<div class=\"charts\">" } else { "</div>" });
                in_grid = is_figure;
            }
            out.push_str(&html);
            out.push('\n');
        }
        if in_grid {
            out.push_str("</div>");
        }
        out + "</main></body></html>\n"
    }
}

/// A block, and whether it is a figure.
fn html(block: &Block) -> (String, bool) {
    let html = match block {
        Block::Chart(chart) => return (chart.html().unwrap_or_default(), true),
        Block::Bars(bars) => return (bars.html().unwrap_or_default(), true),
        Block::Tiles(tiles) => {
            let tile = |tile: &Tile| {
                let (name, value) = (escape(&tile.name), escape(&tile.value));
                format!("<div><b>{value}</b><span>{name}</span></div>")
            };
            format!("<div class=\"tiles\">{}</div>", tiles.iter().map(tile).collect::<String>())
        }
        Block::Warning(text) => format!("<p class=\"warning\">{}</p>", escape(text)),
        Block::Heading(text) => format!("<h2>{}</h2>", escape(text)),
        Block::Text(text) => format!("<p>{}</p>", escape(text)),
        Block::Table(table) => table.html(),
        Block::Details(title, text) => format!(
            "<details><summary>{}</summary><pre>{}</pre></details>",
            escape(title),
            escape(text)
        ),
    };
    (html, false)
}

impl Table {
    fn html(&self) -> String {
        let mut out = String::from("<div class=\"scroll\"><table>");
        if !self.title.is_empty() {
            let _ = write!(out, "<caption>{}</caption>", escape(&self.title));
        }
        out.push_str("<thead><tr>");
        for head in &self.head {
            let _ = write!(out, "<th scope=\"col\">{}</th>", escape(head));
        }
        out.push_str("</tr></thead><tbody>");
        for row in &self.rows {
            out.push_str("<tr>");
            for (at, cell) in row.iter().enumerate() {
                let cell = escape(cell);
                let _ = match at {
                    0 => write!(out, "<th scope=\"row\">{cell}</th>"),
                    _ => write!(out, "<td>{cell}</td>"),
                };
            }
            out.push_str("</tr>");
        }
        out + "</tbody></table></div>"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_its_parts_and_needs_nothing_else() {
        let table = Table {
            title: "t".into(),
            head: vec!["a".into(), "b".into()],
            rows: vec![vec!["<i>".into(), "2".into()]],
        };
        let tile = Tile { name: "requests".into(), value: "7".into() };
        let page = Page {
            title: "<x>".into(),
            subtitle: "s".into(),
            blocks: vec![
                Block::Tiles(vec![tile]),
                Block::Warning("careful".into()),
                Block::Table(table),
                Block::Details("more".into(), "<script>".into()),
            ],
        };
        let html = page.html();
        for wanted in [
            "<title>&lt;x&gt;</title>",
            "<b>7</b><span>requests</span>",
            "<p class=\"warning\">careful</p>",
            "<th scope=\"row\">&lt;i&gt;</th><td>2</td>",
            "<pre>&lt;script&gt;</pre>",
        ] {
            assert!(html.contains(wanted), "{wanted} is not in {html}");
        }
        for absent in ["http:", "https:", "<script", "src=", "url("] {
            assert!(!html.contains(absent), "{absent} is in {html}");
        }
        assert_eq!(html.matches("<div").count(), html.matches("</div>").count());
    }
}
