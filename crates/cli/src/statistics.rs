//! `stats`: the statistics of gateways, one table for each, or one for all.
//!
//! - *In*: URLs of admin listeners.
//! - *Out*: a table, or JSON. A gateway that cannot be read is an error at the end: the tables have
//!   the others, and the head of a merged one counts them.
//! - *Never*: an average of percentiles: sketches are merged.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use lens::Timing;
use serde_json::{Value, json};
use stats::{Cell, Dimension, Filter, Row, Rows, TimingReport, Window, WindowCells};

use crate::args::StatsArgs;
use crate::{runtime, write_stdout};

/// Prints the statistics. Fails if a gateway cannot be read.
pub(crate) fn print_stats(args: &StatsArgs) -> Result<ExitCode> {
    let window = Window::from_name(&args.window).map_err(anyhow::Error::msg)?;
    let read = runtime()?.block_on(async {
        let (mut all, token) = (Vec::new(), args.admin_token.value());
        for url in &args.urls {
            all.push((
                url.as_str(),
                ::aggregate::read_gateway(url, window, token.as_deref()).await,
            ));
        }
        all
    });
    let mut good = Vec::new();
    for (url, result) in read {
        match result {
            Ok(cells) => good.push((url, cells)),
            Err(why) => {
                let _ = writeln!(std::io::stderr(), "llm-lens: {url}: {why}");
            }
        }
    }
    let all = args.urls.len();
    if !good.is_empty() {
        write_stdout(&render(args, &good, all))?;
    }
    Ok(if good.len() == all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The tables of the gateways that were read, of `all`.
fn render(args: &StatsArgs, good: &[(&str, WindowCells)], all: usize) -> String {
    let by = stats::distinct(args.by.clone());
    let rows = |gateways: &[(&str, WindowCells)]| {
        let mut rows = Rows::new();
        gateways.iter().for_each(|(_, cells)| {
            stats::group(&mut rows, cells, &by, &Filter::default());
        });
        rows
    };
    let groups = match args.merge {
        true => vec![(format!("{} of {all} gateways", good.len()), rows(good))],
        false => good.chunks(1).map(|one| (title(one), rows(one))).collect(),
    };
    if args.json {
        let json = |(title, rows): &(String, Rows)| json!({"gateway": title, "window": args.window, "groups": stats::rows_json(rows, &by)});
        let all: Vec<Value> = groups.iter().map(json).collect();
        return format!("{:#}\n", Value::Array(all));
    }
    let mut out = String::new();
    for (title, rows) in &groups {
        let _ = writeln!(out, "{title}, window {}", args.window);
        table(&mut out, rows, &by);
    }
    out
}

fn title(gateway: &[(&str, WindowCells)]) -> String {
    gateway.iter().map(|(url, _)| (*url).to_owned()).collect()
}

const COLUMNS: [&str; 12] = [
    "requests",
    "req/s",
    "failed",
    "tokens/s",
    "good %",
    "ttft p50",
    "p95",
    "p99",
    "tpot p50",
    "p95",
    "total p50",
    "p95",
];

/// Times are in milliseconds; `failed` are failures of the service.
fn table(out: &mut String, rows: &Rows, by: &[Dimension]) {
    let head = by.iter().map(|dimension| dimension.name().to_owned());
    let mut lines: Vec<Vec<String>> = vec![head.chain(COLUMNS.map(str::to_owned)).collect()];
    for (labels, row) in rows {
        let labels = labels.iter().map(|label| if label.is_empty() { "-" } else { label });
        lines.push(labels.map(str::to_owned).chain(cells(row)).collect());
    }
    let columns = by.len() + COLUMNS.len();
    let widths: Vec<usize> = (0..columns)
        .map(|at| lines.iter().filter_map(|line| line.get(at)).map(String::len).max().unwrap_or(0))
        .collect();
    for line in lines {
        let mut text = String::new();
        for ((at, cell), width) in line.iter().enumerate().zip(&widths) {
            let _ = match at < by.len() {
                true => write!(text, "{cell:<width$}  "),
                false => write!(text, "{cell:>width$}  "),
            };
        }
        let _ = writeln!(out, "{}", text.trim_end());
    }
}

fn cells(row: &Row) -> [String; COLUMNS.len()] {
    let cell = &row.cell;
    let ms = |timing: &Option<TimingReport>, value: fn(&TimingReport) -> u64| {
        timing.as_ref().map_or_else(|| "-".into(), |t| format!("{:.1}", value(t) as f64 / 1000.0))
    };
    let good = match cell.judged {
        0 => "-".into(),
        judged => format!("{:.1}", cell.good as f64 * 100.0 / judged as f64),
    };
    let timing = |timing| cell.timing(timing).and_then(TimingReport::new);
    let (ttft, total) = (timing(Timing::ClientTtft), timing(Timing::Total));
    let tpot = tpot(cell);
    [
        cell.requests().to_string(),
        format!("{:.2}", row.requests_per_s),
        cell.service_failures.to_string(),
        format!("{:.1}", row.output_tokens_per_s),
        good,
        ms(&ttft, |t| t.p50_us),
        ms(&ttft, |t| t.p95_us),
        ms(&ttft, |t| t.p99_us),
        ms(&tpot, |t| t.p50_us),
        ms(&tpot, |t| t.p95_us),
        ms(&total, |t| t.p50_us),
        ms(&total, |t| t.p95_us),
    ]
}

/// Time per output token as the engine counts tokens; else estimated.
fn tpot(cell: &Cell) -> Option<TimingReport> {
    let counted = cell.timing(Timing::Tpot).or_else(|| cell.timing(Timing::EstimatedTpot));
    counted.and_then(TimingReport::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_longest_cell() {
        let mut rows = Rows::new();
        let row = Row { requests_per_s: 1234.5, ..Row::default() };
        rows.insert(vec!["a-long-route".to_owned()], row.clone());
        rows.insert(vec![String::new()], row);
        let mut out = String::new();
        table(&mut out, &rows, &[Dimension::Route]);
        let lines: Vec<&str> = out.lines().collect();
        assert!(lines[0].starts_with("route         requests    req/s  failed"), "{out}");
        assert!(lines[1].starts_with("-                    0  1234.50"), "{out}");
        assert!(lines[2].starts_with("a-long-route         0  1234.50"), "{out}");
    }
}
