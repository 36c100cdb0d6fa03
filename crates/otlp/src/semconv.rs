//! Semantic conventions: under which names and attributes the catalog's metrics are exported.
//!
//! - *In*: rows of the catalog; the value of `OTEL_SEMCONV_STABILITY_OPT_IN`.
//! - *Out*: instruments with their name, unit and boundaries; attribute keys.
//! - *Never*: an invented `gen_ai.*` name. What the conventions do not cover is in `llm_lens.*`.
//!
//! Without opt-in, GenAI metrics have the names of semantic conventions v1.41. With
//! `gen_ai_latest_experimental` they have those of `semantic-conventions-genai` v0.1.0, and with
//! `gen_ai_latest_experimental/dup` both.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use observatory::catalog::{self, Kind, Metric, Unit};

/// Which GenAI conventions are exported. At least one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conventions {
    /// Semantic conventions v1.41.
    V141,
    /// `semantic-conventions-genai` v0.1.0.
    Latest,
    /// Both.
    Both,
}

impl Conventions {
    /// From the comma-separated words of `OTEL_SEMCONV_STABILITY_OPT_IN`. Words of other areas,
    /// such as `http`, are ignored.
    pub fn from_opt_in(value: &str) -> Self {
        let has = |word: &str| value.split(',').any(|part| part.trim() == word);
        if has("gen_ai_latest_experimental/dup") {
            Conventions::Both
        } else if has("gen_ai_latest_experimental") {
            Conventions::Latest
        } else {
            Conventions::V141
        }
    }

    pub(crate) fn has_v141(self) -> bool {
        self != Conventions::Latest
    }

    pub(crate) fn has_latest(self) -> bool {
        self != Conventions::V141
    }
}

/// How a metric of the catalog becomes an exported one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Derivation {
    /// As it is.
    Same,
    /// The sum of a histogram, as a counter. Without values it is 0.
    Sum,
}

/// An exported metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Instrument {
    /// Its name.
    pub name: Cow<'static, str>,
    /// Its unit, in UCUM.
    pub unit: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Boundaries of an explicit histogram, in its unit.
    pub bounds: &'static [f64],
    /// What it is.
    pub help: &'static str,
    /// How it is made.
    pub derivation: Derivation,
    /// It has the attribute `gen_ai.token.modality`. Engines do not report the modality of tokens,
    /// so its value is `unknown`.
    pub has_modality: bool,
    /// It has the attribute `gen_ai.token.type`.
    pub has_token_type: bool,
}

/// A GenAI name of a catalog metric.
struct Convention {
    /// The catalog's name.
    row: &'static str,
    /// The value of the row's label `gen_ai_token_type`; empty: any.
    token_type: &'static str,
    v141: &'static str,
    latest: &'static [(&'static str, Derivation)],
}

/// Metrics whose name depends on the conventions. `latest` lists what takes the place of `v141`.
const CONVENTIONS: &[Convention] = &[
    Convention {
        row: "gen_ai_client_operation_duration_seconds",
        token_type: "",
        v141: "gen_ai.client.operation.duration",
        latest: &[("gen_ai.client.inference.duration", Derivation::Same)],
    },
    Convention {
        row: "gen_ai_client_operation_time_to_first_chunk_seconds",
        token_type: "",
        v141: "gen_ai.client.operation.time_to_first_chunk",
        latest: &[("gen_ai.client.inference.time_to_first_chunk", Derivation::Same)],
    },
    Convention {
        row: "gen_ai_client_operation_time_per_output_chunk_seconds",
        token_type: "",
        v141: "gen_ai.client.operation.time_per_output_chunk",
        latest: &[("gen_ai.client.inference.time_per_output_chunk", Derivation::Same)],
    },
    Convention {
        row: "gen_ai_client_token_usage",
        token_type: "input",
        v141: "gen_ai.client.token.usage",
        latest: &[
            ("gen_ai.client.inference.usage.input_tokens", Derivation::Sum),
            ("gen_ai.client.inference.operation.input_tokens", Derivation::Same),
        ],
    },
    Convention {
        row: "gen_ai_client_token_usage",
        token_type: "output",
        v141: "gen_ai.client.token.usage",
        latest: &[
            ("gen_ai.client.inference.usage.output_tokens", Derivation::Sum),
            ("gen_ai.client.inference.operation.output_tokens", Derivation::Same),
        ],
    },
    Convention {
        row: "llm_lens_cached_tokens_total",
        token_type: "",
        v141: "llm_lens.cached_tokens",
        latest: &[("gen_ai.client.inference.usage.cache_read.input_tokens", Derivation::Same)],
    },
    Convention {
        row: "llm_lens_cache_write_tokens_total",
        token_type: "",
        v141: "llm_lens.cache_write_tokens",
        latest: &[("gen_ai.client.inference.usage.cache_write.input_tokens", Derivation::Same)],
    },
    Convention {
        row: "llm_lens_reasoning_tokens_total",
        token_type: "",
        v141: "llm_lens.reasoning_tokens",
        latest: &[("gen_ai.client.inference.usage.reasoning.output_tokens", Derivation::Same)],
    },
];

/// Metrics that have one name in all conventions, and one that is not derived from the catalog's.
const NAMES: &[(&str, &str)] = &[
    ("gen_ai_server_request_duration_seconds", "gen_ai.server.request.duration"),
    ("gen_ai_server_time_per_output_token_seconds", "gen_ai.server.time_per_output_token"),
    ("gen_ai_server_time_to_first_token_seconds", "gen_ai.server.time_to_first_token"),
    ("process_cpu_seconds_total", "process.cpu.time"),
    ("process_resident_memory_bytes", "process.memory.usage"),
    ("process_virtual_memory_bytes", "process.memory.virtual"),
    ("process_max_fds", "llm_lens.process.max_fds"),
    ("process_open_fds", "llm_lens.process.open_fds"),
    ("process_start_time_seconds", "llm_lens.process.start_time"),
];

/// The operation that `semantic-conventions-genai` does not count as inference. Its duration keeps
/// the name of v1.41, whose token metric is gone.
const EMBEDDINGS: &str = "embeddings";
const TOKEN_USAGE: &str = "gen_ai.client.token.usage";
const OWN_TOKEN_USAGE: &str = "llm_lens.token_usage";

/// The instruments under which a metric of the catalog is exported. `operation` and `token_type`
/// are values of its labels; empty where it has none.
pub fn instruments(
    row: &'static Metric,
    conventions: Conventions,
    operation: &str,
    token_type: &str,
) -> Vec<Instrument> {
    let Some(convention) = CONVENTIONS.iter().find(|convention| {
        convention.row == row.name
            && (convention.token_type.is_empty() || convention.token_type == token_type)
    }) else {
        return vec![instrument(row, own_name(row), Derivation::Same)];
    };
    let v141 = || instrument(row, Cow::Borrowed(convention.v141), Derivation::Same);
    if operation == EMBEDDINGS {
        let is_gone = convention.v141 == TOKEN_USAGE && !conventions.has_v141();
        let name = if is_gone { OWN_TOKEN_USAGE } else { convention.v141 };
        return vec![instrument(row, Cow::Borrowed(name), Derivation::Same)];
    }
    let latest = convention.latest.iter().filter(|_| conventions.has_latest());
    let latest =
        latest.map(|(name, derivation)| instrument(row, Cow::Borrowed(*name), *derivation));
    conventions.has_v141().then(v141).into_iter().chain(latest).collect()
}

fn instrument(row: &'static Metric, name: Cow<'static, str>, derivation: Derivation) -> Instrument {
    let is_sum = derivation == Derivation::Sum;
    Instrument {
        unit: unit(row),
        kind: if is_sum { Kind::Counter } else { row.kind },
        bounds: if is_sum { &[] } else { row.bounds },
        help: row.help,
        derivation,
        has_modality: name.starts_with("gen_ai.client.inference.usage."),
        has_token_type: name == TOKEN_USAGE || name == OWN_TOKEN_USAGE,
        name,
    }
}

/// The name of a metric that no convention covers: without the endings that Prometheus requires,
/// which a collector adds again by unit and kind.
fn own_name(row: &Metric) -> Cow<'static, str> {
    if let Some((_, name)) = NAMES.iter().find(|(known, _)| *known == row.name) {
        return Cow::Borrowed(name);
    }
    let name = row.name.strip_prefix("llm_lens_").unwrap_or(row.name);
    let name = name.strip_suffix("_total").unwrap_or(name);
    let name = match row.unit {
        Unit::Seconds => name.strip_suffix("_seconds"),
        Unit::Bytes => name.strip_suffix("_bytes"),
        Unit::One => name.strip_suffix("_ratio"),
        Unit::Tokens => None,
    }
    .unwrap_or(name);
    Cow::Owned(format!("llm_lens.{name}"))
}

fn unit(row: &Metric) -> &'static str {
    match row.unit {
        Unit::Seconds => "s",
        Unit::Bytes => "By",
        Unit::Tokens => "{token}",
        Unit::One if row.name.ends_with("_ratio") => "1",
        Unit::One => "",
    }
}

/// Keys of the catalog's labels.
static KEYS: LazyLock<HashMap<&'static str, String>> = LazyLock::new(|| {
    let labels = catalog::CATALOG.iter().flat_map(|row| row.labels);
    labels.map(|label| (*label, key(label))).collect()
});

/// The attribute key of a label of the catalog. Labels of the settings keep their names.
pub fn attribute(label: &str) -> &str {
    KEYS.get(label).map_or(label, String::as_str)
}

fn key(label: &str) -> String {
    match label {
        "error_type" => "error.type".into(),
        "gen_ai_operation_name" => "gen_ai.operation.name".into(),
        "gen_ai_provider_name" => "gen_ai.provider.name".into(),
        "gen_ai_request_model" => "gen_ai.request.model".into(),
        "gen_ai_token_type" => "gen_ai.token.type".into(),
        "server_address" => "server.address".into(),
        own => format!("llm_lens.{own}"),
    }
}

#[cfg(test)]
mod tests;
