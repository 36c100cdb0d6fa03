//! The judges of one answer: filters that need context, asked about windows of text while the answer flows.
//!
//! - *In*: pieces of text by line; time, through the relay's polls.
//! - *Out*: how far each text may go on; for what the answer ends.
//! - *Never*: more than one question of a mode under way; text beyond a window's context that no judge wants any more.
//!
//! Each mode is a bench of its own. *hold*: an event leaves when its text was judged. *cut*: it leaves at once, and only the answer's
//! ending waits for the last verdict. *end*: everything is judged together before the ending leaves.

use std::sync::Arc;
use std::task::{Context, Poll};

use filters::settings::{Mode, OnFailure};
use filters::{Assessment, BoxFuture, Failure, Found, Hooks, Place, Shield, Side, Sizes, Subject, Verdict, Voice, merge};
use lens::security::FilterAccount;

use super::Stop;
use super::line::{Key, Slot};
use crate::world::World;

/// Text that a bench gathers at the most before it asks, whatever its mode: judges are given no more than that in any case.
const MOST_SAID: usize = 192 << 10;
/// Text of all lines that waits for judges at the most; beyond it what their modes say happens.
const MOST_WAITING: usize = 2 << 20;

/// What was said in one line.
#[derive(Debug)]
struct Said {
    key: Key,
    /// The text from `base` on.
    text: String,
    base: usize,
    /// Nothing more comes.
    ended: bool,
}

impl Said {
    fn end(&self) -> usize {
        self.base + self.text.len()
    }

    /// The last place at a character up to `at`.
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

/// A question under way.
struct Running {
    future: BoxFuture<'static, Assessment>,
    /// For each text of the question: its line, and where in the line it begins.
    places: Vec<(usize, usize)>,
    /// How far each line is judged when it is answered.
    upto: Vec<usize>,
}

/// The judges of one mode.
struct Bench {
    mode: Mode,
    /// By line.
    judged: Vec<usize>,
    running: Option<Running>,
}

impl Bench {
    fn judged(&self, line: usize) -> usize {
        self.judged.get(line).copied().unwrap_or(0)
    }
}

/// All of them.
pub(super) struct Panel {
    guard: Arc<Shield>,
    world: Arc<World>,
    benches: Vec<Bench>,
    said: Vec<Said>,
    pub(super) accounts: Vec<FilterAccount>,
    /// What was found: by whom, and in which line.
    pub(super) found: Vec<(Arc<str>, Key, Found)>,
}

impl std::fmt::Debug for Panel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Panel").field("lines", &self.said.len()).finish_non_exhaustive()
    }
}

impl Panel {
    /// `None`, when the guard has no judges of answers.
    pub(super) fn new(guard: &Arc<Shield>, world: &Arc<World>) -> Option<Self> {
        let modes = guard.chain().modes();
        let bench = |mode| Bench { mode, judged: Vec::new(), running: None };
        (!modes.is_empty()).then(|| Panel {
            guard: guard.clone(),
            world: world.clone(),
            benches: modes.into_iter().map(bench).collect(),
            said: Vec::new(),
            accounts: Vec::new(),
            found: Vec::new(),
        })
    }

    /// A piece of text of a line.
    pub(super) fn text(&mut self, line: usize, key: Key, text: &str) {
        // Lines are numbered as they come.
        if line >= self.said.len() {
            self.said.push(Said { key, text: String::new(), base: 0, ended: false });
        }
        if let Some(said) = self.said.get_mut(line) {
            said.text.push_str(text);
        }
    }

    /// A choice is complete, or all are.
    pub(super) fn end(&mut self, choice: Option<u32>) {
        let ended = self.said.iter_mut().filter(|said| choice.is_none_or(|choice| said.key.0 == choice));
        ended.for_each(|said| said.ended = true);
        self.ask(false);
    }

    /// Ask about what has gathered. In a `hurry`, about less than a window, too.
    pub(super) fn ask(&mut self, hurry: bool) {
        let window = self.guard.settings.window;
        for bench in self.benches.iter_mut().filter(|bench| bench.running.is_none()) {
            let enough = |unasked: usize, ended: bool| match bench.mode {
                _ if unasked == 0 => false,
                Mode::End => ended || unasked >= MOST_SAID,
                Mode::Hold | Mode::Cut => hurry || ended || unasked >= window,
            };
            let mut builder = Subject::build(Side::Output, Sizes::default(), window * 2);
            let (mut places, mut upto, mut room) = (Vec::new(), Vec::new(), MOST_SAID);
            for (line, said) in self.said.iter().enumerate() {
                let judged = bench.judged(line);
                if room == 0 || !enough(said.end() - judged, said.ended) {
                    upto.push(judged);
                    continue;
                }
                let (from, text) = said.from(judged.saturating_sub(window));
                let to = said.floor(judged + room);
                builder.text(Voice::Answer(said.key.0), Place::default(), text.get(..to - from).unwrap_or(text));
                places.push((line, from));
                upto.push(to);
                room -= (to - judged).min(room);
            }
            if places.is_empty() {
                continue;
            }
            let (guard, world, mode, subject) = (self.guard.clone(), self.world.clone(), bench.mode, Arc::new(builder.done()));
            let future = Box::pin(async move { guard.chain().window(mode, &subject, &*world).await });
            bench.running = Some(Running { future, places, upto });
        }
    }

    /// Go on with the questions. Ready when one was answered; with what ends the answer, if something does.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Stop>> {
        let mut answered = false;
        let mut stop = None;
        for bench in &mut self.benches {
            let Some(running) = &mut bench.running else { continue };
            let Poll::Ready(assessment) = running.future.as_mut().poll(cx) else { continue };
            answered = true;
            let Some(Running { places, upto, .. }) = bench.running.take() else { continue };
            bench.judged = upto;
            let Assessment { verdict, found, accounts, .. } = assessment;
            merge(&mut self.accounts, accounts);
            for (filter, mut found) in found {
                let Some(&(line, from)) = places.get(found.text) else { continue };
                let Some(said) = self.said.get(line) else { continue };
                found.span = from + found.span.start..from + found.span.end;
                found.text = said.key.0 as usize;
                self.found.push((filter, said.key, found));
            }
            stop = stop.or(match verdict {
                Verdict::Pass | Verdict::Mask => None,
                Verdict::Block { kind } => Some(Stop::Blocked { kind: kind.into_owned() }),
                Verdict::Failed { filter, failure } => Some(Stop::Failed { filter, failure }),
            });
        }
        if !answered {
            return Poll::Pending;
        }
        self.forget();
        self.ask(false);
        Poll::Ready(stop)
    }

    /// Whether the texts of an event were judged as far as they must be before it leaves.
    pub(super) fn admits(&self, slots: &[Slot]) -> bool {
        let holds = self.benches.iter().filter(|bench| bench.mode == Mode::Hold);
        holds.into_iter().all(|bench| slots.iter().all(|slot| bench.judged(slot.line) >= slot.span.end))
    }

    /// Whether there is text that a judge has not been asked about, and nothing under way that would make it be asked.
    pub(super) fn has_unasked(&self) -> bool {
        let unasked = |bench: &Bench| self.said.iter().enumerate().any(|(line, said)| bench.judged(line) < said.end());
        self.benches.iter().any(|bench| bench.mode == Mode::Hold && bench.running.is_none() && unasked(bench))
    }

    /// Whether everything that was said is judged.
    pub(super) fn is_settled(&self) -> bool {
        let judged = |bench: &Bench| self.said.iter().enumerate().all(|(line, said)| bench.judged(line) >= said.end());
        self.benches.iter().all(|bench| bench.running.is_none() && judged(bench))
    }

    /// Whether lines were judged as far as they went when they ended.
    pub(super) fn has_judged(&self, ends: &[(usize, usize)]) -> bool {
        self.benches.iter().all(|bench| ends.iter().all(|(line, end)| bench.judged(*line) >= *end))
    }

    /// Whether more text waits than may.
    pub(super) fn is_full(&self) -> bool {
        self.said.iter().map(|said| said.text.len()).sum::<usize>() > MOST_WAITING
    }

    /// Too much waits for the judges. What then happens is what their modes say: `None` when all of them let it pass.
    pub(super) fn give_up(&mut self) -> Option<Stop> {
        let ends: Vec<usize> = self.said.iter().map(Said::end).collect();
        for bench in &mut self.benches {
            bench.running = None;
            bench.judged.clone_from(&ends);
        }
        self.forget();
        let links = self.guard.chain().links().iter().filter(|link| link.has(Hooks::JUDGE_ANSWER));
        let closed = links.into_iter().find(|link| link.declared.on_failure == OnFailure::Closed)?;
        Some(Stop::Failed { filter: closed.declared.name.clone(), failure: Failure::TooMuch })
    }

    /// Let go of text that no judge needs any more, as what comes next or as what came before it.
    fn forget(&mut self) {
        let window = self.guard.settings.window;
        for (line, said) in self.said.iter_mut().enumerate() {
            let needed = self.benches.iter().map(|bench| bench.judged(line)).min().unwrap_or(0).saturating_sub(window);
            let (from, _) = said.from(needed.min(said.end()));
            said.text.drain(..from - said.base);
            said.base = from;
        }
    }
}
