//! Backends that are added and removed by DNS.

use std::net::Ipv4Addr;

use kit::dns::NameServer;

use super::*;
use crate::support::read_until;

/// A gateway with a pool `p` of discovered backends; `discover` is the source, `backends` are
/// further, static ones.
async fn finding(server: &NameServer, discover: &str, backends: &str, pool: &str) -> Gateway {
    Gateway::with_settings(&format!(
        "backends: [{{name: like, url: 'http://llm.test:1', models: [m]}}{backends}]\n\
         pools: [{{name: p, template: like, discover: {{{discover}, servers: ['{}']}}{pool}}}]\n\
         routes: [{{name: r, pool: p}}]\n",
        server.address
    ))
    .await
}

/// The backends of the pool, as reported by the admin listener.
fn members(gateway: &Gateway) -> Vec<String> {
    let (_, body) = gateway.get("/api/backends");
    let all: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    all["backends"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| row["backend"].as_str().expect("a name").to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dns_addresses_change_after_their_ttl_and_streams_continue() {
    let server = NameServer::start().await;
    let slow = |_: &kit::engine::Seen| {
        let mut steps = vec![
            Step::text(sse::STREAM_HEAD),
            Step::chunk(sse::role()),
            Step::chunk(sse::content("first ")),
        ];
        steps.extend([
            Step::ms(4_000),
            Step::chunk(sse::content("last") + &sse::finish() + &sse::done()),
            Step::end(),
        ]);
        steps
    };
    let one = Engine::start(slow).await;
    let port = one.address.port();
    let other = Engine::start_at(([127, 0, 0, 2], port), |_| sse::stream(3, 2)).await;
    server.addresses("llm.test", 1, &[Ipv4Addr::LOCALHOST]);
    let gateway = finding(&server, &format!("dns: llm.test, port: '{port}'"), "", "").await;
    assert_eq!(members(&gateway), [format!("p/127.0.0.1-{port}")], "{}", gateway.stderr());

    // A stream that runs while its backend goes.
    let mut client = gateway.client().await;
    client.post(CHAT, "x-request-id: long\r\n", BODY).await;
    let mut stream = read_until(&mut client, "first").await;
    server.addresses("llm.test", 30, &[Ipv4Addr::new(127, 0, 0, 2)]);
    eventually("the other is there alone", || members(&gateway) == [format!("p/127.0.0.2-{port}")])
        .await;
    let answer = ask(&gateway, CHAT, "next", BODY).await;
    assert!(answer.complete, "{}", answer.text());
    assert!(
        answer
            .field("x-llm-lens-backend")
            .is_some_and(|field| field.starts_with(&format!("p/127.0.0.2-{port};"))),
        "{}",
        answer.head
    );
    assert!(
        other.seen().iter().all(|seen| field(&seen.head, "host") == Some("llm.test:1")),
        "it is asked by the name of the one it is like"
    );
    stream.push_str(&read_until(&mut client, "[DONE]").await);
    assert!(stream.contains("last"), "{stream}");
    settled(&gateway).await;
    assert_eq!(gateway.record("long").await.outcome, Outcome::Ok);
    // The TTL is 30 seconds: no further query until then.
    let asked = server.asked("llm.test");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(server.asked("llm.test"), asked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resolver_failure_keeps_the_backends_and_an_empty_answer_removes_them() {
    tokio::join!(empty_answer_removes_the_backends(false), empty_answer_removes_the_backends(true));
}

/// The answer without records is NXDOMAIN, or NOERROR of a name that exists.
async fn empty_answer_removes_the_backends(exists: bool) {
    let server = NameServer::start().await;
    if exists {
        server.exists("llm.test");
    }
    let engine = good().await;
    let gateway = finding(
        &server,
        &format!("dns: llm.test, port: '{}', hold: 2s", engine.address.port()),
        "",
        "",
    )
    .await;
    assert!(members(&gateway).is_empty());
    let refused = ask(&gateway, CHAT, "early", BODY).await;
    assert!(
        refused.status == 503 && refused.text().contains("no_backend"),
        "{} {}",
        refused.head,
        refused.text()
    );
    settled(&gateway).await;
    assert_eq!(gateway.record("early").await.backend, None);

    server.addresses("llm.test", 1, &[Ipv4Addr::LOCALHOST]);
    eventually("it is found", || members(&gateway).len() == 1).await;
    server.fails(true);
    let asked = server.asked("llm.test");
    eventually("it was looked for in vain", || server.asked("llm.test") > asked + 2).await;
    assert_eq!(members(&gateway).len(), 1);
    assert_eq!(ask(&gateway, CHAT, "failing", BODY).await.status, 200);

    // A name without records for a moment keeps its backends.
    server.addresses("llm.test", 1, &[]);
    server.fails(false);
    gateway.wait_for_log("the name has no records").await;
    assert_eq!(members(&gateway).len(), 1);
    assert_eq!(ask(&gateway, CHAT, "held", BODY).await.status, 200);
    eventually("the pool is empty", || members(&gateway).is_empty()).await;
    assert_eq!(ask(&gateway, CHAT, "late", BODY).await.status, 503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn srv_servers_have_ports_weights_and_addresses() {
    let server = NameServer::start().await;
    let (heavy, light, standby) = (good().await, good().await, good().await);
    let port = |engine: &Engine| engine.address.port();
    server.addresses("here.test", 30, &[Ipv4Addr::LOCALHOST]);
    server.addresses("metadata.test", 30, &[Ipv4Addr::new(169, 254, 169, 254)]);
    server.service(
        "_llm._tcp.test",
        1,
        &[
            (1, 9, port(&heavy), "here.test"),
            (1, 1, port(&light), "here.test"),
            (2, 9, port(&standby), "here.test"),
            (1, 9, 80, "metadata.test"),
        ],
    );
    let gateway = finding(&server, "srv: _llm._tcp.test", "", ", balance: weighted").await;
    let mut wanted = [&heavy, &light].map(|engine| format!("p/127.0.0.1-{}", port(engine)));
    wanted.sort();
    let mut found = members(&gateway);
    found.sort();
    assert_eq!(found, wanted, "{}", gateway.stderr());
    // The service is found, but the names of its servers are not: the servers keep their addresses.
    server.fails(true);
    let asked = server.asked("here.test");
    eventually("their names were looked up in vain", || server.asked("here.test") > asked + 4)
        .await;
    assert_eq!(members(&gateway).len(), 2);
    for n in 0..60 {
        assert_eq!(ask(&gateway, CHAT, &n.to_string(), BODY).await.status, 200);
    }
    let counts = [&heavy, &light, &standby].map(|engine| engine.seen().len());
    assert!(
        counts[0] > 3 * counts[1] && counts[1] > 0 && counts[2] == 0,
        "nine to one: {counts:?}"
    );
}

/// A reload keeps discovered backends, and uses another source when the settings change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_keeps_discovered_backends() {
    let server = NameServer::start().await;
    let (one, other) = (good().await, good().await);
    server.addresses("llm.test", 30, &[Ipv4Addr::LOCALHOST]);
    let settings = |port: u16, more: &str| {
        format!(
            "backends: [{{name: like, url: 'http://llm.test:1'}}]\n\
             pools: [{{name: p, template: like, discover: {{dns: llm.test, port: '{port}', servers: ['{}']}}}}]\n\
             routes: [{{name: r, pool: p{more}}}]\n",
            server.address
        )
    };
    let gateway = Gateway::with_settings(&settings(one.address.port(), "")).await;
    let stop = Arc::new(AtomicBool::new(false));
    let asking = tokio::spawn({
        let (stop, address) = (stop.clone(), gateway.address());
        async move {
            let mut asked = 0;
            while !stop.load(Ordering::Relaxed) {
                let mut client = kit::Client::connect(address).await;
                client.post(CHAT, "", BODY).await;
                let answer = client.answer().await;
                assert!(
                    answer.complete && answer.status == 200,
                    "{} {}",
                    answer.head,
                    answer.text()
                );
                asked += 1;
            }
            asked
        }
    });
    for more in [", retries: {max: 1}", ", stall: 3s"] {
        let reloads = gateway.metric("llm_lens_reloads_total", "");
        gateway.write_settings(&settings(one.address.port(), more));
        gateway.wait_until(|g| g.metric("llm_lens_reloads_total", "") > reloads).await;
    }
    gateway.write_settings(&settings(other.address.port(), ""));
    eventually("the other port is asked", || {
        members(&gateway) == [format!("p/127.0.0.1-{}", other.address.port())]
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    assert!(asking.await.expect("no request failed") > 0);
}

/// The set of backends changes each second, under load: no request fails, and connections and
/// measurements of the others are kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_backends_come_and_go() {
    let _alone = crate::support::alone().await;
    let server = NameServer::start().await;
    let stays = Engine::start(|_| sse::stream(3, 5)).await;
    let port = stays.address.port();
    let others = [2, 3, 4].map(|n| Ipv4Addr::new(127, 0, 0, n));
    let mut engines = Vec::new();
    for address in others {
        engines.push(Engine::start_at((address.octets(), port), |_| sse::stream(3, 5)).await);
    }
    server.addresses("llm.test", 1, &[Ipv4Addr::LOCALHOST]);
    let gateway =
        finding(&server, &format!("dns: llm.test, port: '{port}'"), "", ", balance: prefix").await;
    let asking = times(&gateway, 4, 1200);
    let changing = async {
        for round in 0..8 {
            let mut now = vec![Ipv4Addr::LOCALHOST];
            now.extend(
                others
                    .iter()
                    .enumerate()
                    .filter(|(n, _)| (round >> n) & 1 == 0)
                    .map(|(_, address)| *address),
            );
            server.addresses("llm.test", 1, &now);
            tokio::time::sleep(Duration::from_millis(1_050)).await;
        }
    };
    let ((times, broken), ()) = futures_util::future::join(asking, changing).await;
    assert_eq!((times.len(), broken), (1200, 0), "{}", gateway.stderr());
    assert!(engines.iter().all(|engine| !engine.seen().is_empty()) && !stays.seen().is_empty());
    settled(&gateway).await;
    // Two workers, four clients: backends that stayed kept their connections, which rest 50 ms
    // after a stream of 15 ms.
    let connections: std::collections::BTreeSet<usize> =
        stays.seen().iter().map(|seen| seen.connection).collect();
    assert!(connections.len() <= 60, "{connections:?}");
}

/// Invalid settings do not change discovered backends, now or later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_reload_keeps_discovered_backends() {
    let server = NameServer::start().await;
    let engine = good().await;
    let port = engine.address.port();
    server.addresses("p.test", 300, &[Ipv4Addr::LOCALHOST]);
    server.addresses("q.test", 1, &[Ipv4Addr::LOCALHOST]);
    let pool = |name: &str| {
        format!(
            "{{name: {name}, template: like, discover: {{dns: {name}.test, port: '{port}', servers: ['{}']}}}}",
            server.address
        )
    };
    let settings = |pools: &str, routes: &str, more: &str| {
        format!(
            "backends: [{{name: like, url: 'http://llm.test:1'}}]\npools: [{pools}]\nroutes: [{routes}]\n{more}\n"
        )
    };
    let both = settings(
        &format!("{}, {}", pool("p"), pool("q")),
        "{name: r, pool: p, match: {path: '/v1/*'}}, {name: s, pool: q}",
        "",
    );
    let gateway = Gateway::with_settings(&both).await;
    assert_eq!(members(&gateway).len(), 2);
    // Without the pool, and with a judge that this build does not have.
    let judge = "guardrails: [{name: s, judges: [{name: j, kind: onnx, model_file: /no, tokenizer_file: /no, labels: [a]}]}]";
    gateway.write_settings(&settings(&pool("q"), "{name: s, pool: q, guardrail: s}", judge));
    gateway.wait_until(|g| g.metric("llm_lens_reload_failures_total", "") == 1.0).await;
    server.addresses("q.test", 300, &[Ipv4Addr::new(127, 0, 0, 2)]);
    eventually("the other pool has changed", || {
        members(&gateway).contains(&format!("q/127.0.0.2-{port}"))
    })
    .await;
    assert!(members(&gateway).contains(&format!("p/127.0.0.1-{port}")));
    assert_eq!(ask(&gateway, CHAT, "x", BODY).await.status, 200);
}
