use super::*;

pub(crate) fn group(route: &str) -> Group {
    Group {
        route: route.into(),
        backend: "b".into(),
        provider: "vllm".into(),
        operation: "chat",
        models: ["m1".to_owned()].into(),
        labels: [("team".to_owned(), "se\"arch\n".to_owned())].into(),
        server: "127.0.0.1:8000".into(),
    }
}

pub(crate) fn record(model: &str, outcome: &str) -> Record {
    serde_json::from_value(serde_json::json!({
        "schema": 1, "id": "i", "started_at": "2026-01-02T03:04:05Z", "route": "r", "endpoint": "/v1/chat/completions", "stream": true,
        "model_requested": model, "outcome": outcome, "bytes_from_client": 10, "bytes_to_client": 20, "events": 12, "content_events": 9,
        "engine_us": 90_000, "engine_ttft_us": 20_000, "client_ttft_us": 20_500, "tpot_us": 8_000.4, "sent_us": 300,
        "usage": {"prompt_tokens": 5, "completion_tokens": 9, "estimated": false},
        "ledger_us": {"await_token": 80_000, "gateway": 20_000}, "total_us": 100_000
    }))
    .unwrap()
}

fn text(o: &Observatory) -> String {
    String::from_utf8(o.prometheus(Format::Text, Vec::new()).concat()).unwrap()
}

fn observed() -> Observatory {
    let o = Observatory::new(2, 2, Vec::new());
    let (id, _) = o.group(group("r"));
    assert_eq!(o.group(group("r")).0, id);
    for (worker, model, outcome) in
        [(0, "m1", Outcome::Ok), (1, "m1", Outcome::Ok), (1, "evil\"\nmodel", Outcome::ClientGone)]
    {
        let key = SeriesKey { group: id, model: group("r").model_number(Some(model)), outcome };
        o.gaps(worker, key, [1_000, 20_000].into_iter(), [1_000].into_iter());
        o.finished(worker, key, record(model, outcome.name()), Tick(1));
    }
    o
}

#[test]
fn text_has_all_counts_and_no_label_from_a_client() {
    let o = observed();
    // The list of recent records is a sink, which gets them a moment later.
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while !o.pump.waiting().is_empty() && std::time::Instant::now() < until {
        std::thread::yield_now();
    }
    let text = text(&o);
    for line in [
        r#"llm_lens_requests_total{route="r",backend="b",gen_ai_request_model="m1",outcome="ok"} 2"#,
        r#"llm_lens_requests_total{route="r",backend="b",gen_ai_request_model="other",outcome="client_gone"} 1"#,
        r#"gen_ai_server_time_to_first_token_seconds_bucket{route="r",backend="b",gen_ai_operation_name="chat",gen_ai_provider_name="vllm",gen_ai_request_model="m1",le="0.01"} 0"#,
        r#"gen_ai_server_time_to_first_token_seconds_bucket{route="r",backend="b",gen_ai_operation_name="chat",gen_ai_provider_name="vllm",gen_ai_request_model="m1",le="0.02"} 2"#,
        r#"llm_lens_ledger_seconds_total{route="r",backend="b",gen_ai_request_model="m1",state="await_token"} 0.16"#,
        r#"llm_lens_route_info{route="r",backend="b",server_address="127.0.0.1:8000",team="se\"arch\n"} 1"#,
        r#"gen_ai_client_token_usage_sum{route="r",backend="b",gen_ai_operation_name="chat",gen_ai_provider_name="vllm",gen_ai_request_model="m1",gen_ai_token_type="output"} 18"#,
        "llm_lens_records_dropped_total 1",
    ] {
        assert!(text.contains(line), "missing {line} in\n{text}");
    }
    assert!(!text.contains("evil"));
}

/// A time per token of estimated tokens is not what the OpenTelemetry name promises.
#[test]
fn estimated_times_per_token_are_marked() {
    let o = Observatory::new(1, 1, Vec::new());
    let (group, _) = o.group(group("r"));
    let key = SeriesKey { group, model: 1, outcome: Outcome::Ok };
    let mut estimated = record("m1", "ok");
    estimated.usage.as_mut().unwrap().estimated = true;
    o.finished(0, key, estimated, Tick(1));
    let counts = |name: &str| -> Vec<String> {
        let prefix = format!("{name}_count");
        text(&o).lines().filter(|line| line.starts_with(&prefix)).map(str::to_owned).collect()
    };
    const CONVENTION: &str = "gen_ai_server_time_per_output_token_seconds";
    const OWN: &str = "llm_lens_time_per_output_token_seconds";
    assert_eq!(counts(CONVENTION), [""; 0]);
    assert!(counts(OWN)[0].ends_with("tokens=\"estimated\"} 1"), "{:?}", counts(OWN));
    o.finished(0, key, record("m1", "ok"), Tick(2));
    assert!(counts(CONVENTION)[0].ends_with(" 1"), "{:?}", counts(CONVENTION));
    assert_eq!(counts(OWN).len(), 2);
    let timings = serde_json::to_value(o.overview(Tick(3), Duration::from_secs(1))).unwrap();
    for timing in ["tpot", "estimated_tpot"] {
        assert_eq!(timings[0]["timings"][timing]["count"], 1, "{timing}");
    }
}

/// Both ends of a request have the same boundaries: a client's percentile is not below the
/// engine's because of them.
#[test]
fn percentiles_of_both_ends_agree_in_prometheus() {
    let o = Observatory::new(1, 1, Vec::new());
    let (group, _) = o.group(group("r"));
    let key = SeriesKey { group, model: 1, outcome: Outcome::Ok };
    for ttft in (0..100).map(|n| 500_000 + n * 800) {
        let mut one = record("m1", "ok");
        (one.engine_ttft_us, one.client_ttft_us) = (Some(ttft), Some(ttft + 1_000));
        o.finished(0, key, one, Tick(1));
    }
    let buckets = |name: &str| -> Vec<(f64, f64)> {
        let text = text(&o);
        let of_name = text.lines().filter(|line| line.starts_with(&format!("{name}_bucket")));
        of_name
            .filter_map(|line| {
                let (bound, count) = line.split_once("le=\"")?.1.split_once("\"} ")?;
                Some((bound.parse().ok()?, count.parse().ok()?))
            })
            .collect()
    };
    // `histogram_quantile`: linear inside of the bucket.
    let quantile = |name: &str, q: f64| {
        let buckets = buckets(name);
        let rank = q * buckets.last().unwrap().1;
        let at = buckets.iter().position(|(_, count)| *count >= rank).unwrap();
        let ((from, below), (to, upto)) = (buckets[at - 1], buckets[at]);
        from + (to - from) * (rank - below) / (upto - below)
    };
    for q in [0.5, 0.9, 0.99] {
        let (engine, client) = (
            quantile("llm_lens_engine_ttft_seconds", q),
            quantile("llm_lens_client_ttft_seconds", q),
        );
        assert!(client >= engine && client < engine * 1.03, "{q}: {engine} {client}");
        assert!((0.5..0.7).contains(&engine), "{q}: {engine}");
    }
}

/// The names and labels of samples are those of the catalog.
#[test]
fn exported_metrics_and_labels_are_in_the_catalog() {
    let o = observed();
    let (group, _) = o.group(group("guarded"));
    let mut guarded = record("m1", "ok");
    guarded.guardrail = serde_json::from_value(serde_json::json!({
        "guardrail": "strict", "mode": "hold", "input": {"pii.email": 1}, "output": {"secrets.key": 2}, "held_events": 1, "held_bytes_max": 100,
        "verdict": "mask", "risk": 0.5, "level": "high",
        "filters": [{"filter": "pii", "side": "input", "calls": 1, "critical": true, "verdict": "mask", "failure": "timeout",
            "cpu_us": 1, "queue_us": 2, "remote_us": 3, "wall_us": 6}]
    }))
    .unwrap();
    o.finished(0, SeriesKey { group, model: 1, outcome: Outcome::Ok }, guarded, Tick(1));
    let labels = vec![("backend", "b".to_owned()), ("reason", "full".to_owned())];
    let shed = Sample { name: "llm_lens_shed_requests_total", labels, value: 3.0 };
    let text = String::from_utf8(o.prometheus(Format::Text, vec![shed]).concat()).unwrap();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (sample, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = sample
            .split_once('{')
            .map_or((sample, ""), |(name, labels)| (name, labels.strip_suffix('}').unwrap()));
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .unwrap_or(name);
        let row =
            catalog::find(name).or_else(|| catalog::find(base)).unwrap_or_else(|| panic!("{line}"));
        for label in
            labels.split("\",").filter_map(|pair| pair.split_once("=\"")).map(|(label, _)| label)
        {
            assert!(
                row.labels.contains(&label) || row.labels.contains(&"*") || label == "le",
                "{label}: {line}"
            );
        }
    }
    for line in [
        r#"llm_lens_guardrail_findings_total{route="guarded",backend="b",gen_ai_request_model="m1",side="output",rule="secrets.key"} 2"#,
        r#"llm_lens_shed_requests_total{backend="b",reason="full"} 3"#,
    ] {
        assert!(text.contains(line), "missing {line} in\n{text}");
    }
}

/// Prometheus rejects a scrape with duplicate samples.
#[test]
fn no_sample_is_exported_twice() {
    let o = observed();
    for changed in [
        Group { operation: "", ..group("r") },
        Group { operation: "embeddings", ..group("r") },
        Group { models: ["m0".to_owned(), "m1".to_owned()].into(), ..group("r") },
        Group { server: "127.0.0.1:8001".into(), ..group("r") },
    ] {
        let model = changed.model_number(Some("m1"));
        let (group, in_flight) = o.group(changed);
        in_flight.requests.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        o.finished(
            0,
            SeriesKey { group, model, outcome: Outcome::Ok },
            record("m1", "ok"),
            Tick(1),
        );
    }
    let text = text(&o);
    let mut samples: Vec<&str> = text
        .lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| l.rsplit_once(' '))
        .map(|(s, _)| s)
        .collect();
    let all = samples.len();
    samples.sort_unstable();
    samples.dedup();
    assert_eq!(samples.len(), all, "{text}");
    assert!(text.contains(r#"llm_lens_requests_total{route="r",backend="b",gen_ai_request_model="m1",outcome="ok"} 6"#), "{text}");
    assert!(
        text.contains(
            r#"llm_lens_in_flight_requests{route="r",backend="b",gen_ai_operation_name="chat"} 2"#
        ),
        "{text}"
    );
    assert_eq!(o.overview(Tick(1), Duration::from_secs(1)).len(), 3, "one for each operation");
}

#[test]
fn recent_records_are_bounded_and_newest_first() {
    let recent = observed().recent(10);
    assert_eq!(recent.len(), 2);
    assert_eq!(recent[0].outcome, Outcome::ClientGone);
}

#[test]
fn the_overview_sums_over_workers_models_and_outcomes() {
    let overview = observed().overview(Tick(1), Duration::from_secs(2));
    assert_eq!(overview.len(), 1);
    assert_eq!(
        (overview[0].requests, overview[0].outcomes["ok"], overview[0].timings["itl"].count),
        (3, 2, 6)
    );
    let shares: f64 = overview[0].ledger_share.values().sum();
    assert!((shares - 1.0).abs() < 1e-9);
}

/// Series of a removed backend expire, unless the backend has another group in use.
#[test]
fn series_of_removed_backends_expire() {
    let (o, at) =
        (Observatory::new(2, 2, Vec::new()), |seconds: u64| Tick(seconds * 1_000_000_000));
    let of = |backend: &str, operation| Group { backend: backend.into(), operation, ..group("r") };
    let (stays, held) = o.group(of("stays", "chat"));
    let (gone, pod) = o.group(of("gone", "chat"));
    o.group(of("stays", ""));
    for (worker, group) in [(0, stays), (1, gone)] {
        o.finished(
            worker,
            SeriesKey { group, model: 1, outcome: Outcome::Ok },
            record("m1", "ok"),
            Tick(1),
        );
    }
    let shows = |backend: &str| text(&o).contains(&format!("backend=\"{backend}\""));
    assert!(o.expire(at(1)));
    drop(pod);
    assert!(o.expire(at(700)));
    assert!(shows("gone"), "it was held until now");
    // The backend returns before its series expire: its counts continue.
    assert_eq!(o.group(of("gone", "chat")).0, gone);
    assert!(o.expire(at(1299)));
    assert!(shows("gone"));
    assert!(o.expire(at(1300)));
    assert!(!shows("gone") && shows("stays"));
    assert_eq!(o.groups.all().len(), 2, "all of a backend, or nothing");
    // The number is reused by another group, whose counts start at zero.
    let (next, _) = o.group(of("next", "chat"));
    assert_eq!(next, gone);
    assert!(!text(&o).contains("llm_lens_requests_total{route=\"r\",backend=\"next\""));
    drop(held);
}
