//! A decision as one HTML file.

use charts::{Axis, Bar, Bars, Block, Page, Scale, Table, Tile};

use crate::judge::Decision;
use crate::output::{cells, words};
use crate::verdict::{Figures, Outcome, Verdict};

/// Heads of the table.
const HEAD: [&str; 8] =
    ["metric", "baseline", "candidate", "change", "interval", "allowed", "resolution", "result"];

impl Decision {
    /// The decision as an HTML page.
    pub fn html(&self) -> String {
        let verdict = self.verdict.words();
        let failed = self.checks.iter().filter(|check| check.outcome != Outcome::Pass).count();
        let tile = |name: &str, value: String| Tile { name: name.into(), value };
        let mut blocks = vec![Block::Tiles(vec![
            tile("verdict", verdict.to_owned()),
            tile("checks", self.checks.len().to_string()),
            tile("checks without a pass", failed.to_string()),
        ])];
        let reason = |reason: &String| match self.verdict {
            Verdict::Pass => Block::Text(reason.clone()),
            _ => Block::Warning(reason.clone()),
        };
        blocks.extend(self.reasons.iter().map(reason));
        blocks.push(Block::Bars(self.intervals()));
        blocks.push(Block::Table(self.table()));
        blocks.extend(self.notes.iter().map(|note| Block::Text(format!("Note: {note}"))));
        let subtitle = format!("{} against {}", self.candidate, self.baselines.join(", "));
        Page { title: format!("Latency gate: {verdict}"), subtitle, blocks }.html()
    }

    /// The change of each metric, its interval, and what is tolerated.
    fn intervals(&self) -> Bars {
        let row = |check: &Figures| {
            let percent = |share: f64| share * 100.0;
            let sign = if check.metric.larger_is_worse() { 1.0 } else { -1.0 };
            let mut parts = Vec::new();
            if let Some((low, high)) = check.interval {
                parts.push((0, percent(low), percent(high)));
            }
            if let Some(change) = check.change {
                parts.push((1, percent(change), percent(change)));
            }
            if let Some(tolerated) = check.tolerated {
                parts.push((2, percent(sign * tolerated), percent(sign * tolerated)));
            }
            // The axis has a zero.
            parts.push((3, 0.0, 0.0));
            Bar { label: check.metric.to_string(), parts }
        };
        Bars {
            title: "Changes".into(),
            note: "a regression passes what is tolerated, and its interval supports it".into(),
            x: Axis::new("change against the baseline, %", Scale::Linear),
            kinds: ["interval", "change", "tolerated", "none"].map(str::to_owned).to_vec(),
            rows: self.checks.iter().filter(|check| check.change.is_some()).map(row).collect(),
            height: 20.0,
        }
    }

    fn table(&self) -> Table {
        let row = |check: &Figures| {
            let first = std::iter::once(check.metric.to_string());
            let last = std::iter::once(words(check.outcome).to_owned());
            first.chain(cells(check)).chain(last).collect()
        };
        let head = HEAD.map(str::to_owned).to_vec();
        Table { title: String::new(), head, rows: self.checks.iter().map(row).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::Metric;

    #[test]
    fn the_page_has_the_verdict_its_reasons_and_the_intervals() {
        let metric: Metric = "ttft.p95".parse().unwrap();
        let mut decision = Decision::without_figures(
            Verdict::Regression,
            vec!["ttft.p95 rose by 12 % <b>".to_owned()],
        );
        decision.checks.push(Figures {
            metric,
            baseline: Some(100_000.0),
            candidate: Some(112_000.0),
            change: Some(0.12),
            interval: Some((0.08, 0.16)),
            resolution: Some(0.03),
            tolerated: Some(0.05),
            bound: None,
            outcome: Outcome::Regression,
            reason: String::new(),
        });
        let html = decision.html();
        assert!(html.contains("Latency gate: regression") && html.contains("12 % &lt;b&gt;"));
        assert!(html.contains("ttft.p95, interval: 8 to 16"), "{html}");
        assert!(html.contains("<th scope=\"row\">ttft.p95</th>"), "{html}");
    }
}
