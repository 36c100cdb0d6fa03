//! End-to-end tests: one binary, a module for each topic.

#![expect(clippy::too_many_lines, reason = "a scenario reads top to bottom")]

/// The commands besides the gateway, and what a gateway that cannot start says.
mod config_cli;
/// What goes wrong between the two ends, and what each of them and the record is told.
mod failures;
/// Guards: what is masked, what is refused, and that nothing else changes.
mod guardrail;
/// Guards: judges, rules, risk, redaction, what ends an answer, and the account of it all.
mod guards;
/// HTTP/2 to the backend.
mod h2_backend;
/// Whatever is killed, nothing is left behind.
mod leaks;
/// Signals, upgrades, reloads, exhausted descriptors, hanging logs.
mod lifecycle;
/// Definition by definition: what a known schedule must measure.
mod measure;
/// Raw connections and frames, a strict engine, processes: for the modules that must be exact about
/// bytes.
mod raw;
/// Heads and bodies on their way: ids, credentials, routes, what is added and what is taken away.
mod requests;
/// Pools: selection, ejection, and what retries hide from the client.
mod routing;
/// What an attacker may try on the wire, in both directions.
mod safety;
/// Where records go.
mod sinks;
/// What takes whole seconds because a wait of the gateway's or of pingora's does.
mod slow;
/// Answers on their way, cut and framed in every manner.
mod streams;
/// What the tests share and the kit is too general for.
mod support;
/// TLS on both sides.
mod tls;
/// Keys, limits, admission.
mod traffic;
