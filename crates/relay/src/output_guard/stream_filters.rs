//! Filters that process an answer event by event, and their cost.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use filters::settings::OnFailure;
use filters::{
    AnswerFacts, AnswerWatch, Failure, FilterRefusal, Guardrail, Hooks, Link, Outcome, Report,
    Side, filter_account,
};
use lens::guardrail::FilterAccount;
use transport::clock;
use wire::Channel;

use crate::failure::Failure as End;

/// The stream filters of one answer.
#[derive(Debug, Default)]
pub(super) struct StreamFilters(Vec<StreamFilter>);

#[derive(Debug)]
struct StreamFilter {
    link: Arc<Link>,
    watch: Box<dyn AnswerWatch>,
    calls: u64,
    nanos: u64,
    refused: bool,
    failed: bool,
}

impl StreamFilters {
    pub(super) fn open(guardrail: &Guardrail, facts: &AnswerFacts) -> Self {
        if !guardrail.chain().has(Hooks::WATCH_ANSWER) {
            return StreamFilters::default();
        }
        let watching = |(link, watch)| StreamFilter {
            link,
            watch,
            calls: 0,
            nanos: 0,
            refused: false,
            failed: false,
        };
        StreamFilters(guardrail.chain().watch(facts).into_iter().map(watching).collect())
    }

    /// Pass a piece of text to all filters.
    pub(super) fn text(&mut self, choice: u32, channel: Channel, text: &str) -> Result<(), End> {
        self.0
            .iter_mut()
            .try_for_each(|watching| watching.call(|watch| watch.text(choice, channel, text)))
    }

    /// Pass the end of the answer to all filters.
    pub(super) fn end(&mut self) -> Result<(), End> {
        self.0.iter_mut().try_for_each(|watching| watching.call(|watch| watch.end()))
    }

    /// Take the cost account of each filter.
    pub(super) fn take_accounts(&mut self) -> Vec<FilterAccount> {
        std::mem::take(&mut self.0)
            .iter()
            .filter(|watching| watching.calls > 0)
            .map(StreamFilter::filter_account)
            .collect()
    }
}

impl StreamFilter {
    fn call(
        &mut self,
        ask: impl FnOnce(&mut dyn AnswerWatch) -> Result<(), FilterRefusal>,
    ) -> Result<(), End> {
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
                End::RefusedByFilter(refused)
            }),
            Err(_panic) => {
                // A filter that panicked is not called again, because its state is unknown.
                self.failed = true;
                match self.link.declared.on_failure {
                    OnFailure::Open => Ok(()),
                    OnFailure::Closed => Err(End::GuardrailUnavailable {
                        filter: self.link.declared.name.clone(),
                        failure: Failure::Panicked,
                    }),
                }
            }
        }
    }

    fn filter_account(&self) -> FilterAccount {
        let report = if self.failed { Err(Failure::Panicked) } else { Ok(Report::default()) };
        let outcome =
            Outcome { report, wall: self.nanos, queue: 0, remote: 0, ended: clock::now() };
        let mut account = filter_account(&self.link, Side::Output, &outcome);
        account.calls = self.calls;
        if self.refused {
            account.verdict = "block".into();
        }
        account
    }
}
