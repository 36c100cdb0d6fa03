//! The files of `deploy/` are true: settings are valid, metrics exist, ports and times agree,
//! dashboards are those of `crates/grafana`.
//!
//! `tests/stack/part_deploy.py` runs the tools of others on these files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use observatory::catalog::{self, Kind};
use regex::Regex;
use saphyr::{LoadableYamlNode, Yaml};
use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files below `deploy/`, by their path from there. Links are left out: their targets are below
/// `deploy/`, too.
fn deploy_files() -> BTreeMap<String, String> {
    let top = root().join("deploy");
    let (mut found, mut folders) = (BTreeMap::new(), vec![top.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let (path, kind) = (entry.path(), entry.file_type().expect("a type"));
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                let name = path.strip_prefix(&top).expect("below it").display().to_string();
                found.insert(name, std::fs::read_to_string(path).expect("text"));
            }
        }
    }
    assert!(found.len() > 30, "{} files", found.len());
    found
}

/// The dashboards are those that the catalog gives.
#[test]
fn dashboards_are_up_to_date() {
    let folder = root().join("deploy/grafana/dashboards");
    let wanted: BTreeMap<String, String> = grafana::files()
        .into_iter()
        .map(|file| (file.name, format!("{:#}\n", file.dashboard)))
        .collect();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("writable");
        for (name, text) in &wanted {
            std::fs::write(folder.join(name), text).expect("writable");
        }
        return;
    }
    let there: BTreeMap<String, String> = deploy_files()
        .into_iter()
        .filter_map(|(name, text)| {
            Some((name.strip_prefix("grafana/dashboards/")?.to_owned(), text))
        })
        .collect();
    assert!(
        there == wanted,
        "deploy/grafana/dashboards is not up to date: run `UPDATE_DOCS=1 cargo test -p \
         llm-lens-tests --test deploy`"
    );
}

/// Panels do not overlap, each has queries and a description, and variables that they use exist.
#[test]
fn dashboards_are_complete() {
    let variable = Regex::new(r"\$\{?([a-z_]+)").expect("a valid pattern");
    let mut ids = BTreeSet::new();
    for grafana::File { name, dashboard } in grafana::files() {
        assert!(ids.insert(dashboard["uid"].to_string()), "{name}");
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let variables: BTreeSet<String> = list(&dashboard["templating"]["list"])
            .iter()
            .map(|variable| variable["name"].as_str().expect("a name").to_owned())
            .chain(["__rate_interval", "__range"].map(str::to_owned))
            .collect();
        let mut cells = BTreeSet::new();
        for panel in list(&dashboard["panels"]) {
            let title = format!("{name}: {}", panel["title"]);
            let place = |key: &str| panel["gridPos"][key].as_u64().expect("a number");
            for x in place("x")..place("x") + place("w") {
                assert!(x < 24, "{title}: outside of the grid");
                for y in place("y")..place("y") + place("h") {
                    assert!(cells.insert((x, y)), "{title}: overlaps another panel");
                }
            }
            if panel["type"] == "row" {
                continue;
            }
            assert!(panel["description"].as_str().is_some_and(|it| it.ends_with('.')), "{title}");
            let targets = list(&panel["targets"]);
            assert!(!targets.is_empty(), "{title}");
            for expression in targets.iter().map(|target| target["expr"].as_str().expect("text")) {
                for found in variable.captures_iter(expression) {
                    assert!(variables.contains(&found[1]), "{title}: {expression}");
                }
            }
        }
    }
}

/// Labels of the conventions look like metrics.
const LABELS: [&str; 5] = [
    "gen_ai_operation_name",
    "gen_ai_provider_name",
    "gen_ai_request_model",
    "gen_ai_response_model",
    "gen_ai_token_type",
];

/// Every metric in rules, alerts, dashboards, queries of KEDA and templates is in the catalog, and
/// every recorded series is recorded.
#[test]
fn metrics_of_all_files_exist() {
    let word = Regex::new(r"[a-z0-9_:]*(llm_lens|gen_ai|process)_[a-z0-9_:]+").expect("valid");
    let rules = read("deploy/prometheus/rules.yaml");
    let recorded: BTreeSet<&str> = rules
        .lines()
        .filter_map(|line| line.split_once("- record: ").map(|(_, name)| name))
        .collect();
    let is_metric = |name: &str| {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let histogram = base.and_then(catalog::find).filter(|row| row.kind == Kind::Histogram);
        catalog::find(name).or(histogram).is_some()
    };
    let mut users = BTreeSet::new();
    for (file, text) in deploy_files() {
        for found in word.find_iter(&text).map(|found| found.as_str().trim_end_matches([':', '_']))
        {
            if found.contains(":llm_lens_") {
                assert!(recorded.contains(found), "{file}: {found} is not recorded");
            } else if !LABELS.contains(&found) && found != "llm_lens" {
                assert!(is_metric(found), "{file}: {found} is not in the catalog");
            }
            users.insert(file.clone());
        }
    }
    for file in ["helm/llm-lens/templates/scaling.yaml", "grafana/dashboards/llm-lens-latency.json"]
    {
        assert!(users.contains(file), "{file} names no metric");
    }
}

/// The settings in the chart's values, as a file.
fn settings_of_chart() -> String {
    let values = read("deploy/helm/llm-lens/values.yaml");
    let (_, rest) = values.split_once("\nsettings:\n").expect("the values have settings");
    rest.lines()
        .take_while(|line| line.is_empty() || line.starts_with("  "))
        .map(|line| format!("{}\n", line.strip_prefix("  ").unwrap_or_default()))
        .collect()
}

/// All settings files, by their name.
fn settings_files() -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = deploy_files()
        .into_iter()
        .filter(|(name, _)| {
            Path::new(name).file_name().is_some_and(|name| {
                let name = name.to_string_lossy();
                name.starts_with("gateway") && name.ends_with(".yaml") && !name.contains("service")
            })
        })
        .collect();
    assert_eq!(all.len(), 4, "docker, compose, compose with shared stores, systemd");
    all.push(("helm".into(), settings_of_chart()));
    all
}

/// `llm-lens check` accepts every settings file, with its folders below a temporary one.
#[test]
fn every_settings_file_passes_the_check() {
    for (name, text) in settings_files() {
        let folder = kit::gateway::folder();
        let mut text = text;
        for path in ["/var/lib/llm-lens", "/var/log/llm-lens"] {
            let there = folder.join(path.trim_start_matches('/'));
            std::fs::create_dir_all(&there).expect("writable");
            text = text.replace(path, &there.display().to_string());
        }
        let file = folder.join("gateway.yaml");
        std::fs::write(&file, &text).expect("writable");
        let checked = Command::new(kit::gateway::binary())
            .arg("check")
            .arg(&file)
            .env("ENGINE_URL", "http://engine:8000")
            .env("POSTGRES_PASSWORD", "secret")
            .stdin(Stdio::null())
            .output()
            .expect("the binary runs");
        let problems = String::from_utf8_lossy(&checked.stderr).into_owned();
        let _ = std::fs::remove_dir_all(folder);
        assert_eq!((checked.status.code(), problems.as_str()), (Some(0), ""), "{name}");
    }
}

fn default_settings() -> config::Settings {
    config::parse(
        "minimal",
        "backends: [{name: e, url: 'http://e'}]\nroutes: [{name: r, backend: e}]\n",
    )
    .expect("valid")
}

/// Ports of containers, probes, targets and examples are the default ones.
#[test]
fn ports_agree_with_the_defaults() {
    let defaults = default_settings();
    let (client, admin) = (defaults.listeners[0].address.port(), defaults.admin.address.port());
    for (name, text) in settings_files() {
        for wanted in [format!("address: 0.0.0.0:{client}\n"), format!(":{admin}\n")] {
            assert!(text.contains(&wanted), "{name}: {wanted}");
        }
    }
    for (file, wanted) in [
        ("docker/Dockerfile", format!("EXPOSE {client} {admin}\n")),
        ("docker/Dockerfile", format!("\"probe\", \"127.0.0.1:{admin}\"")),
        ("compose/compose.yaml", format!("- \"{client}:{client}\"")),
        ("compose/compose.yaml", format!("- \"127.0.0.1:{admin}:{admin}\"")),
        ("compose/prometheus.yaml", format!("\"gateway:{admin}\"")),
        ("prometheus/prometheus.yaml", format!("\"127.0.0.1:{admin}\"")),
    ] {
        assert!(read(&format!("deploy/{file}")).contains(&wanted), "{file}: {wanted}");
    }
}

/// A number behind a key, in seconds.
fn seconds(file: &str, key: &str) -> Duration {
    let text = read(&format!("deploy/{file}"));
    let pattern = Regex::new(&format!(r"(?m)^\s*{key}[:=] ?(\d+)s?$")).expect("valid");
    let found = pattern.captures(&text).unwrap_or_else(|| panic!("{file} has no {key}"));
    Duration::from_secs(found[1].parse().expect("a number"))
}

/// The manager of the process waits longer than a drain takes.
#[test]
fn drains_end_before_the_process_is_killed() {
    let rest = Duration::from_secs(5);
    let chart = config::parse("chart", &settings_of_chart()).expect("valid").shutdown;
    let shutdown = default_settings().shutdown;
    let values = "helm/llm-lens/values.yaml";
    let wait = seconds(values, "terminationGracePeriodSeconds");
    assert!(wait >= chart.delay + chart.grace + rest, "{values}: {wait:?}");
    for (file, key) in [
        ("compose/compose.yaml", "stop_grace_period"),
        ("systemd/llm-lens@.service", "TimeoutStopSec"),
    ] {
        let wait = seconds(file, key);
        assert!(wait >= shutdown.delay + shutdown.grace + rest, "{file}: {wait:?}");
    }
}

/// The image is built of what its build context has.
#[test]
fn the_build_context_has_every_source_of_the_binary() {
    let ignore = read("deploy/docker/Dockerfile.dockerignore");
    let kept: Vec<&str> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let is_kept = |path: &str| {
        kept.iter()
            .any(|kept| path.strip_prefix(kept).is_some_and(|r| r.is_empty() || r.starts_with('/')))
    };
    let binary = kit::gateway::binary();
    let list = binary.with_extension("d");
    let sources = std::fs::read_to_string(&list)
        .unwrap_or_else(|error| panic!("{}, which cargo writes: {error}", list.display()));
    let top = root().canonicalize().expect("it exists").display().to_string() + "/";
    // BINARY: SOURCE SOURCE ...
    let (_, sources) = sources.split_once(": ").expect("a list of sources");
    let ours: Vec<&str> =
        sources.split_whitespace().filter_map(|path| path.strip_prefix(&top)).collect();
    assert!(ours.len() > 200, "{} sources of this repository", ours.len());
    for path in ours.iter().filter(|path| !path.starts_with(".git/")) {
        assert!(is_kept(path), "{path} is not in deploy/docker/Dockerfile.dockerignore");
    }
    let manifest = read("Cargo.toml");
    let (_, members) = manifest.split_once("members = [").expect("members");
    for member in members.split_once(']').expect("an end").0.split('"').skip(1).step_by(2) {
        assert!(is_kept(member.trim_end_matches("/*")), "{member}");
    }
}

/// Labels and times of the log pipeline are fields of the access log.
#[test]
fn fields_of_the_log_pipeline_are_in_the_access_log() {
    let config = read("deploy/logs/config.alloy");
    let source = read("observatory/src/access_log.rs");
    let line = source.split_once("struct Line").expect("the line").1;
    let line = line.split_once("\n}").expect("its end").0;
    let field = Regex::new(r"(?m)^\s*(\w+)\s*= ").expect("valid");
    let (_, stage) = config.split_once("expressions = {\n").expect("the fields");
    let stage = stage.split_once('}').expect("their end").0;
    let fields: Vec<String> = field.captures_iter(stage).map(|found| found[1].to_owned()).collect();
    assert!(fields.len() >= 5, "{fields:?}");
    for field in fields {
        assert!(line.contains(&format!("\n    {field}: ")), "{field} is not in the access log");
    }
}

/// One version everywhere.
#[test]
fn versions_agree() {
    let manifest = read("Cargo.toml");
    let version = manifest
        .lines()
        .find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'))
        .expect("the version of the workspace");
    let chart = read("deploy/helm/llm-lens/Chart.yaml");
    for wanted in [format!("version: {version}\n"), format!("appVersion: \"{version}\"\n")] {
        assert!(chart.contains(&wanted), "{wanted}");
    }
}

/// The scripts of a file of `deploy/ci`: blocks behind `run: |` and `- |`.
fn scripts(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if !(line.ends_with("run: |") || line.trim() == "- |") {
            continue;
        }
        let indent = |line: &str| line.len() - line.trim_start().len();
        let depth = lines.peek().map_or(0, |first| indent(first));
        let mut script = String::new();
        while let Some(inner) = lines.next_if(|next| next.is_empty() || indent(next) >= depth) {
            script.push_str(inner.get(depth..).unwrap_or_default());
            script.push('\n');
        }
        found.push(script);
    }
    found
}

const CI_FILES: [&str; 2] = ["ci/github/action.yml", "ci/gitlab/llm-lens-gate.yml"];

/// The files are YAML, with the fields that each service requires.
#[test]
fn ci_templates_are_valid_yaml() {
    for file in CI_FILES {
        let text = read(&format!("deploy/{file}"));
        let documents = Yaml::load_from_str(&text).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert_eq!(documents.len(), 1, "{file}");
    }
    let action = read("deploy/ci/github/action.yml");
    let used = Regex::new(r"inputs\.([a-z-]+)").expect("valid");
    for input in used.captures_iter(&action).map(|found| found[1].to_owned()) {
        assert!(action.contains(&format!("\n  {input}:\n    description: ")), "{input}");
    }
    // A value in a script would be run as one: inputs come through the environment.
    for script in scripts(&action) {
        assert!(!script.contains("${{"), "{script}");
    }
    // A composite action requires a shell for each script.
    let count = |text: &str| action.matches(text).count();
    assert_eq!(count("\n      run: "), count("\n      shell: bash"));
    let template = read("deploy/ci/gitlab/llm-lens-gate.yml");
    let named = Regex::new(r"\$(LLM_LENS_[A-Z_]+)").expect("valid");
    for name in named.captures_iter(&template).map(|found| found[1].to_owned()) {
        assert!(template.contains(&format!("\n    {name}: \"")), "{name} has no default");
    }
}

/// Every command of the templates and of the documentation is one of the binary, with its flags.
#[test]
fn ci_commands_exist() {
    let command = Regex::new(r"llm-lens (run|gate)\b([^\n`|]*)").expect("valid");
    let flag = Regex::new(r"--[a-z][a-z-]*").expect("valid");
    let help = |name: &str| {
        let output = Command::new(kit::gateway::binary()).args([name, "--help"]).output();
        String::from_utf8(output.expect("the binary runs").stdout).expect("text")
    };
    let known: BTreeMap<&str, String> = ["run", "gate"].map(|name| (name, help(name))).into();
    let mut checked = 0;
    let mut texts: Vec<String> = CI_FILES.map(|file| read(&format!("deploy/{file}"))).into();
    texts.push(read("docs/gate.md"));
    for text in texts.iter().map(|text| text.replace("\\\n", " ")) {
        for found in command.captures_iter(&text) {
            for flag in flag.find_iter(&found[2]) {
                let line = format!("{} ", flag.as_str());
                let help = &known[&found[1]];
                let exists = help.contains(&line) || help.contains(&format!("{}\n", flag.as_str()));
                assert!(exists, "llm-lens {} has no {}", &found[1], flag.as_str());
                checked += 1;
            }
        }
    }
    assert!(checked > 30, "{checked} flags");
}

/// The shell can parse every script.
#[test]
fn ci_scripts_are_valid() {
    for file in CI_FILES {
        let scripts = scripts(&read(&format!("deploy/{file}")));
        assert!(scripts.len() >= 2, "{file}");
        for script in scripts {
            let checked = Command::new("sh").args(["-n", "-c", &script]).output().expect("a shell");
            let problems = String::from_utf8_lossy(&checked.stderr).into_owned();
            assert!(checked.status.success(), "{file}: {problems}\n{script}");
        }
    }
}

/// The arguments in the templates are accepted as they are.
#[test]
fn ci_defaults_are_accepted() {
    let template = read("deploy/ci/gitlab/llm-lens-gate.yml");
    let default = |name: &str| {
        let (_, rest) = template.split_once(&format!("\n    {name}: \"")).expect("a default");
        rest.split_once('"').expect("its end").0.to_owned()
    };
    let gate = |arguments: &str| {
        let mut command = Command::new(kit::gateway::binary());
        command.args(["gate", "--baseline", "missing.json", "--candidate", "missing.json"]);
        command.args(["--fail-on", &default("LLM_LENS_FAIL_ON")]);
        command.args(arguments.split_whitespace());
        command.stdin(Stdio::null()).output().expect("the binary runs")
    };
    // A missing baseline is named, and its exit code is that of wrong arguments.
    let output = gate(&default("LLM_LENS_GATE_ARGUMENTS"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text.contains("gate: not comparable\n  cannot read missing.json"), "{output:?}");
    let mut command = Command::new(kit::gateway::binary());
    command.args(["run", "--base-url", "127.0.0.1:1"]);
    command.args(default("LLM_LENS_RUN_ARGUMENTS").split_whitespace());
    let output = command.stdin(Stdio::null()).output().expect("the binary runs");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("has no scheme; write http://127.0.0.1:1"), "{errors}");
}
