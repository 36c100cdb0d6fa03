//! What load testers report: where their files have which figure, and in which unit.
//!
//! The names are those of public sources; no file of a released version was compared with them, but
//! for our own. A tool that names a figure otherwise is read with `json-path`.
//!
//! - `llm-lens`: `run --json` of this version.
//! - `vllm`: `vllm bench serve --save-result`.
//! - `guidellm`: its JSON report.
//! - `genai-perf`: `profile_export_genai_perf.json`. aiperf has the same members.
//!
//! - *In*: a JSON document of a tool; for other tools, paths that the operator names.
//! - *Out*: [`Reported`], in microseconds.
//! - *Never*: a guess: a figure that is absent is not compared.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use testbench::definitions::Tool;

/// A time that tools report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Time to first token.
    Ttft,
    /// Time per output token.
    Tpot,
    /// Inter-token latency.
    Itl,
    /// Time of a request.
    Request,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::Ttft, Kind::Tpot, Kind::Itl, Kind::Request];

    pub(super) fn is_per_token(self) -> bool {
        matches!(self, Kind::Tpot | Kind::Itl)
    }
}

/// A statistic of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stat {
    /// The mean.
    Mean,
    /// 50, 90, 95 or 99.
    Percentile(u8),
}

impl fmt::Display for Stat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stat::Mean => f.write_str("mean"),
            Stat::Percentile(p) => write!(f, "p{p}"),
        }
    }
}

/// A number that tools report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Requests that succeeded.
    Succeeded,
    /// Requests that failed.
    Failed,
    /// Tokens of answers.
    Tokens,
}

/// What a place in a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Time(Kind, Stat),
    Count(Count),
}

/// A place in a file: `ttft.p50=path.to.field:ms`, or `failed=path.to.field`.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    what: What,
    path: String,
    /// Microseconds of its unit; 1 for counts.
    scale: f64,
}

impl FromStr for Read {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write NAME.STATISTIC=PATH:UNIT or COUNT=PATH";
        let (name, place) = text.split_once('=').ok_or(form)?;
        let count = match name {
            "succeeded" => Some(Count::Succeeded),
            "failed" => Some(Count::Failed),
            "tokens" => Some(Count::Tokens),
            _ => None,
        };
        if place.is_empty() {
            return Err(form.into());
        }
        if let Some(count) = count {
            return Ok(Read { what: What::Count(count), path: place.into(), scale: 1.0 });
        }
        let (kind, stat) = name.split_once('.').ok_or(form)?;
        let kinds = ["ttft", "tpot", "itl", "request"];
        let kind = kinds.iter().zip(Kind::ALL).find(|(known, _)| **known == kind);
        let (_, kind) = kind.ok_or_else(|| format!("{name:?}: use one of {}", kinds.join(", ")))?;
        let stat = super::STATS.into_iter().find(|known| known.to_string() == stat);
        let stat = stat.ok_or_else(|| format!("{name:?}: use mean, p50, p90, p95 or p99"))?;
        let (path, unit) = place.rsplit_once(':').ok_or("name the unit: PATH:ms")?;
        let scale = match unit {
            "us" => 1.0,
            "ms" => 1e3,
            "s" => 1e6,
            other => return Err(format!("{other:?} is not a unit; use us, ms or s")),
        };
        Ok(Read { what: What::Time(kind, stat), path: path.into(), scale })
    }
}

/// A format of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A report of `llm-lens run --json`.
    LlmLens,
    /// `vllm bench serve --save-result`.
    Vllm,
    /// The JSON report of guidellm.
    Guidellm,
    /// The JSON report of genai-perf and aiperf.
    GenaiPerf,
    /// Any other: paths say where the figures are.
    JsonPath,
}

impl Format {
    /// All formats with their names.
    pub const ALL: [(&'static str, Format); 5] = [
        ("llm-lens", Format::LlmLens),
        ("vllm", Format::Vllm),
        ("guidellm", Format::Guidellm),
        ("genai-perf", Format::GenaiPerf),
        ("json-path", Format::JsonPath),
    ];

    /// The tool whose definitions its figures follow.
    pub fn tool(self) -> Tool {
        match self {
            Format::LlmLens | Format::JsonPath => Tool::LlmLens,
            Format::Vllm => Tool::Vllm,
            Format::Guidellm => Tool::Guidellm,
            Format::GenaiPerf => Tool::GenaiPerf,
        }
    }

    /// Where its files have a time.
    fn place(self, kind: Kind, stat: Stat) -> Option<(String, f64)> {
        let name = figure(self.tool(), kind)?;
        Some(match self {
            Format::LlmLens => match stat {
                Stat::Mean => (format!("timings.{name}.mean_us"), 1.0),
                stat => (format!("timings.{name}.percentiles_us.{stat}"), 1.0),
            },
            Format::Vllm => {
                let stat =
                    if stat == Stat::Percentile(50) { "median".into() } else { stat.to_string() };
                (format!("{stat}_{name}_ms"), 1e3)
            }
            Format::Guidellm => {
                // The latency of a request has no unit in its name: seconds.
                let scale = if kind == Kind::Request { 1e6 } else { 1e3 };
                let stat = match stat {
                    Stat::Mean => "mean".into(),
                    stat => format!("percentiles.{stat}"),
                };
                (format!("benchmarks.0.metrics.{name}.successful.{stat}"), scale)
            }
            Format::GenaiPerf => {
                let stat = if stat == Stat::Mean { "avg".into() } else { stat.to_string() };
                (format!("{name}.{stat}"), 1e3)
            }
            Format::JsonPath => return None,
        })
    }

    fn counts(self) -> &'static [(Count, &'static str)] {
        match self {
            Format::LlmLens | Format::JsonPath => &[],
            Format::Vllm => &[(Count::Succeeded, "completed"), (Count::Failed, "failed")],
            Format::Guidellm => &[
                (Count::Succeeded, "benchmarks.0.metrics.request_totals.successful"),
                (Count::Failed, "benchmarks.0.metrics.request_totals.errored"),
            ],
            Format::GenaiPerf => &[(Count::Succeeded, "request_count.avg")],
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Format::ALL.iter().find(|(known, _)| *known == name);
        known.map(|(_, format)| *format).ok_or_else(|| {
            let names = Format::ALL.map(|(name, _)| name).join(", ");
            format!("{name:?} is not a format; use one of {names}")
        })
    }
}

/// A tool's name of a time, as in [`crate::definitions`].
pub(super) fn figure(tool: Tool, kind: Kind) -> Option<&'static str> {
    let [ttft, tpot, itl, request] = match tool {
        Tool::LlmLens => ["ttft", "tpot", "itl", "request"],
        Tool::Llmperf => ["ttft_s", "", "inter_token_latency_s", "end_to_end_latency_s"],
        Tool::Vllm => ["ttft", "tpot", "itl", "e2el"],
        Tool::Guidellm => [
            "time_to_first_token_ms",
            "time_per_output_token_ms",
            "inter_token_latency_ms",
            "request_latency",
        ],
        Tool::GenaiPerf => ["time_to_first_token", "", "inter_token_latency", "request_latency"],
        Tool::InferencePerf => [
            "time_to_first_token",
            "time_per_output_token",
            "inter_token_latency",
            "request_latency",
        ],
    };
    let name = match kind {
        Kind::Ttft => ttft,
        Kind::Tpot => tpot,
        Kind::Itl => itl,
        Kind::Request => request,
    };
    Some(name).filter(|name| !name.is_empty())
}

/// What a tool reported.
#[derive(Debug, Default)]
pub struct Reported {
    values: Vec<(What, f64)>,
}

impl Reported {
    /// A time, in microseconds.
    pub(super) fn time(&self, kind: Kind, stat: Stat) -> Option<f64> {
        self.value(What::Time(kind, stat))
    }

    pub(super) fn count(&self, count: Count) -> Option<f64> {
        self.value(What::Count(count))
    }

    fn value(&self, wanted: What) -> Option<f64> {
        self.values.iter().rfind(|(what, _)| *what == wanted).map(|(_, value)| *value)
    }
}

/// Reads a document of a format, and the places that were named beside it.
///
/// # Errors
/// A named place that has no number, or a document without any figure.
pub fn read(document: &Value, format: Format, places: &[Read]) -> Result<Reported, String> {
    let mut reported = Reported::default();
    for kind in Kind::ALL {
        for stat in super::STATS {
            let place = format.place(kind, stat);
            let value = place.and_then(|(path, scale)| Some(at(document, &path)? * scale));
            reported.values.extend(value.map(|us| (What::Time(kind, stat), us)));
        }
    }
    for (count, path) in format.counts() {
        let value = at(document, path);
        reported.values.extend(value.map(|value| (What::Count(*count), value)));
    }
    if format == Format::LlmLens {
        // Its total has the failed ones, and those that the workload cancels.
        let number = |name: &str| at(document, name);
        let others =
            number("failed").unwrap_or(0.0) + number("cancelled_by_workload").unwrap_or(0.0);
        let ok = number("requests").map(|all| (What::Count(Count::Succeeded), all - others));
        reported.values.extend(ok);
        reported.values.extend(number("failed").map(|n| (What::Count(Count::Failed), n)));
        let tokens = document["samples"].as_array().map(|samples| {
            let ok = samples.iter().filter(|s| s["error"].is_null() && s["cancelled"].is_null());
            ok.filter_map(|s| s["tokens"].as_f64()).sum()
        });
        reported.values.extend(tokens.map(|tokens| (What::Count(Count::Tokens), tokens)));
    }
    for place in places {
        let value = at(document, &place.path)
            .ok_or_else(|| format!("{:?} is not a number of the result", place.path))?;
        reported.values.push((place.what, value * place.scale));
    }
    if reported.values.is_empty() {
        return Err("the result has no figure of this format; is --format right?".into());
    }
    Ok(reported)
}

/// The number at a path: members and indexes, with points between them.
fn at(document: &Value, path: &str) -> Option<f64> {
    let value = path.split('.').try_fold(document, |value, part| match value {
        Value::Array(values) => values.get(part.parse::<usize>().ok()?),
        value => value.get(part),
    })?;
    value.as_f64().filter(|number| number.is_finite())
}
