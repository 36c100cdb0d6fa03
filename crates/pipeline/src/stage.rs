//! The stages of an inference request, a file each, in the order of `pipeline.rs`:
//!
//! ```text
//! accept -> authenticate -> inspect -> route -> rate_limit -> guardrail_input
//!     -> select -> admission -> connect -> send -> relay -> settle -> record
//! ```
//!
//! `transport` connects; `pipeline` settles. `plan::origin` and `validate` check settings of the
//! route, `count_tokens` makes estimates exact; `models` answers `/v1/models`; `call_log` reports
//! failed calls of backends; `hedge` and `mirror` send requests to further backends; `contents`
//! stores prompts and answers.

pub mod accept;
pub mod admission;
pub mod audit;
pub mod authenticate;
pub mod call_log;
pub mod contents;
pub mod count_tokens;
pub mod endpoint;
pub mod guardrail_input;
pub mod hedge;
pub mod inspect;
pub mod mirror;
pub mod models;
pub mod rate_limit;
pub mod record;
pub mod relay;
pub mod route;
pub mod select;
pub mod send;
pub mod validate;
