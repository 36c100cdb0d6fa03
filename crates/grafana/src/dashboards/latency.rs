//! Where the time of requests goes: the panels that operators of vLLM know, and the gateway's
//! split.
//!
//! - *In*: timings and ledger states.
//! - *Out*: a dashboard.
//! - *Never*: a timing of the client and one of the engine in one line.

use crate::dashboard::{Dashboard, Row};
use crate::panel::Chart;
use crate::query::{
    ENGINE_E2E, ENGINE_TTFT, ITL, TPOT, Timing, distribution, quantile, quantile_where, rate,
    rate_of_sum, ratio,
};

const CLIENT_TTFT: Timing = Timing(&["llm_lens_client_ttft_seconds"]);
const CLIENT_ITL: Timing = Timing(&["llm_lens_client_inter_token_seconds"]);
const CLIENT_E2E: Timing = Timing(&["llm_lens_request_duration_seconds"]);
const GATEWAY: Timing = Timing(&["llm_lens_gateway_seconds"]);
const ADDED_TTFT: Timing = Timing(&["llm_lens_guardrail_added_ttft_seconds"]);
const WITHOUT_GUARDRAIL: Timing = Timing(&["llm_lens_ttft_without_guardrail_seconds"]);
const FILTER: Timing = Timing(&["llm_lens_guardrail_filter_seconds"]);
const QUEUE: Timing = Timing(&["llm_lens_queue_seconds"]);
const SPLIT: Timing = Timing(&["llm_lens_engine_split_seconds"]);

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "llm-lens-latency",
        title: "latency",
        description: "Where the time of requests goes: engine, network, guardrail, queue or client.",
        rows: vec![client(), split(), engine(), heat_maps(), guardrails()],
    }
}

fn client() -> Row {
    let panels = vec![
        Chart::lines("TTFT at the client", "s").percentiles(CLIENT_TTFT),
        Chart::lines("Gaps between tokens at the client", "s").percentiles(CLIENT_ITL),
        Chart::lines("Duration of requests", "s").percentiles(CLIENT_E2E),
    ];
    Row { title: "What clients wait for", panels }
}

fn split() -> Row {
    let ledger = "llm_lens_ledger_seconds_total";
    let backends = rate(ledger, &["route", "backend"]);
    let requests = rate("llm_lens_requests_total", &["route", "backend"]);
    let panels = vec![
        Chart::stacked("Time by state", "percentunit")
            .query(
                format!(
                    "{} / on () group_left () ({} > 0)",
                    rate(ledger, &["state"]),
                    rate(ledger, &[])
                ),
                "{{state}}",
            )
            .note("Share of the time of all selected requests; the states sum to the whole.")
            .wide(),
        Chart::lines("Mean time of a request by backend", "s")
            .query(ratio(&backends, &requests), "{{route}} {{backend}}")
            .note("Find the slow backend here, and the state in the panel to the left.")
            .wide(),
        Chart::lines("The gateway's own work", "s").percentiles(GATEWAY),
        Chart::lines("Rate limits and admission queue", "s").percentiles(QUEUE),
        Chart::stacked("The engine's own report", "s")
            .query(rate_of_sum(SPLIT, &["part"], &[]), "{{part}}")
            .note("Seconds a second. Only of engines that report their times."),
    ];
    Row { title: "Whose fault it is", panels }
}

fn engine() -> Row {
    let by = |timing| quantile("0.95", timing, &["backend"]);
    let panels = vec![
        Chart::lines("TTFT at the engine", "s").percentiles(ENGINE_TTFT),
        Chart::lines("Inter-token latency", "s").percentiles(ITL),
        Chart::lines("Time per output token", "s").percentiles(TPOT),
        Chart::lines("End-to-end latency of the engine", "s").percentiles(ENGINE_E2E),
        Chart::lines("TTFT by backend, p95", "s").query(by(ENGINE_TTFT), "{{backend}}"),
        Chart::lines("Time per output token by backend, p95", "s").query(by(TPOT), "{{backend}}"),
    ];
    Row { title: "Engine, as observed by the gateway", panels }
}

fn heat_maps() -> Row {
    let panels = vec![
        Chart::heat_map("TTFT", "s", distribution(ENGINE_TTFT, &[])),
        Chart::heat_map("Inter-token latency", "s", distribution(ITL, &[])),
        Chart::heat_map("End-to-end latency", "s", distribution(ENGINE_E2E, &[])),
    ];
    Row { title: "Distributions", panels }
}

fn guardrails() -> Row {
    let filters = quantile_where("0.95", FILTER, &["filter", "side"], &[("part", "wall")]);
    let panels = vec![
        Chart::lines("Guardrail time before the first token", "s").percentiles(ADDED_TTFT),
        Chart::lines("TTFT with and without guardrail, p95", "s")
            .query(quantile("0.95", CLIENT_TTFT, &[]), "with")
            .query(quantile("0.95", WITHOUT_GUARDRAIL, &[]), "without"),
        Chart::lines("Filters, p95", "s").query(filters, "{{filter}} {{side}}"),
    ];
    Row { title: "Guardrails", panels }
}
