//! Settles a request however it ends: its charge, its attempt, its usage, its record.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lens::Tick;
use lens::record::Outcome;

use crate::exchange::{Accepted, Exchange};
use crate::shared::Shared;
use crate::stage::{contents, rate_limit, record, select};
use plan::Plan;
use plan::clock;

/// An exchange that is settled when it is dropped, so that each request leaves exactly one record.
#[derive(Debug)]
pub struct ExchangeGuard(Exchange);

impl ExchangeGuard {
    /// Open the exchange of a request whose head is complete; its first byte arrived at `began`.
    pub fn open(shared: &Arc<Shared>, plan: Arc<Plan>, accepted: Accepted, began: Tick) -> Self {
        ExchangeGuard(Exchange::open(shared, plan, accepted, began))
    }
}

impl Deref for ExchangeGuard {
    type Target = Exchange;

    fn deref(&self) -> &Exchange {
        &self.0
    }
}

impl DerefMut for ExchangeGuard {
    fn deref_mut(&mut self) -> &mut Exchange {
        &mut self.0
    }
}

impl Drop for ExchangeGuard {
    fn drop(&mut self) {
        let exchange = &mut self.0;
        let used = rate_limit::total_used(exchange);
        exchange.leave(&used);
        exchange.group().in_flight.requests.fetch_sub(1, Ordering::Relaxed);
        if std::thread::panicking() {
            observatory::Gauges::count(&exchange.shared.observatory.gauges().panics);
            exchange.verdict.decide(Outcome::Rejected, Some("internal_error"));
        }
        let total = exchange.timeouts().total;
        if !total.is_zero()
            && u128::from(clock::now().nanos_since(exchange.accepted.head_at)) >= total.as_nanos()
        {
            exchange.verdict.decide(Outcome::Timeout, Some("total_timeout"));
        }
        // Clients leave when they read the engine's error, but its failure is the cause.
        if let Some(error) = exchange.answer.lens.error() {
            exchange.verdict.decide(Outcome::UpstreamError, Some(&error.record_code()));
        }
        // Dropped without an outcome: the connection's task was canceled, so the client is gone.
        exchange.verdict.decide(Outcome::ClientGone, Some("client_closed"));
        select::settle(exchange);
        let used = rate_limit::settle(exchange);
        rate_limit::add_usage(exchange, &used);
        contents::store(exchange);
        record::write(exchange, &used);
    }
}
