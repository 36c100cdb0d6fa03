//! The walk of an inference request, a file for each stage, in walk order.
//!
//! `accept -> (identify -> admit) -> inspect_input -> route -> guard_input -> connect -> send -> relay -> settle -> record`
//!
//! Identity and admission have no stage yet; the ledger already knows their states, and their place is between `accept` and
//! `inspect_input`. The guard of answers stands inside `relay`, between reading an event and queueing it for the client.
//! Connecting and sending are `upstream/`'s; settling a connection is the business of the end that owns it.

pub(crate) mod accept;
pub(crate) mod guard_input;
pub(crate) mod inspect_input;
pub(crate) mod record;
pub(crate) mod relay;
pub(crate) mod route;
pub(crate) mod send;
