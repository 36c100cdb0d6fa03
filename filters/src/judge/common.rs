//! Common part of remote judges: name, actions, threshold, categories, backend.
//!
//! - *In*: the settings of a judge.
//! - *Out*: the common part of requests, and a [`Tally`], which turns responses into a report.
//! - *Never*: a finding below the threshold; its score stays in the report, for the risk.

use std::ops::Range;

use serde_json::{Map, Value, json};

use super::newest::{Piece, newest};
use super::words::{Known, Words};
use crate::filter::Hooks;
use crate::host::Call;
use crate::remote::Remote;
use crate::report::{Category, Failure, Found, Name, Report};
use crate::settings::{Action, Judge};
use crate::subject::{Side, Subject, TextSource};

/// The common state of a judge.
#[derive(Debug)]
pub(super) struct JudgeCommon {
    rule: Name,
    input: Action,
    output: Action,
    threshold: f32,
    model: String,
    pub(super) words: Words,
    remote: Remote,
}

impl JudgeCommon {
    /// The common state for these settings, with the labels that count.
    pub(super) fn new(settings: &Judge, words: Words) -> Self {
        JudgeCommon {
            rule: Name::Owned(format!("judge.{}", settings.declared.name)),
            input: settings.input,
            output: settings.output,
            threshold: settings.threshold,
            model: settings.model.clone(),
            words,
            remote: Remote::new(settings.backend.clone(), settings.path.clone()),
        }
    }

    /// The hooks of the sides that have an action.
    pub(super) fn hooks(&self) -> Hooks {
        let on =
            |action: Action, hook: Hooks| if action == Action::Off { Hooks::NONE } else { hook };
        on(self.input, Hooks::JUDGE_PROMPT) | on(self.output, Hooks::JUDGE_ANSWER)
    }

    /// The action on findings on a side.
    pub(super) fn action(&self, side: Side) -> Action {
        match side {
            Side::Input => self.input,
            Side::Output => self.output,
        }
    }

    /// A request body with the model name, if there is one.
    pub(super) fn question(&self) -> Map<String, Value> {
        let mut question = Map::new();
        if !self.model.is_empty() {
            question.insert("model".into(), json!(self.model));
        }
        question
    }

    /// A request body with a list of texts as `input`, which several kinds of servers accept.
    pub(super) fn question_about<'t>(&self, texts: impl IntoIterator<Item = &'t str>) -> Value {
        let mut question = self.question();
        question.insert("input".into(), texts.into_iter().collect());
        Value::Object(question)
    }

    /// The newest texts of the wanted roles, at most `most`.
    ///
    /// # Errors
    /// [`Failure::TooLong`], when texts are left out and findings mask or block: a prompt must not
    /// hide text by its length.
    pub(super) fn newest<'s>(
        &self,
        subject: &'s Subject,
        most: usize,
        wanted: impl Fn(TextSource) -> bool,
    ) -> Result<Vec<Piece<'s>>, Failure> {
        let (pieces, whole) = newest(subject, most, wanted);
        if whole || self.action(subject.side()) < Action::Mask {
            Ok(pieces)
        } else {
            Err(Failure::TooLong)
        }
    }

    /// Send several requests as one call; see [`Remote::call_all`].
    pub(super) async fn call_all<T>(
        &self,
        call: &Call<'_>,
        questions: &[Value],
        read: impl Fn(usize, &Value) -> Option<T>,
    ) -> Result<Vec<T>, Failure> {
        self.remote.call_all(call, questions, read).await
    }

    /// Send a request; see [`Remote::ask`].
    pub(super) async fn call<T>(
        &self,
        call: &Call<'_>,
        question: &Value,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<T, Failure> {
        self.remote.call(call, question, read).await
    }

    /// Start a tally of the results for a subject.
    pub(super) fn tally(&self, subject: &Subject) -> Tally<'_> {
        Tally { common: self, action: self.action(subject.side()), report: Report::default() }
    }
}

/// Turns responses into a report, by the threshold and action of the settings.
#[derive(Debug)]
pub(super) struct Tally<'s> {
    common: &'s JudgeCommon,
    action: Action,
    report: Report,
}

impl Tally<'_> {
    /// Lower the action to at most `action`. A judge can never raise the configured action.
    pub(super) fn at_most(&mut self, action: Action) {
        self.action = self.action.min(action);
    }

    /// Add the score of a category. The highest score of each category is kept.
    pub(super) fn seen(&mut self, category: Category, score: f32) {
        match self.report.scores.iter_mut().find(|(known, _)| *known == category) {
            Some((_, best)) => *best = best.max(score),
            None => self.report.scores.push((category, score)),
        }
    }

    /// Add a result for a part of a text of the subject.
    pub(super) fn part(
        &mut self,
        at: usize,
        span: Range<usize>,
        (kind, category): Known<'_>,
        score: f32,
    ) {
        self.seen(category, score);
        if score >= self.common.threshold && self.action != Action::Off {
            let (rule, kind) = (self.common.rule.clone(), kind.clone());
            self.report.found.push(Found {
                rule,
                kind,
                category,
                text: at,
                span,
                score,
                action: self.action,
            });
        }
    }

    /// Add a result for a whole text, even if only its end was sent.
    pub(super) fn whole(&mut self, piece: &Piece<'_>, known: Known<'_>, score: f32) {
        self.part(piece.at, 0..piece.whole(), known, score);
    }

    /// Add a result for texts that were judged together. It is attributed to the newest one,
    /// because the judge does not name the text; if findings mask, all of them are masked.
    pub(super) fn together(&mut self, pieces: &[Piece<'_>], known: Known<'_>, score: f32) {
        let first = if self.action == Action::Mask { 0 } else { pieces.len().saturating_sub(1) };
        pieces.iter().skip(first).for_each(|piece| self.whole(piece, known, score));
    }

    /// The finished report.
    pub(super) fn done(self) -> Report {
        self.report
    }
}
