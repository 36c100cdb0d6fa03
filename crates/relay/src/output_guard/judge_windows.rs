//! Judges of one answer: they judge windows of its text while it streams.
//!
//! - *In*: pieces of text by channel; time, through the relay's polls.
//! - *Out*: how far each text may be sent; the reason to end the answer.
//! - *Never*: more than one call of a mode in flight; judged text older than the context of the
//!   next window.
//!
//! The judges of each mode form a group. *hold*: an event is released when its text is judged.
//! *cut*: it is released at once, and only the end of the answer waits for the last verdict. *end*:
//! all text is judged together before the end is released.

use std::sync::Arc;
use std::task::{Context, Poll};

use filters::settings::{JudgeMode, OnFailure};
use filters::{
    Assessment, BoxFuture, Failure, Found, Guardrail, Hooks, Host, Place, Side, Sizes, Subject,
    TextSource, Verdict, merge_accounts,
};
use lens::guardrail::FilterAccount;

use super::text_channels::{Key, Slot};
use crate::failure::Failure as End;

/// Maximum bytes of text in one judge call, in any mode.
const MAX_QUESTION: usize = 192 << 10;
/// Maximum bytes of text kept for judges. Above this, the judges' `on_failure` applies.
const MAX_JUDGE_TEXT_BYTES: usize = 2 << 20;

/// The text of one channel.
#[derive(Debug)]
struct ChannelText {
    key: Key,
    /// The text from `base` on.
    text: String,
    base: usize,
    /// The text is complete.
    ended: bool,
}

impl ChannelText {
    fn end(&self) -> usize {
        self.base + self.text.len()
    }

    /// The last character boundary at or before `at`.
    fn floor(&self, at: usize) -> usize {
        let mut at = at.min(self.end());
        while !self.text.is_char_boundary(at.saturating_sub(self.base)) {
            at -= 1;
        }
        at
    }

    fn from(&self, at: usize) -> (usize, &str) {
        let mut at = at.max(self.base);
        while !self.text.is_char_boundary(at - self.base) {
            at += 1;
        }
        (at, self.text.get(at - self.base..).unwrap_or_default())
    }
}

/// A judge call in flight.
struct Running {
    future: BoxFuture<'static, Assessment>,
    /// For each text of the call: its channel, and its start in that channel.
    places: Vec<(usize, usize)>,
    /// For each channel: how far it is judged when the call returns.
    upto: Vec<usize>,
}

/// The judges of one mode.
struct JudgeGroup {
    mode: JudgeMode,
    /// How far each channel is judged.
    judged: Vec<usize>,
    running: Option<Running>,
}

impl JudgeGroup {
    fn judged(&self, line: usize) -> usize {
        self.judged.get(line).copied().unwrap_or(0)
    }
}

/// All judges of an answer.
pub(super) struct JudgeWindows {
    guardrail: Arc<Guardrail>,
    host: Arc<dyn Host>,
    groups: Vec<JudgeGroup>,
    channels: Vec<ChannelText>,
    pub(super) accounts: Vec<FilterAccount>,
    /// Findings, with their filter and channel.
    pub(super) found: Vec<(Arc<str>, Key, Found)>,
    /// Unjudged text was skipped.
    gave_up: bool,
}

impl std::fmt::Debug for JudgeWindows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JudgeWindows").field("lines", &self.channels.len()).finish_non_exhaustive()
    }
}

impl JudgeWindows {
    /// `None` if the guardrail has no judges for answers.
    pub(super) fn new(guardrail: &Arc<Guardrail>, host: &Arc<dyn Host>) -> Option<Self> {
        let modes = guardrail.chain().modes();
        let group = |mode| JudgeGroup { mode, judged: Vec::new(), running: None };
        (!modes.is_empty()).then(|| JudgeWindows {
            guardrail: guardrail.clone(),
            host: host.clone(),
            groups: modes.into_iter().map(group).collect(),
            channels: Vec::new(),
            accounts: Vec::new(),
            found: Vec::new(),
            gave_up: false,
        })
    }

    /// Append a piece of text to a channel.
    pub(super) fn text(&mut self, line: usize, key: Key, text: &str) {
        // Channels are numbered in order of arrival.
        if line >= self.channels.len() {
            self.channels.push(ChannelText { key, text: String::new(), base: 0, ended: false });
        }
        if let Some(channel) = self.channels.get_mut(line) {
            channel.text.push_str(text);
        }
    }

    /// A choice is complete; `None`: all are.
    pub(super) fn end(&mut self, choice: Option<u32>) {
        let ended = self
            .channels
            .iter_mut()
            .filter(|channel| choice.is_none_or(|choice| channel.key.0 == choice));
        ended.for_each(|channel| channel.ended = true);
        self.start_calls(false);
    }

    /// Start judge calls for unjudged text. With `hurry`, also for less than a window.
    pub(super) fn start_calls(&mut self, hurry: bool) {
        let window = self.guardrail.settings.judge_window;
        for group in self.groups.iter_mut().filter(|group| group.running.is_none()) {
            let enough = |unasked: usize, ended: bool| match group.mode {
                _ if unasked == 0 => false,
                JudgeMode::End => ended || unasked >= MAX_QUESTION,
                JudgeMode::Hold | JudgeMode::Cut => hurry || ended || unasked >= window,
            };
            let mut builder = Subject::build(Side::Output, Sizes::default(), window * 2);
            let (mut places, mut upto, mut room) = (Vec::new(), Vec::new(), MAX_QUESTION);
            for (line, channel) in self.channels.iter().enumerate() {
                let judged = group.judged(line);
                if room == 0 || !enough(channel.end() - judged, channel.ended) {
                    upto.push(judged);
                    continue;
                }
                let (from, text) = channel.from(judged.saturating_sub(window));
                let to = channel.floor(judged + room);
                builder.text(
                    TextSource::Answer(channel.key.0),
                    Place::default(),
                    text.get(..to - from).unwrap_or(text),
                );
                places.push((line, from));
                upto.push(to);
                room -= (to - judged).min(room);
            }
            if places.is_empty() {
                continue;
            }
            let (guardrail, host, mode, subject) =
                (self.guardrail.clone(), self.host.clone(), group.mode, Arc::new(builder.done()));
            let future =
                Box::pin(async move { guardrail.chain().window(mode, &subject, &*host).await });
            group.running = Some(Running { future, places, upto });
        }
    }

    /// Poll the calls in flight. Ready when one has returned, with the reason to end the answer, if
    /// any.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<End>> {
        let mut answered = false;
        let mut stop = None;
        for group in &mut self.groups {
            let Some(running) = &mut group.running else { continue };
            let Poll::Ready(assessment) = running.future.as_mut().poll(cx) else { continue };
            answered = true;
            let Some(Running { places, upto, .. }) = group.running.take() else { continue };
            group.judged = upto;
            let Assessment { verdict, found, accounts, .. } = assessment;
            merge_accounts(&mut self.accounts, accounts);
            for (filter, mut found) in found {
                let Some(&(line, from)) = places.get(found.text) else { continue };
                let Some(channel) = self.channels.get(line) else { continue };
                found.span = from + found.span.start..from + found.span.end;
                found.text = channel.key.0 as usize;
                self.found.push((filter, channel.key, found));
            }
            stop = stop.or(match verdict {
                Verdict::Pass | Verdict::Mask => None,
                Verdict::Block { kind } => Some(End::Blocked { kind: kind.into_owned() }),
                Verdict::Failed { filter, failure } => {
                    Some(End::GuardrailUnavailable { filter, failure })
                }
            });
        }
        if !answered {
            return Poll::Pending;
        }
        self.forget();
        self.start_calls(false);
        Poll::Ready(stop)
    }

    /// Whether the text of an event is judged far enough to release the event.
    pub(super) fn admits(&self, slots: &[Slot]) -> bool {
        let holds = self.groups.iter().filter(|group| group.mode == JudgeMode::Hold);
        holds
            .into_iter()
            .all(|group| slots.iter().all(|slot| group.judged(slot.channel) >= slot.span.end))
    }

    /// Whether a *hold* group has unjudged text and no call in flight.
    pub(super) fn has_unasked(&self) -> bool {
        let unasked = |group: &JudgeGroup| {
            self.channels
                .iter()
                .enumerate()
                .any(|(line, channel)| group.judged(line) < channel.end())
        };
        self.groups
            .iter()
            .any(|group| group.mode == JudgeMode::Hold && group.running.is_none() && unasked(group))
    }

    /// Whether all text is judged.
    pub(super) fn is_settled(&self) -> bool {
        let judged = |group: &JudgeGroup| {
            self.channels
                .iter()
                .enumerate()
                .all(|(line, channel)| group.judged(line) >= channel.end())
        };
        self.groups.iter().all(|group| group.running.is_none() && judged(group))
    }

    /// Whether channels are judged up to their ends.
    pub(super) fn has_judged(&self, ends: &[(usize, usize)]) -> bool {
        self.groups.iter().all(|group| ends.iter().all(|(line, end)| group.judged(*line) >= *end))
    }

    /// How far all groups have judged a channel. `None`: a judge failed, so that its findings are
    /// not known.
    pub(super) fn judged(&self) -> Option<impl Fn(usize) -> usize> {
        let has_failed = self.accounts.iter().any(|account| account.failure.is_some());
        let judged = |line| self.groups.iter().map(|group| group.judged(line)).min().unwrap_or(0);
        (!has_failed && !self.gave_up).then_some(judged)
    }

    /// Whether more text is kept than allowed.
    pub(super) fn is_full(&self) -> bool {
        self.channels.iter().map(|channel| channel.text.len()).sum::<usize>() > MAX_JUDGE_TEXT_BYTES
    }

    /// Too much text is unjudged: skip it. `Some` if a judge has `on_failure: closed`.
    pub(super) fn give_up(&mut self) -> Option<End> {
        self.gave_up = true;
        let ends: Vec<usize> = self.channels.iter().map(ChannelText::end).collect();
        for group in &mut self.groups {
            group.running = None;
            group.judged.clone_from(&ends);
        }
        self.forget();
        let links =
            self.guardrail.chain().links().iter().filter(|link| link.has(Hooks::JUDGE_ANSWER));
        let closed =
            links.into_iter().find(|link| link.declared.on_failure == OnFailure::Closed)?;
        Some(End::GuardrailUnavailable {
            filter: closed.declared.name.clone(),
            failure: Failure::TooLong,
        })
    }

    /// Drop text that no judge needs, neither as text to judge nor as context.
    fn forget(&mut self) {
        let window = self.guardrail.settings.judge_window;
        for (line, channel) in self.channels.iter_mut().enumerate() {
            let needed = self
                .groups
                .iter()
                .map(|group| group.judged(line))
                .min()
                .unwrap_or(0)
                .saturating_sub(window);
            let (from, _) = channel.from(needed.min(channel.end()));
            channel.text.drain(..from - channel.base);
            channel.base = from;
        }
    }
}
