//! `GET /v1/models` and its aliases, retries of safe requests, and backends that are down at the
//! start.

use kit::engine::Step;
use kit::{Engine, Gateway, sse};
use serde_json::{Value, json};

use crate::support::{eventually, settings};

/// An engine that lists these models.
async fn listing(models: &'static [&'static str]) -> Engine {
    Engine::start(move |seen| {
        if !seen.head.starts_with("GET /v1/models") {
            return sse::chat_answer();
        }
        let model = |id: &&str| json!({"id": id, "object": "model", "created": 17, "owned_by": "engine", "root": "/secret"});
        let data: Vec<Value> = models.iter().map(model).collect();
        sse::json(200, &json!({"object": "list", "data": data}).to_string())
    })
    .await
}

async fn get(gateway: &Gateway, path: &str, fields: &str) -> (u16, Value) {
    let mut client = gateway.client().await;
    client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n{fields}\r\n")).await;
    let answer = client.answer().await;
    (answer.status, answer.json())
}

fn ids(list: &Value) -> Vec<&str> {
    let data = list["data"].as_array().unwrap_or_else(|| panic!("no list: {list}"));
    data.iter().map(|model| model["id"].as_str().expect("an id")).collect()
}

/// The URL of an engine that is gone.
async fn dead() -> String {
    let engine = Engine::start(|_| vec![Step::Close]).await;
    let url = engine.url();
    engine.stop_listening();
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_of_all_routes_are_listed() {
    let (one, two) = (listing(&["own-1", "shared"]).await, listing(&["own-2", "shared"]).await);
    let text = format!(
        "backends: [{{name: a, url: '{}', models: [sim-8b]}}, {{name: b, url: '{}'}}, {{name: c, url: '{}'}}, {{name: d, url: '{}'}}]\n\
         pools: [{{name: named, backends: [c], model: hidden}}, {{name: two, backends: [d, b]}}]\n\
         routes:\n\
         - {{name: a, match: {{models: [sim-8b]}}, backend: a}}\n\
         - {{name: alias, match: {{models: [tiny]}}, pool: named}}\n\
         - {{name: own, match: {{models: ['own-*', shared]}}, pool: two}}\n",
        one.url(),
        one.url(),
        two.url(),
        dead().await
    );
    let gateway = Gateway::with_settings(&text).await;
    let (status, list) = get(&gateway, "/v1/models", "").await;
    assert_eq!(status, 200, "{list}");
    assert_eq!(ids(&list), ["sim-8b", "tiny", "own-1", "shared"]);
    assert_eq!(list["object"], "list");
    assert_eq!(
        list["data"][2],
        json!({"id": "own-1", "object": "model", "created": 17, "owned_by": "engine"})
    );
    for alias in ["/models", "/openai/v1/models", "/models/"] {
        assert_eq!(get(&gateway, alias, "").await, (200, list.clone()), "{alias}");
    }
    let (status, tags) = get(&gateway, "/api/tags", "").await;
    assert_eq!((status, tags["models"].as_array().map(Vec::len)), (200, Some(4)), "{tags}");
    assert_eq!(
        tags["models"][2],
        json!({"name": "own-1", "model": "own-1", "modified_at": "1970-01-01T00:00:17.000000Z"})
    );
    let (status, model) = get(&gateway, "/v1/models/own-1", "").await;
    assert_eq!((status, &model["id"]), (200, &Value::from("own-1")));
    let (status, error) = get(&gateway, "/v1/models/hidden", "").await;
    assert_eq!((status, &error["error"]["code"]), (404, &Value::from("model_not_found")));
    // The list is cached, and each model that it names is served.
    let lists = one.seen().iter().filter(|seen| seen.head.starts_with("GET ")).count();
    assert_eq!(lists, 1);
    for model in ids(&list) {
        let body = format!("{{\"model\":{model:?},\"messages\":[]}}");
        let mut client = gateway.client().await;
        client.post("/v1/chat/completions", "", &body).await;
        assert_eq!(client.answer().await.status, 200, "{model}");
    }
    // Anthropic's format, and errors that name what there is.
    let (status, list) = get(&gateway, "/v1/models", "anthropic-version: 2023-06-01\r\n").await;
    assert_eq!((status, &list["has_more"]), (200, &Value::from(false)));
    assert_eq!(
        list["data"][0],
        json!({"type": "model", "id": "sim-8b", "display_name": "sim-8b", "created_at": "1970-01-01T00:00:00Z"})
    );
    let mut client = gateway.client().await;
    client.post("/v1/chat/completions", "", "{\"model\":\"nope\"}").await;
    let error = client.answer().await.json();
    assert_eq!(
        error["error"]["message"],
        "No route takes the model \"nope\". Known models: sim-8b, tiny, own-1, shared."
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_dies_keeps_its_models_in_the_list() {
    let engine = listing(&["own"]).await;
    let text = format!(
        "backends: [{{name: a, url: '{}'}}, {{name: b, url: '{}'}}]\n\
         routes: [{{name: a, match: {{path: '/v1/chat*'}}, backend: a}}, {{name: b, backend: b}}]\n",
        engine.url(),
        dead().await
    );
    let gateway = Gateway::with_settings(&text).await;
    for _ in 0..2 {
        let (status, list) = get(&gateway, "/v1/models", "").await;
        assert_eq!((status, ids(&list)), (200, vec!["own"]));
        engine.stop_listening();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn safe_requests_are_retried_at_another_backend() {
    let good = listing(&["own"]).await;
    let closing = Engine::start(|_| vec![Step::Close]).await;
    let busy = Engine::start(|_| sse::json(503, r#"{"error":{"message":"busy"}}"#)).await;
    let alone = Gateway::in_front_of(&busy.url()).await;
    let (status, error) = get(&alone, "/v1/models", "").await;
    assert_eq!((status, &error["error"]["message"]), (503, &Value::from("busy")));
    for (bad, post) in [(dead().await, None), (closing.url(), Some(502)), (busy.url(), Some(503))] {
        let text = format!(
            "backends: [{{name: a, url: '{bad}'}}, {{name: b, url: '{}'}}]\n\
             pools: [{{name: p, backends: [a, b], balance: round_robin, ejection: {{consecutive: 1000}}}}]\n\
             routes: [{{name: r, pool: p, retries: {{min_per_second: 100}}}}]\n",
            good.url()
        );
        let gateway = Gateway::with_settings(&text).await;
        for n in 0..8 {
            let fields = format!("x-request-id: n{n}\r\n");
            let (status, list) = get(&gateway, "/v1/models", &fields).await;
            assert_eq!(status, 200, "{list}");
        }
        let failed = (0..8).filter(|n| {
            let id = format!("n{n}");
            let records = gateway.records();
            let record = records.iter().find(|record| record.id == id).expect("a record");
            !record.routing.failed_attempts.is_empty()
        });
        assert!(failed.count() >= 3, "round robin selects the dead backend, too");
        // A POST may have had an effect, and is not sent again, unless there was no connection.
        let mut statuses = Vec::new();
        for _ in 0..4 {
            let mut client = gateway.client().await;
            client.post("/v1/unknown", "", "{}").await;
            statuses.push(client.answer().await.status);
        }
        let failed = statuses.iter().copied().find(|status| *status >= 500);
        assert_eq!(failed, post, "{statuses:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_that_are_down_are_logged_at_the_start_and_fail_readiness() {
    let engine = listing(&["own"]).await;
    let url = dead().await;
    let gateway = Gateway::in_front_of(&url).await;
    eventually("the log has the backend", || {
        let log = gateway.stderr();
        log.contains("backend does not accept connections yet")
            && log.contains(&url)
            && log.contains("refused")
    })
    .await;
    let (status, reason) = gateway.get("/readyz");
    assert_eq!(status, 503);
    assert!(reason.starts_with("no backend of route default is up: default does not"), "{reason}");
    assert_eq!(gateway.get("/readyz?backends=ignore").0, 200);
    assert_eq!(gateway.get("/readyz?backends=some").0, 400);
    assert_eq!(gateway.get("/healthz").0, 200);
    // One of two routes is up.
    let text = format!(
        "backends: [{{name: a, url: '{}'}}, {{name: b, url: '{url}'}}]\n\
         routes: [{{name: up, match: {{models: [m]}}, backend: a}}, {{name: down, backend: b}}]\n",
        engine.url()
    );
    let gateway = Gateway::with_settings(&text).await;
    assert_eq!(gateway.get("/readyz").0, 200);
    let (status, reason) = gateway.get("/readyz?backends=every_route");
    assert_eq!(status, 503);
    assert!(reason.starts_with("no backend of route down is up: b "), "{reason}");
    // A gateway whose backends are up logs nothing of the kind.
    let gateway = Gateway::with_settings(&settings(&engine.url(), "", "", "")).await;
    assert_eq!(gateway.get("/readyz?backends=every_route").0, 200);
    assert!(!gateway.stderr().contains("does not accept"), "{}", gateway.stderr());
}
