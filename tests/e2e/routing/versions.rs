//! Versions: a share, a switch, a rollback, and a mirror.

use super::*;

/// Blue and green under load: by the admin listener and by the file, back and forth, without a
/// failed request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_is_switched_and_taken_back_under_load() {
    let _alone = crate::support::alone().await;
    let engines = [
        Engine::start(|_| sse::stream(10, 10)).await,
        Engine::start(|_| sse::stream(10, 10)).await,
    ];
    let text = format!(
        "backends: [{{name: b, url: '{}'}}, {{name: g, url: '{}'}}]\npools: [{{name: blue, backends: [b]}}, {{name: green, backends: [g]}}]\n\
         routes: [{{name: r, pool: blue, canary: {{pool: green, share: 0}}}}]\n",
        engines[0].url(),
        engines[1].url()
    );
    let gateway = Gateway::with_settings(&text).await;
    let (ends, began) = (AtomicBool::new(false), Instant::now());
    let heads = Mutex::new(Vec::new());
    let client = |number: usize| {
        let (gateway, ends, heads) = (&gateway, &ends, &heads);
        async move {
            for n in 0.. {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let at = began.elapsed();
                let answer = ask(gateway, CHAT, &format!("{number}-{n}"), BODY).await;
                assert!(
                    answer.status == 200
                        && answer.complete
                        && answer.text().ends_with("data: [DONE]\n\n"),
                    "{}",
                    answer.head
                );
                let backend =
                    field(&answer.head, "x-llm-lens-backend").unwrap_or_default().starts_with("g;");
                heads.lock().expect("no panic").push((at, began.elapsed(), backend));
            }
        }
    };
    let switching = async {
        let mut switched = Vec::new();
        let after = |ms| tokio::time::sleep(Duration::from_millis(ms));
        for (by_file, share) in [(false, "1"), (false, "0"), (true, "1.0"), (true, "0.0")] {
            after(600).await;
            switched.push((began.elapsed(), share.starts_with('1')));
            if by_file {
                gateway.write_settings(&text.replace("share: 0", &format!("share: {share}")));
                gateway.signal(nix::sys::signal::Signal::SIGHUP);
            } else {
                let (status, told) = gateway.post(
                    &format!("/api/routes/release?route=r&share={share}"),
                    "x-llm-lens-operator: me\r\n",
                );
                assert_eq!(status, 200, "{told}");
            }
            after(1500).await;
        }
        ends.store(true, Ordering::Relaxed);
        switched
    };
    let (_, switched) = tokio::join!(futures_util::future::join_all((0..6).map(client)), switching);
    let heads = heads.into_inner().expect("no panic");
    for (number, (at, to_green)) in switched.iter().enumerate() {
        let until = switched.get(number + 1).map_or(Duration::MAX, |(next, _)| *next);
        // One second after a switch, all requests use the selected version.
        let late: Vec<_> = heads
            .iter()
            .filter(|(begun, ended, _)| *begun > *at + Duration::from_secs(1) && *ended < until)
            .collect();
        assert!(
            !late.is_empty() && late.iter().all(|(_, _, green)| green == to_green),
            "{number}: {late:?}"
        );
    }
    // A request that a foreign web page could send is refused.
    assert_eq!(gateway.post("/api/routes/release?route=r&share=1", "").0, 400);
    assert_eq!(gateway.metric("llm_lens_canary_share", "route=\"r\""), 0.0);
}

/// A canary gets a share by key and is rolled back if it is worse; requests that it fails are
/// answered by the old version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worse_canary_is_rolled_back() {
    for (canary, why) in [
        (sse::json(500, "{}"), "failure ratio too high"),
        (after_ms(60), "time to first token too high"),
    ] {
        let (old, new) = (good().await, always(canary).await);
        let text = format!(
            "backends: [{{name: o, url: '{}'}}, {{name: n, url: '{}'}}]\npools: [{{name: old, backends: [o]}}, {{name: new, backends: [n]}}]\n\
             routes: [{{name: r, pool: old, canary: {{pool: new, share: 0.4, key: 'header:x-user', min_requests: 30, max_ttft_ratio: 3}}}}]\n",
            old.url(),
            new.url()
        );
        let gateway = Gateway::with_settings(&text).await;
        let mut homes: BTreeMap<String, bool> = BTreeMap::new();
        for n in 0..160 {
            let user = format!("u{}", n % 20);
            let mut client = gateway.client().await;
            client.post(CHAT, &format!("x-user: {user}\r\n"), BODY).await;
            let answer = client.answer().await;
            assert!(answer.status == 200 && answer.complete, "{why}: {}", answer.text());
            if why == "time to first token too high"
                && gateway.metric("llm_lens_canary_rolled_back", "route=\"r\"") == 0.0
            {
                let new = answer
                    .field("x-llm-lens-backend")
                    .is_some_and(|field| field.contains("version=canary"));
                assert_eq!(*homes.entry(user).or_insert(new), new, "a user stays with a version");
            }
        }
        gateway.wait_until(|g| g.metric("llm_lens_canary_rolled_back", "route=\"r\"") == 1.0).await;
        gateway.wait_for_log(&format!("canary rolled back: {why}")).await;
        let before = new.seen().len();
        for n in 0..20 {
            let mut client = gateway.client().await;
            client.post(CHAT, &format!("x-user: u{n}\r\n"), BODY).await;
            assert_eq!(client.answer().await.status, 200);
        }
        assert_eq!(new.seen().len(), before);
    }
}

/// Without a key, and for anonymous callers, each request is drawn: clients behind one address get
/// both versions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn canary_without_a_key_gets_its_share_of_requests() {
    let engines = [good().await, good().await];
    for key in ["", ", key: caller", ", key: 'header:x-user'"] {
        let gateway = Gateway::with_settings(&format!(
            "backends: [{{name: o, url: '{}'}}, {{name: n, url: '{}'}}]\npools: [{{name: old, backends: [o]}}, {{name: new, backends: [n]}}]\n\
             routes: [{{name: r, pool: old, canary: {{pool: new, share: 0.5, max_ttft_ratio: 0{key}}}}}]\n",
            engines[0].url(),
            engines[1].url()
        ))
        .await;
        let mut canaries = 0;
        for n in 0..60 {
            let answer = ask(&gateway, CHAT, &n.to_string(), BODY).await;
            let field = answer.field("x-llm-lens-backend").unwrap_or_default();
            canaries += usize::from(field.contains("version=canary"));
        }
        // Outside of this range once in 100,000 runs.
        assert!((12..=48).contains(&canaries), "{key} {canaries}");
    }
}

/// A canary that gets all requests is compared with the route before it had a canary. Every 4xx
/// counts, also those that say nothing about the health of a backend.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn canary_with_all_requests_is_compared_with_the_past_of_the_route() {
    let _alone = crate::support::alone().await;
    let no = |status| sse::json(status, "{\"error\":{\"message\":\"no\"}}");
    // Requests that are retried are results of the stable version.
    for (canary, retried, why) in [
        (no(400), false, "failure ratio too high"),
        (no(403), true, "failure ratio too high"),
        (no(429), true, "failure ratio too high"),
        (after_ms(200), false, "time to first token too high"),
    ] {
        let (old, new) = (good().await, always(canary).await);
        let text = |canary: &str| {
            format!(
                "backends: [{{name: o, url: '{}'}}, {{name: n, url: '{}', api_key: ours}}]\npools: [{{name: old, backends: [o]}}, {{name: new, backends: [n]}}]\n\
                 routes: [{{name: r, pool: old{canary}}}]\n",
                old.url(),
                new.url()
            )
        };
        let gateway = Gateway::with_settings(&text("")).await;
        for n in 0..60 {
            assert_eq!(ask(&gateway, CHAT, &n.to_string(), BODY).await.status, 200);
        }
        settled(&gateway).await;
        gateway.write_settings(&text(
            ", canary: {pool: new, share: 1.0, min_requests: 30, max_ttft_ratio: 2}",
        ));
        gateway.wait_until(|g| g.metric("llm_lens_canary_share", "route=\"r\"") == 1.0).await;
        let is_rolled_back =
            |g: &Gateway| g.metric("llm_lens_canary_rolled_back", "route=\"r\"") == 1.0;
        for n in 0..60 {
            // Requests after the rollback would give the stable version results of its own.
            if is_rolled_back(&gateway) {
                break;
            }
            ask(&gateway, CHAT, &format!("c{n}"), BODY).await;
        }
        gateway.wait_until(is_rolled_back).await;
        gateway.wait_for_log(&format!("canary rolled back: {why}")).await;
        let explained: serde_json::Value =
            serde_json::from_str(&gateway.get("/api/routes/explain?route=r").1).expect("JSON");
        assert_eq!(explained["canary"]["rolled_back"], true, "{explained:#}");
        if !retried {
            assert_eq!(explained["canary"]["compared_with"], "history", "{explained:#}");
        }
        let answer = ask(&gateway, CHAT, "last", BODY).await;
        assert!(answer.field("x-llm-lens-backend").is_some_and(|field| field.starts_with("o;")));
    }
}

/// A version without requests is reported once in the log, and by the admin API.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn version_without_requests_is_reported() {
    let engines = [good().await, good().await];
    let gateway = Gateway::with_settings(&format!(
        "backends: [{{name: o, url: '{}'}}, {{name: n, url: '{}'}}]\npools: [{{name: old, backends: [o]}}, {{name: new, backends: [n]}}]\n\
         routes: [{{name: r, pool: old, canary: {{pool: new, share: 0.5, key: 'header:x-user'}}}}]\n",
        engines[0].url(),
        engines[1].url()
    ))
    .await;
    let mut starved = "";
    for _ in 0..40 {
        let mut client = gateway.client().await;
        client.post(CHAT, "x-user: all\r\n", BODY).await;
        let answer = client.answer().await;
        let field = answer.field("x-llm-lens-backend").unwrap_or_default();
        starved = if field.contains("version=canary") { "stable" } else { "canary" };
    }
    let line = format!(
        "one version has no requests, so the two cannot be compared; check canary.key and canary.share route=r share=0.5 version={starved}"
    );
    gateway.wait_for_log("one version has no requests").await;
    assert_eq!(gateway.stderr().matches(&line).count(), 1, "{}", gateway.stderr());
    let explained = gateway.get("/api/routes/explain?route=r").1;
    assert!(explained.contains(&format!("\"without_requests\":\"{starved}\"")), "{explained}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_gets_the_same_request_and_its_answer_is_dropped() {
    let (engine, shadow) = (good().await, Engine::start(|_| after_ms(300)).await);
    let text = format!(
        "backends: [{{name: e, url: '{}'}}, {{name: s, url: '{}'}}]\npools: [{{name: p, backends: [e]}}, {{name: q, backends: [s], model: new}}]\n\
         routes: [{{name: r, pool: p, mirror: {{pool: q, share: 1}}}}]\n",
        engine.url(),
        shadow.url()
    );
    let gateway = Gateway::with_settings(&text).await;
    let began = Instant::now();
    for n in 0..5 {
        let answer = ask(&gateway, CHAT, &n.to_string(), BODY).await;
        assert!(answer.complete && answer.text().ends_with("data: [DONE]\n\n"));
    }
    assert!(began.elapsed() < Duration::from_millis(1000), "no client waits for it");
    gateway
        .wait_until(|g| {
            g.metric("llm_lens_mirrored_requests_total", "route=\"r\",result=\"success\"") == 5.0
        })
        .await;
    let mean = gateway.metric("llm_lens_mirrored_ttft_seconds_total", "route=\"r\"")
        / gateway.metric("llm_lens_mirrored_first_tokens_total", "route=\"r\"");
    assert!((0.3..0.6).contains(&mean), "{mean}");
    let body: serde_json::Value = serde_json::from_slice(&shadow.seen()[0].body).expect("JSON");
    assert_eq!(
        (body["model"].as_str(), engine.seen().len(), shadow.seen().len()),
        (Some("new"), 5, 5)
    );
    assert_eq!(gateway.records().len(), 5);
}

/// Client errors and overload at a mirror do not affect real requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_errors_at_a_mirror_have_no_effect() {
    for status in [400, 429] {
        let (engine, shadow) =
            (good().await, always(sse::json(status, "{\"error\":{\"message\":\"no\"}}")).await);
        let gateway = Gateway::with_settings(&format!(
            "backends: [{{name: e, url: '{}'}}, {{name: s, url: '{}'}}]\npools: [{{name: p, backends: [e]}}, {{name: q, backends: [s, e]}}]\n\
             routes: [{{name: r, pool: p, mirror: {{pool: q, share: 1}}}}]\n",
            engine.url(),
            shadow.url()
        ))
        .await;
        for n in 0..30 {
            assert!(ask(&gateway, CHAT, &n.to_string(), BODY).await.complete);
        }
        gateway
            .wait_until(|g| g.metric("llm_lens_mirrored_requests_total", "route=\"r\"") == 30.0)
            .await;
        assert!(
            gateway.metric("llm_lens_mirrored_requests_total", "result=\"failure\"") > 0.0,
            "{status}"
        );
        assert_eq!(
            gateway.metric("llm_lens_backend_failures_total", "backend=\"s\""),
            0.0,
            "{status}"
        );
        assert_eq!(
            gateway.metric("llm_lens_backend_ejections_total", "backend=\"s\""),
            0.0,
            "{status}"
        );
    }
}

/// A share set through the admin listener survives a reload, unless the reload changes the share.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn share_set_by_the_admin_listener_survives_unrelated_reloads() {
    let engines = [good().await, good().await, good().await];
    let text = |share: &str, rest: &str, fallback: &str| {
        format!(
            "backends: [{{name: b, url: '{}'}}, {{name: g, url: '{}'}}, {{name: s, url: '{}'}}]\n\
             pools: [{{name: blue, backends: [b]}}, {{name: green, backends: [g]}}, {{name: spare, backends: [s]}}]\n\
             routes: [{{name: r, pool: blue{fallback}, canary: {{pool: green, share: {share}{rest}}}}}]\n",
            engines[0].url(),
            engines[1].url(),
            engines[2].url()
        )
    };
    let gateway = Gateway::with_settings(&text("0.05", "", "")).await;
    let share = || gateway.metric("llm_lens_canary_share", "route=\"r\"");
    assert_eq!(
        gateway.post("/api/routes/release?route=r&share=1", "x-llm-lens-operator: me\r\n").0,
        200
    );
    for (number, (rest, fallback)) in
        [("", ", fallback: [spare]"), (", min_requests: 7", ", fallback: [spare]")]
            .into_iter()
            .enumerate()
    {
        gateway.write_settings(&text("0.05", rest, fallback));
        gateway
            .wait_until(|gateway| gateway.metric("llm_lens_reloads_total", "") > number as f64)
            .await;
        assert_eq!(share(), 1.0, "{rest}{fallback}");
        assert_eq!(
            ask(&gateway, CHAT, "x", BODY)
                .await
                .field("x-llm-lens-backend")
                .map(|field| &field[..2]),
            Some("g;")
        );
    }
    gateway.write_settings(&text("0.0", ", min_requests: 7", ", fallback: [spare]"));
    gateway.wait_until(|_| share() == 0.0).await;
}

/// A prompt that is too large for the edge is too large for its canary as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offloaded_requests_skip_the_canary_of_the_edge() {
    let engines = [good().await, good().await, good().await];
    let text = format!(
        "backends: [{{name: e, url: '{}'}}, {{name: n, url: '{}'}}, {{name: c, url: '{}'}}]\n\
         pools: [{{name: edge, backends: [e]}}, {{name: new, backends: [n]}}, {{name: cloud, backends: [c]}}]\n\
         routes: [{{name: r, pool: edge, fallback: [cloud], offload: {{prompt_tokens: 100}}, canary: {{pool: new, share: 1}}}}]\n",
        engines[0].url(),
        engines[1].url(),
        engines[2].url()
    );
    let gateway = Gateway::with_settings(&text).await;
    let long = BODY.replace("hi", &"word ".repeat(200));
    for (body, want) in [
        (BODY, "n; pool=new; reason=only; version=canary; offload=default"),
        (&long, "c; pool=cloud; reason=only; offload=prompt_tokens"),
    ] {
        assert_eq!(ask(&gateway, CHAT, "x", body).await.field("x-llm-lens-backend"), Some(want));
    }
    assert_eq!(
        gateway.metric("llm_lens_offload_decisions_total", "decision=\"prompt_tokens\""),
        1.0
    );
    assert_eq!(gateway.metric("llm_lens_version_requests", "version=\"canary\""), 1.0);
    // After a full switch, the canary is the edge.
    let old = good().await;
    old.stop_listening();
    let gateway = Gateway::with_settings(&text.replace(
        &format!("url: '{}'", engines[0].url()),
        &format!("url: '{}', health: {{path: /health, interval: 50ms, unhealthy: 1}}", old.url()),
    ))
    .await;
    gateway
        .wait_until(|gateway| gateway.get("/api/backends").1.contains("\"state\":\"unhealthy\""))
        .await;
    let answer = ask(&gateway, CHAT, "y", BODY).await;
    assert_eq!(
        answer.field("x-llm-lens-backend"),
        Some("n; pool=new; reason=only; version=canary; offload=default")
    );
}
