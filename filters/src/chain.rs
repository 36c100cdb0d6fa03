//! Runs the filters of a route on requests and answers.
//!
//! - *In*: a [`Subject`], a [`Host`].
//! - *Out*: an [`Assessment`]: findings, verdict, and the cost of each filter.
//! - *Never*: a missing result. A filter that is late, fails or panics gets the result of its
//!   `on_failure` setting.
//!
//! Detectors run first, in sequence: together they take less time than one call. If they settle the
//! verdict, judges are skipped; otherwise all judges run concurrently. Detectors check long prompts
//! on the thread pool, concurrently too.

mod assessment;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use lens::Tick;

use crate::filter::{AnswerFacts, AnswerWatch, Filter, FilterRefusal, Hooks, RequestHead};
use crate::host::{Call, Host};
use crate::report::{Failure, Report};
use crate::settings::{FilterSettings, JudgeMode, OnFailure};
use crate::subject::{Side, Subject};

pub use assessment::{Assessment, Outcome, Verdict, filter_account, merge_accounts, more_severe};

/// Maximum bytes of a prompt that detectors check on the worker: about a quarter of a millisecond
/// with every detector enabled. A longer check would stall the other streams of the worker.
const MAX_INLINE_BYTES: usize = 16 << 10;

/// Deadline of one detector for a long prompt, including the wait for a thread of the pool.
const DETECTOR_DEADLINE_NANOS: u64 = 10_000_000_000;

/// A filter in its chain.
#[derive(Clone, Debug)]
pub struct Link {
    /// What is common to all filters.
    pub declared: FilterSettings,
    /// The filter itself.
    pub filter: Arc<dyn Filter>,
    hooks: Hooks,
}

impl Link {
    /// Put a filter into a chain.
    pub fn new(declared: FilterSettings, filter: Arc<dyn Filter>) -> Self {
        let hooks = filter.hooks();
        Link { declared, filter, hooks }
    }

    /// Whether the filter has all of these hooks.
    pub fn has(&self, hooks: Hooks) -> bool {
        self.hooks.has(hooks)
    }

    fn failed(&self, failure: Failure) -> Verdict {
        match self.declared.on_failure {
            OnFailure::Open if failure != Failure::TooLong => Verdict::Pass,
            _ => Verdict::Failed { filter: self.declared.name.clone(), failure },
        }
    }
}

/// The filters of a route.
#[derive(Clone, Debug)]
pub struct Chain {
    links: Vec<Arc<Link>>,
    /// Observe mode: findings are recorded only.
    observe: bool,
    budget: Duration,
    risk: crate::settings::RiskSettings,
}

impl Chain {
    /// A chain of links, in the order in which detectors run.
    pub fn new(
        links: Vec<Link>,
        observe: bool,
        budget: Duration,
        risk: crate::settings::RiskSettings,
    ) -> Self {
        Chain { links: links.into_iter().map(Arc::new).collect(), observe, budget, risk }
    }

    /// All of them.
    pub fn links(&self) -> &[Arc<Link>] {
        &self.links
    }

    /// Whether any filter has all of these hooks.
    pub fn has(&self, hooks: Hooks) -> bool {
        self.links.iter().any(|link| link.has(hooks))
    }

    /// Whether findings are recorded only.
    pub fn observes(&self) -> bool {
        self.observe
    }

    fn at(&self, hooks: Hooks) -> impl Iterator<Item = &Arc<Link>> {
        self.links.iter().filter(move |link| link.has(hooks))
    }

    /// Run the head filters on a request head.
    ///
    /// # Errors
    /// The first refusal.
    pub fn check_head(&self, head: &RequestHead<'_>) -> Result<(), FilterRefusal> {
        self.at(Hooks::CHECK_HEAD)
            .try_for_each(|link| link.filter.check_head(head))
            .or_else(|refused| if self.observe { Ok(()) } else { Err(refused) })
    }

    /// Run detectors and judges on a prompt.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the calls in flight.
    pub async fn prompt(&self, subject: &Arc<Subject>, host: &dyn Host) -> Assessment {
        let began = host.now();
        let mut assessment = Assessment::new(Side::Input, self.observe);
        if subject.bytes() <= MAX_INLINE_BYTES {
            for link in self.at(Hooks::DETECT) {
                assessment.add(link, run_detector(link, subject, host));
            }
        } else if self.has(Hooks::DETECT) {
            let looked = self
                .at(Hooks::DETECT)
                .map(|link| async move { (link, run_detector_on_pool(link, subject, host).await) });
            join_all(looked)
                .boxed()
                .await
                .into_iter()
                .for_each(|(link, outcome)| assessment.add(link, outcome));
        }
        let looked = host.now();
        assessment.looked = looked.nanos_since(began);
        if self.has(Hooks::JUDGE_PROMPT) && !assessment.is_final() {
            for (link, outcome) in
                self.judge(Hooks::JUDGE_PROMPT, None, subject, host, looked).await
            {
                assessment.add(&link, outcome);
            }
        }
        assessment.conclude(&self.risk);
        assessment.judged = host.now().nanos_since(looked);
        assessment
    }

    /// Run all judges of one mode concurrently on a window of an answer.
    pub async fn window(
        &self,
        mode: JudgeMode,
        subject: &Arc<Subject>,
        host: &dyn Host,
    ) -> Assessment {
        let mut assessment = Assessment::new(Side::Output, self.observe);
        let began = host.now();
        for (link, outcome) in
            self.judge(Hooks::JUDGE_ANSWER, Some(mode), subject, host, began).await
        {
            assessment.add(&link, outcome);
        }
        assessment.judged = host.now().nanos_since(began);
        assessment
    }

    /// The modes in which answers are judged.
    pub fn modes(&self) -> Vec<JudgeMode> {
        let mut modes: Vec<JudgeMode> =
            self.at(Hooks::JUDGE_ANSWER).map(|link| link.declared.mode).collect();
        modes.sort_unstable();
        modes.dedup();
        modes
    }

    /// Open the watches of all filters that check this answer.
    pub fn watch(&self, facts: &AnswerFacts) -> Vec<(Arc<Link>, Box<dyn AnswerWatch>)> {
        self.at(Hooks::WATCH_ANSWER)
            .filter_map(|link| Some((link.clone(), link.filter.watch(facts)?)))
            .collect()
    }

    async fn judge(
        &self,
        hooks: Hooks,
        mode: Option<JudgeMode>,
        subject: &Arc<Subject>,
        host: &dyn Host,
        began: Tick,
    ) -> Vec<(Arc<Link>, Outcome)> {
        let chosen =
            self.at(hooks).filter(|link| mode.is_none_or(|mode| link.declared.mode == mode));
        let asked = chosen.map(|link| async move {
            (link.clone(), run_judge(link, subject, host, self.until(link, began)).await)
        });
        // Boxed, so that the future of a request without judges stays small.
        join_all(asked).boxed().await
    }

    /// The deadline of a filter, and the failure to report when it passes.
    fn until(&self, link: &Link, began: Tick) -> (Option<Tick>, Failure) {
        let after = |time: Duration| {
            (!time.is_zero()).then(|| {
                Tick(began.0.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
            })
        };
        match (after(link.declared.deadline), after(self.budget)) {
            (Some(own), Some(budget)) if budget < own => (Some(budget), Failure::JudgesDeadline),
            (None, Some(budget)) => (Some(budget), Failure::JudgesDeadline),
            (own, _) => (own, Failure::Deadline),
        }
    }
}

/// Run a detector on the current thread.
fn run_detector(link: &Link, subject: &Subject, host: &dyn Host) -> Outcome {
    let began = host.now();
    let report = catch_unwind(AssertUnwindSafe(|| link.filter.detect(subject)))
        .map_err(|_| Failure::Panicked);
    Outcome { report, wall: host.now().nanos_since(began), queue: 0, remote: 0, ended: host.now() }
}

/// Run a detector on a thread of the pool.
async fn run_detector_on_pool(link: &Link, subject: &Arc<Subject>, host: &dyn Host) -> Outcome {
    let began = host.now();
    let until = Tick(began.0.saturating_add(DETECTOR_DEADLINE_NANOS));
    let call = Call::new(host, Some(until), Failure::Deadline);
    let (filter, owned) = (link.filter.clone(), subject.clone());
    let report = call.offload(move || filter.detect(&owned)).await;
    outcome(report, &call, began)
}

/// Run a judge until its deadline.
async fn run_judge(
    link: &Link,
    subject: &Arc<Subject>,
    host: &dyn Host,
    (until, late): (Option<Tick>, Failure),
) -> Outcome {
    let began = host.now();
    let call = Call::new(host, until, late);
    let asked = AssertUnwindSafe(link.filter.judge(subject, &call)).catch_unwind();
    let report = match call.within(asked).await {
        Ok(Ok(report)) => report,
        Ok(Err(_panic)) => Err(Failure::Panicked),
        Err(late) => Err(late),
    };
    outcome(report, &call, began)
}

fn outcome(report: Result<Report, Failure>, call: &Call<'_>, began: Tick) -> Outcome {
    let ((queue, remote), ended) = (call.waited(), call.now());
    Outcome { report, wall: ended.nanos_since(began), queue, remote, ended }
}

#[cfg(test)]
mod tests;
