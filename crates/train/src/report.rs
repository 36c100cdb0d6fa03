//! Reports of training.
//!
//! - *In*: rows, and scores of held-out rows.
//! - *Out*: lines of text.
//! - *Never*: a score by weights that were trained on the row, its source, or a near-duplicate.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::data::{File, Row};
use crate::fit::{Trained, is_judged};
use crate::metrics::{Scored, above, auc, threshold, tpr};
use classifier::{RARE, Scores, TASKS, Task, ToxicCategory};

/// A row with its score.
type Judged<'a> = (&'a Row, f32);

/// All metrics of all classes, by weights that were trained on other sources.
pub fn report(rows: &[Row], trained: &Trained) -> String {
    let mut out = String::from("weights trained without the source of each row (8 parts)\n");
    for (task, held) in Task::ALL.into_iter().zip(&trained.held) {
        let all = scored(task, rows, held, trained);
        let _ = writeln!(
            out,
            "{task:?}: a score of 0.5 is that of 1 % of harmless texts, {RARE} of 0.1 %"
        );
        let judged: Vec<Judged<'_>> =
            all.iter().copied().filter(|(row, _)| is_judged(task, row)).collect();
        line(&mut out, "all", &judged);
        line(&mut out, "with logs, code, prose", &all);
        origins(&mut out, &judged);
        harmless(&mut out, &all);
        curve(&mut out, &all);
        groups(&mut out, &all, |row| {
            let file = if row.file == File::Benign { "benign " } else { "" };
            format!("{file}{} {}", row.source, if row.positive { "+" } else { "-" })
        });
    }
    categories(&mut out, rows, trained);
    out
}

/// Metrics by language, by weights that were trained without that language.
pub fn languages(rows: &[Row], trained: &Trained, held: &[Vec<Option<f32>>; TASKS]) -> String {
    let mut out = String::from("weights trained without the language of each row\n");
    for (task, held) in Task::ALL.into_iter().zip(held) {
        let mut all = scored(task, rows, held, trained);
        all.retain(|(row, _)| is_judged(task, row));
        let _ = writeln!(out, "{task:?}");
        line(&mut out, "all", &all);
        by_language(&mut out, &all);
    }
    out
}

fn scored<'a>(
    task: Task,
    rows: &'a [Row],
    held: &[Option<f32>],
    trained: &Trained,
) -> Vec<Judged<'a>> {
    let head = trained.model.head(task);
    let is_asked = |row: &Row| !row.own && (is_judged(task, row) || row.file == File::Benign);
    let rows = rows.iter().zip(held).filter(|(row, _)| is_asked(row));
    rows.filter_map(|(row, raw)| Some((row, head.calibrated(raw.as_ref().copied()?)))).collect()
}

fn line(out: &mut String, name: &str, all: &[Judged<'_>]) {
    let scored: Vec<Scored> = all.iter().map(|(row, score)| (*score, row.positive)).collect();
    let of = |positive: bool| scored.iter().filter(move |s| s.1 == positive).map(|s| s.0);
    let positives = of(true).count();
    if positives == 0 || positives == scored.len() {
        return;
    }
    let _ = writeln!(
        out,
        "  {name:32} {positives:5} of {:5}  AUC {:.4}  TPR at 1 % {:.3}, at 0.1 % {:.3}; above 0.5: {:.3}, harmless {:.4}",
        scored.len(),
        auc(&scored),
        tpr(&scored),
        above(of(true), threshold(&scored, 0.001)),
        above(of(true), 0.5),
        above(of(false), 0.5),
    );
}

/// Metrics of rows with and without a language, and of each language.
fn origins(out: &mut String, all: &[Judged<'_>]) {
    for (name, has) in [("rows without a language", false), ("rows with a language", true)] {
        let some: Vec<Judged<'_>> =
            all.iter().copied().filter(|(row, _)| row.lang.is_empty() != has).collect();
        line(out, name, &some);
    }
    by_language(out, all);
}

fn by_language(out: &mut String, all: &[Judged<'_>]) {
    let mut languages: BTreeMap<&str, Vec<Judged<'_>>> = BTreeMap::new();
    for (row, score) in all.iter().filter(|(row, _)| !row.lang.is_empty()) {
        languages.entry(&row.lang).or_default().push((row, *score));
    }
    languages.iter().for_each(|(lang, rows)| line(out, lang, rows));
}

/// Whether a row is of a kind.
type IsKind<'f> = &'f dyn Fn(&Row) -> bool;

/// Shares of harmless texts that are flagged and blocked, by kind.
fn harmless(out: &mut String, all: &[Judged<'_>]) {
    let is_prose = |row: &Row| matches!(row.category.as_str(), "prose" | "mail");
    let is_hard = |row: &Row| row.category.starts_with("hard");
    let kinds: [(&str, IsKind<'_>); 5] = [
        ("logs, code, data", &|row| row.file == File::Benign && row.tool && !is_prose(row)),
        ("prose, mails", &|row| row.file == File::Benign && is_prose(row)),
        ("tool results, documents", &|row| row.file == File::Injection && row.tool),
        ("ordinary prompts", &|row| row.file != File::Toxicity && !row.tool && !is_hard(row)),
        ("prompts that look like attacks", &|row| !row.tool && is_hard(row)),
    ];
    for (name, is_kind) in kinds {
        let scores: Vec<f32> = all
            .iter()
            .filter(|(row, _)| !row.positive && is_kind(row))
            .map(|(_, score)| *score)
            .collect();
        if !scores.is_empty() {
            let [flagged, blocked] = [0.5, RARE].map(|at| above(scores.iter().copied(), at));
            let n = scores.len();
            let _ = writeln!(
                out,
                "  {name:32} {n:5}  above 0.5: {flagged:.4}, above {RARE}: {blocked:.4}"
            );
        }
    }
}

/// Of the rows in each range of scores, the share that is an attack or toxic.
fn curve(out: &mut String, all: &[Judged<'_>]) {
    const EDGES: [f32; 8] = [0.0, 0.1, 0.25, 0.5, 0.75, RARE, 0.97, 1.01];
    for range in EDGES.windows(2) {
        let &[from, to] = range else { continue };
        let within = || all.iter().filter(move |(_, score)| (from..to).contains(score));
        let (n, positive) = (within().count(), within().filter(|(row, _)| row.positive).count());
        let share = positive as f64 / n.max(1) as f64;
        let _ = writeln!(
            out,
            "  scores {from:.2} to {:.2}: {n:5} rows, {share:.3} positive",
            to.min(1.0)
        );
    }
}

fn groups(out: &mut String, all: &[Judged<'_>], name: impl Fn(&Row) -> String) {
    let mut groups: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for (row, score) in all {
        groups.entry(name(row)).or_default().push(*score);
    }
    for (name, scores) in groups {
        let [flagged, blocked] = [0.5, RARE].map(|at| above(scores.iter().copied(), at));
        let n = scores.len();
        let _ = writeln!(
            out,
            "    {name:46} {n:5}  above 0.5: {flagged:.3}, above {RARE}: {blocked:.3}"
        );
    }
}

/// Metrics of toxicity with its categories, and the share that each category flags.
fn categories(out: &mut String, rows: &[Row], trained: &Trained) {
    let [_, held, _] = &trained.held;
    let model = &trained.model;
    let all: Vec<(&Row, Scores)> = scored(Task::Toxicity, rows, held, trained)
        .into_iter()
        .map(|(row, toxicity)| {
            let toxic = model.toxic.scores(&row.normal, toxicity);
            (row, Scores { toxicity, toxic, ..Scores::default() })
        })
        .collect();
    let of = |score: &dyn Fn(&Scores) -> f32| -> Vec<Judged<'_>> {
        let judged = all.iter().filter(|(row, _)| row.file == File::Toxicity);
        judged.map(|(row, scores)| (*row, score(scores))).collect()
    };
    let _ = writeln!(out, "Toxicity with its categories");
    let worst = of(&Scores::worst_toxicity);
    line(out, "all", &worst);
    by_language(out, &worst);
    let source = |row: &Row| format!("{} {}", row.source, if row.positive { "+" } else { "-" });
    groups(out, &worst, source);
    for (at, category) in ToxicCategory::ALL.into_iter().enumerate() {
        let _ = writeln!(out, "  {}", category.name());
        let scores = of(&|scores| scores.toxic.get(at).copied().unwrap_or_default());
        groups(out, &scores, |row| if row.positive { "toxic" } else { "harmless" }.to_owned());
    }
}
