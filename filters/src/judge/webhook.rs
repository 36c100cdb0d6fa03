//! Calls a webhook: JSON in, verdict out.
//!
//! - *In*: every text with its role, and the sizes of the request.
//! - *Out*: its verdict, at most as severe as the configured action.
//! - *Never*: a more severe action. A `block` where the settings have `flag` is recorded as a flag.
//!
//! A verdict without a score counts as 1, or as 0 for `pass`. A score below the threshold is not a
//! finding.

use std::sync::Arc;

use serde_json::{Value, json};

use super::common::{JudgeCommon, Tally};
use super::newest::{MAX_TEXTS, Piece, role};
use super::offsets::{MAX_SPANS, Offsets};
use super::reading::{optional, score};
use super::words::{ATTACKS, Known, MODERATION, Words, other};
use crate::BoxFuture;
use crate::filter::{Filter, Hooks};
use crate::host::Call;
use crate::report::{Category, Failure, Report};
use crate::settings::{Action, Judge};
use crate::subject::Subject;

/// The filter that calls a webhook.
#[derive(Debug)]
pub(super) struct Webhook(JudgeCommon);

impl Webhook {
    /// A filter with these settings.
    pub(super) fn new(settings: &Judge) -> Self {
        let words = Words::new(
            MODERATION.iter().chain(ATTACKS),
            &settings.categories,
            Category::Unsafe,
            true,
        );
        Webhook(JudgeCommon::new(settings, words))
    }

    fn read(&self, answer: &Value, pieces: &[Piece<'_>], mut tally: Tally<'_>) -> Option<Report> {
        let action = verdict(answer.get("verdict")?.as_str()?)?;
        let score = optional(answer, "score", score)?;
        let sure = score.unwrap_or(if action == Action::Off { 0.0 } else { 1.0 });
        let known = self.kind(answer, Some(other(Category::Unsafe)))?;
        let none = Vec::new();
        let spans = optional(answer, "spans", Value::as_array)?.unwrap_or(&none);
        tally.at_most(action);
        self.read_spans(spans, pieces, known, sure, &mut tally)?;
        if let Some(known) = known.filter(|_| spans.is_empty()) {
            tally.together(pieces, known, sure);
        }
        Some(tally.done())
    }

    /// The kind that a value names; `fallback` if it names none. The inner `None` is a kind that
    /// does not count.
    fn kind<'w>(&'w self, of: &Value, fallback: Option<Known<'w>>) -> Option<Option<Known<'w>>> {
        Some(optional(of, "kind", Value::as_str)?.map_or(fallback, |kind| self.0.words.find(kind)))
    }

    fn read_spans(
        &self,
        spans: &[Value],
        pieces: &[Piece<'_>],
        known: Option<Known<'_>>,
        score: f32,
        tally: &mut Tally<'_>,
    ) -> Option<()> {
        if spans.len() > MAX_SPANS {
            return None;
        }
        let mut counted: Vec<Option<Offsets>> = pieces.iter().map(|_| None).collect();
        for span in spans {
            let text = usize::try_from(span.get("text")?.as_u64()?).ok()?;
            let (piece, offsets) = (pieces.get(text)?, counted.get_mut(text)?);
            let place = offsets
                .get_or_insert_with(|| Offsets::new(piece))
                .span(span.get("start")?, span.get("end")?)?;
            if let Some(known) = self.kind(span, known)? {
                tally.part(piece.at, place, known, score);
            }
        }
        Some(())
    }
}

/// The action of a verdict.
fn verdict(word: &str) -> Option<Action> {
    match word {
        "pass" => Some(Action::Off),
        "flag" => Some(Action::Flag),
        "redact" => Some(Action::Mask),
        "block" => Some(Action::Block),
        _ => None,
    }
}

fn question(subject: &Subject, pieces: &[Piece<'_>]) -> Value {
    let texts: Vec<Value> = pieces
        .iter()
        .map(|piece| json!({ "role": role(piece.voice), "text": piece.words }))
        .collect();
    let sizes = subject.sizes();
    json!({
        "phase": subject.side().name(),
        "texts": texts,
        "sizes": {
            "bytes": subject.bytes(),
            "messages": sizes.messages,
            "tools": sizes.tools,
            "nesting": sizes.nesting,
            "output_tokens": sizes.output_tokens,
        },
    })
}

impl Filter for Webhook {
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
            let question = question(subject, &pieces);
            self.0
                .call(call, &question, |answer| self.read(answer, &pieces, self.0.tally(subject)))
                .await
        })
    }
}
