//! Common part of remote judges: name, actions, threshold, categories, backend.
//!
//! - *In*: the settings of a judge.
//! - *Out*: the beginnings of questions, and [`Tally`], which makes a report of what was answered.
//! - *Never*: a finding below the threshold; it stays in the report's scores, for the risk.

use std::ops::Range;

use serde_json::{Map, Value, json};

use super::newest::{Piece, newest};
use super::words::{Known, Words};
use crate::filter::Hooks;
use crate::host::Call;
use crate::remote::Remote;
use crate::report::{Category, Failure, Found, Name, Report};
use crate::settings::{Action, Judge};
use crate::subject::{Side, Subject, Voice};

/// A judge's place at the table.
#[derive(Debug)]
pub(super) struct Seat {
    rule: Name,
    input: Action,
    output: Action,
    threshold: f32,
    model: String,
    pub(super) words: Words,
    remote: Remote,
}

impl Seat {
    /// As the settings say, with the words that count.
    pub(super) fn new(settings: &Judge, words: Words) -> Self {
        Seat {
            rule: Name::Owned(format!("judge.{}", settings.declared.name)),
            input: settings.input,
            output: settings.output,
            threshold: settings.threshold,
            model: settings.model.clone(),
            words,
            remote: Remote::new(settings.backend.clone(), settings.path.clone()),
        }
    }

    /// The sides on which something is to be done.
    pub(super) fn hooks(&self) -> Hooks {
        let on =
            |action: Action, hook: Hooks| if action == Action::Off { Hooks::NONE } else { hook };
        on(self.input, Hooks::JUDGE) | on(self.output, Hooks::JUDGE_ANSWER)
    }

    /// What is done about findings on a side.
    pub(super) fn action(&self, side: Side) -> Action {
        match side {
            Side::Input => self.input,
            Side::Output => self.output,
        }
    }

    /// A question that names the model, if there is one to name.
    pub(super) fn question(&self) -> Map<String, Value> {
        let mut question = Map::new();
        if !self.model.is_empty() {
            question.insert("model".into(), json!(self.model));
        }
        question
    }

    /// A question about a list of texts, as several kinds of servers take it.
    pub(super) fn question_about<'t>(&self, texts: impl IntoIterator<Item = &'t str>) -> Value {
        let mut question = self.question();
        question.insert("input".into(), texts.into_iter().collect());
        Value::Object(question)
    }

    /// The newest texts of the wanted roles, at most `most`.
    ///
    /// # Errors
    /// [`Failure::TooLong`], when some are left out and findings would be acted on: a prompt must
    /// not be made longer to hide in it.
    pub(super) fn newest<'s>(
        &self,
        subject: &'s Subject,
        most: usize,
        wanted: impl Fn(Voice) -> bool,
    ) -> Result<Vec<Piece<'s>>, Failure> {
        let (pieces, whole) = newest(subject, most, wanted);
        if whole || self.action(subject.side()) < Action::Mask {
            Ok(pieces)
        } else {
            Err(Failure::TooLong)
        }
    }

    /// Ask several questions as one; see [`Remote::ask_all`].
    pub(super) async fn ask_all<T>(
        &self,
        call: &Call<'_>,
        questions: &[Value],
        read: impl Fn(usize, &Value) -> Option<T>,
    ) -> Result<Vec<T>, Failure> {
        self.remote.ask_all(call, questions, read).await
    }

    /// Ask; see [`Remote::ask`].
    pub(super) async fn ask<T>(
        &self,
        call: &Call<'_>,
        question: &Value,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<T, Failure> {
        self.remote.ask(call, question, read).await
    }

    /// Begin to count what was answered about a subject.
    pub(super) fn tally(&self, subject: &Subject) -> Tally<'_> {
        Tally { seat: self, action: self.action(subject.side()), report: Report::default() }
    }
}

/// Makes a report of an answer, as a judge's settings want it.
#[derive(Debug)]
pub(super) struct Tally<'s> {
    seat: &'s Seat,
    action: Action,
    report: Report,
}

impl Tally<'_> {
    /// Ask for less than the settings do, as a judge may; it can never ask for more.
    pub(super) fn at_most(&mut self, action: Action) {
        self.action = self.action.min(action);
    }

    /// So sure the judge is of a category. The best score of each stays.
    pub(super) fn seen(&mut self, category: Category, score: f32) {
        match self.report.scores.iter_mut().find(|(known, _)| *known == category) {
            Some((_, best)) => *best = best.max(score),
            None => self.report.scores.push((category, score)),
        }
    }

    /// Something concerns a part of a text of the subject.
    pub(super) fn part(
        &mut self,
        at: usize,
        span: Range<usize>,
        (kind, category): Known<'_>,
        score: f32,
    ) {
        self.seen(category, score);
        if score >= self.seat.threshold && self.action != Action::Off {
            let (rule, kind) = (self.seat.rule.clone(), kind.clone());
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

    /// A finding concerns a whole text, also where only its end was sent.
    pub(super) fn whole(&mut self, piece: &Piece<'_>, known: Known<'_>, score: f32) {
        self.part(piece.at, 0..piece.whole(), known, score);
    }

    /// A finding concerns texts that were judged together. It is unknown which of them, so it is
    /// attributed to the newest; but where texts are taken out, all of them go.
    pub(super) fn together(&mut self, pieces: &[Piece<'_>], known: Known<'_>, score: f32) {
        let first = if self.action == Action::Mask { 0 } else { pieces.len().saturating_sub(1) };
        pieces.iter().skip(first).for_each(|piece| self.whole(piece, known, score));
    }

    /// That was all.
    pub(super) fn done(self) -> Report {
        self.report
    }
}
