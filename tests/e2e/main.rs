//! End-to-end tests: one binary, a module for each topic.

#![expect(clippy::too_many_lines, reason = "a scenario reads top to bottom")]

/// The chain of the audit log.
mod audit_log;
/// The other commands, and errors of a gateway that cannot start.
mod config_cli;
/// Stored prompts and answers.
mod contents;
/// The demo.
mod demo;
/// Errors of the gateway, in the format of each API.
mod errors;
/// Failures between client and engine: what both get, and what the record has.
mod failures;
/// Guardrails: masking, refusals, and everything else unchanged.
mod guardrail;
/// Guardrails: judges, rules, risk, redaction, blocked answers, and their cost.
mod guards;
/// HTTP/2 to the backend.
mod h2_backend;
/// A failure of either side leaves nothing behind.
mod leaks;
/// Signals, upgrades, reloads, exhausted descriptors, hanging logs.
mod lifecycle;
/// The load generator, `llm-lens run`.
mod load_test;
/// Measurements of a known schedule, for each definition.
mod measure;
/// Lists of models, retries of safe requests, backends that are down at the start.
mod models;
/// Export to an OpenTelemetry collector.
mod otlp;
/// Raw connections and frames, a strict engine, processes: for tests that need exact bytes.
mod raw;
/// Files of records, and `llm-lens export`.
mod record_files;
/// The store of records behind the admin listener.
mod record_store;
/// Requests and heads of answers: ids, credentials, routes, added and removed fields.
mod requests;
/// Pools: selection, ejection, and retries.
mod routing;
/// Attacks on the wire, in both directions.
mod safety;
/// The gateway as a service: reports, probes, a drain by the operator, variables.
mod service;
/// Sinks of records.
mod sinks;
/// Tests that take seconds because of a wait in the gateway or in pingora.
mod slow;
/// Statistics of the last minutes, and the live stream.
mod statistics;
/// Answers, split and framed in every way.
mod streams;
/// Helpers of the tests that are not in the kit.
mod support;
/// TLS on both sides.
mod tls;
/// Keys, limits, admission.
mod traffic;
/// Load testers against a simulated engine.
mod verify_client;
