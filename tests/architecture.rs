//! Checks the layers: which crates and which modules may use each other, and what pure crates do
//! not depend on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Which crates a crate may use. A missing edge is a decision: add it here and in
/// `docs/architecture.md`, with its reason.
const CRATES: [(&str, &[&str]); 50] = [
    ("http1", &[]),
    ("wire", &[]),
    ("base-url", &[]),
    ("arguments", &["wire"]),
    ("lens", &["wire"]),
    ("spill", &[]),
    ("contents", &[]),
    ("stats", &["wire", "lens"]),
    ("process", &["lens"]),
    ("normalise", &[]),
    ("patterns", &[]),
    ("shield", &["normalise", "patterns"]),
    ("classifier", &["shield"]),
    ("train", &["shield", "classifier"]),
    ("onnx", &[]),
    ("filters", &["wire", "arguments", "lens", "shield", "classifier"]),
    ("routing", &["lens"]),
    ("traffic", &["lens"]),
    ("yaml", &["lens"]),
    ("schema", &[]),
    (
        "config",
        &["wire", "base-url", "lens", "stats", "filters", "routing", "traffic", "yaml", "schema"],
    ),
    ("changes", &["config", "traffic"]),
    ("discovery", &["config"]),
    ("admin-auth", &["config", "lens"]),
    ("observatory", &["lens", "wire", "spill", "stats"]),
    // Not a part of the binary: it makes the files of deploy/grafana.
    ("grafana", &["observatory"]),
    ("otlp", &["wire", "base-url", "lens", "observatory"]),
    ("store", &["lens", "observatory"]),
    ("audit-log", &["lens", "observatory"]),
    ("postgres", &["base-url", "lens", "observatory", "store"]),
    ("objects", &["base-url"]),
    ("files", &["lens", "observatory", "objects"]),
    ("transport", &["http1", "wire", "lens", "routing", "traffic", "config"]),
    (
        "relay",
        &[
            "wire",
            "arguments",
            "lens",
            "shield",
            "contents",
            "filters",
            "traffic",
            "config",
            "transport",
        ],
    ),
    ("refusal", &["http1", "wire", "lens", "filters", "relay", "transport"]),
    (
        "plan",
        &[
            "http1",
            "wire",
            "lens",
            "filters",
            "routing",
            "traffic",
            "onnx",
            "discovery",
            "observatory",
            "config",
            "transport",
        ],
    ),
    (
        "pipeline",
        &[
            "http1",
            "wire",
            "lens",
            "filters",
            "routing",
            "traffic",
            "observatory",
            "stats",
            "contents",
            "config",
            "transport",
            "relay",
            "plan",
            "refusal",
        ],
    ),
    ("dashboard", &[]),
    (
        "pages",
        &[
            "lens",
            "contents",
            "changes",
            "routing",
            "observatory",
            "stats",
            "traffic",
            "config",
            "admin-auth",
            "plan",
            "pipeline",
        ],
    ),
    (
        "gateway",
        &[
            "http1",
            "wire",
            "lens",
            "filters",
            "routing",
            "traffic",
            "discovery",
            "observatory",
            "stats",
            "otlp",
            "store",
            "audit-log",
            "postgres",
            "files",
            "objects",
            "contents",
            "changes",
            "config",
            "admin-auth",
            "transport",
            "relay",
            "plan",
            "pages",
            "dashboard",
            "pipeline",
            "process",
            "refusal",
        ],
    ),
    ("gate", &["charts", "lens"]),
    ("charts", &[]),
    ("workload", &["wire", "lens", "yaml"]),
    ("testbench", &["wire", "base-url", "charts", "lens", "gate", "workload"]),
    ("simulator", &["http1", "lens", "testbench", "wire"]),
    ("aggregate", &["stats", "testbench", "admin-auth"]),
    (
        "cli",
        &[
            "aggregate",
            "base-url",
            "config",
            "gateway",
            "simulator",
            "testbench",
            "gate",
            "lens",
            "stats",
            "store",
            "files",
            "objects",
            "shield",
            "classifier",
            "filters",
            "traffic",
            "train",
            "audit-log",
            "workload",
        ],
    ),
    // The kit has a gateway with a filter of its own.
    ("tests", &["wire", "lens", "config", "filters", "gateway", "routing"]),
    (
        "benches",
        &[
            "http1",
            "wire",
            "lens",
            "shield",
            "classifier",
            "filters",
            "routing",
            "traffic",
            "observatory",
            "store",
            "postgres",
            "base-url",
        ],
    ),
    ("fuzz", &["http1", "wire"]),
];

/// Dependencies that pure crates do not have: runtimes, sockets.
const IMPURE: [&str; 7] = ["tokio", "pingora", "hyper", "socket2", "nix", "reqwest", "rustls"];
const PURE: [&str; 16] = [
    "charts",
    "http1",
    "wire",
    "base-url",
    "arguments",
    "lens",
    "spill",
    "stats",
    "gate",
    "normalise",
    "patterns",
    "shield",
    "classifier",
    "filters",
    "routing",
    "traffic",
];

/// The modules of large crates, lowest first. A module may use only modules before it.
const MODULES: [(&str, &[&str]); 3] = [
    (
        "crates/plan",
        &[
            "audit",
            "clock",
            "client_certificate",
            "client_limits",
            "current_request",
            "failure_log",
            "host",
            "jwks",
            "shared_limits",
            "plan",
            "forwarded",
            "models",
            "observe",
            "origin",
        ],
    ),
    ("crates/pipeline", &["shared", "exchange", "stage", "pipeline"]),
    (
        "gateway",
        &[
            "reachable",
            "record_store",
            "record_files",
            "tls",
            "check",
            "telemetry",
            "listeners",
            "admin",
            "background",
            "server",
        ],
    ),
];

/// Maximum lines of a crate, without tests.
const MAX_CRATE_LINES: usize = 6_000;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Direct dependencies of each package; those of tests are left out.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&out.stdout).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("a list");
    let name = |v: &Value| v["name"].as_str().expect("a name").to_owned();
    packages
        .iter()
        .map(|package| {
            let all = package["dependencies"].as_array().expect("a list");
            (name(package), all.iter().filter(|d| d["kind"] != "dev").map(name).collect())
        })
        .collect()
}

fn short_name(package: &str) -> Option<&str> {
    package.strip_prefix("llm-lens-")
}

#[test]
fn crates_use_only_lower_layers() {
    let allowed: BTreeMap<_, _> = CRATES.into_iter().collect();
    for (package, dependencies) in dependencies() {
        let this =
            short_name(&package).unwrap_or_else(|| panic!("{package}: name it llm-lens-..."));
        let edges =
            allowed.get(this).unwrap_or_else(|| panic!("the crate {this} is not in the table"));
        for other in dependencies.iter().filter_map(|d| short_name(d)) {
            assert!(edges.contains(&other), "{this} must not use {other}");
        }
    }
}

#[test]
fn pure_crates_name_no_runtime_and_no_socket() {
    let all = dependencies();
    for pure in PURE {
        for dependency in &all[&format!("llm-lens-{pure}")] {
            assert!(
                !IMPURE.iter().any(|i| dependency.starts_with(i)),
                "{pure} must not use {dependency}"
            );
        }
    }
}

#[test]
fn only_gateway_and_transport_depend_on_pingora() {
    for (package, dependencies) in dependencies() {
        let knows = dependencies.iter().any(|d| d.starts_with("pingora"));
        // The benches run an idle pingora as a peer to compare with.
        let may = matches!(
            package.as_str(),
            "llm-lens-gateway" | "llm-lens-transport" | "llm-lens-benches"
        );
        assert!(!knows || may, "{package} must not use pingora");
    }
}

/// The top-level modules that a source uses as `crate::NAME`, comments and tests excluded.
fn used_modules(source: &str) -> BTreeSet<String> {
    let code = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = code.lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
    let text = lines.collect::<Vec<_>>().join("\n");
    let mut used = BTreeSet::new();
    for (at, word) in text.match_indices("crate::") {
        // `tests_crate::` is not a path in this crate.
        if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &text[at + word.len()..];
        let names: Vec<&str> = match rest.strip_prefix('{') {
            // `use crate::{a, b::c}`: the first name of each.
            Some(list) => top_level(list.split('}').next().unwrap_or_default()),
            None => vec![rest],
        };
        used.extend(names.iter().map(|name| {
            name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
        }));
    }
    used
}

/// The parts of a list between commas.
fn top_level(list: &str) -> Vec<&str> {
    list.split(',').map(str::trim).filter(|part| !part.is_empty()).collect()
}

/// Uses of a module that comes after its user in `order`, and modules that are not in it.
fn upward(order: &[&str], sources: &[(String, String)]) -> Vec<String> {
    let rank = |name: &str| order.iter().position(|known| *known == name);
    let mut found = Vec::new();
    for (module, source) in sources {
        let Some(this) = rank(module) else {
            found.push(format!("the module {module} is not in the table"));
            continue;
        };
        for used in used_modules(source).iter().filter(|used| *used != module) {
            match rank(used) {
                Some(other) if other < this => {}
                Some(_) => found.push(format!("{module} uses {used}, which stands above it")),
                None => {}
            }
        }
    }
    found
}

/// The sources of a crate with their top-level modules, without `lib.rs` and files of tests.
fn sources(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let relative = path.strip_prefix(folder).expect("below the folder").with_extension("");
            // `tests.rs`, and what is in a folder `tests`.
            if relative.components().any(|part| part.as_os_str() == "tests") {
                continue;
            }
            let module = relative
                .components()
                .next()
                .expect("a name")
                .as_os_str()
                .to_string_lossy()
                .into_owned();
            if module != "lib" && path.extension().is_some_and(|end| end == "rs") {
                found.push((module, std::fs::read_to_string(&path).expect("readable")));
            }
        }
    }
    found
}

#[test]
fn modules_use_only_lower_modules() {
    for (folder, order) in MODULES {
        let sources = sources(&root().join(folder).join("src"));
        assert!(sources.len() > 10, "{folder}: {} files were found", sources.len());
        assert_eq!(upward(order, &sources), Vec::<String>::new(), "{folder}");
    }
}

/// Checks that the test above can fail.
#[test]
fn an_upward_use_is_found_however_it_is_written() {
    let order = ["low", "middle", "high"];
    let source = |module: &str, text: &str| (module.to_owned(), text.to_owned());
    for bad in [
        "use crate::high;",
        "use crate::high::Thing;",
        "use crate::{low, high::Thing};",
        "fn f() { crate::high::g() }",
        "use crate::{\n    low,\n    high,\n};",
    ] {
        assert_eq!(
            upward(&order, &[source("middle", bad)]),
            ["middle uses high, which stands above it"],
            "{bad}"
        );
    }
    for good in [
        "use crate::low::Thing;",
        "use crate::middle::other;",
        "// use crate::high;",
        "use other_crate::high;",
        "#[cfg(test)]\nmod tests {\n    use crate::high;\n}",
    ] {
        assert_eq!(upward(&order, &[source("middle", good)]), Vec::<String>::new(), "{good}");
    }
    assert_eq!(upward(&order, &[source("stray", "")]), ["the module stray is not in the table"]);
}

/// The folders of all crates that ship.
fn crate_folders() -> Vec<String> {
    let products = ["gateway", "filters", "shield", "observatory", "testbench", "config"]
        .map(str::to_owned)
        .into_iter();
    let crates = std::fs::read_dir(root().join("crates")).expect("a folder").flatten();
    products
        .chain(crates.map(|entry| format!("crates/{}", entry.file_name().to_string_lossy())))
        .collect()
}

/// Lines of a source, its tests left out.
fn lines_of_code(source: &str) -> usize {
    source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().lines().count()
}

#[test]
fn no_crate_is_longer_than_its_limit() {
    for folder in crate_folders() {
        let lines: usize = sources(&root().join(&folder).join("src"))
            .iter()
            .map(|(_, source)| lines_of_code(source))
            .sum();
        assert!(lines <= MAX_CRATE_LINES, "{folder} has {lines} lines: split it");
    }
}

/// A file that is longer has the reason in its head.
#[test]
fn no_source_file_is_longer_than_500_lines() {
    for folder in crate_folders() {
        for (module, source) in sources(&root().join(&folder).join("src")) {
            let lines = lines_of_code(&source);
            assert!(
                lines <= 500 || source.contains("Longer than 500 lines"),
                "{folder}/{module}: a file of {lines} lines"
            );
        }
    }
}

/// `cargo deny check` tests the same; this test needs no tool.
#[test]
fn dependencies_have_one_version_except_those_in_deny_toml() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).expect("readable");
    let (lock, deny) = (read("Cargo.lock"), read("deny.toml"));
    let value = |line: &str, key: &str| {
        line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"').map(str::to_owned)
    };
    let lines: Vec<&str> = lock.lines().collect();
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for pair in lines.windows(2) {
        if let (Some(name), Some(version)) = (value(pair[0], "name"), value(pair[1], "version")) {
            versions.entry(name).or_default().insert(version);
        }
    }
    assert!(versions.len() > 100, "{} crates", versions.len());
    let named: BTreeSet<&str> = deny.split('"').filter(|word| word.contains('@')).collect();
    for (name, versions) in &versions {
        let others: Vec<&String> = versions
            .iter()
            .filter(|version| !named.contains(format!("{name}@{version}").as_str()))
            .collect();
        assert!(
            others.len() <= 1,
            "{name} has the versions {others:?}: use one, or name the others in deny.toml"
        );
    }
    for known in named {
        let (name, version) = known.split_once('@').expect("it has one");
        assert!(
            versions.get(name).is_some_and(|versions| versions.contains(version)),
            "deny.toml names {known}, which is not used any more"
        );
    }
}
