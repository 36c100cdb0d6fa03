//! `llm-lens shield`: runs the detectors on texts and on labelled rows.

mod eval;
mod streams;
mod train;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use ::shield::finding::{Family, Finding};
use ::shield::normalise::normalise;
use anyhow::{Context, Result};
use filters::detect::{FindPatterns, scores};
use filters::{Category, NORMALISED, Report, Risk};
use serde_json::{Value, json};

use crate::write_stdout;

pub(crate) use eval::eval;
pub(crate) use train::train;

/// Maximum bytes of an input that is not a `.jsonl` file.
const MAX_INPUT: u64 = 64 << 20;

/// Prints the findings of a text, or of each row of a JSONL file.
pub(crate) fn scan(file: &Path) -> Result<ExitCode> {
    let detectors = Detectors::new()?;
    let input = open(file)?;
    if file.extension().is_some_and(|extension| extension == "jsonl") {
        return rows(&detectors, input);
    }
    let mut first = String::new();
    let mut input = BufReader::new(input.take(MAX_INPUT));
    input.read_line(&mut first).context("the text is not UTF-8")?;
    if serde_json::from_str::<Value>(&first).is_ok_and(|row| row["text"].is_string()) {
        return rows(&detectors, Box::new(first.as_bytes().chain(input)));
    }
    input.read_to_string(&mut first).context("the text is not UTF-8")?;
    text(&detectors, &first)
}

/// All detectors, as in a guardrail with everything switched on.
struct Detectors {
    patterns: FindPatterns,
    /// Risk thresholds of a guardrail with default settings.
    thresholds: filters::settings::RiskSettings,
}

/// Results of the detectors for one text.
struct DetectorScores {
    found: Vec<Finding>,
    injection: f32,
    tool_injection: f32,
    toxicity: f32,
    risk: Risk,
    us: f64,
}

impl Detectors {
    fn new() -> Result<Self> {
        let patterns = FindPatterns::all();
        let defaults = "{backends: [{name: b, url: 'http://127.0.0.1:1'}], guardrails: [{name: s}], routes: [{name: r, backend: b}]}";
        let settings = config::parse("the defaults", defaults)?;
        let thresholds = settings.guardrails.first().context("a guardrail has defaults")?.risk;
        Ok(Detectors { patterns, thresholds })
    }

    fn judge(&self, text: &str) -> DetectorScores {
        let began = Instant::now();
        let normal = normalise(text, &NORMALISED);
        let found = self.patterns.find(text, &normal);
        let scores = scores(&normal);
        let (injection, tool_injection) = (scores.injection, scores.tool_injection);
        let toxicity = scores.worst_toxicity();
        let mut risk = Risk::default();
        let family = |family| {
            found.iter().filter(|f| f.family == family).map(|f| f.score).fold(0.0, f32::max)
        };
        let scores = vec![
            (Category::Injection, injection),
            (Category::Toxicity, toxicity),
            (Category::Pii, family(Family::Pii)),
            (Category::Secret, family(Family::Secret)),
        ];
        risk.add(&Report { found: Vec::new(), scores });
        DetectorScores {
            found,
            injection,
            tool_injection,
            toxicity,
            risk,
            us: began.elapsed().as_nanos() as f64 / 1000.0,
        }
    }
}

fn open(file: &Path) -> Result<Box<dyn Read>> {
    if file == Path::new("-") {
        return Ok(Box::new(std::io::stdin()));
    }
    Ok(Box::new(
        std::fs::File::open(file).with_context(|| format!("cannot open {}", file.display()))?,
    ))
}

/// Prints a table of findings. The exit code is that of `grep`: success if something was found.
fn text(detectors: &Detectors, text: &str) -> Result<ExitCode> {
    let DetectorScores { found, injection, tool_injection, toxicity, risk, us } =
        detectors.judge(text);
    let mut out = String::new();
    for finding in &found {
        let before = text.get(..finding.span.start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        out.push_str(&format!(
            "{line}:{column} {} {:.2} {}\n",
            finding.kind, finding.score, finding.rule
        ));
    }
    out.push_str(&format!(
        "injection {injection:.2} (in a tool result {tool_injection:.2}), toxicity {toxicity:.2}; more than 0.50 is a finding\n"
    ));
    out.push_str(&format!(
        "risk {:.2}, {}\n",
        risk.value(),
        risk.level(&detectors.thresholds).name()
    ));
    let judged = usize::from(injection > 0.5) + usize::from(toxicity > 0.5);
    out.push_str(&format!(
        "{} findings in {} bytes, {us:.0} us\n",
        found.len() + judged,
        text.len()
    ));
    write_stdout(&out)?;
    Ok(if found.len() + judged == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn rows(detectors: &Detectors, input: Box<dyn Read + '_>) -> Result<ExitCode> {
    for (number, line) in BufReader::new(input).lines().enumerate() {
        let line = line.context("the rows are not UTF-8")?;
        if line.trim().is_empty() {
            continue;
        }
        let row: Value = serde_json::from_str(&line)
            .with_context(|| format!("line {} is not JSON", number + 1))?;
        let text =
            row["text"].as_str().with_context(|| format!("line {} has no \"text\"", number + 1))?;
        let DetectorScores { found, injection, tool_injection, toxicity, risk, us } =
            detectors.judge(text);
        let spans: Vec<Value> = found
            .iter()
            .map(|f| {
                let (start, end) = in_characters(text, f);
                json!({"type": f.kind, "start": start, "end": end, "score": f.score})
            })
            .collect();
        let scores = json!({
            "injection": injection,
            "tool_injection": tool_injection,
            "toxicity": toxicity,
            "pii": risk.score(Category::Pii),
            "secrets": risk.score(Category::Secret),
        });
        let row = json!({"id": row["id"], "scores": scores, "risk": risk.value(), "level": risk.level(&detectors.thresholds).name(), "spans": spans, "us": us});
        write_stdout(&format!("{row}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The span of a finding in Unicode code points.
fn in_characters(text: &str, finding: &Finding) -> (usize, usize) {
    let count = |to: usize| text.get(..to).map_or(0, |before| before.chars().count());
    (count(finding.span.start), count(finding.span.end))
}
