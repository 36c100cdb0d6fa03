//! Output of the demo: tables of routes, and the ledger of one request as a waterfall.

use std::fmt::Write as _;

use lens::{Record, State};

/// Maximum width of a bar, in characters.
const WIDTH: u64 = 60;

/// The ledger of one request as a waterfall.
pub fn waterfall(record: &Record) -> String {
    let total = record.total_us.max(1);
    let mut out = format!(
        "request {} on route {}: {:.1} ms, {} events with text, {} output tokens\n",
        record.id,
        record.route,
        total as f64 / 1000.0,
        record.content_events.unwrap_or(0),
        record.usage.as_ref().and_then(|u| u.completion_tokens).unwrap_or(0),
    );
    let mut before = 0;
    for state in State::ALL {
        let micros = record.ledger_us.micros(state);
        if micros == 0 {
            continue;
        }
        let (from, to) = (before * WIDTH / total, (before + micros) * WIDTH / total);
        let bar = "#".repeat(((to - from).max(1)) as usize);
        let bar = format!("{}{bar}", " ".repeat(from as usize));
        let share = 100.0 * micros as f64 / total as f64;
        let _ = writeln!(
            out,
            "  {:17} {:>10.3} ms {share:>5.1}% |{bar:width$}|",
            state.name(),
            micros as f64 / 1000.0,
            width = WIDTH as usize + 1
        );
        before += micros;
    }
    let _ = writeln!(out, "  {:17} {:>10.3} ms", "sum", before as f64 / 1000.0);
    for (name, value) in
        [("engine TTFT", record.engine_ttft_us), ("client TTFT", record.client_ttft_us)]
    {
        if let Some(us) = value {
            let _ = writeln!(out, "  {name:17} {:>10.3} ms", us as f64 / 1000.0);
        }
    }
    if let Some(tpot) = record.tpot_us {
        let is_estimated = record.usage.as_ref().is_some_and(|usage| usage.estimated);
        let name = if is_estimated { "TPOT, estimated" } else { "TPOT" };
        let _ = writeln!(out, "  {name:17} {:>10.3} ms", tpot / 1000.0);
    }
    out
}

/// `/api/routes` as a table.
pub fn routes(answer: &serde_json::Value) -> String {
    let mut out = format!(
        "{:15} {:>8} {:>6} {:>14} {:>14} {:>12} {:>12} {:>7} {:>14}\n",
        "route / backend",
        "requests",
        "failed",
        "engine TTFT",
        "client TTFT",
        "TPOT",
        "ITL p99",
        "stalls",
        "gateway's own"
    );
    for route in answer["routes"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
        .iter()
        .filter(|r| r["operation"] != "")
    {
        let ms = |timing: &str, which: &str| match route["timings"][timing][which].as_f64() {
            Some(us) => format!("{:.2} ms", us / 1000.0),
            None => "-".into(),
        };
        let name = |label: &str| route[label].as_str().unwrap_or("?");
        let requests = route["requests"].as_u64().unwrap_or(0);
        let ok = route["outcomes"]["ok"].as_u64().unwrap_or(0);
        let _ = writeln!(
            out,
            "{:15} {requests:>8} {:>6} {:>14} {:>14} {:>12} {:>12} {:>7} {:>14}",
            format!("{} / {}", name("route"), name("backend")),
            requests - ok,
            ms("engine_ttft", "p50_us"),
            ms("client_ttft", "p50_us"),
            ms("tpot", "p50_us"),
            ms("itl", "p99_us"),
            route["stalls"].as_u64().unwrap_or(0),
            ms("gateway", "p50_us"),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An engine that sends its head at once does not hide the wait for the first token.
    #[test]
    fn the_wait_for_the_first_token_has_its_own_line() {
        let record: Record = serde_json::from_value(serde_json::json!({
            "schema": 1, "id": "i", "started_at": "2026-01-02T03:04:05Z", "route": "r",
            "endpoint": "/v1/chat/completions", "stream": true, "outcome": "ok",
            "bytes_from_client": 10, "bytes_to_client": 20, "engine_ttft_us": 133_006,
            "ledger_us": {
                "await_first_byte": 6, "await_first_token": 133_000, "await_token": 66_994
            },
            "total_us": 200_000
        }))
        .expect("a record");
        let shown = waterfall(&record);
        let line = |name: &str| -> Vec<&str> {
            let of_name = |line: &&str| line.split_whitespace().next() == Some(name);
            let line = shown.lines().find(of_name).unwrap_or_else(|| panic!("{name}: {shown}"));
            line.split_whitespace().skip(1).take(3).collect()
        };
        assert_eq!(line("await_first_byte"), ["0.006", "ms", "0.0%"]);
        assert_eq!(line("await_first_token"), ["133.000", "ms", "66.5%"]);
        assert_eq!(line("await_token"), ["66.994", "ms", "33.5%"]);
        assert_eq!(line("sum"), ["200.000", "ms"]);
    }
}
