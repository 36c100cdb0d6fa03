//! The walk of an inference request, a file for each stage, in walk order.
//!
//! `accept -> identify -> inspect_input -> route -> count -> admit -> guard_input -> queue -> connect -> send -> relay -> settle -> record`
//!
//! Who asks is looked at before the body is read, and judged when the route is known. The guard of answers stands inside `relay`, between reading an event and queueing it for the client.
//! Connecting and sending are `upstream/`'s; settling a connection is the business of the end that owns it.

pub(crate) mod accept;
pub(crate) mod admit;
pub(crate) mod choose;
pub(crate) mod count;
pub(crate) mod guard_input;
pub(crate) mod identify;
pub(crate) mod inspect_input;
pub(crate) mod origin;
pub(crate) mod queue;
pub(crate) mod record;
pub(crate) mod relay;
pub(crate) mod route;
pub(crate) mod send;
pub(crate) mod validate;
