//! Measures the detectors on labelled rows: `pii.jsonl`, `secrets.jsonl`, `benign.jsonl` of a
//! folder.
//!
//! A hit is a predicted span of the same type with an intersection over union of at least one half,
//! matched one to one. A URL inside a labelled e-mail address is ignored. If a row has
//! `check_types`, only these types are scored.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use ::shield::finding::Family;
use ::shield::scan::Scanner;
use anyhow::{Context, Result};
use serde::Deserialize;

use super::in_characters;
use crate::write_stdout;

/// The types of the headline figure.
const CORE: [&str; 9] = [
    "EMAIL_ADDRESS",
    "PHONE_NUMBER",
    "CREDIT_CARD",
    "IBAN_CODE",
    "US_SSN",
    "IP_ADDRESS",
    "URL",
    "MAC_ADDRESS",
    "CRYPTO",
];
/// Types that are not scored: they need a language model, or are numbers other than national
/// identifiers.
const NOT_JUDGED: [&str; 15] = [
    "PERSON",
    "LOCATION",
    "ADDRESS",
    "STREET_ADDRESS",
    "ORGANIZATION",
    "DATE_TIME",
    "DATE_OF_BIRTH",
    "TITLE",
    "AGE",
    "NRP",
    "PREFIX",
    "ZIP_CODE",
    "PH_MOBILE_NUMBER",
    "TR_PHONE_NUMBER",
    "US_DRIVER_LICENSE",
];
/// Number of timed runs; the fastest counts.
const TIMES: usize = 5;

#[derive(Deserialize)]
struct Row {
    text: String,
    label: String,
    #[serde(default)]
    spans: Vec<Span>,
    #[serde(default)]
    check_types: Vec<String>,
}

#[derive(Clone, Deserialize)]
struct Span {
    #[serde(rename = "type")]
    kind: String,
    start: usize,
    end: usize,
}

impl Span {
    fn overlap(&self, other: &Span) -> f64 {
        let both = self.end.min(other.end).saturating_sub(self.start.max(other.start));
        both as f64 / (self.end - self.start + other.end - other.start - both).max(1) as f64
    }

    fn holds(&self, at: usize) -> bool {
        (self.start..self.end).contains(&at)
    }
}

/// Hits, false alarms, misses.
#[derive(Clone, Copy, Default)]
struct Tally {
    hit: usize,
    extra: usize,
    missed: usize,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.hit += other.hit;
        self.extra += other.extra;
        self.missed += other.missed;
    }

    fn text(&self) -> String {
        let share = |of: usize| self.hit as f64 / (self.hit + of).max(1) as f64;
        let f1 = 2.0 * self.hit as f64 / (2 * self.hit + self.extra + self.missed).max(1) as f64;
        let (hit, extra, missed) = (self.hit, self.extra, self.missed);
        format!(
            "precision {:.4}  recall {:.4}  F1 {f1:.4}  ({hit} hit, {extra} extra, {missed} missed)",
            share(extra),
            share(missed)
        )
    }
}

/// Measures the detectors and prints the figures.
pub(crate) fn eval(folder: &Path, languages: bool, code: Option<&Path>) -> Result<ExitCode> {
    let scanner = Scanner::new(&::shield::rules());
    let benign = rows(folder, "benign.jsonl")?;
    let mut out = pii(&scanner, &rows(folder, "pii.jsonl")?);
    out.push_str(&secrets(&scanner, &rows(folder, "secrets.jsonl")?));
    for (name, family) in [("pii", Family::Pii), ("secrets", Family::Secret)] {
        let flagged =
            benign.iter().filter(|row| !found(&scanner, &row.text, family).is_empty()).count();
        out.push_str(&format!(
            "benign: {name} flags {flagged} of {} = {:.4}\n",
            benign.len(),
            flagged as f64 / benign.len().max(1) as f64
        ));
    }
    out.push_str(&speed(&scanner, &benign));
    let prose: Vec<&str> = benign.iter().map(|row| row.text.as_str()).collect();
    out.push_str(&super::streams::streams(&prose, code)?);
    write_stdout(&out)?;
    let out = super::train::measure(folder, languages)?;
    write_stdout(&out)?;
    Ok(ExitCode::SUCCESS)
}

fn rows(folder: &Path, name: &str) -> Result<Vec<Row>> {
    let path = folder.join(name);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let row = |(at, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| format!("{}:{}", path.display(), at + 1))
    };
    text.lines().enumerate().map(row).collect()
}

fn merged(kind: &str) -> String {
    if kind == "DOMAIN_NAME" { "URL".into() } else { kind.into() }
}

fn found(scanner: &Scanner, text: &str, family: Family) -> Vec<Span> {
    let mut all = Vec::new();
    scanner.find(text, &mut all);
    let span = |f: &::shield::finding::Finding| {
        let (start, end) = in_characters(text, f);
        Span { kind: merged(&f.kind), start, end }
    };
    all.iter().filter(|f| f.family == family).map(span).collect()
}

fn pii(scanner: &Scanner, rows: &[Row]) -> String {
    let mut table: BTreeMap<String, Tally> = BTreeMap::new();
    let (mut characters, mut leaked, mut quiet, mut flagged) = (0, 0, 0, 0);
    for row in rows {
        let predicted = found(scanner, &row.text, Family::Pii);
        let checked: Vec<String> = row.check_types.iter().map(|kind| merged(kind)).collect();
        let judged = |kind: &String| checked.is_empty() || checked.contains(kind);
        let gold: Vec<Span> = row
            .spans
            .iter()
            .map(|span| Span { kind: merged(&span.kind), ..span.clone() })
            .collect();
        judge(&gold, &predicted, judged, &mut table);
        for span in gold.iter().filter(|span| CORE.contains(&span.kind.as_str())) {
            characters += span.end - span.start;
            leaked +=
                (span.start..span.end).filter(|at| !predicted.iter().any(|p| p.holds(*at))).count();
        }
        if row.label == "none" {
            quiet += 1;
            flagged += usize::from(predicted.iter().any(|span| judged(&span.kind)));
        }
    }
    let sum = |wanted: &dyn Fn(&str) -> bool| {
        let mut sum = Tally::default();
        table.iter().filter(|(kind, _)| wanted(kind)).for_each(|(_, tally)| sum.add(*tally));
        sum.text()
    };
    let core = |kind: &str| CORE.contains(&kind);
    let mut out: String = table
        .iter()
        .filter(|(kind, _)| core(kind))
        .map(|(kind, tally)| format!("  {kind:14} {}\n", tally.text()))
        .collect();
    out.push_str(&format!("pii, core types: {}\n", sum(&core)));
    out.push_str(&format!(
        "pii, national identifiers: {}\n",
        sum(&|kind| !core(kind) && !NOT_JUDGED.contains(&kind))
    ));
    out.push_str(&format!(
        "pii, characters leaked: {:.4}\n",
        leaked as f64 / f64::from(characters.max(1) as u32)
    ));
    out.push_str(&format!("pii, rows without PII that are flagged: {flagged} of {quiet}\n"));
    out
}

fn judge(
    gold: &[Span],
    predicted: &[Span],
    judged: impl Fn(&String) -> bool,
    table: &mut BTreeMap<String, Tally>,
) {
    let mut left: Vec<&Span> = predicted.iter().collect();
    for span in gold.iter().filter(|span| judged(&span.kind)) {
        let near =
            left.iter().enumerate().filter(|(_, p)| p.kind == span.kind && p.overlap(span) >= 0.5);
        let best =
            near.max_by(|a, b| a.1.overlap(span).total_cmp(&b.1.overlap(span))).map(|(at, _)| at);
        let tally = table.entry(span.kind.clone()).or_default();
        match best {
            Some(at) => {
                left.swap_remove(at);
                tally.hit += 1;
            }
            None => tally.missed += 1,
        }
    }
    let in_mail = |span: &Span| {
        gold.iter().any(|g| g.kind == "EMAIL_ADDRESS" && g.start <= span.start && span.end <= g.end)
    };
    for span in
        left.into_iter().filter(|span| judged(&span.kind) && !(span.kind == "URL" && in_mail(span)))
    {
        table.entry(span.kind.clone()).or_default().extra += 1;
    }
}

fn secrets(scanner: &Scanner, rows: &[Row]) -> String {
    let (mut tally, mut quiet, mut characters, mut covered) = (Tally::default(), 0, 0, 0);
    for row in rows {
        let predicted = found(scanner, &row.text, Family::Secret);
        for span in &row.spans {
            characters += span.end - span.start;
            covered +=
                (span.start..span.end).filter(|at| predicted.iter().any(|p| p.holds(*at))).count();
        }
        match (row.label == "secret", !predicted.is_empty()) {
            (true, true) => tally.hit += 1,
            (true, false) => tally.missed += 1,
            (false, true) => tally.extra += 1,
            (false, false) => quiet += 1,
        }
    }
    let rate = tally.extra as f64 / (tally.extra + quiet).max(1) as f64;
    let share = covered as f64 / f64::from(characters.max(1) as u32);
    format!(
        "secrets: {}  FPR {rate:.4}\nsecrets, labelled characters covered: {share:.4}\n",
        tally.text()
    )
}

fn speed(scanner: &Scanner, rows: &[Row]) -> String {
    let text = rows.iter().map(|row| row.text.as_str()).collect::<Vec<_>>().join("\n");
    let once = || {
        let (began, mut all) = (Instant::now(), Vec::new());
        scanner.find(&text, &mut all);
        began.elapsed().as_secs_f64()
    };
    let best = (0..TIMES).map(|_| once()).fold(f64::MAX, f64::min);
    format!(
        "speed: {:.0} MB/s, {:.2} us/KiB on benign texts\n",
        text.len() as f64 / best / 1e6,
        best * 1e6 * 1024.0 / text.len().max(1) as f64
    )
}
