//! Reports of training.
//!
//! - *In*: rows with scores of models that were not trained on them.
//! - *Out*: lines of text.
//! - *Never*: a score of a model that was trained on the row.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::data::{File, Row};
use crate::fit::{FOLDS, fit};
use crate::metrics::{Scored, above, auc, threshold, tpr};
use crate::sample::Samples;
use classifier::{Scores, Task, ToxicCategory};

fn question_score(question: Task, scores: &Scores) -> f32 {
    match question {
        Task::Injection => scores.injection,
        Task::Toxicity => scores.toxicity,
    }
}

/// Scores of every row by a model trained on the other folds.
pub fn folds(rows: &[Row], samples: &Samples) -> Result<Vec<Scores>, aho_corasick::BuildError> {
    let mut scores = vec![Scores::default(); rows.len()];
    for fold in 0..FOLDS {
        let model = fit(rows, samples, |r| r.fold != fold)?;
        for (slot, row) in scores.iter_mut().zip(rows).filter(|(_, r)| r.fold == fold && !r.own) {
            *slot = model.score(&row.normal);
        }
    }
    Ok(scores)
}

/// For every source, the share of its rows flagged by a model trained without that source.
pub fn sources(rows: &[Row], samples: &Samples) -> Result<String, aho_corasick::BuildError> {
    let mut out = String::from(
        "leave one source out: share above 0.5 by a model trained without the source\n",
    );
    let mut names: Vec<&str> = rows.iter().filter(|r| !r.own).map(|r| r.source.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let groups: std::collections::HashSet<usize> =
            rows.iter().filter(|r| r.source == name).map(|r| r.group).collect();
        // Rows derived from the source, and near-duplicates of its rows, are excluded too.
        let model = fit(rows, samples, |r| r.source != name && !groups.contains(&r.group))?;
        let mut shares: BTreeMap<(bool, u8), Vec<f32>> = BTreeMap::new();
        for row in rows.iter().filter(|r| r.source == name) {
            let question =
                if row.file == File::Toxicity { Task::Toxicity } else { Task::Injection };
            let asked = question_score(question, &model.score(&row.normal));
            shares.entry((row.positive, row.file as u8)).or_default().push(asked);
        }
        for ((positive, _), list) in shares {
            let kind = if positive { "positive" } else { "negative" };
            let _ = writeln!(
                out,
                "  {name:44} {kind} n {:5} flagged {:.3}",
                list.len(),
                above(list.iter().copied(), 0.5)
            );
        }
    }
    Ok(out)
}

/// All metrics of both questions.
pub fn report(rows: &[Row], scores: &[Scores]) -> String {
    let mut out = String::new();
    for question in Task::ALL {
        let file = if question == Task::Injection { File::Injection } else { File::Toxicity };
        let all: Vec<(&Row, f32)> = rows
            .iter()
            .zip(scores)
            .filter(|(r, _)| !r.own)
            .map(|(r, s)| (r, question_score(question, s)))
            .collect();
        let _ = writeln!(out, "{question:?}");
        line(&mut out, "all", &all, |r| r.file == file);
        match question {
            Task::Injection => {
                line(&mut out, "obfuscation against all benign", &all, |r| {
                    r.file == file && (!r.positive || r.source == "derived/obfuscation")
                });
                line(&mut out, "without indirect_task", &all, |r| {
                    r.file == file && !r.category.starts_with("indirect_task")
                });
                let ascii = |r: &Row| r.file == file && !r.source.ends_with("multilingual");
                line(&mut out, "without the machine-translated", &all, ascii);
            }
            Task::Toxicity => {
                line(&mut out, "without request:*", &all, |r| {
                    r.file == file && !r.category.starts_with("request:")
                });
                line(&mut out, "request:* alone", &all, |r| {
                    r.file == file && r.category.starts_with("request:")
                });
            }
        }
        benign(&mut out, &all);
        groups(&mut out, &all, file, |r| {
            format!("{} {}", r.source, if r.positive { "+" } else { "-" })
        });
        groups(&mut out, &all, file, |r| {
            format!(
                "  {}",
                r.category.split_once(':').map_or(r.category.as_str(), |(a, b)| {
                    if a == "obfuscated" || a == "hatecheck" || a == "request" { b } else { a }
                })
            )
        });
    }
    categories(&mut out, rows, scores);
    out
}

/// Share of benign rows that score above 0.5.
fn benign(out: &mut String, all: &[(&Row, f32)]) {
    let hard = |r: &Row| r.category.starts_with("hard_negative");
    let share = |pick: &dyn Fn(&Row) -> bool| {
        above(all.iter().filter(|(r, _)| pick(r)).map(|(_, s)| *s), 0.5)
    };
    let _ = writeln!(
        out,
        "  benign.jsonl ordinary above 0.5: {:.4}",
        share(&|r| r.file == File::Benign && !hard(r))
    );
    let _ = writeln!(
        out,
        "  benign.jsonl hard negatives above 0.5: {:.4}",
        share(&|r| r.file == File::Benign && hard(r))
    );
    let _ = writeln!(
        out,
        "  all hard negatives above 0.5: {:.4}",
        share(&|r| r.file != File::Toxicity && !r.positive && hard(r))
    );
}

/// Metrics of toxicity with its categories, and the share that each category flags.
fn categories(out: &mut String, rows: &[Row], scores: &[Scores]) {
    let of = |score: &dyn Fn(&Scores) -> f32| -> Vec<(&Row, f32)> {
        rows.iter().zip(scores).filter(|(r, _)| !r.own).map(|(r, s)| (r, score(s))).collect()
    };
    let request = |r: &Row| r.category.starts_with("request:");
    let all = of(&Scores::worst_toxicity);
    let _ = writeln!(out, "Toxicity with its categories");
    line(out, "without request:*", &all, |r| r.file == File::Toxicity && !request(r));
    line(out, "request:* alone", &all, |r| r.file == File::Toxicity && request(r));
    let harmless = |r: &Row| r.file != File::Toxicity && !r.positive;
    let _ = writeln!(
        out,
        "  harmless rows of the other files above 0.5: {:.4}",
        above(all.iter().filter(|(r, _)| harmless(r)).map(|s| s.1), 0.5)
    );
    let source = |r: &Row| format!("{} {}", r.source, if r.positive { "+" } else { "-" });
    groups(out, &all, File::Toxicity, source);
    for (i, category) in ToxicCategory::ALL.into_iter().enumerate() {
        let _ = writeln!(out, "  {}", category.name());
        let mut all = of(&|s| s.toxic.get(i).copied().unwrap_or_default());
        all.retain(|(r, _)| r.file == File::Toxicity && !request(r));
        groups(out, &all, File::Toxicity, source);
    }
}

fn line(out: &mut String, name: &str, all: &[(&Row, f32)], pick: impl Fn(&Row) -> bool) {
    let scored: Vec<Scored> =
        all.iter().filter(|(r, _)| pick(r)).map(|(r, s)| (*s, r.positive)).collect();
    let of = |positive: bool| scored.iter().filter(move |s| s.1 == positive).map(|s| s.0);
    let (hit, alarm) =
        (of(true).filter(|s| *s > 0.5).count(), of(false).filter(|s| *s > 0.5).count());
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
        let _ = writeln!(
            out,
            "    {name:46} n {:5} above 0.5: {:.3}",
            list.len(),
            above(list.iter().copied(), 0.5)
        );
    }
}
