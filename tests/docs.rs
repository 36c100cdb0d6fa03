//! What the documentation shows is what is compiled.

/// The code in `docs/write-a-filter.md` is the example, to the letter.
#[test]
fn the_filter_of_the_documentation_is_the_one_that_is_compiled() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let read = |path: &str| std::fs::read_to_string(format!("{root}/{path}")).unwrap_or_else(|e| panic!("{path}: {e}"));
    let (page, example) = (read("docs/write-a-filter.md"), read("crates/cli/examples/own_filter.rs"));
    let shown = page.split_once("```rust\n").and_then(|(_, rest)| rest.split_once("```\n")).expect("the page shows code").0;
    assert_eq!(shown, example, "copy crates/cli/examples/own_filter.rs into docs/write-a-filter.md");
}
