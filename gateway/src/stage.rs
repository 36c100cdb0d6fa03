//! The stages of an inference request, a file each, in the order of `pipeline.rs`:
//!
//! `accept -> authenticate -> inspect -> route -> rate_limit -> guardrail_input -> select -> admission -> connect -> send -> relay -> settle -> record`
//!
//! Connecting is the transport's; settling is the pipeline's. `origin` and `validate` check what the route asks for, `count_tokens` makes
//! estimates exact; `hedge` and `mirror` ask further backends.

pub(crate) mod accept;
pub(crate) mod admission;
pub(crate) mod audit;
pub(crate) mod authenticate;
pub(crate) mod count_tokens;
pub(crate) mod guardrail_input;
pub(crate) mod hedge;
pub(crate) mod inspect;
pub(crate) mod mirror;
pub(crate) mod origin;
pub(crate) mod rate_limit;
pub(crate) mod record;
pub(crate) mod relay;
pub(crate) mod route;
pub(crate) mod select;
pub(crate) mod send;
pub(crate) mod validate;
