//! Accounting: what operators can read about guardrails, and what they cannot.

use kit::{Engine, Gateway, sse};
use serde_json::Value;

use super::{CHAT, guarded, request, said, settings};
use crate::support::{ask, field};

const MAIL: &str = "jane.roe@example.org";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn admin_listener_reports_the_cost_of_each_filter() {
    let engine = Engine::start(|_| said(&["write to jane.roe", "@example.org now"])).await;
    let all = "input_injection: flag, input_pii: flag, output_pii: mask";
    let gateway = guarded(&engine, all, "", "").await;
    for number in 0..10 {
        ask(&gateway, CHAT, &number.to_string(), &request(&format!("mail {MAIL}"), true)).await;
    }
    gateway.record("9").await;
    let (status, text) = gateway.get("/api/guardrails?route=r");
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status, 200);
    let route = &told["routes"][0];
    assert_eq!(
        (&route["route"], &route["requests"], &route["found_in"]["pii.email"]),
        (&"r".into(), &10.into(), &10.into())
    );
    for phase in
        ["validation", "threat_detection", "output_filtering", "hold", "guardrail", "added_ttft"]
    {
        assert_eq!(route["overhead"][phase]["count"], 10, "{phase}: {text}");
    }
    let names: Vec<&str> = route["filters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|filter| filter["filter"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"patterns") && names.contains(&"classifiers"), "{names:?}");
    let filters = route["filters"].as_array().unwrap();
    let patterns = filters
        .iter()
        .find(|filter| filter["filter"] == "patterns" && filter["side"] == "input")
        .unwrap();
    let scanners = filters
        .iter()
        .find(|filter| filter["filter"] == "patterns" && filter["side"] == "output")
        .unwrap();
    assert_eq!(
        scanners["verdicts"]["redact"], 10,
        "what is masked in answers has its account, too: {scanners}"
    );
    assert_eq!(
        (&patterns["verdicts"]["flag"], &patterns["parts"]["wall"]["count"]),
        (&10.into(), &10.into())
    );
    assert_eq!(
        serde_json::from_str::<Value>(&gateway.get("/api/guardrails?route=other").1).unwrap()["routes"],
        Value::Array(Vec::new())
    );
    assert!(
        gateway.metric("llm_lens_guardrail_filter_seconds_count", "filter=\"patterns\"") >= 10.0
    );
    assert_eq!(
        gateway.metric("llm_lens_guardrail_verdicts_total", "filter=\"patterns\""),
        20.0,
        "on either side"
    );
    assert_eq!(
        gateway.metric("llm_lens_guardrail_overhead_seconds_count", "phase=\"total\""),
        10.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guardrail_headers_are_sent_if_configured() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let text = settings(&engine, "input_pii: flag", "", "")
        .replace("guardrail: strict}", "guardrail: strict, security_headers: true}");
    let gateway = Gateway::with_settings(&text).await;
    let answer = ask(&gateway, CHAT, "r", &request(&format!("mail {MAIL}"), false)).await;
    assert_eq!(field(&answer.head, "x-latency-monitored"), Some("events"));
    let validated = field(&answer.head, "x-security-validated").unwrap_or_default();
    assert!(
        validated.starts_with("flag; risk=0.") && validated.ends_with("level=LOW"),
        "{validated}"
    );
    let plain = guarded(&engine, "input_pii: flag", "", "").await;
    assert_eq!(
        field(&ask(&plain, CHAT, "r", &request("x", false)).await.head, "x-security-validated"),
        None
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_log_has_caller_rule_and_place_but_not_the_text() {
    let engine = Engine::start(|_| said(&["it is ", MAIL, " again"])).await;
    let path = kit::gateway::folder().join("audit.jsonl");
    let audit = format!("audit: {{file: '{}', key: sesame}}", path.display());
    let gateway = guarded(&engine, "input_pii: flag, output_pii: mask", "", &audit).await;
    ask(&gateway, CHAT, "one", &request(&format!("mail {MAIL} or {MAIL}"), true)).await;
    gateway.record("one").await;
    let mut log = String::new();
    crate::support::eventually("the lines are written", || {
        std::fs::read_to_string(&path).unwrap_or_default().lines().count() == 3
    })
    .await;
    log.push_str(&std::fs::read_to_string(&path).unwrap());
    assert!(!log.contains("jane"), "{log}");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        lines.iter().map(|line| line["side"].as_str().unwrap()).collect::<Vec<_>>(),
        ["input", "input", "output"]
    );
    assert!(
        lines.iter().all(|line| line["request_id"] == "one"
            && line["client"] == "127.0.0.1"
            && line["rule"] == "pii.email"),
        "{log}"
    );
    assert!(
        lines.iter().all(|line| line["hash"] == lines[0]["hash"]),
        "one text has one hash: {log}"
    );
    assert_eq!(
        lines.iter().map(|line| line["start"].as_u64().unwrap()).collect::<Vec<_>>(),
        [5, 29, 6]
    );
    assert_eq!(
        (&lines[2]["channel"], &lines[2]["action"], &lines[0]["action"]),
        (&"content".into(), &"redact".into(), &"flag".into())
    );
    assert_eq!(gateway.metric("llm_lens_audit_lines_total", ""), 3.0);
    // A client may use an id twice; the lines of each request have an id of its own.
    ask(&gateway, CHAT, "one", &request(&format!("mail {MAIL}"), false)).await;
    let read = || std::fs::read_to_string(&path).unwrap_or_default();
    crate::support::eventually("the lines are written", || read().lines().count() > 3).await;
    let unique = |line: &Value| line["unique_id"].as_str().expect("an id").to_owned();
    let last = read().lines().last().map(|line| serde_json::from_str(line).expect("JSON"));
    assert_eq!(unique(&lines[0]), unique(&lines[2]));
    assert_ne!(unique(&lines[0]), unique(&last.expect("a line")));
    assert!(!gateway.get("/api/settings").1.contains("sesame"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_blocks_nothing_and_is_counted() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = guarded(&engine, "input_pii: flag", "", "audit: {file: /dev/full}").await;
    for number in 0..5 {
        assert_eq!(
            ask(&gateway, CHAT, &number.to_string(), &request(&format!("mail {MAIL}"), false))
                .await
                .status,
            200
        );
    }
    gateway.wait_until(|g| g.metric("llm_lens_audit_lines_dropped_total", "") == 5.0).await;
}
