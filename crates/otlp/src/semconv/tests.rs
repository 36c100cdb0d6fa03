//! The exported names against the conventions, written by hand from their tables.

use super::*;

const SECONDS: &[f64] =
    &[0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
const TPOT: &[f64] = &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];
const TTFT: &[f64] =
    &[0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
const TOKENS: &[f64] = &[
    1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0,
    16777216.0, 67108864.0,
];

type Row = (&'static str, &'static str, Kind, &'static [f64]);

const SERVER: [Row; 3] = [
    ("gen_ai.server.request.duration", "s", Kind::Histogram, SECONDS),
    ("gen_ai.server.time_per_output_token", "s", Kind::Histogram, TPOT),
    ("gen_ai.server.time_to_first_token", "s", Kind::Histogram, TTFT),
];
/// Semantic conventions v1.41.
const V141: [Row; 4] = [
    ("gen_ai.client.operation.duration", "s", Kind::Histogram, SECONDS),
    ("gen_ai.client.operation.time_per_output_chunk", "s", Kind::Histogram, SECONDS),
    ("gen_ai.client.operation.time_to_first_chunk", "s", Kind::Histogram, SECONDS),
    ("gen_ai.client.token.usage", "{token}", Kind::Histogram, TOKENS),
];
/// `semantic-conventions-genai` v0.1.0.
const LATEST: [Row; 10] = [
    ("gen_ai.client.inference.duration", "s", Kind::Histogram, SECONDS),
    ("gen_ai.client.inference.operation.input_tokens", "{token}", Kind::Histogram, TOKENS),
    ("gen_ai.client.inference.operation.output_tokens", "{token}", Kind::Histogram, TOKENS),
    ("gen_ai.client.inference.time_per_output_chunk", "s", Kind::Histogram, SECONDS),
    ("gen_ai.client.inference.time_to_first_chunk", "s", Kind::Histogram, SECONDS),
    ("gen_ai.client.inference.usage.cache_read.input_tokens", "{token}", Kind::Counter, &[]),
    ("gen_ai.client.inference.usage.cache_write.input_tokens", "{token}", Kind::Counter, &[]),
    ("gen_ai.client.inference.usage.input_tokens", "{token}", Kind::Counter, &[]),
    ("gen_ai.client.inference.usage.output_tokens", "{token}", Kind::Counter, &[]),
    ("gen_ai.client.inference.usage.reasoning.output_tokens", "{token}", Kind::Counter, &[]),
];

/// All instruments of an operation, by name.
fn all(conventions: Conventions, operation: &str) -> Vec<Instrument> {
    let mut all: Vec<Instrument> = catalog::CATALOG
        .iter()
        .flat_map(|row| {
            let types: &[&str] = if row.labels.contains(&"gen_ai_token_type") {
                &["input", "output"]
            } else {
                &[""]
            };
            types.iter().flat_map(|kind| instruments(row, conventions, operation, kind))
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all.dedup();
    all
}

fn of_gen_ai(
    conventions: Conventions,
    operation: &str,
) -> Vec<(String, &'static str, Kind, Vec<f64>)> {
    all(conventions, operation)
        .into_iter()
        .filter(|it| it.name.starts_with("gen_ai."))
        .map(|it| (it.name.into_owned(), it.unit, it.kind, it.bounds.to_vec()))
        .collect()
}

#[test]
fn gen_ai_metrics_are_those_of_the_conventions_in_each_mode() {
    for (opt_in, tables) in [
        ("", vec![&V141[..], &SERVER]),
        ("http,database/dup", vec![&V141[..], &SERVER]),
        ("gen_ai_latest_experimental", vec![&LATEST[..], &SERVER]),
        ("http, gen_ai_latest_experimental", vec![&LATEST[..], &SERVER]),
        ("gen_ai_latest_experimental/dup", vec![&LATEST[..], &V141, &SERVER]),
    ] {
        let mut want: Vec<_> = tables
            .concat()
            .into_iter()
            .map(|(name, unit, kind, bounds)| (name.to_owned(), unit, kind, bounds.to_vec()))
            .collect();
        want.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(of_gen_ai(Conventions::from_opt_in(opt_in), "chat"), want, "{opt_in:?}");
    }
}

/// `semantic-conventions-genai` has no token metric for embeddings, and v1.41's must not stand
/// beside its own.
#[test]
fn embeddings_keep_their_duration_and_no_opt_in_has_both_token_instruments() {
    let names = |conventions, operation| -> Vec<String> {
        of_gen_ai(conventions, operation).into_iter().map(|row| row.0).collect()
    };
    let latest = names(Conventions::Latest, "embeddings");
    assert!(latest.iter().any(|name| name == "gen_ai.client.operation.duration"), "{latest:?}");
    for operation in ["chat", "text_completion", "embeddings"] {
        let names = names(Conventions::Latest, operation);
        assert!(!names.iter().any(|name| name == "gen_ai.client.token.usage"), "{names:?}");
    }
    let own = all(Conventions::Latest, "embeddings");
    assert!(own.iter().any(|it| it.name == "llm_lens.token_usage" && it.has_token_type));
}

/// A collector that exports to Prometheus adds the unit and `_total`, which gives the catalog's
/// names again, so that dashboards serve both ways.
#[test]
fn own_names_become_the_catalogs_in_prometheus() {
    let operations = all(Conventions::V141, "chat");
    for instrument in operations.iter().filter(|it| !it.name.starts_with("process.")) {
        let mut name = instrument.name.replace('.', "_");
        name += match (instrument.unit, instrument.kind) {
            ("s", _) => "_seconds",
            ("By", _) => "_bytes",
            ("1", Kind::Gauge) => "_ratio",
            _ => "",
        };
        if instrument.kind == Kind::Counter {
            name += "_total";
        }
        let name = name.replace("llm_lens_process_", "process_");
        assert!(catalog::find(&name).is_some(), "{} becomes {name}", instrument.name);
    }
}

#[test]
fn attributes_are_those_of_the_conventions_or_our_own() {
    for (label, key) in [
        ("gen_ai_operation_name", "gen_ai.operation.name"),
        ("gen_ai_provider_name", "gen_ai.provider.name"),
        ("gen_ai_request_model", "gen_ai.request.model"),
        ("gen_ai_token_type", "gen_ai.token.type"),
        ("error_type", "error.type"),
        ("server_address", "server.address"),
        ("route", "llm_lens.route"),
        ("state", "llm_lens.state"),
        ("team", "team"),
    ] {
        assert_eq!(attribute(label), key);
    }
}
