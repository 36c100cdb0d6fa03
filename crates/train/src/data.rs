//! Labeled texts and the groups that must stay together.
//!
//! - *In*: the text of `injection.jsonl`, `toxicity.jsonl` and `benign.jsonl`.
//! - *Out*: [`Row`]s in file order, each with its group.
//! - *Never*: a changed text; a skipped row: an unreadable row is an error.

use std::collections::HashMap;
use std::io;

use shield::normalise::{Limits, Normal, normalise};

/// Which file a row came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// `injection.jsonl`.
    Injection,
    /// `toxicity.jsonl`.
    Toxicity,
    /// `benign.jsonl`.
    Benign,
}

/// One labeled text.
#[derive(Debug)]
pub struct Row {
    /// The file of the row.
    pub file: File,
    /// Whether the label is `attack` or `toxic`.
    pub positive: bool,
    /// The category as the data names it.
    pub category: String,
    /// The source as the data names it.
    pub source: String,
    /// Language code; empty if the data names none.
    pub lang: String,
    /// Whether the text is a tool result or a document, which must not give instructions.
    pub tool: bool,
    /// Length of the original text in bytes.
    pub bytes: usize,
    /// The original text.
    pub text: String,
    /// The normalized text, without obfuscation.
    pub normal: Normal,
    /// Group of the row. Rows of a group are near-duplicates or share a template.
    pub group: usize,
    /// Whether the text is from `own.txt`: used for training, never for measurement.
    pub own: bool,
}

/// Values of the placeholder `{g}` in `own.txt`.
const GROUPS: [&str; 6] =
    ["women", "gay people", "Muslims", "black people", "immigrants", "disabled people"];

/// The rows of `own.txt`. A template yields one row for each of several groups.
fn own() -> Vec<Row> {
    let lines = include_str!("own.txt")
        .lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| l.split_once(": "));
    let mut rows = Vec::new();
    for (i, (label, text)) in lines.enumerate() {
        // A template uses half of the groups; the next template uses the other half.
        let turns = if text.contains("{g}") { 3 } else { 1 };
        for turn in 0..turns {
            let text = text.replace(
                "{g}",
                GROUPS.get((i + turn * 2) % GROUPS.len()).copied().unwrap_or_default(),
            );
            let file =
                if matches!(label, "attack" | "plain") { File::Injection } else { File::Toxicity };
            let normal = normalise(&text, &Limits::default());
            let positive = matches!(label, "attack" | "toxic");
            rows.push(Row {
                file,
                positive,
                category: "own".into(),
                source: "own".into(),
                lang: String::new(),
                tool: false,
                bytes: text.len(),
                text,
                normal,
                group: usize::MAX,
                own: true,
            });
        }
    }
    rows
}

/// All rows of the files, grouped.
///
/// # Errors
/// A line that is not a valid row.
pub fn rows<'a>(files: impl IntoIterator<Item = (File, &'a str)>) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (file, text) in files {
        for line in text.lines().filter(|l| !l.trim().is_empty()) {
            rows.push(row(file, line)?);
        }
    }
    group(&mut rows);
    rows.extend(own());
    Ok(rows)
}

fn row(file: File, line: &str) -> io::Result<Row> {
    let value: serde_json::Value = serde_json::from_str(line)?;
    let field = |name: &str| {
        let text = value.get(name).and_then(|v| v.as_str()).map(str::to_owned);
        text.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("missing field {name:?} in {line:.60}"),
            )
        })
    };
    let text = field("text")?;
    let normal = normalise(&text, &Limits::default());
    let positive = matches!(field("label")?.as_str(), "attack" | "toxic");
    let (category, source) = (field("category")?, field("source")?);
    let lang = value.get("lang").and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    let tool = is_tool(file, &category);
    Ok(Row {
        file,
        positive,
        category,
        source,
        lang,
        tool,
        bytes: text.len(),
        text,
        normal,
        group: 0,
        own: false,
    })
}

/// Whether rows of a category are tool results or documents.
fn is_tool(file: File, category: &str) -> bool {
    const PROMPTS: [&str; 4] = ["hard_negative", "ordinary", "prompt", "output"];
    match file {
        File::Benign => !PROMPTS.iter().any(|prompt| category.starts_with(prompt)),
        File::Toxicity => false,
        File::Injection => {
            ["tool output", "embedded", "clean", "indirect", "tool call:observation"]
                .iter()
                .chain(&["llmail", "email"])
                .any(|kind| category.starts_with(kind))
        }
    }
}

impl Row {
    /// The source without the word for its label: attacks and harmless rows of one origin are held
    /// out together.
    pub fn family(&self) -> &str {
        let source = self.source.as_str();
        let family = source.split_once('/').map_or(source, |(first, _)| first);
        if !matches!(family, "own" | "repositories" | "derived" | "mhc" | "mlma" | "garak") {
            return family.split_once(' ').map_or(family, |(first, _)| first);
        }
        [" attack", " benign", " hard negatives"]
            .iter()
            .find_map(|label| source.strip_suffix(label))
            .unwrap_or(source)
    }
}

/// Shingles in more rows than this are ignored: they do not indicate near-duplicates.
const MAX_SHINGLE_ROWS: usize = 400;

/// Joins rows whose word triples overlap by at least a third, or if one row contains half of the
/// other (at least four triples).
fn group(rows: &mut [Row]) {
    let shingles: Vec<Vec<u64>> = rows.iter().map(|r| triples(&r.normal)).collect();
    let mut holders: HashMap<u64, Vec<usize>> = HashMap::new();
    for (i, set) in shingles.iter().enumerate() {
        set.iter().for_each(|s| holders.entry(*s).or_default().push(i));
    }
    let mut parent: Vec<usize> = (0..rows.len()).collect();
    for (i, set) in shingles.iter().enumerate() {
        let mut shared: HashMap<usize, usize> = HashMap::new();
        for other in set
            .iter()
            .filter_map(|s| holders.get(s))
            .filter(|h| h.len() <= MAX_SHINGLE_ROWS)
            .flatten()
        {
            if *other < i {
                *shared.entry(*other).or_default() += 1;
            }
        }
        for (other, n) in shared {
            let size = shingles.get(other).map_or(0, Vec::len);
            let (small, union) = (set.len().min(size), set.len() + size - n);
            if n * 3 >= union || (n >= 4 && n * 2 >= small) {
                join(&mut parent, i, other);
            }
        }
    }
    for (i, row) in rows.iter_mut().enumerate() {
        row.group = root(&mut parent, i);
    }
}

fn triples(normal: &Normal) -> Vec<u64> {
    let text: String = normal.plain().collect::<Vec<_>>().join(" ").to_lowercase();
    let words: Vec<&str> =
        text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).collect();
    let hash = |ws: &[&str]| {
        ws.iter().fold(7u64, |h, w| {
            w.bytes()
                .fold(h, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
                .wrapping_mul(31)
        })
    };
    let mut set: Vec<u64> =
        if words.len() < 3 { vec![hash(&words)] } else { words.windows(3).map(hash).collect() };
    set.sort_unstable();
    set.dedup();
    set
}

fn root(parent: &mut [usize], mut i: usize) -> usize {
    while let Some(up) = parent.get(i).copied().filter(|up| *up != i) {
        let higher = parent.get(up).copied().unwrap_or(up);
        if let Some(slot) = parent.get_mut(i) {
            *slot = higher;
        }
        i = higher;
    }
    i
}

fn join(parent: &mut [usize], a: usize, b: usize) {
    let (a, b) = (root(parent, a), root(parent, b));
    if let Some(slot) = parent.get_mut(a.max(b)) {
        *slot = a.min(b);
    }
}
