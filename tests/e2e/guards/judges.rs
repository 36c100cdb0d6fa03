//! Judges: their verdict is applied, a failure has the configured effect, and the record has the
//! time that they took.

use std::time::{Duration, Instant};

use kit::{Engine, Step, sse};
use lens::record::Outcome;
use serde_json::json;

use super::{CHAT, guarded, heard, judged, request, said};
use crate::support::{ask, field, settled};

const WEBHOOK: &str =
    "judges: [{name: hook, kind: webhook, backend: j, path: /judge, deadline: 300ms, input: block";

/// A judge that refuses texts with the word `evil`.
fn hook(body: &str) -> Vec<Step> {
    let verdict = if body.contains("evil") {
        json!({"verdict": "block", "kind": "POLICY"})
    } else {
        json!({"verdict": "pass"})
    };
    sse::json(200, &verdict.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn judge_blocks_and_is_called_with_the_backends_key() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let judge = Engine::start(|seen| hook(&String::from_utf8_lossy(&seen.body))).await;
    let backend = format!(", {{name: j, url: '{}/base', api_key: sesame}}", judge.url());
    let gateway = guarded(&engine, &format!("{WEBHOOK}}}]"), &backend, "").await;
    let good = ask(&gateway, CHAT, "good", &request("a kind word", false)).await;
    assert_eq!(good.status, 200);
    let bad = ask(&gateway, CHAT, "bad", &request("an evil word", false)).await;
    assert_eq!((bad.status, bad.error_code().as_str()), (400, "content_blocked"));
    assert!(bad.text().contains("OTHER") || bad.text().contains("POLICY"), "{}", bad.text());
    assert_eq!(engine.seen().len(), 1, "the engine hears of the good one only");
    let asked = &judge.seen()[0];
    assert!(asked.head.starts_with("POST /base/judge HTTP/1.1\r\n"), "{}", asked.head);
    assert_eq!(field(&asked.head, "authorization"), Some("Bearer sesame"));
    let record = gateway.record("bad").await;
    assert_eq!(
        (record.outcome, record.guardrail.as_ref().unwrap().verdict.as_ref()),
        (Outcome::Blocked, "block")
    );
    let account = &record.guardrail.unwrap().filters[0];
    assert_eq!(
        (
            account.filter.as_ref(),
            account.side.as_ref(),
            account.verdict.as_ref(),
            account.critical
        ),
        ("hook", "input", "block", true)
    );
    assert!(account.remote_us > 0 && account.remote_us <= account.wall_us, "{account:?}");
    settled(&gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_judge_has_the_configured_effect() {
    let slow = || vec![Step::ms(5_000)];
    let huge = || {
        vec![
            Step::text("HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n"),
            Step::Write(vec![b' '; 9 << 20]),
            Step::Hang,
        ]
    };
    for (name, answer, failure) in [
        ("slow", slow as fn() -> Vec<Step>, "deadline"),
        ("dead", || vec![Step::Reset], "unreachable"),
        ("not-http", || vec![Step::text("What?\r\n\r\n")], "unreachable"),
        (
            "html",
            || vec![Step::text("HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n<html></html>")],
            "invalid_response",
        ),
        ("no-verdict", || sse::json(200, "{\"verdict\": 7}"), "invalid_response"),
        ("error", || sse::json(400, "{}"), "refused"),
        ("broken", || sse::json(500, "{}"), "overloaded"),
        ("huge", huge, "invalid_response"),
    ] {
        let engine = Engine::start(|_| sse::chat_answer()).await;
        let judge = Engine::start(move |_| answer()).await;
        let closed = judged(&engine, &judge, &format!("{WEBHOOK}}}]")).await;
        let began = Instant::now();
        let refused = ask(&closed, CHAT, "r", &request("hello", false)).await;
        assert_eq!(
            (refused.status, refused.error_code().as_str()),
            (503, "guardrail_unavailable"),
            "{name}"
        );
        assert!(
            refused.text().contains("hook") && refused.head.contains("retry-after: 1"),
            "{name}: {}",
            refused.text()
        );
        assert!(began.elapsed() < Duration::from_secs(3), "{name}");
        let record = closed.record("r").await;
        let security = record.guardrail.as_ref().unwrap();
        let account = &security.filters[0];
        assert_eq!(
            (account.verdict.as_ref(), account.failure.as_deref()),
            ("failed_closed", Some(failure)),
            "{name}"
        );
        assert_eq!(
            (security.verdict.as_ref(), record.outcome),
            ("failed_closed", Outcome::Blocked),
            "{name}"
        );
        if name == "slow" {
            let overhead = record.guardrail_overhead.unwrap();
            assert!((280_000..900_000).contains(&account.remote_us), "{account:?}");
            assert!(
                overhead.threat_detection_us >= account.remote_us
                    && overhead.validation_us < 100_000,
                "{overhead:?}"
            );
            assert_eq!(record.ledger_us.total(), record.total_us);
        }
        assert!(
            closed.metric("llm_lens_guardrail_failures_total", &format!("failure=\"{failure}\""))
                >= 1.0,
            "{name}"
        );
        assert_eq!(engine.seen().len(), 0, "{name}");

        let open = judged(&engine, &judge, &format!("{WEBHOOK}, on_failure: open}}]")).await;
        let passed = ask(&open, CHAT, "r", &request("hello", false)).await;
        assert_eq!(passed.status, 200, "{name}: {}", passed.text());
        let account = open.record("r").await.guardrail.unwrap().filters.remove(0);
        assert_eq!(
            (account.verdict.as_ref(), account.failure.as_deref()),
            ("failed_open", Some(failure)),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn judges_run_concurrently_and_a_dead_one_opens_its_breaker() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let judge = Engine::start(|seen| {
        let wait = if seen.head.starts_with("POST /slow") { 200 } else { 100 };
        [vec![Step::ms(wait)], sse::json(200, "{\"verdict\": \"pass\"}")].concat()
    })
    .await;
    let one = |path: &str| {
        format!(
            "{{name: {path}, kind: webhook, backend: j, path: /{path}, deadline: 2s, input: block}}"
        )
    };
    let gateway =
        judged(&engine, &judge, &format!("judges: [{}, {}]", one("quick"), one("slow"))).await;
    assert_eq!(ask(&gateway, CHAT, "r", &request("hello", false)).await.status, 200);
    let record = gateway.record("r").await;
    let input = record.ledger_us.micros(lens::State::GuardrailInput);
    assert!((190_000..290_000).contains(&input), "the longest, not the sum: {input}");
    let filters = record.guardrail.unwrap().filters;
    assert_eq!(
        filters.iter().map(|f| (f.filter.as_ref(), f.critical)).collect::<Vec<_>>(),
        [("quick", false), ("slow", true)]
    );

    let dead = Engine::start(|_| vec![Step::Reset]).await;
    let gateway = judged(&engine, &dead, &format!("{WEBHOOK}, on_failure: open}}]")).await;
    for number in 0..8 {
        assert_eq!(
            ask(&gateway, CHAT, &number.to_string(), &request("hello", false)).await.status,
            200
        );
    }
    let failure = gateway.record("7").await.guardrail.unwrap().filters[0].failure.clone();
    assert_eq!(failure.as_deref(), Some("breaker_open"));
    let asked = dead.seen().len();
    assert!(asked <= 10, "{asked} questions to a dead judge");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_bounds_what_all_judges_take() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let judge = Engine::start(|_| vec![Step::Hang]).await;
    let judges = "judges_deadline: 150ms, judges: [{name: a, backend: j, deadline: 5s, on_failure: open}, {name: b, backend: j, deadline: 5s, on_failure: open}]";
    let gateway = judged(&engine, &judge, judges).await;
    let began = Instant::now();
    assert_eq!(ask(&gateway, CHAT, "r", &request("hello", false)).await.status, 200);
    assert!(
        (Duration::from_millis(140)..Duration::from_secs(1)).contains(&began.elapsed()),
        "{:?}",
        began.elapsed()
    );
    let filters = gateway.record("r").await.guardrail.unwrap().filters;
    assert!(filters.iter().all(|f| f.failure.as_deref() == Some("judges_deadline")), "{filters:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_disconnect_cancels_judge_calls() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let judge = Engine::start(|_| vec![Step::AwaitClose(Duration::from_secs(5))]).await;
    let gateway =
        judged(&engine, &judge, "judges: [{name: a, backend: j, deadline: 30s, input: block}]")
            .await;
    let mut client = gateway.client().await;
    client.post(CHAT, "x-request-id: left\r\n", &request("hello", false)).await;
    crate::support::eventually("the judge is asked", || judge.seen().len() == 1).await;
    drop(client);
    assert_eq!(gateway.record("left").await.outcome, Outcome::ClientGone);
    settled(&gateway).await;
    assert_eq!(engine.seen().len(), 0);
}

const ANSWERS: &str = "judge_window: 32B, judges: [{name: hook, kind: webhook, backend: j, input: off, output: block, deadline: 1s";

/// A judge that takes `ms` milliseconds for each window.
fn ponders(ms: u64) -> impl Fn(&kit::engine::Seen) -> Vec<Step> + Send + Sync + 'static {
    move |seen| [vec![Step::ms(ms)], hook(&String::from_utf8_lossy(&seen.body))].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_text_is_released_only_after_the_verdict() {
    let words: Vec<String> = (0..40).map(|n| format!("word{n} ")).collect();
    let pieces: Vec<&str> = words.iter().map(String::as_str).collect();
    let whole = words.concat();
    let (fine, bad) =
        (said(&pieces), said(&[&pieces[..20], &["something evil here "], &pieces[20..]].concat()));
    let engine =
        Engine::start(
            move |seen| if crate::support::id(seen) == "bad" { bad.clone() } else { fine.clone() },
        )
        .await;
    let judge = Engine::start(ponders(30)).await;
    let gateway = judged(&engine, &judge, &format!("{ANSWERS}, mode: hold}}]")).await;
    let answer = ask(&gateway, CHAT, "fine", &request("hello", true)).await;
    assert_eq!(heard(&answer.text()), (whole, vec!["stop".to_owned()]));
    let record = gateway.record("fine").await;
    assert!(record.ledger_us.micros(lens::State::Hold) > 25_000, "{record:?}");
    assert_eq!((record.outcome, record.ledger_us.total()), (Outcome::Ok, record.total_us));
    let security = record.guardrail.as_ref().unwrap();
    assert!(
        security.filters[0].calls >= 2 && security.filters[0].remote_us >= 60_000,
        "{security:?}"
    );
    let overhead = record.guardrail_overhead.as_ref().unwrap();
    let (added, without) = (overhead.added_ttft_us.unwrap(), overhead.ttft_without_us.unwrap());
    assert!(
        added > 20_000 && added + without == record.client_ttft_us.unwrap(),
        "{overhead:?} {record:?}"
    );

    let answer = ask(&gateway, CHAT, "bad", &request("hello", true)).await;
    let (text, reasons) = heard(&answer.text());
    assert!(!text.contains("evil") && text.starts_with("word0"), "{text}");
    assert_eq!((reasons, answer.complete), (vec!["content_filter".to_owned()], true));
    assert!(answer.text().ends_with("data: [DONE]\n\n"));
    let record = gateway.record("bad").await;
    assert_eq!(
        (record.outcome, record.error_code.as_deref()),
        (Outcome::Blocked, Some("content_blocked"))
    );
    settled(&gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_flows_past_a_judge_that_cuts_and_the_ending_waits_for_it() {
    let engine = Engine::start(|seen| match crate::support::id(seen) {
        "late" => said(&["all is well until the end, ", "which is evil"]),
        _ => {
            let mut steps = said(&["this is an evil beginning of an answer "]);
            let rest = steps.split_off(3);
            steps.extend([Step::ms(400), Step::chunk(sse::content("and more"))]);
            [steps, rest].concat()
        }
    })
    .await;
    let judge = Engine::start(ponders(100)).await;
    let gateway = judged(&engine, &judge, &format!("{ANSWERS}, mode: cut}}]")).await;
    let mut client = gateway.client().await;
    client.post(CHAT, "x-request-id: early\r\n", &request("hello", true)).await;
    let began = Instant::now();
    let first = crate::support::read_until(&mut client, "beginning").await;
    assert!(began.elapsed() < Duration::from_millis(90), "it flows: {:?}", began.elapsed());
    let rest = crate::support::read_until(&mut client, "[DONE]").await;
    assert!(rest.contains("content_filter") && !(first + &rest).contains("and more"), "{rest}");
    assert!(
        began.elapsed() < Duration::from_millis(390),
        "and is cut as soon as the judge has spoken: {:?}",
        began.elapsed()
    );
    let late = ask(&gateway, CHAT, "late", &request("hello", true)).await;
    assert_eq!(
        heard(&late.text()).1,
        ["content_filter"],
        "the last window is judged before a normal end: {}",
        late.text()
    );
    let record = gateway.record("late").await;
    assert_eq!(record.ledger_us.total(), record.total_us);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_judge_of_the_whole_is_asked_once() {
    let engine = Engine::start(|_| {
        said(&[
            "some long text that is ",
            "longer than a window, ",
            "and then some more of it, evil",
        ])
    })
    .await;
    let judge = Engine::start(ponders(1)).await;
    let gateway = judged(&engine, &judge, &format!("{ANSWERS}, mode: end}}]")).await;
    let answer = ask(&gateway, CHAT, "r", &request("hello", true)).await;
    let (text, reasons) = heard(&answer.text());
    assert!(text.ends_with("evil"), "the text has flowed: {text}");
    assert_eq!(reasons, ["content_filter"]);
    assert_eq!(judge.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_answer_judge_blocks_or_passes_as_configured() {
    let engine = Engine::start(|seen| {
        if seen.body.windows(13).any(|w| w == b"\"stream\":true") {
            said(&["one sentence that is longer than a window. ", "another"])
        } else {
            sse::chat_answer()
        }
    })
    .await;
    let dead = Engine::start(|_| vec![Step::Reset]).await;
    for mode in ["hold", "cut", "end"] {
        let closed = judged(&engine, &dead, &format!("{ANSWERS}, mode: {mode}}}]")).await;
        let streamed = ask(&closed, CHAT, "s", &request("hello", true)).await;
        assert!(
            !streamed.complete
                && streamed.text().contains("guardrail_unavailable")
                && !streamed.text().contains("[DONE]"),
            "{mode}: {}",
            streamed.text()
        );
        assert_eq!(streamed.text().contains("one sentence"), mode != "hold", "{mode}");
        let whole = ask(&closed, CHAT, "w", &request("hello", false)).await;
        assert_eq!(
            (whole.status, whole.error_code().as_str()),
            (503, "guardrail_unavailable"),
            "{mode}"
        );
        let open =
            judged(&engine, &dead, &format!("{ANSWERS}, mode: {mode}, on_failure: open}}]")).await;
        let streamed = ask(&open, CHAT, "s", &request("hello", true)).await;
        assert_eq!(heard(&streamed.text()).1, ["stop"], "{mode}");
        assert_eq!(
            ask(&open, CHAT, "w", &request("hello", false)).await.json()["choices"][0]["message"]["content"],
            "hi there"
        );
        let account = open.record("w").await.guardrail.unwrap().filters.remove(0);
        assert_eq!((account.side.as_ref(), account.verdict.as_ref()), ("output", "failed_open"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn observing_judge_adds_no_delay_and_is_recorded() {
    let engine = Engine::start(|_| said(&["an evil answer of more than a window's length"])).await;
    let judge = Engine::start(ponders(150)).await;
    let gateway =
        judged(&engine, &judge, &format!("mode: observe, {ANSWERS}, mode: hold}}]")).await;
    let mut client = gateway.client().await;
    client.post(CHAT, "x-request-id: seen\r\n", &request("hello", true)).await;
    let began = Instant::now();
    crate::support::read_until(&mut client, "[DONE]").await;
    assert!(began.elapsed() < Duration::from_millis(140), "{:?}", began.elapsed());
    let security = gateway.record("seen").await.guardrail.unwrap();
    assert_eq!(
        (security.verdict.as_ref(), security.filters[0].verdict.as_ref(), security.held_events),
        ("block", "block", 0),
        "{security:?}"
    );
}
