//! Compares both ends: joins client and gateway measurements by request id and subtracts the
//! gateway's from the client's.
//!
//! - *In*: samples of a run, the gateway's records from `/api/requests`.
//! - *Out*: the distribution of client minus gateway for each timing that both have.
//! - *Never*: a correction of either. A difference shows the network between the two, or a
//!   measurement error.

use std::collections::HashMap;

use lens::Record;
use serde::Serialize;

use workload::provider::Provider;

use crate::http1::Target;
use crate::measure::Sample;

/// A difference in microseconds, over all requests that have both figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The two timings that are compared.
    pub timing: &'static str,
    /// Requests compared.
    pub count: usize,
    /// Smallest.
    pub min_us: f64,
    /// Median.
    pub p50_us: f64,
    /// 90th percentile.
    pub p90_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// Largest.
    pub max_us: f64,
}

/// Result of the join.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Joined {
    /// Requests of the run that the gateway has a record of.
    pub matched: usize,
    /// Requests without one: the gateway keeps only the last `limits.records`.
    pub missing: usize,
    /// Requests whose generated tokens, or events, the two ends count differently.
    pub count_mismatches: usize,
    /// Client minus gateway.
    pub differences: Vec<Difference>,
}

/// Checks that an admin listener of a gateway is at this URL. `token` is one of its `admin.auth`.
///
/// # Errors
/// What is there instead.
pub async fn check_admin(admin: &str, token: Option<&str>) -> Result<(), String> {
    read_records(admin, token, 1).await.map(drop)
}

/// Fetches the gateway's records.
///
/// # Errors
/// Why the records cannot be read.
pub async fn records(admin: &str, token: Option<&str>) -> Result<Vec<Record>, String> {
    read_records(admin, token, 1_000_000).await
}

async fn read_records(admin: &str, token: Option<&str>, limit: u32) -> Result<Vec<Record>, String> {
    let no_admin = |why: String| {
        format!("{why}; the gateway prints the URL of its admin listener when it starts")
    };
    let path = format!("/api/requests?limit={limit}");
    let mut all = page(admin, &path, token).await.map_err(no_admin)?;
    if !all["requests"].is_array() {
        return Err(no_admin(format!("{admin} is not the admin listener of a gateway")));
    }
    serde_json::from_value(all["requests"].take())
        .map_err(|e| format!("the gateway at {admin} has another version, with other records: {e}"))
}

/// A JSON page of the gateway's admin listener.
///
/// # Errors
/// Why the page cannot be read.
pub async fn page(
    admin: &str,
    path: &str,
    token: Option<&str>,
) -> Result<serde_json::Value, String> {
    crate::page::fetch(&Target::new(admin)?, path, &Provider::default(), token).await
}

/// Join a run with the gateway's records.
pub fn join(samples: &[Sample], records: &[Record]) -> Joined {
    // Records are sorted newest first; of two records with the same id, the newest counts.
    let by_id: HashMap<&str, &Record> = records.iter().rev().map(|r| (r.id.as_str(), r)).collect();
    let pairs: Vec<(&Sample, &Record)> =
        samples.iter().filter_map(|s| Some((s, *by_id.get(s.id.as_str())?))).collect();
    let differs = |(s, r): &&(&Sample, &Record)| {
        let tokens = r.usage.as_ref().and_then(|u| u.completion_tokens);
        tokens != s.tokens || r.content_events.is_some_and(|n| n != s.content_events)
    };
    let of = |timing, client: fn(&Sample) -> Option<f64>, gateway: fn(&Record) -> Option<f64>| {
        let mut all: Vec<f64> =
            pairs.iter().filter_map(|(s, r)| Some(client(s)? - gateway(r)?)).collect();
        all.sort_by(f64::total_cmp);
        let at = |share: f64| {
            all.get(((all.len() as f64 * share).ceil() as usize).clamp(1, all.len().max(1)) - 1)
                .copied()
        };
        Some(Difference {
            timing,
            count: all.len(),
            min_us: *all.first()?,
            p50_us: at(0.5)?,
            p90_us: at(0.9)?,
            p99_us: at(0.99)?,
            max_us: *all.last()?,
        })
    };
    let differences = [
        of(
            "client TTFT - gateway's client TTFT",
            |s| s.ttft_from_send_us.map(|v| v as f64),
            |r| r.client_ttft_us.map(|v| v as f64),
        ),
        of(
            "client TTFT - engine TTFT",
            |s| s.ttft_from_send_us.map(|v| v as f64),
            |r| r.engine_ttft_us.map(|v| v as f64),
        ),
        of("client TPOT - gateway TPOT", |s| s.tpot_us, |r| r.tpot_us),
        of(
            "client mean ITL - gateway mean ITL",
            |s| s.itl_us.map(|g| g.mean),
            |r| r.itl_us.map(|g| g.mean),
        ),
        of(
            "client total - gateway total",
            |s| Some((s.total_us - s.late_us) as f64),
            |r| Some(r.total_us as f64),
        ),
    ];
    Joined {
        matched: pairs.len(),
        missing: samples.len() - pairs.len(),
        count_mismatches: pairs.iter().filter(differs).count(),
        differences: differences.into_iter().flatten().collect(),
    }
}
