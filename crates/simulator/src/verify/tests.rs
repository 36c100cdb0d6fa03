use serde_json::json;

use super::*;
use crate::truth::tests::row;
use crate::truth::{End, Row as TruthRow};

/// 40 answers with a TTFT of 50 ms and a TPOT of 5 ms, and one that failed.
fn truth() -> Truth {
    let mut truth = Truth::default();
    (0..40).for_each(|n| truth.add(TruthRow { received_us: 100_000 * n, ..row(n) }));
    truth.add(TruthRow { end: End::Failed, fault: Some("429".into()), ..row(40) });
    truth
}

fn plan(tool: Tool) -> Plan {
    let tolerance = Tolerance { percent: 5.0, ms: 5.0 };
    Plan { tool, tolerance, warm_up: 0, rate: None }
}

fn judged(document: &Value, format: Format, places: &[&str]) -> Verdict {
    let places: Vec<Read> = places.iter().map(|place| place.parse().expect("valid")).collect();
    let reported = read(document, format, &places).expect("figures");
    compare(&truth(), Some(&reported), &plan(format.tool()))
}

#[test]
fn figures_of_each_format_are_found_where_the_tools_write_them() {
    let vllm = json!({
        "mean_ttft_ms": 51.0, "median_ttft_ms": 50.2, "p99_ttft_ms": 52.0,
        "mean_tpot_ms": 4.5, "median_e2el_ms": 91.0, "completed": 40, "failed": 1,
    });
    let percentiles = json!({"p50": 50.5, "p90": 51.0});
    let guidellm = json!({"benchmarks": [{"metrics": {
        "time_to_first_token_ms": {"successful": {"mean": 50.5, "percentiles": percentiles}},
        "request_latency": {"successful": {"mean": 0.0905}},
        "request_totals": {"successful": 40, "errored": 1, "incomplete": 0, "total": 41},
    }}]});
    let genai_perf = json!({
        "time_to_first_token": {"unit": "ms", "avg": 50.1, "p50": 50.1, "p99": 50.2},
        "request_latency": {"unit": "ms", "avg": 90.0},
        "request_count": {"unit": "requests", "avg": 40.0},
    });
    for (document, format, times, counts) in [
        (vllm, Format::Vllm, 4, 2),
        (guidellm, Format::Guidellm, 4, 2),
        (genai_perf, Format::GenaiPerf, 3, 1),
    ] {
        let verdict = judged(&document, format, &[]);
        let compared = verdict.rows.iter().filter(|row| row.within.is_some()).count();
        assert_eq!(compared, times, "{format:?}: {}", verdict.table());
        let compared = verdict.counts.iter().filter(|count| count.within.is_some()).count();
        assert_eq!(compared, counts, "{format:?}");
        assert_eq!(verdict.is_within(), Some(true), "{}", verdict.table());
    }
}

#[test]
fn errors_are_told_in_milliseconds_and_percent_and_judged() {
    let document = json!({"a": [{"ttft": 0.09}], "tpot": 10_000, "failed": 0, "tokens": 400});
    let places = ["ttft.p50=a.0.ttft:s", "tpot.mean=tpot:us", "failed=failed", "tokens=tokens"];
    let verdict = judged(&document, Format::JsonPath, &places);
    assert_eq!(verdict.is_within(), Some(false));
    let json = verdict.json();
    let ttft = &json["times"][1];
    assert_eq!((&ttft["figure"], &ttft["statistic"]), (&json!("ttft"), &json!("p50")));
    assert!((ttft["error_percent"].as_f64().unwrap() - 80.0).abs() < 0.2, "{ttft}");
    let outside = |name: &str| {
        let text = verdict.table();
        text.lines().any(|line| line.starts_with(name) && line.ends_with("OUTSIDE"))
    };
    assert!(outside("ttft ") && outside("tpot ") && outside("failed "), "{}", verdict.table());
    assert!(!outside("output tokens"), "{}", verdict.table());
}

#[test]
fn a_rate_that_did_not_arrive_is_outside() {
    for (rate, within) in [(10.0, true), (100.0, false)] {
        let verdict = compare(&truth(), None, &Plan { rate: Some(rate), ..plan(Tool::Vllm) });
        assert_eq!(verdict.is_within(), Some(within), "{}", verdict.table());
    }
}

#[test]
fn warm_up_requests_do_not_count() {
    let plan = Plan { warm_up: 10, ..plan(Tool::Vllm) };
    assert_eq!(compare(&truth(), None, &plan).counts[0].min, 30.0);
    assert_eq!(compare(&truth(), None, &plan).is_within(), None);
}

#[test]
fn places_and_documents_without_figures_are_errors() {
    for (text, says) in [
        ("ttft", "NAME.STATISTIC=PATH:UNIT"),
        ("x.p50=a:ms", "use one of ttft, tpot, itl, request"),
        ("ttft.p42=a:ms", "use mean, p50"),
        ("ttft.p50=a", "name the unit"),
        ("ttft.p50=a:h", "is not a unit"),
        ("failed=", "COUNT=PATH"),
    ] {
        let error = text.parse::<Read>().unwrap_err();
        assert!(error.contains(says), "{text}: {error}");
    }
    let place = "ttft.p50=a.b:ms".parse().unwrap();
    let missing = read(&json!({"a": {"b": "x"}}), Format::JsonPath, &[place]).unwrap_err();
    assert!(missing.contains("\"a.b\" is not a number"), "{missing}");
    assert!(read(&json!({}), Format::Vllm, &[]).unwrap_err().contains("--format"));
    assert!("wrk".parse::<Format>().unwrap_err().contains("guidellm"));
}
