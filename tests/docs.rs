//! What the documentation shows is what is compiled.

use std::collections::BTreeSet;
use std::path::PathBuf;

use observatory::catalog;

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// All pages of `docs/`, and the README.
fn pages() -> Vec<(String, String)> {
    let mut files: Vec<PathBuf> = ["docs", "docs/adr"]
        .iter()
        .flat_map(|folder| std::fs::read_dir(root().join(folder)).expect("a folder").flatten().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .collect();
    files.push(root().join("README.md"));
    files.iter().map(|file| (file.display().to_string(), std::fs::read_to_string(file).expect("readable"))).collect()
}

/// Labels of the GenAI conventions look like metrics.
const LABELS: [&str; 5] =
    ["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "gen_ai_token_type", "gen_ai_response_model"];

/// Names of metrics in a text: words that begin as ours do, whole ones only.
fn metric_names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '_' || c == '*'));
    let is_name = |word: &&str| (word.starts_with("llm_lens_") || word.starts_with("gen_ai_")) && !word.ends_with(['_', '*']);
    words.filter(is_name).filter(|word| !LABELS.contains(word)).map(str::to_owned).collect()
}

#[test]
fn metrics_of_the_documentation_exist() {
    for (page, text) in pages() {
        let unknown: Vec<String> = metric_names(&text).into_iter().filter(|name| catalog::find(name).is_none()).collect();
        assert!(unknown.is_empty(), "{page} names {unknown:?}");
    }
}

#[test]
fn every_metric_stands_in_the_documentation() {
    let page = std::fs::read_to_string(root().join("docs/metrics.md")).expect("the page");
    let (before, rest) = page.split_once("<!-- catalog -->\n").expect("the table begins");
    let (shown, behind) = rest.split_once("<!-- end of the catalog -->").expect("the table ends");
    let want = format!("\n{}\n", catalog::markdown());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let page = format!("{before}<!-- catalog -->\n{want}<!-- end of the catalog -->{behind}");
        return std::fs::write(root().join("docs/metrics.md"), page).expect("writable");
    }
    assert!(
        shown == want,
        "the table of docs/metrics.md is not the catalog's: run `UPDATE_DOCS=1 cargo test -p llm-lens-tests --test docs`"
    );
}

/// The code in `docs/write-a-filter.md` is the example, to the letter.
#[test]
fn the_filter_of_the_documentation_is_the_one_that_is_compiled() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let read = |path: &str| std::fs::read_to_string(format!("{root}/{path}")).unwrap_or_else(|e| panic!("{path}: {e}"));
    let (page, example) = (read("docs/write-a-filter.md"), read("crates/cli/examples/own_filter.rs"));
    let shown = page.split_once("```rust\n").and_then(|(_, rest)| rest.split_once("```\n")).expect("the page shows code").0;
    assert_eq!(shown, example, "copy crates/cli/examples/own_filter.rs into docs/write-a-filter.md");
}
