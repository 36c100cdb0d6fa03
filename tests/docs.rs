//! The documentation matches the code, and both use the words of the project.

mod words;

use std::collections::BTreeSet;
use std::path::PathBuf;

use observatory::catalog;

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// All pages of `docs/`, and those at the top level.
fn pages() -> Vec<(String, String)> {
    let mut files: Vec<PathBuf> = ["docs", "docs/adr"]
        .iter()
        .flat_map(|folder| {
            std::fs::read_dir(root().join(folder))
                .expect("a folder")
                .flatten()
                .map(|entry| entry.path())
        })
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .collect();
    files.extend(["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(|name| root().join(name)));
    files
        .iter()
        .map(|file| (file.display().to_string(), std::fs::read_to_string(file).expect("readable")))
        .collect()
}

/// Words of the GenAI conventions that look like metrics: labels, and a value of an opt-in.
const LABELS: [&str; 6] = [
    "gen_ai_latest_experimental",
    "gen_ai_operation_name",
    "gen_ai_provider_name",
    "gen_ai_request_model",
    "gen_ai_token_type",
    "gen_ai_response_model",
];

/// Words of a text that are names of metrics or of recorded series.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:*".contains(c);
    text.split(move |c| !is_part(c)).map(|word| word.trim_matches(':'))
}

/// Names of metrics in a text: whole words that start with `llm_lens_` or `gen_ai_`.
fn metric_names(text: &str) -> BTreeSet<String> {
    let is_name = |word: &&str| {
        (word.starts_with("llm_lens_") || word.starts_with("gen_ai_"))
            && !word.ends_with(['_', '*'])
            && !word.contains(':')
    };
    names(text).filter(is_name).filter(|word| !LABELS.contains(word)).map(str::to_owned).collect()
}

/// Names of recorded series in a text: `LEVEL:METRIC:OPERATION`.
fn recorded_names(text: &str) -> BTreeSet<String> {
    names(text).filter(|word| word.contains(":llm_lens_")).map(str::to_owned).collect()
}

#[test]
fn metrics_of_the_documentation_exist() {
    for (page, text) in pages() {
        let unknown: Vec<String> =
            metric_names(&text).into_iter().filter(|name| catalog::find(name).is_none()).collect();
        assert!(unknown.is_empty(), "{page} names {unknown:?}");
    }
}

/// The files for Prometheus, with their tests.
fn prometheus_files() -> Vec<(String, String)> {
    let folders = ["deploy/prometheus", "deploy/prometheus/tests"];
    let files = folders.iter().flat_map(|folder| {
        std::fs::read_dir(root().join(folder)).expect("a folder").flatten().map(|e| e.path())
    });
    files
        .filter(|path| path.extension().is_some_and(|end| end == "yaml"))
        .map(|path| (path.display().to_string(), std::fs::read_to_string(path).expect("readable")))
        .collect()
}

/// The metric of a series: classic histograms have three series each.
fn metric_of_series(name: &str) -> Option<&'static catalog::Metric> {
    let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
    let histogram = base.and_then(catalog::find).filter(|row| row.kind == catalog::Kind::Histogram);
    histogram.or_else(|| catalog::find(name))
}

#[test]
fn metrics_of_rules_and_alerts_exist() {
    let rules =
        std::fs::read_to_string(root().join("deploy/prometheus/rules.yaml")).expect("rules");
    let recorded: BTreeSet<String> = rules
        .lines()
        .filter_map(|line| line.split_once("- record: "))
        .map(|it| it.1.into())
        .collect();
    assert!(!recorded.is_empty());
    for (file, text) in prometheus_files().into_iter().chain(pages()) {
        let is_rule_file = file.ends_with(".yaml");
        let unknown: Vec<String> = metric_names(&text)
            .into_iter()
            .filter(|name| is_rule_file && metric_of_series(name).is_none())
            .chain(recorded_names(&text).into_iter().filter(|name| !recorded.contains(name)))
            .collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}");
    }
}

/// A bound that the classic buckets do not have would match no series.
#[test]
fn bounds_of_rules_are_bounds_of_the_catalog() {
    let rules =
        std::fs::read_to_string(root().join("deploy/prometheus/rules.yaml")).expect("rules");
    let bound = regex::Regex::new(r#"(\w+)_bucket\{le=~?"([0-9.]+)"#).expect("a valid pattern");
    let mut found = 0;
    for [name, le] in bound.captures_iter(&rules).map(|met| met.extract().1) {
        let row = catalog::find(name).expect("in the catalog");
        assert!(row.bounds.contains(&le.parse().expect("a number")), "{name} has no bound {le}");
        found += 1;
    }
    assert_eq!(found, 2, "one for TTFT, one for TPOT");
}

#[test]
fn every_alert_has_a_runbook_and_tests() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect("readable");
    let (alerts, runbook) = (read("deploy/prometheus/alerts.yaml"), read("docs/alerts.md"));
    let tests =
        read("deploy/prometheus/tests/alerts.yaml") + &read("deploy/prometheus/tests/burn.yaml");
    for (name, rule) in alerts.split("- alert: ").skip(1).filter_map(|rule| rule.split_once('\n')) {
        let link = format!("runbook_url: docs/alerts.md#{}\n", name.to_lowercase());
        assert!(rule.contains(&link), "{name} has no {link}");
        assert!(
            ["page", "ticket"].iter().any(|it| rule.contains(&format!("severity: {it}"))),
            "{name}"
        );
        assert!(rule.contains("summary: ") && rule.contains("description: "), "{name}");
        assert!(
            runbook.lines().any(|line| line == format!("### {name}")),
            "docs/alerts.md: {name}"
        );
        let case = format!("alertname: {name}");
        let (fires, silent) = (
            tests.split(&case).skip(1).any(|rest| rest.trim_start().starts_with("exp_alerts:")),
            tests.contains(&format!("{case}, exp_alerts: []")),
        );
        assert!(fires && silent, "{name}: fires {fires}, silent {silent}");
    }
}

#[test]
fn every_metric_is_documented() {
    generated(
        "docs/metrics.md",
        "<!-- catalog -->\n",
        "<!-- end of the catalog -->",
        &format!("\n{}\n", catalog::markdown()),
    );
}

/// The code in `docs/write-a-filter.md` is the example, to the letter.
#[test]
fn documented_filter_is_the_compiled_example() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let read = |path: &str| {
        std::fs::read_to_string(format!("{root}/{path}")).unwrap_or_else(|e| panic!("{path}: {e}"))
    };
    let (page, example) =
        (read("docs/write-a-filter.md"), read("crates/cli/examples/own_filter.rs"));
    let shown = page
        .split_once("```rust\n")
        .and_then(|(_, rest)| rest.split_once("```\n"))
        .expect("the page shows code")
        .0;
    assert_eq!(
        shown, example,
        "copy crates/cli/examples/own_filter.rs into docs/write-a-filter.md"
    );
}

/// Compares the text between two markers of a page; with `UPDATE_DOCS` replaces it.
fn generated(page: &str, begin: &str, end: &str, want: &str) {
    let path = root().join(page);
    let text = std::fs::read_to_string(&path).expect("the page");
    let (before, rest) = text.split_once(begin).expect("the generated part begins");
    let (shown, behind) = rest.split_once(end).expect("the generated part ends");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        return std::fs::write(path, format!("{before}{begin}{want}{end}{behind}"))
            .expect("writable");
    }
    assert!(
        shown == want,
        "{page} is not up to date: run `UPDATE_DOCS=1 cargo test -p llm-lens-tests --test docs`"
    );
}

#[test]
fn the_reference_of_settings_is_up_to_date() {
    generated(
        "docs/configuration.md",
        "<!-- settings -->\n",
        "<!-- end of the settings -->",
        &format!("\n{}", config::reference()),
    );
}

/// Settings in the documentation are valid, except for files and environment variables that are
/// missing here.
#[test]
fn every_settings_example_is_valid() {
    let may_be = ["cannot open", "cannot read", "is not set"];
    for (page, text) in pages().into_iter().filter(|(page, _)| !page.contains("/adr/")) {
        for block in text
            .split("```yaml\n")
            .skip(1)
            .filter_map(|rest| rest.split_once("```"))
            .map(|(block, _)| block)
        {
            let Err(problems) = config::parse("example", block) else { continue };
            let wrong: Vec<String> = problems
                .iter()
                .map(|problem| format!("{}: {}", problem.path, problem.message))
                .filter(|problem| !may_be.iter().any(|known| problem.contains(known)))
                .collect();
            assert!(wrong.is_empty(), "{page}: {wrong:#?}\n{block}");
        }
    }
}

/// Links of the documentation lead to files, and their fragments to headings.
#[test]
fn every_link_leads_somewhere() {
    for (page, text) in pages() {
        let folder = PathBuf::from(&page).parent().expect("a folder").to_path_buf();
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split_once(')'))
            .map(|(target, _)| target)
        {
            if target.contains("://") || target.contains(char::is_whitespace) {
                continue;
            }
            let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { PathBuf::from(&page) } else { folder.join(file) };
            assert!(file.exists(), "{page} links to {target}");
            if !fragment.is_empty() {
                let linked = std::fs::read_to_string(&file).expect("readable");
                assert!(
                    linked
                        .lines()
                        .filter(|line| line.starts_with('#'))
                        .any(|line| slug(line) == fragment),
                    "{page} links to {target}"
                );
            }
        }
    }
}

/// The fragment of a heading, as repository hosts generate it.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// Paths of the admin listener that the documentation names are served.
#[test]
fn every_admin_path_of_the_documentation_is_served() {
    let read = |file| std::fs::read_to_string(root().join(file)).expect("readable");
    let served = ["gateway/src/admin.rs", "crates/store/src/api.rs"].map(read).concat();
    for (page, text) in pages().into_iter().filter(|(page, _)| !page.contains("/adr/")) {
        for rest in text.split("/api/").skip(1) {
            let name: String =
                rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '/').collect();
            let path = format!("/api/{}", name.trim_end_matches('/'));
            assert!(served.contains(&format!("\"{path}\"")), "{page} names {path}");
        }
    }
}

/// Every test that the list of traps names exists in the file that it names.
#[test]
fn every_trap_of_load_testers_has_its_test() {
    let page = std::fs::read_to_string(root().join("docs/measurement.md")).expect("readable");
    let (_, list) = page.split_once("| trap | test |\n|---|---|\n").expect("the list");
    let mut count = 0;
    for line in list.lines().take_while(|line| line.starts_with('|')) {
        let (_, tests) = line.trim_matches('|').split_once('|').expect("two columns");
        for test in tests.split("`, `") {
            let mut words = test.split('`').map(str::trim).filter(|word| !word.is_empty());
            let name = words.next().expect("a name");
            let file = words.find(|word| word.ends_with(".rs"));
            let file = file.unwrap_or("testbench/tests/traps.rs");
            let source = std::fs::read_to_string(root().join(file)).expect("a source");
            assert!(source.contains(&format!("fn {name}()")), "{file} has no test {name}");
            count += 1;
        }
    }
    assert!(count >= 24, "{count} tests");
}
