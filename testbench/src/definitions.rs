//! The figures of other load testers, from the same answers.
//!
//! Load testers use the same names for different things. This computes each tool's figures by its
//! own definition, so that a figure can be reproduced and a difference explained.
//!
//! - *In*: the samples of a run.
//! - *Out*: a distribution for each figure of each tool, with its formula.
//! - *Never*: tokens counted again with a tokenizer, as some tools do: the engine's count is used.

use std::fmt::Write as _;

use lens::Micros;
use serde_json::{Value, json};

use crate::measure::Sample;
use crate::run::Outcome;

/// A load tester with definitions of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// This one.
    LlmLens,
    /// `ray-project/llmperf`.
    Llmperf,
    /// `vllm bench serve`.
    Vllm,
    /// `vllm-project/guidellm`.
    Guidellm,
    /// `triton-inference-server/perf_analyzer`.
    GenaiPerf,
    /// `kubernetes-sigs/inference-perf`.
    InferencePerf,
}

impl Tool {
    /// All tools with their names.
    pub const ALL: [(&'static str, Tool); 6] = [
        ("llm-lens", Tool::LlmLens),
        ("llmperf", Tool::Llmperf),
        ("vllm", Tool::Vllm),
        ("guidellm", Tool::Guidellm),
        ("genai-perf", Tool::GenaiPerf),
        ("inference-perf", Tool::InferencePerf),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Tool::ALL.iter().find(|(_, tool)| *tool == self).map_or("", |(name, _)| name)
    }
}

impl std::str::FromStr for Tool {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Tool::ALL.iter().find(|(known, _)| *known == name).map(|(_, tool)| *tool).ok_or_else(|| {
            let known = Tool::ALL.map(|(name, _)| name).join(", ");
            format!("{name:?} is not a tool whose definitions are known: {known}")
        })
    }
}

/// A figure of a tool.
#[derive(Debug)]
pub struct Figure {
    /// The tool.
    pub tool: Tool,
    /// The tool's name for it.
    pub name: &'static str,
    /// How the tool computes it.
    pub formula: &'static str,
    /// Its values, in microseconds.
    pub values: Micros,
}

/// What tools compute their figures from. Times are microseconds from when the client began with
/// the request, the time to connect included; tools start their clocks there.
struct Answer {
    first_event: Option<f64>,
    first_content: Option<f64>,
    first_token: Option<f64>,
    last_token: Option<f64>,
    last_event: Option<f64>,
    end: f64,
    tokens: Option<f64>,
}

impl Answer {
    fn of(sample: &Sample) -> Self {
        let connect = sample.late_us.saturating_sub(sample.slip_us);
        let at = |us: Option<u64>| us.map(|us| (us + connect) as f64);
        Answer {
            first_event: at(sample.first_event_us),
            first_content: at(sample.first_content_us),
            first_token: at(sample.ttft_from_send_us),
            last_token: at(sample.last_token_us),
            last_event: at(sample.last_event_us),
            end: (sample.total_from_send_us() + connect) as f64,
            tokens: sample.tokens.map(|tokens| tokens as f64),
        }
    }

    /// From one time to another, for each token but the first.
    fn per_further_token(&self, from: Option<f64>, to: Option<f64>) -> Option<f64> {
        let tokens = self.tokens.filter(|tokens| *tokens > 1.0)?;
        Some((to? - from?) / (tokens - 1.0))
    }

    /// A time for each token.
    fn per_token(&self, time: Option<f64>) -> Option<f64> {
        Some(time? / self.tokens.filter(|tokens| *tokens > 0.0)?)
    }

    /// Whether inference-perf takes it for a stream.
    fn has_tokens(&self) -> bool {
        self.tokens.is_some_and(|tokens| tokens > 1.0)
    }
}

/// Name, formula, and value of a request.
type Definition = (&'static str, &'static str, fn(&Answer) -> Option<f64>);

fn definitions(tool: Tool) -> &'static [Definition] {
    match tool {
        Tool::LlmLens => &[],
        Tool::Llmperf => &[
            ("ttft_s", "first content", |a| a.first_content),
            ("inter_token_latency_s", "last content / tokens", |a| {
                a.first_content.and(a.per_token(a.last_token))
            }),
            ("end_to_end_latency_s", "end of the stream", |a| Some(a.end)),
        ],
        Tool::Vllm => &[
            ("ttft", "first event of a choice, also without text", |a| a.first_event),
            ("tpot", "(last - first event of a choice) / (tokens - 1)", |a| {
                a.per_further_token(a.first_event, a.last_event)
            }),
            ("e2el", "last event of a choice", |a| a.last_event),
        ],
        Tool::Guidellm => &[
            ("time_to_first_token_ms", "first generated text", |a| a.first_token),
            ("time_per_output_token_ms", "last generated text / tokens", |a| {
                a.per_token(a.last_token)
            }),
            ("inter_token_latency_ms", "(last - first generated text) / (tokens - 1)", |a| {
                a.per_further_token(a.first_token, a.last_token)
            }),
            ("request_latency", "end of the stream", |a| Some(a.end)),
        ],
        Tool::GenaiPerf => &[
            ("time_to_first_token", "first event with content", |a| a.first_content),
            ("inter_token_latency", "(last - first event with content) / (tokens - 1)", |a| {
                a.per_further_token(a.first_content, a.last_token)
            }),
            ("request_latency", "last event with content", |a| a.first_content.and(a.last_token)),
        ],
        Tool::InferencePerf => &[
            ("time_to_first_token", "first content, of answers of two tokens or more", |a| {
                a.first_content.filter(|_| a.has_tokens())
            }),
            ("time_per_output_token", "(last - first content) / (tokens - 1)", |a| {
                a.per_further_token(a.first_content, a.last_token)
            }),
            ("normalized_time_per_output_token", "end of the stream / tokens", |a| {
                a.per_token(Some(a.end))
            }),
            ("request_latency", "end of the stream", |a| Some(a.end)),
        ],
    }
}

/// The figures of these tools. Failed and cancelled requests have none.
pub fn figures(outcome: &Outcome, tools: &[Tool]) -> Vec<Figure> {
    tools.iter().flat_map(|tool| of_tool(outcome, *tool)).collect()
}

fn of_tool(outcome: &Outcome, tool: Tool) -> Vec<Figure> {
    let figure = |name, formula, values| Figure { tool, name, formula, values };
    if tool == Tool::LlmLens {
        return vec![
            figure("ttft", "first generated text, from when it was due", outcome.ttft.clone()),
            figure(
                "tpot",
                "(last - first generated text) / (tokens - tokens in the first)",
                outcome.tpot.clone(),
            ),
            figure("itl", "gaps between events with generated text", outcome.itl.clone()),
            figure("request", "end of the stream, from when it was due", outcome.total.clone()),
        ];
    }
    let answers: Vec<Answer> =
        outcome.samples.iter().filter(|s| s.is_ok()).map(Answer::of).collect();
    let mut figures: Vec<Figure> = definitions(tool)
        .iter()
        .map(|(name, formula, value)| {
            let mut values = Micros::default();
            for us in answers.iter().filter_map(value).filter(|us| *us >= 0.0) {
                values.record(us.round() as u64);
            }
            figure(name, formula, values)
        })
        .collect();
    match tool {
        Tool::Vllm => figures.insert(
            2,
            figure("itl", "gaps between events of a choice", outcome.event_gaps.clone()),
        ),
        Tool::InferencePerf => figures.insert(
            2,
            figure(
                "inter_token_latency",
                "gaps between tokens; those of one event have none",
                with_tokens_of_one_event(outcome),
            ),
        ),
        _ => {}
    }
    figures
}

/// Gaps between tokens, where tokens that came in one event have a gap of zero.
fn with_tokens_of_one_event(outcome: &Outcome) -> Micros {
    let mut gaps = outcome.itl.clone();
    for sample in outcome.samples.iter().filter(|sample| sample.is_ok()) {
        let more = sample.tokens.unwrap_or(0).saturating_sub(sample.content_events);
        if more > 0 {
            gaps.record_n(0, more);
        }
    }
    gaps
}

/// The figures as a table, in milliseconds.
pub fn table(figures: &[Figure]) -> String {
    let mut out = format!(
        "\n{:15} {:33} {:>7} {:>10} {:>10} {:>10}  {}\n",
        "definition of", "ms", "count", "mean", "p50", "p99", "is"
    );
    for figure in figures {
        let values = &figure.values;
        let _ = writeln!(
            out,
            "{:15} {:33} {:>7} {:>10} {:>10} {:>10}  {}",
            figure.tool.name(),
            figure.name,
            values.count(),
            super::report::ms(super::report::mean(values)),
            super::report::ms(super::report::percentile(values, 50.0).map(|us| us as f64)),
            super::report::ms(super::report::percentile(values, 99.0).map(|us| us as f64)),
            figure.formula
        );
    }
    out
}

/// The figures as JSON, in microseconds.
pub fn json(figures: &[Figure]) -> Value {
    let one = |figure: &Figure| {
        let values = &figure.values;
        let percentiles: serde_json::Map<String, Value> = [50.0, 90.0, 95.0, 99.0]
            .into_iter()
            .map(|p| (format!("p{p}"), json!(super::report::percentile(values, p))))
            .collect();
        json!({
            "tool": figure.tool.name(), "name": figure.name, "formula": figure.formula,
            "count": values.count(), "mean_us": super::report::mean(values),
            "percentiles_us": percentiles,
        })
    };
    figures.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer with reasoning: role at 10, reasoning at 20, content from 50 to 130, the finish
    /// reason at 140, and the end at 150 ms; 12 tokens in 9 events.
    fn outcome() -> Outcome {
        let sample = Sample {
            late_us: 7_000,
            slip_us: 2_000,
            ttft_us: Some(27_000),
            ttft_from_send_us: Some(20_000),
            total_us: 157_000,
            tokens: Some(12),
            content_events: 9,
            first_event_us: Some(10_000),
            first_content_us: Some(50_000),
            last_token_us: Some(130_000),
            last_event_us: Some(140_000),
            ..crate::measure::example()
        };
        let failed = Sample { error: Some("x".into()), ..sample.clone() };
        let mut outcome = Outcome { samples: vec![sample, failed], ..Outcome::default() };
        (0..8).for_each(|_| outcome.itl.record(10_000));
        (0..10).for_each(|_| outcome.event_gaps.record(13_000));
        outcome
    }

    #[test]
    fn each_tool_has_the_figures_of_its_own_definitions() {
        let outcome = outcome();
        let tools = Tool::ALL.map(|(_, tool)| tool);
        let figures = figures(&outcome, &tools);
        let value = |tool: Tool, name: &str| {
            let figure = figures.iter().find(|f| f.tool == tool && f.name == name);
            let values = &figure.unwrap_or_else(|| panic!("{tool:?} {name}")).values;
            values.sum() / values.count().max(1)
        };
        // The connection took 5 ms, which these tools count.
        for (tool, name, wanted) in [
            (Tool::Llmperf, "ttft_s", 55_000),
            (Tool::Llmperf, "inter_token_latency_s", 135_000 / 12),
            (Tool::Llmperf, "end_to_end_latency_s", 155_000),
            (Tool::Vllm, "ttft", 15_000),
            (Tool::Vllm, "tpot", 130_000 / 11),
            (Tool::Vllm, "itl", 13_000),
            (Tool::Vllm, "e2el", 145_000),
            (Tool::Guidellm, "time_to_first_token_ms", 25_000),
            (Tool::Guidellm, "time_per_output_token_ms", 135_000 / 12),
            (Tool::Guidellm, "inter_token_latency_ms", 110_000 / 11),
            (Tool::Guidellm, "request_latency", 155_000),
            (Tool::GenaiPerf, "time_to_first_token", 55_000),
            (Tool::GenaiPerf, "inter_token_latency", 80_000 / 11),
            (Tool::GenaiPerf, "request_latency", 135_000),
            (Tool::InferencePerf, "time_to_first_token", 55_000),
            (Tool::InferencePerf, "normalized_time_per_output_token", 155_000 / 12),
            // Eight gaps of 10 ms, and three tokens that came with others.
            (Tool::InferencePerf, "inter_token_latency", 80_000 / 11),
        ] {
            let got = value(tool, name);
            assert!(got.abs_diff(wanted) <= 1, "{tool:?} {name}: {got} instead of {wanted}");
        }
        assert!(figures.iter().filter(|f| f.tool != Tool::LlmLens).all(|f| f.values.count() > 0));
    }

    #[test]
    fn tables_have_a_row_for_each_figure() {
        let figures = figures(&outcome(), &[Tool::Vllm]);
        let text = table(&figures);
        assert_eq!(text.lines().count(), 2 + figures.len());
        assert!(text.contains("last - first event of a choice"), "{text}");
        let json = json(&figures);
        assert_eq!(json[0]["tool"], "vllm");
        // One request is too few for a p99.
        assert!(json[0]["percentiles_us"]["p99"].is_null());
    }

    #[test]
    fn unknown_tools_are_refused() {
        assert_eq!("genai-perf".parse(), Ok(Tool::GenaiPerf));
        assert!("wrk".parse::<Tool>().unwrap_err().contains("guidellm"));
    }
}
