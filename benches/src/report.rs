//! The report: all values, the figures made of them, a table and ratios.
//!
//! In: the machine, the load and the values as the cells yield them.
//! Out: JSON with every round's value, and Markdown for people.
//! Never: rounds a value in the JSON; shows a figure that was not measured.

use crate::cells::Load;
use crate::machine::Machine;
use crate::metric::{Metric, ROWS, Row};
use crate::peers::Kind;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Pairs that are compared.
const PAIRS: [(Kind, Kind); 5] = [
    (Kind::LlmLens, Kind::Before),
    (Kind::LlmLens, Kind::Nginx),
    (Kind::LlmLens, Kind::IdlePingora),
    (Kind::Shielded, Kind::LlmLens),
    (Kind::Limited, Kind::LlmLens),
];

/// Values of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// How long the run took.
    pub seconds: u64,
    machine: Machine,
    load: Load,
    rounds: usize,
    kinds: Vec<Kind>,
    values: BTreeMap<(Kind, Metric), Vec<f64>>,
}

#[derive(Serialize)]
struct Figure<'a> {
    value: f64,
    rounds: &'a [f64],
}

impl Report {
    /// An empty report.
    #[must_use]
    pub fn new(machine: Machine, load: Load, rounds: usize) -> Self {
        Self { seconds: 0, machine, load, rounds, kinds: Vec::new(), values: BTreeMap::new() }
    }

    /// Adds a column for a proxy.
    pub fn add_kind(&mut self, kind: Kind) {
        self.kinds.push(kind);
    }

    /// Adds the value of one round.
    pub fn add(&mut self, kind: Kind, metric: Metric, value: f64) {
        self.values.entry((kind, metric)).or_default().push(value);
    }

    /// The figure combined from all rounds.
    #[must_use]
    pub fn figure(&self, kind: Kind, metric: Metric) -> Option<f64> {
        if let Some(whole) = metric.above_direct() {
            let direct = self.figure(Kind::Direct, whole)?;
            return match kind {
                Kind::Direct => None,
                _ => Some(self.figure(kind, whole)? - direct),
            };
        }
        metric.pick(self.values.get(&(kind, metric))?)
    }

    fn total(&self, kind: Kind, row: &Row) -> Option<f64> {
        let value = self.figure(kind, row.metric)?;
        match row.kernel {
            None => Some(value),
            Some(kernel) => Some(value + self.figure(kind, kernel)?),
        }
    }

    fn text(&self, kind: Kind, row: &Row) -> Option<String> {
        let digits = row.digits;
        let value = self.figure(kind, row.metric)?;
        let Some(kernel) = row.kernel else {
            return Some(format!("{value:.digits$}"));
        };
        let kernel = self.figure(kind, kernel)?;
        let total = value + kernel;
        Some(format!("{value:.digits$}+{kernel:.digits$} = {total:.digits$}"))
    }

    /// The report as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut proxies = BTreeMap::new();
        for kind in &self.kinds {
            let mut figures = BTreeMap::new();
            for row in &ROWS {
                for metric in [Some(row.metric), row.kernel].into_iter().flatten() {
                    if let Some(value) = self.figure(*kind, metric) {
                        let rounds = self.values.get(&(*kind, metric));
                        let rounds = rounds.map_or(&[][..], Vec::as_slice);
                        figures.insert(metric, Figure { value, rounds });
                    }
                }
            }
            proxies.insert(kind.name(), json!(figures));
        }
        let named = |(ours, rival): (Kind, Kind)| {
            let pair = format!("{} / {}", ours.name(), rival.name());
            (pair, self.ratios(ours, rival).into_iter().collect())
        };
        let ratios: BTreeMap<_, BTreeMap<_, _>> = PAIRS.into_iter().map(named).collect();
        json!({
            "machine": self.machine,
            "load": self.load,
            "rounds": self.rounds,
            "seconds": self.seconds,
            "proxies": proxies,
            "ratios": ratios,
        })
    }

    /// The report as Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = self.head();
        text.push_str(&self.table());
        for (ours, rival) in PAIRS {
            let ratios = self.ratios(ours, rival);
            if !ratios.is_empty() {
                let _ = writeln!(text, "\n{} / {}:\n", ours.name(), rival.name());
            }
            for (title, ratio) in ratios {
                let _ = writeln!(text, "- {title}: {ratio:.2}");
            }
        }
        text
    }

    fn head(&self) -> String {
        let machine = &self.machine;
        let (load, rounds) = (&self.load, self.rounds);
        let mut text = format!(
            "{} cores of {}, {} MiB, Linux {}, load at the start {}.\n\n",
            machine.cores, machine.cpu, machine.memory_mib, machine.kernel, machine.load
        );
        for (name, version) in &machine.versions {
            let _ = writeln!(text, "- {name}: {version}");
        }
        let _ = write!(
            text,
            "\nRounds: {rounds}, in {} s; medians over the rounds; p99 is that of the \
             quietest round. CPU is user+kernel time of the proxy alone. {} streams \
             with a gap of {:?} are paced, {} streams flood, {} streams are idle.\n\n",
            self.seconds, load.paced_streams, load.paced_gap, load.flood_streams, load.idle_streams
        );
        text
    }

    fn table(&self) -> String {
        let mut text = String::from("| |");
        for kind in &self.kinds {
            let _ = write!(text, " {} |", kind.name());
        }
        let _ = writeln!(text, "\n|---|{}", "---:|".repeat(self.kinds.len()));
        for row in &ROWS {
            let cells: Vec<_> = self.kinds.iter().map(|kind| self.text(*kind, row)).collect();
            if cells.iter().all(Option::is_none) {
                continue;
            }
            let _ = write!(text, "| {} |", row.title);
            for cell in cells {
                let _ = write!(text, " {} |", cell.as_deref().unwrap_or("–"));
            }
            text.push('\n');
        }
        text
    }

    /// Ratios of one proxy's figures to another's.
    fn ratios(&self, who: Kind, rival: Kind) -> Vec<(&'static str, f64)> {
        ROWS.iter()
            .filter_map(|row| {
                let ours = self.total(who, row)?;
                let theirs = self.total(rival, row)?;
                // A ratio of differences below zero is meaningless.
                (ours > 0.0 && theirs > 0.0).then_some((row.title, ours / theirs))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_takes_the_direct_way_off_and_makes_ratios() {
        let mut report = Report::new(Machine::detect(), Load::QUICK, 1);
        for (kind, ttft, cpu) in [
            (Kind::Direct, 100.0, None),
            (Kind::Nginx, 150.0, Some(10.0)),
            (Kind::LlmLens, 200.0, Some(15.0)),
        ] {
            report.add_kind(kind);
            report.add(kind, Metric::TtftP50, ttft);
            if let Some(cpu) = cpu {
                report.add(kind, Metric::SmallUser, cpu);
                report.add(kind, Metric::SmallKernel, cpu);
            }
        }
        assert_eq!(report.figure(Kind::Nginx, Metric::AddedP50), Some(50.0));
        let text = report.markdown();
        assert!(text.contains("| – | 10.0+10.0 = 20.0 | 15.0+15.0 = 30.0 |"));
        assert!(text.contains("- small request, CPU µs: 1.50"));
        assert!(text.contains("- added TTFT p50 µs: 2.00"));
        let json = report.json();
        assert_eq!(json["proxies"]["nginx"]["added_p50"]["value"], 50.0);
        assert_eq!(json["ratios"]["llm-lens / nginx"]["small request, CPU µs"], 1.5);
    }
}
