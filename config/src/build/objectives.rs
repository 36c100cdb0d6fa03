//! Builds the objectives of routes from a checked tree.

use std::collections::BTreeSet;
use std::time::Duration;

use stats::{MAX_WINDOW, Objectives, Threshold};

use super::Builder;
use crate::tree::Table;

/// Shortest window of an error budget: shorter windows are counted by the minute.
const MIN_WINDOW: Duration = Duration::from_secs(3600);
const PERCENTILES: [(&str, u8); 4] = [("p50", 50), ("p90", 90), ("p95", 95), ("p99", 99)];

impl Builder {
    pub(super) fn objectives(&mut self, root: &Table) -> Vec<Objectives> {
        // Routes with a problem are named, too.
        let routes: Vec<Option<&str>> =
            root.list("routes").iter().map(|route| route.text("name")).collect();
        let named: Vec<&str> = routes.iter().flatten().copied().collect();
        let mut seen = BTreeSet::new();
        let mut all = Vec::new();
        for table in root.list("objectives") {
            let route = table.text("route").unwrap_or_default();
            if !named.contains(&route) && named.len() == routes.len() {
                self.unknown(table, "route", route, &named);
            }
            if !seen.insert(route.to_owned()) {
                self.wrong(table, "route", format!("route {route:?} has two entries; write one"));
            }
            let objectives = Objectives {
                route: route.into(),
                ttft: self.threshold(table, "ttft"),
                tpot: self.threshold(table, "tpot"),
                availability: self.availability(table),
                window: table.duration("window"),
            };
            let is_empty = !["ttft", "tpot", "availability"].iter().any(|field| table.has(field));
            if is_empty && !table.is_explained("ttft") {
                self.wrong(table, "route", "the entry needs ttft, tpot or availability");
            }
            if !(MIN_WINDOW..=MAX_WINDOW).contains(&objectives.window) {
                self.wrong(table, "window", "must be from 1h to 90d");
            }
            all.push(objectives);
        }
        all
    }

    fn threshold(&mut self, table: &Table, field: &str) -> Option<Threshold> {
        let section = table.table(field)?;
        let given: Vec<(u8, Duration)> = PERCENTILES
            .iter()
            .filter_map(|(name, percentile)| Some((*percentile, section.given_duration(name)?)))
            .collect();
        let wrong = match given.as_slice() {
            [(percentile, max)] if !max.is_zero() => {
                return Some(Threshold { percentile: *percentile, max: *max });
            }
            [_] => "must be longer than 0s",
            [] if PERCENTILES.iter().any(|(name, _)| section.is_explained(name)) => return None,
            _ => "needs one percentile and its maximum, such as {p95: 1s}",
        };
        self.wrong(table, field, wrong);
        None
    }

    fn availability(&mut self, table: &Table) -> Option<f64> {
        let percent = table.number("availability")?;
        if percent <= 1.0 || percent >= 100.0 {
            self.wrong(
                table,
                "availability",
                format!("{percent} must be a percentage above 1 and below 100, such as 99.9; 100 leaves no error budget"),
            );
        }
        Some(percent)
    }
}
