//! Load and health of the engines.
//!
//! - *In*: metrics of pools, admission queues, and what engines report.
//! - *Out*: a dashboard.
//! - *Never*: a figure of the engine without its source.

use crate::dashboard::{Dashboard, Row};
use crate::panel::Chart;
use crate::query::{Timing, distribution, max, quantile, rate, ratio, sum};

const QUEUE: Timing = Timing(&["llm_lens_queue_seconds"]);

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "llm-lens-engines",
        title: "engines",
        description: "Load and health of engines: queues, caches, failures, routing.",
        rows: vec![scheduler(), admission(), health(), selection()],
    }
}

fn scheduler() -> Row {
    let by = ["pool", "backend"];
    let panels = vec![
        Chart::lines("Scheduler state", "short")
            .query(max("llm_lens_engine_running", &by), "running {{backend}}")
            .query(max("llm_lens_engine_waiting", &by), "waiting {{backend}}")
            .note("Needs engine_metrics of the backend."),
        Chart::lines("KV cache", "percentunit")
            .query(max("llm_lens_engine_cache_ratio", &by), "{{backend}}")
            .note("Needs engine_metrics of the backend."),
        Chart::lines("In flight, as counted by the gateways", "short")
            .query(sum("llm_lens_backend_in_flight", &by), "{{backend}}"),
        Chart::lines("Tokens in flight", "short")
            .query(sum("llm_lens_backend_tokens_in_flight", &by), "{{backend}}")
            .wide(),
        Chart::lines("Attempts", "reqps")
            .query(rate("llm_lens_backend_attempts_total", &by), "{{pool}} {{backend}}")
            .wide(),
    ];
    Row { title: "Load", panels }
}

fn admission() -> Row {
    let panels = vec![
        Chart::lines("Queue depth", "short")
            .query(sum("llm_lens_queue_depth", &["backend"]), "{{backend}}"),
        Chart::lines("Queue time", "s").percentiles(QUEUE),
        Chart::lines("Queue time by backend, p95", "s")
            .query(quantile("0.95", QUEUE, &["backend"]), "{{backend}}"),
        Chart::lines("Admitted and limit", "short")
            .query(sum("llm_lens_admitted_in_flight", &["backend"]), "admitted {{backend}}")
            .query(sum("llm_lens_admission_limit", &["backend"]), "limit {{backend}}"),
        Chart::lines("Shed", "reqps").query(
            rate("llm_lens_shed_requests_total", &["backend", "reason"]),
            "{{backend}} {{reason}}",
        ),
        Chart::heat_map("Queue time", "s", distribution(QUEUE, &[])),
    ];
    Row { title: "Admission queue", panels }
}

fn health() -> Row {
    let by = ["pool", "backend"];
    let failures = rate("llm_lens_backend_failures_total", &by);
    let attempts = rate("llm_lens_backend_attempts_total", &by);
    let panels = vec![
        Chart::lines("State", "short").query(
            max("llm_lens_backend_state", &["pool", "backend", "state"]),
            "{{backend}} {{state}}",
        ),
        Chart::lines("Failed attempts", "percentunit")
            .query(ratio(&failures, &attempts), "{{pool}} {{backend}}"),
        Chart::lines("Ejections", "short")
            .query(rate("llm_lens_backend_ejections_total", &by), "{{pool}} {{backend}}")
            .note("A second."),
    ];
    Row { title: "Health", panels }
}

fn selection() -> Row {
    let tier = ["pool", "tier"];
    let hits = rate("llm_lens_prefix_block_hits_total", &tier);
    let blocks = rate("llm_lens_prefix_blocks_total", &tier);
    let panels = vec![
        Chart::lines("Prefix hits", "percentunit")
            .query(ratio(&hits, &blocks), "{{pool}}")
            .note("Of pools with `balance: prefix`."),
        Chart::lines("Hedges", "reqps")
            .query(rate("llm_lens_hedges_total", &tier), "sent {{pool}}")
            .query(rate("llm_lens_hedges_won_total", &tier), "won {{pool}}"),
        Chart::lines("Canary", "percentunit")
            .query(max("llm_lens_canary_share", &["route"]), "share {{route}}")
            .query(max("llm_lens_canary_rolled_back", &["route"]), "rolled back {{route}}"),
        Chart::lines("Error of predictions", "percentunit")
            .query(
                max("llm_lens_prediction_error_ratio", &["pool", "backend", "target"]),
                "{{backend}} {{target}}",
            )
            .wide(),
        Chart::lines("Edge or cloud", "reqps")
            .query(
                rate("llm_lens_offload_decisions_total", &["route", "decision"]),
                "{{route}} {{decision}}",
            )
            .note("Of routes with `offload`.")
            .wide(),
    ];
    Row { title: "Selection", panels }
}
