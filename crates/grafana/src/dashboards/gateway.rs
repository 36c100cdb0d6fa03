//! The gateway itself: resources, connections, sinks.
//!
//! - *In*: metrics of the process, of connections and of sinks.
//! - *Out*: a dashboard.
//! - *Never*: a figure about requests: the other dashboards have them.

use crate::dashboard::{Dashboard, Row};
use crate::panel::Chart;
use crate::query::{max, rate, sum};

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "llm-lens-gateway",
        title: "gateways",
        description: "The gateways themselves: resources, connections, settings, what sinks lose.",
        rows: vec![resources(), connections(), settings(), sinks()],
    }
}

fn resources() -> Row {
    let by = ["instance"];
    let panels = vec![
        Chart::lines("CPU", "short")
            .query(rate("process_cpu_seconds_total", &by), "{{instance}}")
            .note("Cores."),
        Chart::lines("Resident memory", "bytes")
            .query(max("process_resident_memory_bytes", &by), "{{instance}}"),
        Chart::lines("Buffered bytes", "bytes")
            .query(max("llm_lens_buffered_bytes", &by), "{{instance}}")
            .query(max("llm_lens_max_buffered_bytes", &by), "maximum {{instance}}"),
        Chart::lines("Open files", "short")
            .query(max("process_open_fds", &by), "{{instance}}")
            .query(max("process_max_fds", &by), "maximum {{instance}}"),
        Chart::lines("Version", "short")
            .query(sum("llm_lens_build_info", &["version"]), "{{version}}"),
        Chart::lines("Panics", "short")
            .query(rate("llm_lens_panics_total", &by), "{{instance}}")
            .note("A second."),
    ];
    Row { title: "Resources", panels }
}

fn connections() -> Row {
    let by = ["instance"];
    let panels = vec![
        Chart::lines("Client connections", "short")
            .query(sum("llm_lens_client_connections", &by), "{{instance}}")
            .query(sum("llm_lens_max_client_connections", &by), "maximum {{instance}}"),
        Chart::lines("Refused", "short")
            .query(rate("llm_lens_client_limited_connections_total", &[]), "connections, by limits")
            .query(
                rate("llm_lens_client_denied_connections_total", &[]),
                "connections, by networks",
            )
            .query(rate("llm_lens_tls_handshake_failures_total", &[]), "TLS handshakes")
            .query(rate("llm_lens_malformed_requests_total", &[]), "malformed requests")
            .query(rate("llm_lens_memory_limited_requests_total", &[]), "requests, by memory")
            .query(
                rate("llm_lens_descriptor_limited_requests_total", &[]),
                "requests, by open files",
            )
            .note("A second."),
        Chart::lines("Bytes", "Bps")
            .query(rate("llm_lens_client_received_bytes_total", &[]), "received")
            .query(rate("llm_lens_client_sent_bytes_total", &[]), "sent"),
    ];
    Row { title: "Connections", panels }
}

fn settings() -> Row {
    let by = ["instance"];
    let panels = vec![
        Chart::lines("Reloads", "short")
            .query(rate("llm_lens_reloads_total", &by), "{{instance}}")
            .query(rate("llm_lens_reload_failures_total", &by), "failed {{instance}}")
            .note("A second."),
        Chart::lines("Settings are stale since", "dateTimeAsIso")
            .query(
                format!(
                    "{} * 1000 > 0",
                    max("llm_lens_settings_stale_since_timestamp_seconds", &by)
                ),
                "{{instance}}",
            )
            .note("No data means that the settings are current."),
        Chart::lines("Store of shared limits", "short")
            .query(max("llm_lens_store_up", &by), "connected {{instance}}")
            .query(rate("llm_lens_store_failures_total", &by), "failed calls {{instance}}")
            .query(rate("llm_lens_store_fallbacks_total", &by), "requests without it {{instance}}"),
    ];
    Row { title: "Settings and shared limits", panels }
}

fn sinks() -> Row {
    let by = ["sink"];
    let panels = vec![
        Chart::lines("Records", "short")
            .query(rate("llm_lens_sink_records_total", &by), "{{sink}}")
            .note("A second."),
        Chart::lines("Lost", "short")
            .query(
                rate("llm_lens_sink_dropped_records_total", &["sink", "reason"]),
                "{{sink}} {{reason}}",
            )
            .query(rate("llm_lens_sink_queue_dropped_records_total", &[]), "queue to all sinks")
            .query(rate("llm_lens_log_lines_dropped_total", &[]), "log lines")
            .query(rate("llm_lens_audit_lines_dropped_total", &[]), "audit lines")
            .note("A second. Requests are not affected."),
        Chart::lines("Waiting", "short")
            .query(sum("llm_lens_sink_queued_records", &by), "memory {{sink}}")
            .query(sum("llm_lens_sink_spilled_records", &by), "spill {{sink}}"),
    ];
    Row { title: "Records, logs, exports", panels }
}
