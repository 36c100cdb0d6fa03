//! What is exported, against the tables of the conventions and against the committed list.
//!
//! `conventions.txt` is written from the conventions. `exported.txt` lists everything that the
//! gateway exports, for each value of the opt-in, and is made by
//! `UPDATE_DOCS=1 cargo test -p llm-lens-otlp`. `make test-stack` compares what an official decoder
//! receives with it.

use std::collections::{BTreeMap, BTreeSet};

use lens::Record;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::json;

use super::*;
use crate::{logs, metrics, traces};

const TABLE: &str = include_str!("conventions.txt");
const EXPORTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/semconv/exported.txt");
const HEAD: &str = "\
# Everything that is exported over OTLP. Do not edit: UPDATE_DOCS=1 cargo test -p llm-lens-otlp
# Modes: v1.41 (default), latest (gen_ai_latest_experimental), dup (gen_ai_latest_experimental/dup).
# metric | modes | name | kind | unit | boundaries | attributes; not those of embeddings
# embeddings | the same for GenAI metrics of embeddings
# span | modes | kind | attribute | type
# event | modes | name | attribute | type; an event of a span, - if it has no attribute
# log | modes | event name | attribute | type
";

/// The modes, their names in `exported.txt`, and which conventions they export.
const MODES: [(&str, &str, &[&str]); 3] = [
    ("", "v1.41", &["v1.41"]),
    ("gen_ai_latest_experimental", "latest", &["latest"]),
    ("gen_ai_latest_experimental/dup", "dup", &["v1.41", "latest"]),
];

/// Rows of a table, by the first cell.
fn rows<'t>(table: &'t str, kind: &str) -> Vec<Vec<&'t str>> {
    let lines = table.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let rows = lines.map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    rows.filter(|row| row[0] == kind).map(|row| row[1..].to_vec()).collect()
}

/// Rows of the conventions that a mode exports: those with one of these words.
fn of_mode(kind: &str, conventions: &[&str]) -> Vec<Vec<&'static str>> {
    let mut rows = rows(TABLE, kind);
    rows.retain(|row| row[0].split(' ').any(|word| conventions.contains(&word)));
    rows
}

fn numbers(bounds: &[f64]) -> String {
    bounds.iter().map(f64::to_string).collect::<Vec<_>>().join(" ")
}

/// Attributes of an instrument: the labels of its row by their keys.
fn keys(row: &Metric, instrument: &Instrument) -> BTreeSet<String> {
    let labels = row.labels.iter().filter(|label| **label != "*");
    let mut keys: BTreeSet<String> = labels.map(|label| attribute(label).to_owned()).collect();
    if !instrument.has_token_type {
        keys.remove("gen_ai.token.type");
    }
    if instrument.has_modality {
        keys.insert("gen_ai.token.modality".into());
    }
    let has_server = ["server.address", "gen_ai.provider.name"].map(|key| keys.contains(key));
    if has_server.contains(&true) {
        keys.extend(["server.address", "server.port"].map(str::to_owned));
    }
    keys
}

/// Cells of all metrics of an operation: name, kind, unit, bounds, attributes.
fn metric_rows(conventions: Conventions, operation: &str) -> BTreeSet<[String; 5]> {
    let mut all = BTreeSet::new();
    for row in catalog::CATALOG {
        let types: &[&str] =
            if row.labels.contains(&"gen_ai_token_type") { &["input", "output"] } else { &[""] };
        for instrument in
            types.iter().flat_map(|kind| instruments(row, conventions, operation, kind))
        {
            let kind = match instrument.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let keys = keys(row, &instrument).into_iter().collect::<Vec<_>>().join(" ");
            all.insert([
                instrument.name.to_string(),
                kind.to_owned(),
                instrument.unit.to_owned(),
                numbers(instrument.bounds),
                keys,
            ]);
        }
    }
    all
}

fn type_of(pair: &KeyValue) -> &'static str {
    match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(_)) => "string",
        Some(any_value::Value::IntValue(_)) => "int",
        Some(any_value::Value::DoubleValue(_)) => "double",
        Some(any_value::Value::BoolValue(_)) => "bool",
        Some(any_value::Value::ArrayValue(_)) => "string[]",
        other => panic!("{}: {other:?}", pair.key),
    }
}

/// Records that together have everything a span or a log record can have.
fn records() -> Vec<Record> {
    let filter = json!({"filter": "pii", "side": "input", "verdict": "redact", "calls": 1, "cpu_us": 500,
        "queue_us": 0, "remote_us": 0, "wall_us": 600, "critical": true, "failure": "timeout"});
    let states = lens::State::ALL.map(|state| (state.name(), 1));
    let full = json!({
        "pool": "p", "chosen": "least", "cost": 0.1, "client_ttft_us": 51_000, "engine_ttft_us": 20_000,
        "outcome": "upstream_failed", "error_code": "upstream_died",
        "usage": {"prompt_tokens": 5, "completion_tokens": 9, "cached_tokens": 2, "cache_write_tokens": 1,
            "reasoning_tokens": 3, "estimated": false},
        "engine_split": {"queue_us": 1_000, "load_us": 1_000, "prefill_us": 5_000, "decode_us": 50_000,
            "unexplained_us": 13_000},
        "failed_attempts": [
            {"backend": "x", "code": "http_503", "http_status": 503, "us": 4_000, "at_us": 21_000, "span_id": "00000000000000a3"},
            {"backend": "y", "code": "overloaded", "us": 10, "at_us": 26_000}
        ],
        "hedge": {"backend": "h", "won": false, "after_us": 10_000, "span_id": "00000000000000a4"},
        "resumes": [{"backend": "b", "after_tokens": 7, "at_us": 80_000}],
        "stall_times": [{"at_us": 70_000, "us": 15_000}],
        "guardrail": {"guardrail": "g", "mode": "enforce", "held_events": 0, "held_bytes_max": 0,
            "verdict": "redact", "risk": 0.5, "filters": [filter]},
        "ledger_us": states.into_iter().collect::<BTreeMap<_, _>>(),
    });
    let disagrees = json!({"engine_split": {"prefill_us": 900_000, "disagrees": true}});
    let estimated = json!({"usage": {"completion_tokens": 9, "estimated": true}});
    let rejected = json!({"backend": null, "upstream_span_id": null, "sent_us": null, "outcome": "rejected",
        "error_code": "no_route", "http_status": 404});
    let embeddings = json!({"dialect": "embeddings", "stream": false, "finish_reasons": []});
    let changes = [full, disagrees, estimated, rejected, embeddings, json!({"dialect": null})];
    changes.into_iter().map(traces::tests::record).collect()
}

/// Rows of the attributes of spans, of their events, and of log records.
fn attribute_rows(conventions: Conventions) -> BTreeSet<[String; 4]> {
    let mut all = BTreeSet::new();
    let mut add = |kind: &str, name: &str, attributes: &[KeyValue]| {
        for pair in attributes {
            let cells = [kind, name, &*pair.key, type_of(pair)];
            all.insert(cells.map(str::to_owned));
        }
        if attributes.is_empty() {
            all.insert([kind, name, "-", "-"].map(str::to_owned));
        }
    };
    for record in records() {
        for span in traces::spans(&record, conventions) {
            let kind = match SpanKind::try_from(span.kind) {
                Ok(SpanKind::Server) => "server",
                Ok(SpanKind::Client) => "client",
                Ok(SpanKind::Internal) => "internal",
                other => panic!("{other:?}"),
            };
            if !span.attributes.is_empty() {
                add("span", kind, &span.attributes);
            }
            span.events.iter().for_each(|event| add("event", &event.name, &event.attributes));
        }
        let log = logs::log_record(&record, conventions, true);
        add("log", &log.event_name, &log.attributes);
    }
    all
}

/// The text of `exported.txt`.
fn exported() -> String {
    let mut modes_of: BTreeMap<(usize, Vec<String>), Vec<&str>> = BTreeMap::new();
    for (opt_in, mode, _) in MODES {
        let conventions = Conventions::from_opt_in(opt_in);
        let metrics = metric_rows(conventions, "chat");
        let embeddings = metric_rows(conventions, EMBEDDINGS);
        let embeddings =
            embeddings.iter().filter(|row| row[0].contains("gen_ai.") || row[0] == OWN_TOKEN_USAGE);
        let kinds = ["span", "event", "log"];
        let mut rows: Vec<(usize, Vec<String>)> = Vec::new();
        rows.extend(metrics.iter().map(|row| (0, [&["metric".to_owned()], &row[..]].concat())));
        rows.extend(embeddings.map(|row| (1, [&["embeddings".to_owned()], &row[..]].concat())));
        rows.extend(attribute_rows(conventions).into_iter().map(|row| {
            let order = kinds.iter().position(|kind| *kind == row[0]).expect("one of three");
            (2 + order, row.to_vec())
        }));
        rows.into_iter().for_each(|row| modes_of.entry(row).or_default().push(mode));
    }
    let mut text = HEAD.to_owned();
    for ((_, cells), modes) in modes_of {
        let line = format!("{} | {} | {}", cells[0], modes.join(" "), cells[1..].join(" | "));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[test]
fn the_committed_list_is_what_is_exported() {
    let text = exported();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(EXPORTED, text).expect("the list is writable");
        return;
    }
    let committed = std::fs::read_to_string(EXPORTED).unwrap_or_default();
    assert!(committed == text, "{EXPORTED} is old; run UPDATE_DOCS=1 cargo test -p llm-lens-otlp");
}

/// Names, kinds, units and boundaries of GenAI metrics are exactly those of the conventions, and
/// have all required attributes and no others but our own.
#[test]
fn gen_ai_metrics_are_those_of_the_conventions_in_each_mode() {
    let bounds: BTreeMap<&str, &str> =
        rows(TABLE, "bounds").into_iter().map(|row| (row[0], row[1])).collect();
    let modes = MODES.iter().map(|(opt_in, _, conventions)| (*opt_in, *conventions));
    let others = [
        ("http,database/dup", &["v1.41"][..]),
        ("http, gen_ai_latest_experimental", &["latest"][..]),
    ];
    for (opt_in, conventions) in modes.chain(others) {
        let mut want = of_mode("metric", conventions);
        want.sort_by_key(|row| row[1]);
        let all = metric_rows(Conventions::from_opt_in(opt_in), "chat");
        let got: Vec<_> = all.iter().filter(|row| row[0].starts_with("gen_ai.")).collect();
        let names = |names: Vec<&str>| names.join("\n");
        assert_eq!(
            names(got.iter().map(|row| &*row[0]).collect()),
            names(want.iter().map(|row| row[1]).collect()),
            "{opt_in:?}"
        );
        for (got, want) in got.iter().zip(&want) {
            let [_, name, kind, unit, boundaries, required, others] = want[..] else {
                panic!("{want:?}");
            };
            let boundaries = bounds.get(boundaries).copied().unwrap_or_default();
            assert_eq!([&*got[1], &*got[2], &*got[3]], [kind, unit, boundaries], "{name}");
            let keys: BTreeSet<&str> = got[4].split(' ').collect();
            for key in required.split(' ') {
                assert!(keys.contains(key), "{name} has no {key}");
            }
            for key in keys {
                let is_known =
                    [required, others].iter().any(|all| all.split(' ').any(|it| it == key));
                assert!(is_known || key.starts_with("llm_lens."), "{name}: {key}");
            }
        }
    }
}

/// Attributes of spans and log records are those of the conventions, of the same type, or our own.
#[test]
fn attributes_are_those_of_the_conventions_in_each_mode() {
    for (opt_in, mode, conventions) in MODES {
        let known: BTreeMap<&str, &str> =
            of_mode("attribute", conventions).into_iter().map(|row| (row[1], row[2])).collect();
        let rows = attribute_rows(Conventions::from_opt_in(opt_in));
        for [_, name, key, kind] in rows.iter().filter(|row| row[2] != "-") {
            let is_own = key.starts_with("llm_lens.");
            assert!(
                is_own || known.get(&**key) == Some(&&**kind),
                "{mode}: {name} has {key}: {kind}"
            );
        }
        // What the conventions have and the gateway knows is exported.
        for row in of_mode("attribute", conventions).iter().filter(|row| row[3] != "http") {
            for name in ["client", logs::INFERENCE] {
                let has = |cells: &[String; 4]| cells[1] == name && cells[2] == row[1];
                assert!(rows.iter().any(has), "{mode}: {name} has no {}", row[1]);
            }
        }
    }
}

#[test]
fn the_event_of_an_inference_has_all_required_attributes() {
    for record in records() {
        let log = logs::log_record(&record, Conventions::V141, true);
        let required =
            of_mode("attribute", &["v1.41"]).into_iter().filter(|row| row[3] == "required");
        for row in required.filter(|_| log.event_name == logs::INFERENCE) {
            assert!(log.attributes.iter().any(|pair| pair.key == row[1]), "{log:?}");
        }
    }
}

/// Everything that an observatory exports is in the list.
#[test]
fn data_points_have_the_attributes_of_the_list() {
    for (opt_in, mode, _) in MODES {
        let conventions = Conventions::from_opt_in(opt_in);
        for operation in ["chat", EMBEDDINGS] {
            let rows = metric_rows(conventions, operation);
            for (name, keys) in metrics::tests::attribute_keys(conventions, operation) {
                let row = rows.iter().find(|row| row[0] == name).expect("it is in the list");
                let known: BTreeSet<&str> = row[4].split(' ').collect();
                // The operator's labels of a route.
                let own = |key: &&String| key.as_str() != "team";
                for key in keys.iter().filter(own) {
                    assert!(known.contains(&**key), "{mode}: {name} has {key}");
                }
            }
        }
    }
}

/// `semconv-genai` has no token metric for embeddings, and v1.41's must not stand beside its own.
#[test]
fn embeddings_keep_their_duration_and_no_opt_in_has_both_token_instruments() {
    let names = |conventions, operation| -> BTreeSet<String> {
        metric_rows(conventions, operation).into_iter().map(|[name, ..]| name).collect()
    };
    let latest = names(Conventions::Latest, EMBEDDINGS);
    assert!(latest.contains("gen_ai.client.operation.duration"), "{latest:?}");
    for operation in ["chat", "text_completion", EMBEDDINGS] {
        assert!(!names(Conventions::Latest, operation).contains("gen_ai.client.token.usage"));
    }
    let own = metric_rows(Conventions::Latest, EMBEDDINGS);
    let own = own.iter().find(|row| row[0] == OWN_TOKEN_USAGE).expect("it is there");
    assert!(own[4].contains("gen_ai.token.type"));
}

/// A collector that exports to Prometheus adds the unit and `_total`, which gives the catalog's
/// names again, so that dashboards serve both ways.
#[test]
fn own_names_become_the_catalogs_in_prometheus() {
    for [own, kind, unit, ..] in metric_rows(Conventions::V141, "chat") {
        if own.starts_with("process.") {
            continue;
        }
        let mut name = own.replace('.', "_");
        name += match (&*unit, &*kind) {
            ("s", _) => "_seconds",
            ("By", _) => "_bytes",
            ("1", "gauge") => "_ratio",
            _ => "",
        };
        if kind == "counter" {
            name += "_total";
        }
        let name = name.replace("llm_lens_process_", "process_");
        assert!(catalog::find(&name).is_some(), "{own} becomes {name}");
    }
}

#[test]
fn labels_of_the_operator_keep_their_names() {
    for (label, key) in [("route", "llm_lens.route"), ("state", "llm_lens.state"), ("team", "team")]
    {
        assert_eq!(attribute(label), key);
    }
}
