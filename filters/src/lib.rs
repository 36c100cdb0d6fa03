//! Guardrails: filters, the chain that runs them, built-in detectors and judges.
//!
//! - *In*: texts of a request and of a streamed answer; settings.
//! - *Out*: verdicts, with the findings and the cost of each filter.
//! - *Never*: a socket, a thread or a clock of its own. The caller of a chain provides them as a
//!   [`Host`].
//!
//! A [`Filter`] implements one check. A [`Chain`] holds the filters of a route and runs the
//! cheapest first. A [`Guardrail`] is a chain built from its settings, with the pattern tables of
//! `shield`. `docs/write-a-filter.md` shows how to add a filter.

pub mod settings;

mod filter;
pub use filter::{AnswerFacts, AnswerWatch, Filter, FilterRefusal, Hooks, RequestHead};
mod report;
pub use report::{Category, Failure, Found, Name, Report};
mod subject;
pub use subject::{NORMALISED, Place, Side, Sizes, Subject, SubjectBuilder, TextSource};

mod host;
pub use host::{Call, Host, HostRequest, HostResponse, Job};
mod remote;
pub use remote::Remote;
mod breaker;
pub use breaker::Breaker;

mod chain;
pub use chain::{
    Assessment, Chain, Link, Outcome, Verdict, filter_account, merge_accounts, more_severe,
};
mod risk;
pub use risk::{Level, Risk};
mod kinds;
pub use kinds::{KindAction, KindSettings, is_kind, kind_names};
mod registry;
pub use registry::{Registry, UnknownFilter};

pub mod detect;
pub mod judge;

mod guardrail;
pub use guardrail::{BuildError, Guardrail, LoadModel, Replacements, Scanner, replacement};
mod redact;
pub use redact::{Redacted, Vault, redact};
mod patterns;
pub use patterns::{PLACEHOLDER, check_rule};
pub mod audit;

/// A boxed future, as filters and hosts return it.
pub type BoxFuture<'a, T> = futures_util::future::BoxFuture<'a, T>;
