//! A decision as text, Markdown for pull requests, JUnit XML and JSON.
//!
//! - *In*: a [`Decision`].
//! - *Out*: a text. `docs/gate.schema.json` describes the JSON.
//! - *Never*: a JUnit file without a failure or an error for a decision that is not a pass.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::judge::Decision;
use crate::metric::Metric;
use crate::verdict::{Figures, Outcome, Verdict};

/// Version of the JSON.
const SCHEMA: u32 = 1;

impl Decision {
    /// The decision as a text.
    pub fn text(&self) -> String {
        let mut out = format!("gate: {}\n", self.verdict.words());
        for reason in &self.reasons {
            let _ = writeln!(out, "  {reason}");
        }
        if !self.checks.is_empty() {
            let _ = writeln!(
                out,
                "\n{:14} {:>14} {:>14} {:>14} {:>26} {:>14} {:>12}  result",
                "metric", "baseline", "candidate", "change", "interval", "allowed", "resolution"
            );
        }
        for check in &self.checks {
            let [baseline, candidate, change, interval, allowed, resolution] = cells(check);
            let _ = writeln!(
                out,
                "{:14} {baseline:>14} {candidate:>14} {change:>14} {interval:>26} {allowed:>14} \
                 {resolution:>12}  {}",
                check.metric.to_string(),
                words(check.outcome)
            );
        }
        for note in &self.notes {
            let _ = writeln!(out, "note: {note}");
        }
        out
    }

    /// The decision as Markdown, for a comment on a pull request.
    pub fn markdown(&self) -> String {
        let mut out = format!("### LLM latency gate: {}\n", self.verdict.words());
        if !self.reasons.is_empty() {
            out.push('\n');
        }
        for reason in &self.reasons {
            let _ = writeln!(out, "- {}", plain(reason));
        }
        if !self.checks.is_empty() {
            out.push_str(
                "\n| metric | baseline | candidate | change | interval | allowed | resolution | \
                 result |\n|---|---|---|---|---|---|---|---|\n",
            );
        }
        for check in &self.checks {
            let _ = writeln!(
                out,
                "| {} | {} | {} |",
                check.metric,
                cells(check).join(" | "),
                words(check.outcome)
            );
        }
        if !self.notes.is_empty() {
            out.push('\n');
        }
        for note in &self.notes {
            let _ = writeln!(out, "- note: {}", plain(note));
        }
        let names: Vec<String> = self.baselines.iter().map(|name| plain(name)).collect();
        if !names.is_empty() {
            let _ = writeln!(out, "\n{} against {}", plain(&self.candidate), names.join(", "));
        }
        out
    }

    /// The decision as JUnit XML: a test case for each check, and one for the runs.
    pub fn junit(&self) -> String {
        let mut cases = String::new();
        let (mut failures, mut errors) = (0, 0);
        for check in &self.checks {
            let kind = if check.bound.is_some() { "bound" } else { "threshold" };
            let name = xml(&format!("{} {kind}", check.metric));
            let reason = xml(&check.reason);
            let inner = match check.outcome {
                Outcome::Pass => format!("<system-out>{reason}</system-out>"),
                Outcome::Regression => {
                    failures += 1;
                    format!("<failure message=\"{reason}\"/>")
                }
                Outcome::Missing | Outcome::TooFewSamples => {
                    errors += 1;
                    format!("<error message=\"{reason}\"/>")
                }
            };
            let _ = writeln!(
                cases,
                "    <testcase classname=\"llm-lens gate\" name=\"{name}\">{inner}</testcase>"
            );
        }
        // Reasons without figures: the runs cannot be compared, or one of them is invalid.
        let runs = match self.checks.is_empty() && self.verdict != Verdict::Pass {
            true => {
                errors += 1;
                format!("<error message=\"{}\"/>", xml(&self.reasons.join("; ")))
            }
            false => String::new(),
        };
        let tests = self.checks.len() + 1;
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite \
             name=\"llm-lens gate\" tests=\"{tests}\" failures=\"{failures}\" \
             errors=\"{errors}\">\n    <testcase classname=\"llm-lens gate\" \
             name=\"runs\">{runs}</testcase>\n{cases}  </testsuite>\n</testsuites>\n"
        )
    }

    /// The decision as JSON.
    pub fn json(&self) -> Value {
        json!({
            "schema": SCHEMA,
            "verdict": self.verdict,
            "exit_code": self.verdict.exit_code(),
            "reasons": self.reasons,
            "notes": self.notes,
            "baselines": self.baselines,
            "candidate": self.candidate,
            "checks": self.checks.iter().map(check_json).collect::<Vec<_>>(),
        })
    }
}

fn check_json(check: &Figures) -> Value {
    let unit = match check.metric {
        Metric::Time(..) => "us",
        Metric::Goodput => "1/s",
        Metric::Failures => "share",
    };
    json!({
        "metric": check.metric.to_string(),
        "unit": unit,
        "baseline": check.baseline,
        "candidate": check.candidate,
        "change": check.change,
        "change_low": check.interval.map(|(low, _)| low),
        "change_high": check.interval.map(|(_, high)| high),
        "resolution": check.resolution,
        "tolerated": check.tolerated,
        "bound": check.bound,
        "outcome": check.outcome,
        "reason": check.reason,
    })
}

/// Baseline, candidate, change, interval, what is allowed, resolution.
pub(crate) fn cells(check: &Figures) -> [String; 6] {
    let metric = check.metric;
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let value = |value: Option<f64>| or_dash(value.map(|value| metric.show(value)));
    let sign = if metric.larger_is_worse() { 1.0 } else { -1.0 };
    let change = |change: Option<f64>| or_dash(change.map(|change| metric.show_change(change)));
    let interval = check
        .interval
        .map(|(low, high)| format!("{} to {}", metric.show_change(low), metric.show_change(high)));
    let allowed = check.bound.map(|bound| metric.show(bound));
    [
        value(check.baseline),
        value(check.candidate),
        change(check.change),
        or_dash(interval),
        allowed.unwrap_or_else(|| change(check.tolerated.map(|tolerated| sign * tolerated))),
        change(check.resolution.map(|resolution| sign * resolution)),
    ]
}

pub(crate) fn words(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Pass => "pass",
        Outcome::Regression => "regression",
        Outcome::Missing => "missing",
        Outcome::TooFewSamples => "too few samples",
    }
}

/// A text without markup.
fn plain(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '|' | '<' | '>' | '`' | '*' | '_' | '[' | ']' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// A text as XML.
fn xml(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::{Statistic, Timing};

    fn decision(outcome: Outcome, verdict: Verdict) -> Decision {
        let check = Figures {
            metric: Metric::Time(Timing::Ttft, Statistic::Percentile(95.0)),
            baseline: Some(100_000.0),
            candidate: Some(112_000.0),
            change: Some(0.12),
            interval: Some((0.08, 0.16)),
            resolution: Some(0.07),
            tolerated: Some(0.05),
            bound: None,
            outcome,
            reason: "+12.00 % <is> \"worse\"".into(),
        };
        Decision {
            verdict,
            reasons: vec!["ttft.p95: a|b".into()],
            notes: vec!["a note".into()],
            baselines: vec!["base.json".into()],
            candidate: "new.json".into(),
            checks: vec![check],
        }
    }

    #[test]
    fn each_format_has_the_verdict_the_figures_and_the_reasons() {
        let decision = decision(Outcome::Regression, Verdict::Regression);
        let text = decision.text();
        for part in ["gate: regression\n  ttft.p95: a|b\n", "112.000 ms", "+8.00 % to +16.00 %"] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
        let markdown = decision.markdown();
        for part in [
            "### LLM latency gate: regression\n\n- ttft.p95: a\\|b\n",
            "| ttft.p95 | 100.000 ms | 112.000 ms | +12.00 % | +8.00 % to +16.00 % | +5.00 % | \
             +7.00 % | regression |\n",
            "new.json against base.json",
        ] {
            assert!(markdown.contains(part), "{part:?} is not in {markdown}");
        }
        let json = decision.json();
        assert_eq!((&json["verdict"], &json["exit_code"]), (&json!("regression"), &json!(1)));
        assert_eq!(json["checks"][0]["candidate"], 112_000.0);
        assert_eq!(json["checks"][0]["outcome"], "regression");
    }

    #[test]
    fn junit_has_a_failure_or_an_error_unless_it_is_a_pass() {
        for (outcome, verdict, wanted) in [
            (Outcome::Pass, Verdict::Pass, (0, 0)),
            (Outcome::Regression, Verdict::Regression, (1, 0)),
            (Outcome::Missing, Verdict::NotComparable, (0, 1)),
            (Outcome::TooFewSamples, Verdict::Invalid, (0, 1)),
        ] {
            let junit = decision(outcome, verdict).junit();
            let count = |tag: &str| junit.matches(tag).count();
            assert_eq!((count("<failure "), count("<error ")), wanted, "{junit}");
            let head = format!("tests=\"2\" failures=\"{}\" errors=\"{}\"", wanted.0, wanted.1);
            assert!(junit.contains(&head), "{junit}");
            assert!(junit.contains("&lt;is&gt; &quot;worse&quot;"), "{junit}");
        }
        for verdict in [Verdict::NotComparable, Verdict::Invalid] {
            let reasons = vec!["a & b".to_owned()];
            let junit = Decision::without_figures(verdict, reasons).junit();
            assert!(junit.contains("errors=\"1\"") && junit.contains("a &amp; b"), "{junit}");
        }
    }
}
