//! A near edge and a distant cloud.

use super::*;

/// An engine that serves one request at a time, each in `service`.
async fn one_by_one(service: Duration) -> Engine {
    let (began, busy_until) = (Instant::now(), Arc::new(Mutex::new(Duration::ZERO)));
    Engine::start(move |seen| {
        let now = seen.at.duration_since(began);
        let mut busy_until = busy_until.lock().expect("no panic");
        *busy_until = busy_until.max(now) + service;
        let mut steps = vec![Step::At(busy_until.saturating_sub(now))];
        steps.extend(sse::stream(3, 2));
        steps
    })
    .await
}

/// Sends bursts beyond the capacity of the edge; returns the mean time to first token.
async fn mean_of_bursts(gateway: &Gateway, seconds: u64) -> Duration {
    let (began, times) = (Instant::now(), Mutex::new(Vec::new()));
    let arrivals: Vec<Duration> = (0..seconds)
        .flat_map(|second| {
            // Twelve a second, half of them in the first quarter.
            let burst = (0..6).map(move |n| Duration::from_millis(1000 * second + 40 * n));
            burst.chain((0..6).map(move |n| Duration::from_millis(1000 * second + 300 + 110 * n)))
        })
        .collect();
    let one = |at: Duration, n: usize| {
        let (times, gateway) = (&times, &*gateway);
        async move {
            tokio::time::sleep(at.saturating_sub(began.elapsed())).await;
            let (time, well) = ttft(gateway, &format!("a{n}")).await;
            assert!(well);
            times.lock().expect("no panic").push(time);
        }
    };
    futures_util::future::join_all(arrivals.into_iter().enumerate().map(|(n, at)| one(at, n)))
        .await;
    let times = times.into_inner().expect("no panic");
    times.iter().sum::<Duration>() / times.len() as u32
}

/// A near edge with one engine and a distant cloud with many: the policy is faster than either
/// alone, and predicts its times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_policy_beats_edge_and_cloud_alone() {
    let _alone = crate::support::alone().await;
    let edge = one_by_one(Duration::from_millis(70)).await;
    let cloud = Engine::start(|_| after_ms(40)).await;
    let far = kit::delay::Delay::to(cloud.address, Duration::from_millis(40)).await;
    let text = |route: &str| {
        format!(
            "backends: [{{name: e, url: '{}'}}, {{name: c, url: '{}'}}]\n\
             pools: [{{name: edge, tier: edge, backends: [e]}}, {{name: cloud, tier: cloud, backends: [c]}}]\n\
             routes: [{{name: r, {route}}}]\n",
            edge.url(),
            far.url()
        )
    };
    let only_edge = mean_of_bursts(&Gateway::with_settings(&text("pool: edge")).await, 5).await;
    let only_cloud = mean_of_bursts(&Gateway::with_settings(&text("pool: cloud")).await, 3).await;
    let gateway = Gateway::with_settings(&text("pool: edge, fallback: [cloud], offload: {}")).await;
    mean_of_bursts(&gateway, 3).await;
    let policy = mean_of_bursts(&gateway, 8).await;
    let told = gateway.get("/api/backends").1;
    assert!(
        policy < only_edge && policy < only_cloud,
        "{policy:?}; edge {only_edge:?}, cloud {only_cloud:?}: {told}"
    );
    settled(&gateway).await;
    let mut errors: Vec<f64> = gateway
        .records()
        .iter()
        .take(90)
        .filter_map(|record| {
            let (predicted, took) =
                (record.routing.predicted_ttft_us? as f64, record.engine_ttft_us? as f64);
            Some((predicted - took).abs() / took)
        })
        .collect();
    errors.sort_by(f64::total_cmp);
    let median = errors[errors.len() / 2];
    assert!(median < 0.2, "{median} of {}: {told}", errors.len());
    // The exported error, for the first and for the last token.
    for of in ["ttft", "completion"] {
        let error = |backend: &str| {
            gateway.metric(
                "llm_lens_prediction_error_ratio",
                &format!("backend=\"{backend}\",target=\"{of}\""),
            )
        };
        let [edge, cloud] = ["e", "c"].map(error);
        assert!(edge > 0.0 && edge < 0.3 && cloud > 0.0 && cloud < 0.3, "{of}: {edge} {cloud}");
    }
    assert!(gateway.records().iter().any(|record| {
        record.routing.predicted_tpot_us.is_some_and(|tpot| (500.0..20_000.0).contains(&tpot))
    }));
    for (pool, why) in [("edge", "edge_better"), ("cloud", "cloud_better")] {
        assert!(
            gateway.records().iter().any(|r| r.routing.pool.as_deref() == Some(pool)
                && r.routing.offload.as_deref() == Some(why)),
            "{pool} {why}"
        );
    }
    let explained: serde_json::Value =
        serde_json::from_str(&gateway.get("/api/routes/explain?route=r&prompt_tokens=7").1)
            .expect("JSON");
    assert_eq!(
        (explained["goes_to"].as_str(), explained["offload"].as_str()),
        (Some("edge"), Some("edge_better")),
        "{explained:#}"
    );
    assert!(
        explained["pools"][1]["backends"][0]["predicted"]["ttft"]
            .as_f64()
            .is_some_and(|ttft| (0.1..0.2).contains(&ttft)),
        "{explained:#}"
    );
    assert_eq!(gateway.get("/api/routes/explain?route=nowhere").0, 400);
    assert_eq!(gateway.get("/api/routes/explain?prompt_tokens=many").0, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_beyond_the_edge_go_to_the_cloud() {
    let dead = Arc::new(AtomicBool::new(false));
    let dies = dead.clone();
    let edge = Engine::start(move |_| {
        if dies.load(Ordering::Relaxed) { vec![Step::Reset] } else { sse::stream(3, 2) }
    })
    .await;
    let cloud = good().await;
    let text = format!(
        "backends: [{{name: e, url: '{}'}}, {{name: c, url: '{}'}}]\npools: [{{name: edge, backends: [e]}}, {{name: cloud, backends: [c]}}]\n\
         routes: [{{name: r, pool: edge, fallback: [cloud], offload: {{ttft: 5s, prompt_tokens: 100, output_tokens: 600, tools: true, header: 'x-hard: Yes'}}}}]\n",
        edge.url(),
        cloud.url()
    );
    let gateway = Gateway::with_settings(&text).await;
    let request = |content: &str, more: &str| {
        format!(
            "{{\"model\":\"m\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"{content}\"}}]{more}}}"
        )
    };
    for (fields, body, want) in [
        ("", request("hi", ""), "e; pool=edge; reason=only; offload=default"),
        ("x-hard: no\r\n", request("hi", ""), "e; pool=edge; reason=only; offload=default"),
        ("x-hard: Yes\r\n", request("hi", ""), "c; pool=cloud; reason=only; offload=header"),
        (
            "",
            request(&"word ".repeat(100), ""),
            "c; pool=cloud; reason=only; offload=prompt_tokens",
        ),
        (
            "",
            request("hi", ",\"max_tokens\":601"),
            "c; pool=cloud; reason=only; offload=output_tokens",
        ),
        (
            "",
            request("hi", ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]"),
            "c; pool=cloud; reason=only; offload=tools",
        ),
    ] {
        let mut client = gateway.client().await;
        client.post(CHAT, fields, &body).await;
        assert_eq!(client.answer().await.field("x-llm-lens-backend"), Some(want));
    }
    dead.store(true, Ordering::Relaxed);
    let answer = ask(&gateway, CHAT, "x", BODY).await;
    assert!(
        answer.complete
            && answer
                .field("x-llm-lens-backend")
                .is_some_and(|field| field.starts_with("c; pool=cloud; ")),
        "{}",
        answer.head
    );
}

/// A judge that only flags is a classifier: flagged requests go to the cloud, the others stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flagged_requests_go_to_the_cloud() {
    let (edge, cloud) = (good().await, good().await);
    let classifier = Engine::start(|seen| {
        let hard = String::from_utf8_lossy(&seen.body).contains("prove");
        sse::json(
            200,
            if hard { "{\"verdict\":\"flag\",\"score\":0.9}" } else { "{\"verdict\":\"pass\"}" },
        )
    })
    .await;
    let gateway = Gateway::with_settings(&format!(
        "backends: [{{name: b0, url: '{}'}}, {{name: b1, url: '{}'}}, {{name: c, url: '{}'}}]\n\
         pools: [{{name: edge, backends: [b0]}}, {{name: cloud, backends: [b1]}}]\n\
         guardrails: [{{name: s, judges: [{{name: hard, backend: c, input: flag, on_failure: open}}]}}]\n\
         routes: [{{name: r, pool: edge, fallback: [cloud], guardrail: s, offload: {{findings: [judge.hard], probe: 100ms}}}}]\n",
        edge.url(),
        cloud.url(),
        classifier.url()
    ))
    .await;
    for (id, text, backend, word) in
        [("easy", "hello", "b0", "default"), ("hard", "prove it", "b1", "findings")]
    {
        let body = BODY.replace("hi", text);
        let answer = ask(&gateway, CHAT, id, &body).await;
        assert!(answer.complete, "{}", answer.text());
        settled(&gateway).await;
        let record = gateway.record(id).await;
        assert_eq!(
            (record.backend.as_deref(), record.routing.offload.as_deref()),
            (Some(backend), Some(word))
        );
    }
    let (_, explained) = gateway.get("/api/routes/explain?route=r&findings=true");
    assert!(
        explained.contains("\"offload\":\"findings\"")
            && explained.contains("\"goes_to\":\"cloud\""),
        "{explained}"
    );
}

/// Without requests, round trips are measured by probes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_measure_the_round_trip_without_requests() {
    let engines = [good().await, good().await];
    let far = kit::delay::Delay::to(engines[1].address, Duration::from_millis(40)).await;
    let gateway = Gateway::with_settings(&format!(
        "backends: [{{name: b0, url: '{}'}}, {{name: b1, url: '{}'}}]\n\
         pools: [{{name: edge, backends: [b0]}}, {{name: cloud, backends: [b1]}}]\n\
         routes: [{{name: r, pool: edge, fallback: [cloud], offload: {{ttft: 1s, probe: 100ms}}}}]\n",
        engines[0].url(),
        far.url()
    ))
    .await;
    gateway.wait_until(|g| !g.get("/api/backends").1.contains("\"round_trip_ms\":null")).await;
    assert!(engines.iter().all(|engine| engine.seen().is_empty()), "a connection is no request");
}

/// A dead edge with one backend, under load, with default settings: no request fails, and soon none
/// is sent to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_edge_is_ejected() {
    let _alone = crate::support::alone().await;
    for offload in ["", ", offload: {ttft: 1s}"] {
        let (edge, cloud) = (always(vec![Step::Reset]).await, good().await);
        let gateway = Gateway::with_settings(&format!(
            "backends: [{{name: b0, url: '{}'}}, {{name: b1, url: '{}'}}]\n\
             pools: [{{name: edge, backends: [b0]}}, {{name: cloud, backends: [b1]}}]\n\
             routes: [{{name: r, pool: edge, fallback: [cloud]{offload}}}]\n",
            edge.url(),
            cloud.url()
        ))
        .await;
        let (times, broken) = times(&gateway, 4, 400).await;
        assert_eq!((times.len(), broken), (400, 0), "{}", gateway.stderr());
        settled(&gateway).await;
        let asked = edge.seen().len();
        assert!(
            (5..30).contains(&asked),
            "five in a row are enough, and one a second may try: {asked}"
        );
        let last = gateway.records().into_iter().next().expect("a record").routing;
        let (chosen, because) = (last.chosen.expect("a choice"), last.offload);
        assert!(
            chosen == "fallback" || because.as_deref() == Some("edge_outage"),
            "{chosen} {because:?}"
        );
    }
}

/// With offload, each tier is the fallback of the other. A dead one is ejected, no request fails,
/// and it gets requests again when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_tier_is_ejected_and_returns() {
    let _alone = crate::support::alone().await;
    let dead = [Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false))];
    let mortal = |dead: &Arc<AtomicBool>, failure: Vec<Step>| {
        let dead = dead.clone();
        Engine::start(move |_| {
            if dead.load(Ordering::Relaxed) { failure.clone() } else { sse::stream(3, 2) }
        })
    };
    let engines =
        [mortal(&dead[0], sse::json(500, "{}")).await, mortal(&dead[1], vec![Step::Reset]).await];
    let gateway = Gateway::with_settings(&format!(
        "backends: [{{name: e, url: '{}'}}, {{name: c, url: '{}'}}]\n\
         pools: [{{name: edge, backends: [e], ejection: {{base: 1s}}}}, {{name: cloud, backends: [c], ejection: {{base: 1s}}}}]\n\
         routes: [{{name: r, pool: edge, fallback: [cloud], offload: {{header: x-hard, ttft: 60s}}}}]\n",
        engines[0].url(),
        engines[1].url()
    ))
    .await;
    let selected = |hard: bool| {
        let gateway = &gateway;
        async move {
            let mut client = gateway.client().await;
            client.post(CHAT, if hard { "x-hard: 1\r\n" } else { "" }, BODY).await;
            let answer = client.answer().await;
            assert!(answer.status == 200 && answer.complete, "{}", answer.head);
            answer.field("x-llm-lens-backend").unwrap_or_default().to_owned()
        }
    };
    for (tier, own, other) in [(1, "c; ", "e; "), (0, "e; ", "c; ")] {
        let hard = tier == 1;
        assert!(selected(hard).await.starts_with(own));
        dead[tier].store(true, Ordering::Relaxed);
        let before = engines[tier].seen().len();
        for _ in 0..60 {
            assert!(selected(hard).await.starts_with(other));
        }
        let asked = engines[tier].seen().len() - before;
        assert!((5..25).contains(&asked), "five failures, then one probe a second: {asked}");
        let rows: serde_json::Value =
            serde_json::from_str(&gateway.get("/api/backends").1).expect("JSON");
        let row = &rows["backends"][tier];
        assert!(
            row["ejections"].as_u64() > Some(0) && row["cause"] == "consecutive_failures",
            "{rows:#}"
        );
        dead[tier].store(false, Ordering::Relaxed);
        let until = Instant::now() + Duration::from_secs(60);
        while !selected(hard).await.starts_with(own) {
            assert!(Instant::now() < until, "{own} is never probed");
        }
    }
}

/// One of two edge backends is dead, and the other one has a queue: the edge is saturated, and the
/// request goes to the cloud.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn saturated_edge_with_a_dead_backend_offloads_to_the_cloud() {
    let (dead, cloud) = (always(vec![Step::Reset]).await, good().await);
    let busy = Engine::start(|_| promising(3_000)).await;
    let text = format!(
        "backends: [{{name: d, url: '{}'}}, {{name: e, url: '{}', admission: {{max_requests: 1}}}}, {{name: c, url: '{}'}}]\n\
         pools: [{{name: edge, backends: [d, e], balance: round_robin, ejection: {{consecutive: 1}}}}, {{name: cloud, backends: [c]}}]\n\
         routes: [{{name: r, pool: edge, fallback: [cloud], offload: {{ttft: 60s}}, retries: {{min_per_second: 10}}}}]\n",
        dead.url(),
        busy.url(),
        cloud.url()
    );
    let gateway = Gateway::with_settings(&text).await;
    // The first two requests eject the dead backend; one gets the permit, the other one is queued.
    let after = |ms: u64, id: &'static str| {
        let gateway = &gateway;
        async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            ask(gateway, CHAT, id, BODY).await
        }
    };
    let (one, two, three) = tokio::join!(after(0, "a"), after(300, "b"), after(600, "c"));
    assert_eq!((one.status, two.status), (200, 200));
    let last = three.field("x-llm-lens-backend").unwrap_or_default();
    assert!(last.starts_with("c; pool=cloud; ") && last.contains("offload=saturated"), "{last}");
}
