//! The plan of the house, held: who may name whom, and what the pure rooms never name.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Which rooms a room may name. A missing arrow is a decision: add it here and in `docs/architecture.md`, with its reason.
const ARROWS: [(&str, &[&str]); 14] = [
    ("wire", &[]),
    ("lens", &["wire"]),
    ("shield", &[]),
    ("filters", &["wire", "lens", "shield"]),
    ("routing", &["lens"]),
    ("onnx", &[]),
    ("observatory", &["lens", "wire"]),
    ("config", &["wire", "filters", "routing"]),
    ("kubernetes", &["config"]),
    ("testbench", &["wire", "lens"]),
    ("gateway", &["wire", "lens", "shield", "filters", "routing", "onnx", "kubernetes", "observatory", "config"]),
    ("cli", &["config", "gateway", "testbench", "lens", "shield", "filters"]),
    ("tests", &["wire", "lens", "config", "routing"]),
    ("benches", &["wire", "lens", "shield", "filters", "routing"]),
];

/// What pure rooms never name: runtimes, sockets, databases.
const IMPURE: [&str; 8] = ["tokio", "pingora", "hyper", "socket2", "nix", "rusqlite", "reqwest", "rustls"];
const PURE: [&str; 5] = ["wire", "lens", "shield", "filters", "routing"];

/// Direct dependencies of each room, tests' own included apart.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
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

fn room(package: &str) -> Option<&str> {
    package.strip_prefix("llm-lens-")
}

#[test]
fn every_arrow_points_down() {
    let allowed: BTreeMap<_, _> = ARROWS.into_iter().collect();
    for (package, dependencies) in dependencies() {
        let this = room(&package).unwrap_or_else(|| panic!("{package} is no room: name it llm-lens-..."));
        let arrows = allowed.get(this).unwrap_or_else(|| panic!("the room {this} is not in the plan"));
        for other in dependencies.iter().filter_map(|d| room(d)) {
            assert!(arrows.contains(&other), "{this} must not name {other}");
        }
    }
}

#[test]
fn pure_rooms_name_no_runtime_and_no_socket() {
    let all = dependencies();
    for pure in PURE {
        for dependency in &all[&format!("llm-lens-{pure}")] {
            assert!(!IMPURE.iter().any(|i| dependency.starts_with(i)), "{pure} must not name {dependency}");
        }
    }
}

#[test]
fn only_the_gateway_knows_pingora() {
    for (package, dependencies) in dependencies() {
        let knows = dependencies.iter().any(|d| d.starts_with("pingora"));
        // The benches run an idle pingora as a peer to compare with.
        assert!(!knows || matches!(package.as_str(), "llm-lens-gateway" | "llm-lens-benches"), "{package} must not name pingora");
    }
}
