//! The combined result of a chain for one subject.
//!
//! - *In*: the report of each filter, or its failure, with its times.
//! - *Out*: a [`Verdict`], the findings, the accounts.
//! - *Never*: a verdict less severe than the action of a finding, except in observe mode.

use std::borrow::Cow;
use std::sync::Arc;

use lens::Tick;
use lens::guardrail::FilterAccount;

use super::Link;
use crate::report::{Category, Failure, Found, Name, Report};
use crate::risk::{Level, Risk};
use crate::settings::{self, Action};
use crate::subject::Side;

/// The report of one filter, and its times in nanoseconds.
#[derive(Debug)]
pub struct Outcome {
    /// Its report, or why it failed.
    pub report: Result<Report, Failure>,
    /// Total time of the run.
    pub wall: u64,
    /// Part of `wall` spent waiting for a thread.
    pub queue: u64,
    /// Part of `wall` spent waiting for other servers.
    pub remote: u64,
    /// When it was done.
    pub ended: Tick,
}

/// The decision about a subject.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Verdict {
    /// It passes.
    #[default]
    Pass,
    /// It passes with its findings masked.
    Mask,
    /// It is blocked because of a finding.
    Block {
        /// The kind of the finding.
        kind: Name,
    },
    /// It is refused because a filter failed closed.
    Failed {
        /// The filter.
        filter: Arc<str>,
        /// Why.
        failure: Failure,
    },
}

/// All reports about one subject.
#[derive(Debug)]
pub struct Assessment {
    /// The decision; always `Pass` in observe mode.
    pub verdict: Verdict,
    /// The result for the record; in observe mode, the one that `enforce` would have had.
    pub word: &'static str,
    /// Findings with an action, and the filters that found them.
    pub found: Vec<(Arc<str>, Found)>,
    /// The scores of all categories.
    pub risk: Risk,
    /// The level of this risk.
    pub level: Level,
    /// What each filter cost.
    pub accounts: Vec<FilterAccount>,
    /// Nanoseconds that the detectors took.
    pub looked: u64,
    /// Nanoseconds for the judges and this assessment.
    pub judged: u64,
    side: Side,
    observe: bool,
    /// Ends of the filters, in the order of the accounts.
    ends: Vec<Tick>,
}

impl Assessment {
    pub(super) fn new(side: Side, observe: bool) -> Self {
        Assessment {
            verdict: Verdict::Pass,
            word: "pass",
            found: Vec::new(),
            risk: Risk::default(),
            level: Level::Low,
            accounts: Vec::new(),
            looked: 0,
            judged: 0,
            side,
            observe,
            ends: Vec::new(),
        }
    }

    /// Add the report of a filter.
    pub(super) fn add(&mut self, link: &Link, outcome: Outcome) {
        let mut account = filter_account(link, self.side, &outcome);
        // The filter that ends last is critical: the stage waits for it.
        account.critical = self.ends.iter().all(|end| *end <= outcome.ended);
        if account.critical {
            self.accounts.iter_mut().for_each(|other| other.critical = false);
        }
        self.ends.push(outcome.ended);
        self.accounts.push(account);
        match outcome.report {
            Ok(report) => {
                self.risk.add(&report);
                for found in report.found.into_iter().filter(|found| found.action != Action::Off) {
                    // A finding without a span cannot be masked.
                    let action = if found.action == Action::Mask && found.span.is_empty() {
                        Action::Block
                    } else {
                        found.action
                    };
                    self.demand(action, || found.kind.clone());
                    self.found.push((link.declared.name.clone(), found));
                }
            }
            Err(failure) => {
                let failed = link.failed(failure);
                if failed == Verdict::Pass {
                    self.word = more_severe(self.word, "failed_open");
                } else {
                    self.word = more_severe(self.word, "failed_closed");
                    if !self.observe && !self.is_final() {
                        self.verdict = failed;
                    }
                }
            }
        }
    }

    /// Raise the verdict to the action of a finding.
    fn demand(&mut self, action: Action, kind: impl FnOnce() -> Name) {
        self.word = more_severe(self.word, action.name());
        if self.observe || self.is_final() {
            return;
        }
        match action {
            Action::Block => self.verdict = Verdict::Block { kind: kind() },
            Action::Mask => self.verdict = Verdict::Mask,
            Action::Flag | Action::Off => {}
        }
    }

    /// Whether the verdict is final.
    pub(super) fn is_final(&self) -> bool {
        matches!(self.verdict, Verdict::Block { .. } | Verdict::Failed { .. })
    }

    /// Set the risk level and apply its action.
    pub(super) fn conclude(&mut self, settings: &settings::RiskSettings) {
        self.level = self.risk.level(settings);
        let action = match self.level {
            Level::Low => Action::Off,
            Level::Medium => settings.on_medium,
            Level::High => settings.on_high,
        };
        if action == Action::Mask {
            // Only parts of a text are masked: a finding on a whole text would leave nothing of it.
            let parts = |found: &Found| {
                matches!(found.category, Category::Pii | Category::Secret | Category::Policy)
                    && !found.span.is_empty()
            };
            let places = self.found.iter_mut().filter(|(_, found)| parts(found));
            if places.map(|(_, found)| found.action = found.action.max(Action::Mask)).count() == 0 {
                return;
            }
        }
        let kind = if self.level == Level::High { "HIGH_RISK" } else { "MEDIUM_RISK" };
        self.demand(action, || kind.into());
    }
}

/// How severe a verdict is, by its word.
fn rank(word: &str) -> usize {
    const ORDER: [&str; 6] = ["pass", "failed_open", "flag", "redact", "block", "failed_closed"];
    ORDER.iter().position(|known| *known == word).unwrap_or(0)
}

/// The severer of two words.
pub fn more_severe<W: AsRef<str>>(one: W, other: W) -> W {
    if rank(other.as_ref()) > rank(one.as_ref()) { other } else { one }
}

/// The account of one run of a filter.
pub fn filter_account(link: &Link, side: Side, outcome: &Outcome) -> FilterAccount {
    let (verdict, failure) = match &outcome.report {
        Ok(report) => (report.action().name(), None),
        Err(failure) => {
            let verdict = if link.failed(*failure) == Verdict::Pass {
                "failed_open"
            } else {
                "failed_closed"
            };
            (verdict, Some(Cow::Borrowed(failure.name())))
        }
    };
    let (queue_us, remote_us, wall_us) =
        (outcome.queue / 1000, outcome.remote / 1000, outcome.wall / 1000);
    FilterAccount {
        filter: link.declared.name.clone(),
        side: side.name().into(),
        verdict: verdict.into(),
        failure,
        calls: 1,
        cpu_us: wall_us.saturating_sub(queue_us + remote_us),
        queue_us,
        remote_us,
        wall_us,
        critical: false,
    }
}

/// Add accounts to those of earlier windows, so that an answer has one account for each filter.
pub fn merge_accounts(into: &mut Vec<FilterAccount>, new: Vec<FilterAccount>) {
    for account in new {
        let Some(known) = into
            .iter_mut()
            .find(|known| known.filter == account.filter && known.side == account.side)
        else {
            into.push(account);
            continue;
        };
        known.calls += account.calls;
        known.cpu_us += account.cpu_us;
        known.queue_us += account.queue_us;
        known.remote_us += account.remote_us;
        known.wall_us += account.wall_us;
        known.critical |= account.critical;
        known.failure = account.failure.or(known.failure.take());
        known.verdict = more_severe(std::mem::take(&mut known.verdict), account.verdict);
    }
}
