//! Requests, tokens, results and objectives.
//!
//! - *In*: counters of routes, series of the recording rules.
//! - *Out*: a dashboard.
//! - *Never*: an error of a client counted as a failure of the service.

use crate::dashboard::{Dashboard, Row};
use crate::panel::Chart;
use crate::query::{
    Timing, distribution, increase, quantile_where, rate, rate_of_sum, ratio, recorded, sum,
};

const TOKENS: Timing = Timing(&["gen_ai_client_token_usage"]);
const INPUT: [(&str, &str); 1] = [("gen_ai_token_type", "input")];
const OUTPUT: [(&str, &str); 1] = [("gen_ai_token_type", "output")];

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "llm-lens-traffic",
        title: "traffic",
        description: "Requests and tokens, how requests end, and what is left of objectives.",
        rows: vec![overview(), endings(), tokens(), objectives(), protection()],
    }
}

fn overview() -> Row {
    let requests = rate("llm_lens_requests_total", &[]);
    let failures = rate("llm_lens_service_failures_total", &[]);
    let panels = vec![
        Chart::number("Requests", "reqps", requests.clone()),
        Chart::number("Failed by the service", "percentunit", ratio(&failures, &requests)),
        Chart::number("In flight", "short", sum("llm_lens_in_flight_requests", &[])),
        Chart::number("Output tokens", "short", rate_of_sum(TOKENS, &[], &OUTPUT)),
        Chart::number("Requests in this time", "short", increase("llm_lens_requests_total", &[])),
        Chart::number("Client connections", "short", sum("llm_lens_client_connections", &[])),
    ];
    Row { title: "Now", panels }
}

fn endings() -> Row {
    let panels = vec![
        Chart::stacked("Requests by outcome", "reqps")
            .query(rate("llm_lens_requests_total", &["outcome"]), "{{outcome}}"),
        Chart::lines("Failures of the service", "reqps").query(
            rate("llm_lens_service_failures_total", &["route", "backend"]),
            "{{route}} {{backend}}",
        ),
        Chart::stacked("Finish reasons", "reqps")
            .query(rate("llm_lens_finish_reasons_total", &["finish_reason"]), "{{finish_reason}}"),
        Chart::stacked("Requests by route", "reqps")
            .query(rate("llm_lens_requests_total", &["route"]), "{{route}}"),
        Chart::lines("Stalls of streams", "short")
            .query(rate("llm_lens_stalls_total", &["backend"]), "{{backend}}")
            .note("A second."),
        Chart::lines("Retries, fallbacks and resumes", "reqps")
            .query(rate("llm_lens_retries_total", &["route"]), "retries {{route}}")
            .query(rate("llm_lens_retries_denied_total", &["route"]), "denied {{route}}")
            .query(rate("llm_lens_fallbacks_total", &["route"]), "fallbacks {{route}}")
            .query(rate("llm_lens_resumes_total", &["route"]), "resumes {{route}}"),
    ];
    Row { title: "How requests end", panels }
}

fn tokens() -> Row {
    let estimated = rate("llm_lens_estimated_tokens_total", &[]);
    let panels = vec![
        Chart::lines("Token throughput", "short")
            .query(rate_of_sum(TOKENS, &["gen_ai_token_type"], &[]), "{{gen_ai_token_type}}")
            .query(estimated, "output, estimated")
            .note("Tokens a second."),
        Chart::lines("Cached, cache writes, reasoning", "short")
            .query(rate("llm_lens_cached_tokens_total", &[]), "cached")
            .query(rate("llm_lens_cache_write_tokens_total", &[]), "cache writes")
            .query(rate("llm_lens_reasoning_tokens_total", &[]), "reasoning")
            .note("Tokens a second."),
        Chart::lines("Tokens of a request, p95", "short").query(
            quantile_where("0.95", TOKENS, &["gen_ai_token_type"], &[]),
            "{{gen_ai_token_type}}",
        ),
        Chart::heat_map("Prompt length", "short", distribution(TOKENS, &INPUT)).wide(),
        Chart::heat_map("Generation length", "short", distribution(TOKENS, &OUTPUT)).wide(),
    ];
    Row { title: "Tokens", panels }
}

fn objectives() -> Row {
    let series = |name: &str| recorded(name);
    let panels = vec![
        Chart::lines("Burn rate, 1 h", "short")
            .query(series("route:llm_lens_slo_burn:ratio1h"), "{{route}} {{slo}}")
            .note("1 uses up exactly what the objective allows. Needs the recording rules of deploy/prometheus."),
        Chart::lines("Share of misses, 5 min", "percentunit")
            .query(series("route:llm_lens_slo_misses:ratio5m"), "{{route}} {{slo}}")
            .note("Of the objectives of the recording rules of deploy/prometheus."),
        Chart::lines("Burn rate, 6 h", "short")
            .query(series("route:llm_lens_slo_burn:ratio6h"), "{{route}} {{slo}}")
            .note("Needs the recording rules of deploy/prometheus."),
    ];
    Row { title: "Objectives", panels }
}

fn protection() -> Row {
    let findings = rate("llm_lens_guardrail_findings_total", &["side", "rule"]);
    let verdicts = rate("llm_lens_guardrail_verdicts_total", &["filter", "side", "verdict"]);
    let panels = vec![
        Chart::lines("Findings of guardrails", "short")
            .query(findings, "{{side}} {{rule}}")
            .note("A second."),
        Chart::lines("Verdicts of filters", "reqps")
            .query(verdicts, "{{filter}} {{side}} {{verdict}}"),
        Chart::lines("Refused by limits", "reqps")
            .query(
                rate("llm_lens_rate_limited_requests_total", &["limit", "unit"]),
                "{{limit}} {{unit}}",
            )
            .query(
                rate("llm_lens_rate_limited_streams_total", &["limit", "unit"]),
                "streams: {{limit}} {{unit}}",
            )
            .query(rate("llm_lens_client_limited_requests_total", &[]), "by address"),
    ];
    Row { title: "Guardrails and limits", panels }
}
