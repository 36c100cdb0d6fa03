//! The numbers people read.
//!
//! - *In*: rows with the scores of models that had not seen them.
//! - *Out*: lines of text.
//! - *Never*: a score of a model that was trained on the row.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::data::{File, Row};
use super::fit::{FOLDS, fit};
use super::metrics::{Scored, above, auc, threshold, tpr};
use super::sample::Samples;
use crate::classify::{Model, Question};

/// The scores of every row, by question.
pub type Scores = Vec<[f32; 2]>;

fn score(model: &Model, row: &Row) -> [f32; 2] {
    let scores = model.score(&row.normal);
    [scores.injection, scores.toxicity]
}

/// Scores of every row by the model of the other folds.
pub fn folds(rows: &[Row], samples: &Samples) -> Result<Scores, aho_corasick::BuildError> {
    let mut scores = vec![[f32::NAN; 2]; rows.len()];
    for fold in 0..FOLDS {
        let model = fit(rows, samples, |r| r.fold != fold)?;
        for (slot, row) in scores.iter_mut().zip(rows).filter(|(_, r)| r.fold == fold && !r.own) {
            *slot = score(&model, row);
        }
    }
    Ok(scores)
}

/// For every source, what a model finds in it that saw no row of it.
pub fn sources(rows: &[Row], samples: &Samples) -> Result<String, aho_corasick::BuildError> {
    let mut out = String::from("leave one source out: share above 0.5 by a model that saw none of the source\n");
    let mut names: Vec<&str> = rows.iter().filter(|r| !r.own).map(|r| r.source.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let groups: std::collections::HashSet<usize> = rows.iter().filter(|r| r.source == name).map(|r| r.group).collect();
        // What was made from a row of the source, or is nearly one, is kept out too.
        let model = fit(rows, samples, |r| r.source != name && !groups.contains(&r.group))?;
        let mut shares: BTreeMap<(bool, u8), Vec<f32>> = BTreeMap::new();
        for row in rows.iter().filter(|r| r.source == name) {
            let [injection, toxicity] = score(&model, row);
            let asked = if row.file == File::Toxicity { toxicity } else { injection };
            shares.entry((row.positive, row.file as u8)).or_default().push(asked);
        }
        for ((positive, _), list) in shares {
            let kind = if positive { "positive" } else { "negative" };
            let _ = writeln!(out, "  {name:44} {kind} n {:5} flagged {:.3}", list.len(), above(list.iter().copied(), 0.5));
        }
    }
    Ok(out)
}

/// All metrics of both questions.
pub fn report(rows: &[Row], scores: &Scores) -> String {
    let mut out = String::new();
    for (column, question) in Question::ALL.into_iter().enumerate() {
        let file = if question == Question::Injection { File::Injection } else { File::Toxicity };
        let all: Vec<(&Row, f32)> =
            rows.iter().zip(scores).filter(|(r, _)| !r.own).filter_map(|(r, s)| Some((r, *s.get(column)?))).collect();
        let _ = writeln!(out, "{question:?}");
        line(&mut out, "all", &all, |r| r.file == file);
        match question {
            Question::Injection => {
                line(&mut out, "obfuscation against all benign", &all, |r| {
                    r.file == file && (!r.positive || r.source == "derived/obfuscation")
                });
                line(&mut out, "without indirect_task", &all, |r| r.file == file && !r.category.starts_with("indirect_task"));
                let ascii = |r: &Row| r.file == file && !r.source.ends_with("multilingual");
                line(&mut out, "without the machine-translated", &all, ascii);
            }
            Question::Toxicity => {
                line(&mut out, "without request:*", &all, |r| r.file == file && !r.category.starts_with("request:"));
                line(&mut out, "request:* alone", &all, |r| r.file == file && r.category.starts_with("request:"));
            }
        }
        let hard = |r: &Row| r.category.starts_with("hard_negative");
        let share = |pick: &dyn Fn(&Row) -> bool| above(all.iter().filter(|(r, _)| pick(r)).map(|(_, s)| *s), 0.5);
        let _ = writeln!(out, "  benign.jsonl ordinary above 0.5: {:.4}", share(&|r| r.file == File::Benign && !hard(r)));
        let _ = writeln!(out, "  benign.jsonl hard negatives above 0.5: {:.4}", share(&|r| r.file == File::Benign && hard(r)));
        let _ = writeln!(out, "  all hard negatives above 0.5: {:.4}", share(&|r| r.file != File::Toxicity && !r.positive && hard(r)));
        groups(&mut out, &all, file, |r| format!("{} {}", r.source, if r.positive { "+" } else { "-" }));
        groups(&mut out, &all, file, |r| {
            format!(
                "  {}",
                r.category
                    .split_once(':')
                    .map_or(r.category.as_str(), |(a, b)| if a == "obfuscated" || a == "hatecheck" || a == "request" { b } else { a })
            )
        });
    }
    out
}

fn line(out: &mut String, name: &str, all: &[(&Row, f32)], pick: impl Fn(&Row) -> bool) {
    let scored: Vec<Scored> = all.iter().filter(|(r, _)| pick(r)).map(|(r, s)| (*s, r.positive)).collect();
    let of = |positive: bool| scored.iter().filter(move |s| s.1 == positive).map(|s| s.0);
    let (hit, alarm) = (of(true).filter(|s| *s > 0.5).count(), of(false).filter(|s| *s > 0.5).count());
    let precision = hit as f64 / (hit + alarm).max(1) as f64;
    let _ = writeln!(
        out,
        "  {name:32} AUC {:.4}  TPR@1% {:.3}  at 0.5: P {precision:.3} R {:.3} FPR {:.4}  (score at 1%: {:.3})",
        auc(&scored),
        tpr(&scored),
        above(of(true), 0.5),
        above(of(false), 0.5),
        threshold(&scored, 0.01),
    );
}

fn groups(out: &mut String, all: &[(&Row, f32)], file: File, name: impl Fn(&Row) -> String) {
    let mut groups: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for (row, score) in all.iter().filter(|(r, _)| r.file == file || r.file == File::Benign) {
        groups.entry(name(row)).or_default().push(*score);
    }
    for (name, list) in groups {
        let _ = writeln!(out, "    {name:46} n {:5} above 0.5: {:.3}", list.len(), above(list.iter().copied(), 0.5));
    }
}
