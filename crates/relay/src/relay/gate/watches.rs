//! The filters that follow an answer event by event, and what that costs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use filters::settings::OnFailure;
use filters::{AnswerFacts, Failure, Hooks, Link, Outcome, Refused, Report, Shield, Side, Watch, account};
use lens::security::FilterAccount;
use wire::Channel;

use super::stop::Stop;
use crate::clock;

/// The watches of one answer.
#[derive(Debug, Default)]
pub(super) struct Watches(Vec<Watching>);

#[derive(Debug)]
struct Watching {
    link: Arc<Link>,
    watch: Box<dyn Watch>,
    calls: u64,
    nanos: u64,
    refused: bool,
    failed: bool,
}

impl Watches {
    pub(super) fn open(guard: &Shield, facts: &AnswerFacts) -> Self {
        if !guard.chain().has(Hooks::WATCH) {
            return Watches::default();
        }
        let watching = |(link, watch)| Watching { link, watch, calls: 0, nanos: 0, refused: false, failed: false };
        Watches(guard.chain().watch(facts).into_iter().map(watching).collect())
    }

    /// A piece of text.
    pub(super) fn text(&mut self, choice: u32, channel: Channel, text: &str) -> Result<(), Stop> {
        self.0.iter_mut().try_for_each(|watching| watching.call(|watch| watch.text(choice, channel, text)))
    }

    /// The answer is complete.
    pub(super) fn end(&mut self) -> Result<(), Stop> {
        self.0.iter_mut().try_for_each(|watching| watching.call(|watch| watch.end()))
    }

    /// What each cost.
    pub(super) fn take_accounts(&mut self) -> Vec<FilterAccount> {
        std::mem::take(&mut self.0).iter().filter(|watching| watching.calls > 0).map(Watching::account).collect()
    }
}

impl Watching {
    fn call(&mut self, ask: impl FnOnce(&mut dyn Watch) -> Result<(), Refused>) -> Result<(), Stop> {
        if self.failed {
            return Ok(());
        }
        let began = clock::now();
        let said = catch_unwind(AssertUnwindSafe(|| ask(&mut *self.watch)));
        self.nanos += clock::now().nanos_since(began);
        self.calls += 1;
        match said {
            Ok(said) => said.map_err(|refused| {
                self.refused = true;
                Stop::Refused(refused)
            }),
            Err(_panic) => {
                // It is not asked again: nobody knows what state it is in.
                self.failed = true;
                match self.link.declared.on_failure {
                    OnFailure::Open => Ok(()),
                    OnFailure::Closed => Err(Stop::Failed { filter: self.link.declared.name.clone(), failure: Failure::Panicked }),
                }
            }
        }
    }

    fn account(&self) -> FilterAccount {
        let report = if self.failed { Err(Failure::Panicked) } else { Ok(Report::default()) };
        let outcome = Outcome { report, wall: self.nanos, queue: 0, remote: 0, ended: clock::now() };
        let mut account = account(&self.link, Side::Output, &outcome);
        account.calls = self.calls;
        if self.refused {
            account.verdict = "block".into();
        }
        account
    }
}
