//! Calls a moderation endpoint, such as OpenAI's.
//!
//! - *In*: every text, of any role: a system prompt can be harmful too.
//! - *Out*: for each text, the categories that reach the threshold.
//! - *Never*: the endpoint's own `flagged`: only the operator's threshold decides.

use std::sync::Arc;

use serde_json::Value;

use super::common::{JudgeCommon, Tally};
use super::newest::{MAX_TEXTS, Piece};
use super::reading::{object, score};
use super::words::{MODERATION, Words};
use crate::BoxFuture;
use crate::filter::{Filter, Hooks};
use crate::host::Call;
use crate::report::{Category, Failure, Report};
use crate::settings::Judge;
use crate::subject::Subject;

/// Maximum categories of one result. OpenAI has 13.
const MAX_CATEGORIES: usize = 256;

/// The filter that calls a moderation endpoint.
#[derive(Debug)]
pub(super) struct Moderation(JudgeCommon);

impl Moderation {
    /// A filter with these settings.
    pub(super) fn new(settings: &Judge) -> Self {
        Moderation(JudgeCommon::new(
            settings,
            Words::new(MODERATION, &settings.categories, Category::Unsafe, true),
        ))
    }

    fn read(&self, answer: &Value, pieces: &[Piece<'_>], mut tally: Tally<'_>) -> Option<Report> {
        let results =
            answer.get("results")?.as_array().filter(|results| results.len() == pieces.len())?;
        for (piece, result) in pieces.iter().zip(results) {
            self.read_result(result, piece, &mut tally)?;
        }
        Some(tally.done())
    }

    fn read_result(&self, result: &Value, piece: &Piece<'_>, tally: &mut Tally<'_>) -> Option<()> {
        result.get("flagged")?.as_bool()?;
        let (scores, flags) = (object(result, "category_scores")?, object(result, "categories")?);
        if scores.is_none() && flags.is_none() {
            return None;
        }
        let mut said: Vec<(&str, f32)> = Vec::new();
        for (category, value) in scores.into_iter().flatten().filter(|(_, value)| !value.is_null())
        {
            said.push((category, score(value)?));
        }
        for (category, value) in flags.into_iter().flatten().filter(|(_, value)| !value.is_null()) {
            let flagged = value.as_bool()?;
            if scores.and_then(|scores| scores.get(category)).is_none_or(Value::is_null) {
                said.push((category, if flagged { 1.0 } else { 0.0 }));
            }
        }
        (said.len() <= MAX_CATEGORIES).then(|| self.count(said, piece, tally))
    }

    /// Reports one finding of each kind: otherwise, each unlisted category would add an `OTHER`
    /// finding.
    fn count(&self, mut said: Vec<(&str, f32)>, piece: &Piece<'_>, tally: &mut Tally<'_>) {
        said.sort_by(|(_, one), (_, two)| two.total_cmp(one));
        let mut kinds = Vec::new();
        for (category, score) in said {
            let Some(known) = self.0.words.find(category) else { continue };
            if !kinds.contains(&known.0) {
                kinds.push(known.0);
                tally.whole(piece, known, score);
            }
        }
    }
}

impl Filter for Moderation {
    fn hooks(&self) -> Hooks {
        self.0.hooks()
    }

    fn judge<'a>(
        &'a self,
        subject: &'a Arc<Subject>,
        call: &'a Call<'a>,
    ) -> BoxFuture<'a, Result<Report, Failure>> {
        Box::pin(async move {
            let pieces = self.0.newest(subject, MAX_TEXTS, |_| true)?;
            if pieces.is_empty() {
                return Ok(Report::default());
            }
            let question = self.0.question_about(pieces.iter().map(|piece| piece.words));
            self.0
                .call(call, &question, |answer| self.read(answer, &pieces, self.0.tally(subject)))
                .await
        })
    }
}
