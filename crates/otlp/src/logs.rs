//! Log records of finished requests: one event for each.
//!
//! A call of a model is the event `gen_ai.client.inference.operation.details` of the GenAI
//! conventions, in the context of the call's span. Everything else is `llm_lens.request`: requests
//! that reached no backend, embeddings, other paths, and all requests while no traces are exported,
//! because their records lack the provider that the conventions require.
//!
//! - *In*: records.
//! - *Out*: log records with the attributes of the request's and the call's span.
//! - *Never*: a prompt, an answer, or a credential: records have none.

use lens::Record;
use lens::record::Outcome;
use lens::trace::SAMPLED;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;

use crate::semconv::Conventions;
use crate::traces::{Request, scope, span_bytes, trace_bytes};
use crate::value::text;

/// Event of a call of a model.
pub const INFERENCE: &str = "gen_ai.client.inference.operation.details";
/// Event of every other request.
pub const REQUEST: &str = "llm_lens.request";

/// The log record of a request. `is_traced`: its trace is exported.
pub fn log_record(record: &Record, conventions: Conventions, is_traced: bool) -> LogRecord {
    let request = Request::new(record, conventions);
    let end = request.ended_at();
    let (severity, name) = severity(record);
    let inference_span = request.inference_span();
    let event = if inference_span.is_some() { INFERENCE } else { REQUEST };
    let span_id = inference_span.or_else(|| request.own_span());
    let flags = record.trace_flags.unwrap_or(0);
    LogRecord {
        time_unix_nano: end,
        observed_time_unix_nano: end,
        severity_number: severity as i32,
        severity_text: name.to_owned(),
        body: Some(text(summary(record))),
        attributes: request.attributes(),
        flags: u32::from(if is_traced { flags | SAMPLED } else { flags & !SAMPLED }),
        trace_id: record.trace_id.as_deref().map(trace_bytes).unwrap_or_default(),
        span_id: span_id.map(span_bytes).unwrap_or_default(),
        event_name: event.to_owned(),
        ..LogRecord::default()
    }
}

/// An export request with the log records of each resource.
pub fn request(parts: Vec<(Resource, Vec<LogRecord>)>) -> ExportLogsServiceRequest {
    let part = |(resource, log_records)| ResourceLogs {
        resource: Some(resource),
        scope_logs: vec![ScopeLogs {
            scope: Some(scope()),
            log_records,
            schema_url: String::new(),
        }],
        schema_url: String::new(),
    };
    ExportLogsServiceRequest { resource_logs: parts.into_iter().map(part).collect() }
}

/// Errors are failures of the service, as the availability objective counts them. Warnings are
/// other requests that ended without a complete answer.
fn severity(record: &Record) -> (SeverityNumber, &'static str) {
    match record.outcome {
        _ if record.is_service_failure() => (SeverityNumber::Error, "ERROR"),
        Outcome::Ok | Outcome::ClientGone => (SeverityNumber::Info, "INFO"),
        Outcome::UpstreamFailed
        | Outcome::UpstreamError
        | Outcome::Timeout
        | Outcome::Rejected
        | Outcome::Blocked
        | Outcome::Limited => (SeverityNumber::Warn, "WARN"),
    }
}

/// Route, outcome, error code, status and duration, for people.
fn summary(record: &Record) -> String {
    let mut line = format!("{}: {}", record.route, record.outcome.name());
    if let Some(code) = &record.error_code {
        line.push_str(&format!(" {code}"));
    }
    if let Some(status) = record.http_status {
        line.push_str(&format!(", status {status}"));
    }
    line.push_str(&format!(", {:.3} s", record.total_us as f64 / 1e6));
    line
}

#[cfg(test)]
mod tests;
