//! Calls a classifier behind `/classify`, as served by vLLM.
//!
//! - *In*: texts of users, tools and answers. A system prompt that forbids something reads like an
//!   attack.
//! - *Out*: for each text, its label, if it is one of the operator's categories or, without those,
//!   a known label for an attack.
//! - *Never*: a finding for an unlisted label: most classifiers have more names for harmless text
//!   than for harmful text.

use std::sync::Arc;

use serde_json::Value;

use super::common::{JudgeCommon, Tally};
use super::newest::{MAX_TEXTS, Piece};
use super::reading::{by_index, optional, score};
use super::words::{ATTACKS, Words, is_harmless};
use crate::BoxFuture;
use crate::filter::{Filter, Hooks};
use crate::host::Call;
use crate::report::{Category, Failure, Report};
use crate::settings::Judge;
use crate::subject::{Subject, TextSource};

/// Maximum classes of a classifier; the large public ones have some hundred.
const MAX_CLASSES: usize = 4096;

/// The filter that calls a classifier.
#[derive(Debug)]
pub(super) struct Classify {
    common: JudgeCommon,
    /// Without configured categories, the classifier is assumed to detect attacks.
    of_attacks: bool,
}

impl Classify {
    /// A filter with these settings.
    pub(super) fn new(settings: &Judge) -> Self {
        let words = Words::new(ATTACKS, &settings.categories, Category::Unsafe, false);
        Classify {
            common: JudgeCommon::new(settings, words),
            of_attacks: settings.categories.is_empty(),
        }
    }

    fn read(&self, answer: &Value, pieces: &[Piece<'_>], mut tally: Tally<'_>) -> Option<Report> {
        let verdicts = by_index(answer.get("data")?, pieces.len(), read_verdict)?;
        for (piece, verdict) in pieces.iter().zip(verdicts) {
            match self.common.words.find(verdict.label) {
                Some(known) => tally.whole(piece, known, verdict.sure),
                None if self.of_attacks => self.spare(piece, &verdict, &mut tally),
                None => {}
            }
        }
        Some(tally.done())
    }

    /// Scores a label that is not an attack. With two classes, the other one has the rest of the
    /// score, which may reach a low threshold.
    fn spare(&self, piece: &Piece<'_>, verdict: &Verdict<'_>, tally: &mut Tally<'_>) {
        match self.common.words.find("INJECTION") {
            Some(known) if verdict.classes == 2 && is_harmless(verdict.label) => {
                tally.whole(piece, known, 1.0 - verdict.sure)
            }
            _ => tally.seen(Category::Injection, 0.0),
        }
    }
}

/// The result for one text.
struct Verdict<'v> {
    label: &'v str,
    sure: f32,
    classes: usize,
}

fn read_verdict(entry: &Value) -> Option<Verdict<'_>> {
    let label = entry.get("label")?.as_str()?;
    let Some(probs) = optional(entry, "probs", Value::as_array)? else {
        return Some(Verdict { label, sure: 1.0, classes: 0 });
    };
    if probs.is_empty() || probs.len() > MAX_CLASSES {
        return None;
    }
    // The label is that of the class with the highest score; the response does not include its
    // index.
    let sure = probs.iter().try_fold(0.0_f32, |best, value| Some(best.max(score(value)?)))?;
    Some(Verdict { label, sure, classes: probs.len() })
}

impl Filter for Classify {
    fn hooks(&self) -> Hooks {
        self.common.hooks()
    }

    fn judge<'a>(
        &'a self,
        subject: &'a Arc<Subject>,
        call: &'a Call<'a>,
    ) -> BoxFuture<'a, Result<Report, Failure>> {
        Box::pin(async move {
            let pieces = self.common.newest(subject, MAX_TEXTS, TextSource::is_untrusted)?;
            if pieces.is_empty() {
                return Ok(Report::default());
            }
            let question = self.common.question_about(pieces.iter().map(|piece| piece.words));
            self.common
                .call(call, &question, |answer| {
                    self.read(answer, &pieces, self.common.tally(subject))
                })
                .await
        })
    }
}
