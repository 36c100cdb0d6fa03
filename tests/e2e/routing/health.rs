//! Health: passive, active, and Retry-After backoff.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_mistakes_are_not_retried_and_eject_no_backend() {
    let engines = [
        always(sse::json(400, "{\"error\":{\"message\":\"wrong\"}}")).await,
        always(sse::json(404, "{}")).await,
    ];
    let gateway = Gateway::with_settings(&settings(
        &[&engines[0], &engines[1]],
        ", balance: round_robin",
        "",
        "",
    ))
    .await;
    for n in 0..40 {
        let answer = ask(&gateway, CHAT, &n.to_string(), BODY).await;
        assert_eq!(answer.status, if n % 2 == 0 { 400 } else { 404 });
    }
    assert_eq!(engines.iter().map(|engine| engine.seen().len()).sum::<usize>(), 40);
    assert_eq!(gateway.metric("llm_lens_backend_ejections_total", "backend=\"b0\""), 0.0);
}

/// The same for an error event in a stream: no other backend is tried, and none is ejected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_error_in_a_stream_is_not_retried_and_ejects_no_backend() {
    let wrong = "data: {\"error\":{\"message\":\"too long\",\"type\":\"BadRequestError\",\"code\":400}}\n\ndata: [DONE]\n\n";
    let steps = vec![Step::text(sse::STREAM_HEAD), Step::chunk(wrong), Step::end()];
    let engines = [always(steps.clone()).await, always(steps).await];
    let pool = ", balance: round_robin, ejection: {consecutive: 2}";
    let gateway =
        Gateway::with_settings(&settings(&[&engines[0], &engines[1]], pool, "", "")).await;
    for n in 0..20 {
        assert!(ask(&gateway, CHAT, &n.to_string(), BODY).await.text().contains("BadRequestError"));
    }
    assert_eq!(engines.iter().map(|engine| engine.seen().len()).sum::<usize>(), 20);
    for backend in ["b0", "b1"] {
        assert_eq!(
            gateway.metric("llm_lens_backend_ejections_total", &format!("backend=\"{backend}\"")),
            0.0
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_after_is_obeyed() {
    let busy = |seconds: &'static str| {
        let head = format!(
            "HTTP/1.1 429 X\r\nretry-after: {seconds}\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}"
        );
        always(vec![Step::text(head)])
    };
    let engines = [busy("2").await, good().await];
    let pool = ", balance: round_robin, ejection: {consecutive: 0}";
    let gateway = Gateway::with_settings(&settings(
        &[&engines[0], &engines[1]],
        pool,
        ", retries: {min_per_second: 100}",
        "",
    ))
    .await;
    let began = Instant::now();
    for n in 0..20 {
        assert_eq!(ask(&gateway, CHAT, &n.to_string(), BODY).await.status, 200);
    }
    assert!(began.elapsed() < Duration::from_secs(2), "this machine is too slow for this test");
    assert_eq!(engines[0].seen().len(), 1, "in backoff, not ejected");
    let (_, backends) = gateway.get("/api/backends");
    assert!(
        backends.contains("\"state\":\"backoff\"")
            && backends.contains("\"cause\":\"retry_after\""),
        "{backends}"
    );
    assert_eq!(gateway.metric("llm_lens_backend_state", "state=\"backoff\""), 1.0);
    tokio::time::sleep(Duration::from_millis(2_100).saturating_sub(began.elapsed())).await;
    for n in 20..24 {
        assert_eq!(ask(&gateway, CHAT, &n.to_string(), BODY).await.status, 200);
    }
    assert_eq!(engines[0].seen().len(), 2);

    // A 429 for a client's own key starts no backoff of the backend.
    let engines = [busy("30").await, good().await];
    let gateway = Gateway::with_settings(&settings(
        &[&engines[0], &engines[1]],
        pool,
        ", retries: {min_per_second: 100}",
        "",
    ))
    .await;
    for n in 0..6 {
        let mut client = gateway.client().await;
        client
            .post(CHAT, &format!("x-request-id: k{n}\r\nauthorization: Bearer mine\r\n"), BODY)
            .await;
        assert_eq!(client.answer().await.status, 200);
    }
    assert_eq!(engines[0].seen().len(), 3, "a retry takes no turn");

    // All backends refuse: the answer of one is forwarded, and in backoff each request tries only
    // one.
    let date = "Sun, 06 Nov 2095 08:49:37 GMT";
    let engines = [busy(date).await, busy("100000").await];
    let gateway = Gateway::with_settings(&settings(
        &[&engines[0], &engines[1]],
        pool,
        ", retries: {min_per_second: 100}",
        "",
    ))
    .await;
    for n in 0..5 {
        let answer = ask(&gateway, CHAT, &n.to_string(), BODY).await;
        assert!(answer.status == 429 && answer.field("retry-after").is_some(), "{}", answer.head);
    }
    assert_eq!(engines.iter().map(|engine| engine.seen().len()).sum::<usize>(), 2 + 4);
}

/// Passthrough answers count for ejection as well: four failures and a success, repeated, are not
/// five consecutive failures.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passthrough_successes_reset_consecutive_failures() {
    let turn = Arc::new(AtomicUsize::new(0));
    let shaky = Engine::start(move |_| {
        sse::json(if turn.fetch_add(1, Ordering::Relaxed) % 5 == 4 { 200 } else { 500 }, "{}")
    })
    .await;
    let well = always(sse::json(200, "{}")).await;
    let pool = ", balance: round_robin, ejection: {failure_rate: 0}";
    let gateway = Gateway::with_settings(&settings(&[&shaky, &well], pool, "", "")).await;
    for n in 0..40 {
        ask(&gateway, "/v1/rerank", &n.to_string(), "{}").await;
    }
    assert_eq!((shaky.seen().len(), well.seen().len()), (20, 20));
    assert_eq!(gateway.metric("llm_lens_backend_ejections_total", ""), 0.0);
    assert_eq!(gateway.metric("llm_lens_backend_failures_total", "backend=\"b0\""), 16.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_backend_is_ejected_and_probed() {
    let sick = Arc::new(AtomicBool::new(true));
    let patient = sick.clone();
    let engine = Engine::start(move |_| {
        if patient.load(Ordering::Relaxed) { sse::json(500, "{}") } else { sse::stream(3, 2) }
    })
    .await;
    let other = good().await;
    let pool = ", balance: round_robin, ejection: {consecutive: 3, base: 500ms}";
    let gateway = Gateway::with_settings(&settings(
        &[&engine, &other],
        pool,
        ", retries: {min_per_second: 100}",
        "",
    ))
    .await;
    for n in 0..20 {
        assert_eq!(ask(&gateway, CHAT, &n.to_string(), BODY).await.status, 200);
    }
    assert_eq!(engine.seen().len(), 3, "ejected after three failures in a row");
    let state = |gateway: &Gateway, state: &str| {
        gateway.metric("llm_lens_backend_state", &format!("backend=\"b0\",state=\"{state}\""))
    };
    assert_eq!(state(&gateway, "ejected"), 1.0);
    assert!(gateway.get("/api/backends").1.contains("consecutive_failures"));
    gateway.wait_for_log("backend ejected backend=b0").await;
    sick.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(600)).await;
    // The next request is its trial.
    let answer = ask(&gateway, CHAT, "trial", BODY).await;
    assert!(
        answer
            .field("x-llm-lens-backend")
            .is_some_and(|field| field.starts_with("b0; ") && field.contains("reason=half_open")),
        "{}",
        answer.head
    );
    settled(&gateway).await;
    assert_eq!(state(&gateway, "healthy"), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_take_a_backend_down_and_up() {
    let sick = Arc::new(AtomicBool::new(false));
    let patient = sick.clone();
    let engine = Engine::start(move |seen| match seen.head.starts_with("GET /health ") {
        true if patient.load(Ordering::Relaxed) => sse::json(503, "{}"),
        true => sse::json(200, "{}"),
        false => sse::stream(3, 2),
    })
    .await;
    let other = good().await;
    let health = ", health: {interval: 100ms, timeout: 1s, unhealthy: 2, healthy: 2}";
    let text = settings_with(&[&engine, &other], &[health, ""], ", balance: round_robin", "", "");
    let gateway = Gateway::with_settings(&text).await;
    let asked = || engine.seen().iter().filter(|seen| seen.head.starts_with("POST")).count();
    eventually("it is checked", || engine.seen().len() >= 2).await;
    sick.store(true, Ordering::Relaxed);
    gateway
        .wait_until(|g| {
            g.metric("llm_lens_backend_state", "backend=\"b0\",state=\"unhealthy\"") == 1.0
        })
        .await;
    let before = asked();
    for n in 0..6 {
        assert_eq!(ask(&gateway, CHAT, &n.to_string(), BODY).await.status, 200);
    }
    assert_eq!(asked(), before);
    sick.store(false, Ordering::Relaxed);
    gateway
        .wait_until(|g| {
            g.metric("llm_lens_backend_state", "backend=\"b0\",state=\"healthy\"") == 1.0
        })
        .await;
    for n in 0..6 {
        assert_eq!(ask(&gateway, CHAT, &n.to_string(), BODY).await.status, 200);
    }
    assert_eq!(asked(), before + 3);
    gateway.wait_for_log("backend is unhealthy backend=b0 reason=\"HTTP status 503\"").await;
    // When health checks are removed, the backend is not unhealthy any more.
    sick.store(true, Ordering::Relaxed);
    gateway
        .wait_until(|g| {
            g.metric("llm_lens_backend_state", "backend=\"b0\",state=\"unhealthy\"") == 1.0
        })
        .await;
    gateway.write_settings(&text.replace(health, ""));
    gateway
        .wait_until(|g| {
            g.metric("llm_lens_backend_state", "backend=\"b0\",state=\"healthy\"") == 1.0
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engine_metrics_are_shown_while_fresh() {
    let silent = Arc::new(AtomicBool::new(false));
    let says = silent.clone();
    let engine = Engine::start(move |seen| match seen.head.starts_with("GET /prefix/metrics ") {
        true if says.load(Ordering::Relaxed) => sse::json(404, "{}"),
        true => {
            let page = "# TYPE x gauge\nvllm:num_requests_running{engine=\"0\"} 3.0\nvllm:num_requests_waiting{engine=\"0\"} 7.0\nvllm:kv_cache_usage_perc 0.5\n";
            vec![Step::text(format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{page}", page.len()))]
        }
        false => sse::stream(2, 1),
    })
    .await;
    let text = format!(
        "backends: [{{name: b0, url: '{}/prefix', engine_metrics: {{interval: 200ms}}}}]\npools: [{{name: p, backends: [b0]}}]\nroutes: [{{name: r, pool: p}}]\n",
        engine.url()
    );
    let gateway = Gateway::with_settings(&text).await;
    gateway
        .wait_until(|g| {
            g.get("/metrics")
                .1
                .lines()
                .any(|line| line.starts_with("llm_lens_engine_waiting{") && line.ends_with(" 7"))
        })
        .await;
    assert_eq!(gateway.metric("llm_lens_engine_cache_ratio", "backend=\"b0\""), 0.5);
    assert!(ask(&gateway, CHAT, "x", BODY).await.complete);
    settled(&gateway).await;
    assert_eq!(gateway.record("x").await.routing.engine_waiting, Some(7));
    silent.store(true, Ordering::Relaxed);
    gateway.wait_until(|g| !g.get("/metrics").1.contains("llm_lens_engine_waiting{")).await;
}

/// A backend that refuses at once has no requests in flight, and must not be preferred because of
/// that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_refuses_at_once_is_not_preferred_over_hedges() {
    let engines = [Engine::start(|_| after_ms(50)).await, always(sse::json(429, "{}")).await];
    let gateway = Gateway::with_settings(&settings(
        &[&engines[0], &engines[1]],
        "",
        ", retries: {budget: 0.2}",
        "",
    ))
    .await;
    let (_, broken) = times(&gateway, 4, 120).await;
    let [good, refusing] = [&engines[0], &engines[1]].map(|engine| engine.seen().len());
    assert!(refusing <= 30 && good >= 110 && broken <= 2, "{good} {refusing}, {broken} broken");
    assert_eq!(gateway.metric("llm_lens_backend_failures_total", ""), 0.0, "it is not ill");
}

/// A refused `api_key` is the backend's fault; a refused credential of the client is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_refuses_our_key_is_ejected_and_another_is_tried() {
    for (key, want) in [(", api_key: ours", 200), ("", 401)] {
        let engines =
            [always(sse::json(401, "{\"error\":{\"message\":\"expired\"}}")).await, good().await];
        let text = settings_with(
            &[&engines[0], &engines[1]],
            &[key, key],
            ", balance: round_robin",
            ", retries: {min_per_second: 10}",
            "",
        );
        let gateway = Gateway::with_settings(&text).await;
        let answer = ask(&gateway, CHAT, "x", BODY).await;
        assert_eq!(answer.status, want, "{}", answer.text());
        settled(&gateway).await;
        assert_eq!(
            gateway.metric("llm_lens_backend_failures_total", "backend=\"b0\""),
            f64::from(u8::from(want == 200))
        );
    }
    // It does not win a hedge, and its passthrough answers do not count against it.
    let engines = [Engine::start(|_| promising(500)).await, always(sse::json(401, "{}")).await];
    let route = ", hedge: {after: 100ms, budget: 1}, retries: {max: 0}";
    let key = ", api_key: ours";
    let gateway = Gateway::with_settings(&settings_with(
        &[&engines[0], &engines[1]],
        &[key, key],
        ", balance: round_robin",
        route,
        "",
    ))
    .await;
    let answer = ask(&gateway, CHAT, "raced", BODY).await;
    assert!(answer.status == 200 && answer.complete, "{}", answer.text());
    settled(&gateway).await;
    let failures = || gateway.metric("llm_lens_backend_failures_total", "backend=\"b1\"");
    assert_eq!(failures(), 1.0);
    for n in 0..4 {
        let mut client = gateway.client().await;
        client
            .send(&format!("GET /v1/models HTTP/1.1\r\nhost: a\r\nx-request-id: p{n}\r\n\r\n"))
            .await;
        client.answer().await;
    }
    settled(&gateway).await;
    assert_eq!(failures(), 1.0);
}

/// A slow upload is no failure of the backend.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_upload_is_not_counted_against_the_backend() {
    let engine = Engine::start(|_| vec![Step::ms(5_000)]).await;
    let text =
        settings(&[&engine], ", ejection: {consecutive: 1}", "", "timeouts: {request_body: 300ms}");
    let gateway = Gateway::with_settings(&text).await;
    let mut client = gateway.client().await;
    client.send("POST /v1/audio/transcriptions HTTP/1.1\r\nhost: a\r\nx-request-id: slow\r\ncontent-length: 100\r\n\r\nab").await;
    let record = gateway.record("slow").await;
    assert_eq!(record.error_code.as_deref(), Some("request_timeout"), "{record:?}");
    settled(&gateway).await;
    let told = gateway.get("/api/backends").1;
    assert!(
        told.contains("\"state\":\"healthy\"")
            && told.contains("\"attempts\":1")
            && told.contains("\"failures\":0"),
        "{told}"
    );
}
