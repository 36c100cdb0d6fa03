//! Checks the vocabulary of code and documentation.
//!
//! Each pattern has a number of permitted places. It must be exact, so that it does not grow by
//! accident.

use std::path::{Path, PathBuf};

use regex::Regex;

/// Forbidden patterns, their replacements, and the number of permitted places.
const REPLACED: &[(&str, &str, usize)] = &[
    // One thing, one word. Permitted: the test of old settings keys.
    (r"(?i)\bturnstile", "admission, AdmissionQueue", 0),
    (
        r"\b(Shield(Input|Output)|shield_(input|output|threads|unreadable\w*)|llm_lens_shield\w*)\b",
        "guardrail",
        0,
    ),
    (r"\bshields?:[ \[]", "guardrails:, guardrail:", 2),
    (
        r"\b(Course|Contender|Taste|Deck|Wish|Seam|Outlook|Nature|Fading)\b",
        "Attempts, HedgedCall, FirstTokenProbe, Candidates, BalanceRequest ...",
        0,
    ),
    (r"\bcontinuation:|\bContinuation\b|upstream_began_anew", "resume", 0),
    (r"\bRetries \{ most|retries\.most|ejection\.most", "max, max_ejected", 1),
    (r"left alone|is left alone|nobody well|nobody_well", "ejected; panic mode", 0),
    (r"\bMOST(_[A-Z]+)?\b|\b[A-Z]+_MOST\b", "MAX_...", 0),
    (r"\bLEAST(_[A-Z]+)?\b|\bFEWEST\b", "MIN_...", 0),
    (
        r"\b(Door|World|Panel|Ear|Ground|Bench|Seat|Untold|Teller|Told|Heard|Looked|Asked)\b",
        "ProxyApp, FilterHost, JudgeWindows, HeldEvent, TextChannel, JudgeCommon ...",
        0,
    ),
    (
        r"pub(\([a-z]+\))? (async )?fn (run|of|ask|look|go|tell|say|hear)\(",
        "the act and its object, as in `route::select`",
        5,
    ),
    (r"\blet spend\b|\bspend: &|UsageSums.*\bspend\b", "usage, sums", 0),
    // Sentences.
    (
        r"^\s*//.*\b(asks|hears|tells|speaks|wants|thinks)\b",
        "a verb of the field: requests, receives, reports, requires",
        0,
    ),
    // Permitted: texts for classifiers and parsers in tests.
    (
        r"(?i)\b(whoever|whom|nobody|somebody|everybody|anybody)\b",
        "the component: client, backend, request, operator",
        7,
    ),
    (r"//.*\b([Ww]ho|he|him|his)\b", "the component: client, backend, request, operator", 0),
    (r"\bis none\b|\bit is none\b|\bsays nothing\b|\bof which nothing\b", "a plain statement", 0),
    (r"(?i)\bthe seam\b|\bby its own word\b|\bis taken for\b", "a plain statement", 0),
];

/// The files to check: code and documentation, without ADRs, captures and these lists of words.
fn files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = [
        "benches",
        "config",
        "crates",
        "docs",
        "filters",
        "gateway",
        "observatory",
        "shield",
        "testbench",
        "tests",
    ]
    .iter()
    .map(|name| root.join(name))
    .collect();
    files.push(root.join("README.md"));
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                let name = entry.file_name();
                if !["adr", "captures", "target", "corpus"].iter().any(|skipped| name == *skipped) {
                    folders.push(path);
                }
            } else if path
                .extension()
                .is_some_and(|end| ["rs", "md", "py", "sh"].iter().any(|known| end == *known))
                && !path.ends_with("words.rs")
            {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

#[test]
fn replaced_words_do_not_come_back() {
    let texts: Vec<(PathBuf, String)> = files()
        .into_iter()
        .map(|file| (file.clone(), std::fs::read_to_string(file).expect("readable")))
        .collect();
    let mut wrong = String::new();
    for (pattern, instead, left) in REPLACED {
        let regex = Regex::new(pattern).expect("a valid pattern");
        let mut places = Vec::new();
        for (file, text) in &texts {
            for (number, line) in text
                .lines()
                .enumerate()
                .filter(|(_, line)| regex.is_match(line) && !line.contains(".was(\""))
            {
                places.push(format!("  {}:{}: {}", file.display(), number + 1, line.trim()));
            }
        }
        if places.len() != *left {
            let shown = places.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
            wrong.push_str(&format!(
                "{pattern}: {} places, {left} expected; write {instead}\n{shown}\n",
                places.len()
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Each pattern matches its example.
#[test]
fn each_pattern_matches_its_example() {
    let examples = [
        "the turnstile",
        "State::ShieldInput",
        "shield: strict",
        "Deck",
        "continuation: on",
        "retries.most",
        "it is left alone",
        "MOST_FILE",
        "LEAST",
        "struct Seat",
        "pub async fn ask(",
        "let spend = UsageSums::default();",
        "// the limit asks",
        "nobody asks",
        "// who fails",
        "it is none",
        "it is taken for cut",
    ];
    for ((pattern, ..), example) in REPLACED.iter().zip(examples) {
        assert!(
            Regex::new(pattern).expect("a valid pattern").is_match(example),
            "{pattern}: {example}"
        );
    }
    assert_eq!(REPLACED.len(), examples.len());
}

/// In documentation as in comments, a component is not a person. Headings and people may be.
#[test]
fn documents_name_the_component() {
    let person = Regex::new(r"\b([Ww]ho|[Hh]e|him|[Hh]is)\b").expect("a valid pattern");
    assert!(person.is_match("The backend who fails is ejected."));
    let mut wrong = String::new();
    for file in files().into_iter().filter(|file| file.extension().is_some_and(|end| end == "md")) {
        let text = std::fs::read_to_string(&file).expect("readable");
        for (number, line) in text.lines().enumerate() {
            let is_permitted = line.starts_with('#') || line.contains("people who");
            if person.is_match(line) && !is_permitted {
                wrong.push_str(&format!("{}:{}: {line}\n", file.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "write client, backend, request or operator:\n{wrong}");
}

/// Maximum columns of a line. `rustfmt` wraps code, but not comments and macros.
const MAX_COLUMNS: usize = 100;

/// Lines that are too long: comments, and code that could be wrapped. String literals and lines
/// that end in a backslash may be longer.
fn long_lines(source: &str) -> Vec<(usize, &str)> {
    let is_text = |line: &str| line.contains('"') || line.ends_with('\\');
    let is_comment = |line: &str| line.trim_start().starts_with("//");
    let lines = source.lines().enumerate();
    lines
        .filter(|(_, line)| line.chars().count() > MAX_COLUMNS)
        .filter(|(_, line)| is_comment(line) || !is_text(line))
        .map(|(number, line)| (number + 1, line))
        .collect()
}

#[test]
fn lines_have_at_most_100_columns() {
    let mut wrong = String::new();
    for file in files().into_iter().filter(|file| file.extension().is_some_and(|end| end == "rs")) {
        let source = std::fs::read_to_string(&file).expect("readable");
        for (number, line) in long_lines(&source) {
            wrong.push_str(&format!("{}:{number}: {line}\n", file.display()));
        }
    }
    assert!(wrong.is_empty(), "wrap these lines:\n{wrong}");
}

#[test]
fn a_long_comment_is_found_and_a_long_text_is_not() {
    let long = "x".repeat(MAX_COLUMNS);
    let source = format!("// {long}\nlet a = \"{long}\";\nlet b = {long};\n// short");
    let found: Vec<usize> = long_lines(&source).into_iter().map(|(number, _)| number).collect();
    assert_eq!(found, [1, 3]);
}
