//! API keys.

use std::process::Command;

use kit::gateway::binary;
use kit::{Engine, Gateway, sse};
use lens::State;
use lens::record::Outcome;

use super::{CHAT, Keyed, bearer, create, key_command, request};
use crate::support::{eventually, field};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_is_accepted_and_not_forwarded() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let (keyed, keys) =
        Keyed::start(&engine, "", "", &[&["--owner", "search", "--id", "k1"]]).await;
    for fields in [
        bearer(&keys[0]),
        format!("x-api-key: {}\r\n", keys[0]),
        format!("api-key: {}\r\n", keys[0]),
    ] {
        let mut client = keyed.gateway.client().await;
        client.post(CHAT, &format!("x-request-id: a\r\n{fields}"), &request("")).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(!answer.head.contains("backend-key"));
    }
    for seen in engine.seen() {
        assert!(!seen.head.contains(&keys[0]), "{}", seen.head);
        assert_eq!(field(&seen.head, "authorization"), Some("Bearer backend-key"));
        assert!(field(&seen.head, "x-api-key").is_none() && field(&seen.head, "api-key").is_none());
    }
    let record = keyed.gateway.record("a").await;
    assert_eq!((record.caller.as_deref(), record.owner.as_deref()), (Some("k1"), Some("search")));
    assert_eq!(record.ledger_us.total(), record.total_us, "the ledger closes");
    let everything =
        format!("{}{}", keyed.gateway.get("/metrics").1, keyed.gateway.get("/api/settings").1);
    assert!(
        !everything.contains(&keys[0])
            && !everything.contains(super::SECRET)
            && !keyed.gateway.stderr().contains(&keys[0])
    );
}

/// The playground is no way around authentication.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_playground_needs_a_key_as_any_client() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let (keyed, keys) = Keyed::start(&engine, "", "", &[&["--owner", "a", "--id", "k1"]]).await;
    for (key, status, code) in [
        (String::new(), 401, "missing_api_key"),
        (", \"key\": \"llk-wrong\"".to_owned(), 401, "invalid_api_key"),
        (format!(", \"key\": \"{}\"", keys[0]), 200, ""),
    ] {
        let body = format!("{{\"request\": {}{key}}}", request(""));
        let fields = format!("content-length: {}\r\nx-llm-lens-operator: a\r\n", body.len());
        let answer = keyed.gateway.post("/api/playground", &format!("{fields}\r\n{body}"));
        assert!(answer.0 == status && answer.1.contains(code), "{answer:?}");
    }
    let seen = engine.seen();
    assert_eq!(seen.len(), 1);
    assert!(!seen[0].head.contains(&keys[0]) && !keyed.gateway.stderr().contains(&keys[0]));
    let is_recorded = || keyed.gateway.records().iter().any(|r| r.caller.as_deref() == Some("k1"));
    eventually("the record has the caller", is_recorded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_credentials_are_refused_before_the_body_is_read() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let (keyed, keys) = Keyed::start(&engine, "", "", &[&["--owner", "a"]]).await;
    let wrong = keys[0].replace("llk_", "llk-");
    for (fields, code) in [
        ("", "missing_api_key"),
        (&*bearer(&wrong), "invalid_api_key"),
        ("authorization: Basic eDp5\r\n", "invalid_api_key"),
    ] {
        let mut client = keyed.gateway.client().await;
        // The answer arrives although the body is never sent.
        client.send(format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\nx-request-id: b\r\ncontent-length: 1000\r\n{fields}\r\n")).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.error_code().as_str()), (401, code));
        assert_eq!(answer.field("www-authenticate"), Some("Bearer"));
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
    }
    // Requests other than inference need a key, too.
    let mut client = keyed.gateway.client().await;
    client.send("GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 401);
    let mut client = keyed.gateway.client().await;
    client.send(format!("GET /health HTTP/1.1\r\nhost: x\r\n{}\r\n", bearer(&keys[0]))).await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(engine.seen().len(), 1, "and no engine heard of the others");
    assert!(!engine.seen()[0].head.contains(&keys[0]));
    let record = keyed.gateway.record("b").await;
    assert_eq!(
        (record.outcome, record.ledger_us.micros(State::AwaitFirstByte)),
        (Outcome::Rejected, 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_restrict_routes_and_models() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let routes = "{name: open, match: {headers: {x-open: '*'}}, backend: e, auth: optional}, {name: free, match: {headers: {x-free: '*'}}, backend: e, auth: off}, {name: r, backend: e}";
    let flags: &[&[&str]] = &[
        &["--owner", "a", "--route", "open", "--model", "m*"],
        &["--owner", "b", "--route", "r", "--model", "other"],
    ];
    let (keyed, keys) = Keyed::start(&engine, routes, "", flags).await;
    for (fields, want) in [
        ("x-open: 1\r\n".to_owned(), 200),
        ("x-free: 1\r\nauthorization: Bearer whatever\r\n".to_owned(), 200),
        ("x-open: 1\r\nauthorization: Bearer whatever\r\n".to_owned(), 401),
        (String::new(), 401),
        (format!("x-open: 1\r\n{}", bearer(&keys[0])), 200),
        (bearer(&keys[0]), 403),
        (bearer(&keys[1]), 403),
    ] {
        let mut client = keyed.gateway.client().await;
        client.post(CHAT, &fields, &request("")).await;
        assert_eq!(client.answer().await.status, want, "{fields}");
    }
}

/// Servers with a model in the path do not read that of the body, so a key permits both or none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_restrict_the_model_of_the_path() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let pool = "pools: [{name: p, backends: [e], model: linden-7b}]";
    let flags: &[&str] = &["--owner", "a", "--model", "team-chat"];
    let (keyed, keys) = Keyed::start(&engine, "{name: r, pool: p}", pool, &[flags]).await;
    let body = request("").replace("\"m\"", "\"team-chat\"");
    for path in [
        "/openai/deployments/linden-70b/chat/completions?api-version=2026-01-01",
        "/openai/Deployments/linden-70b/chat/completions",
        "/v1/engines/linden-70b/completions",
        "/models/linden-70b/api/chat",
    ] {
        let mut client = keyed.gateway.client().await;
        client.post(path, &bearer(&keys[0]), &body).await;
        let answer = client.answer().await;
        let code = answer.error_code();
        assert_eq!((answer.status, &*code), (403, "model_not_allowed"), "{path}");
    }
    assert!(engine.seen().is_empty());
    // The permitted model is replaced by that of the pool, in the path and in the body.
    let mut client = keyed.gateway.client().await;
    let path = "/openai/deployments/team-chat/chat/completions";
    client.post(path, &bearer(&keys[0]), &body).await;
    assert_eq!(client.answer().await.status, 200);
    let seen = engine.seen().pop().expect("it was forwarded");
    assert!(seen.head.starts_with("POST /openai/deployments/linden-7b/chat/"), "{}", seen.head);
    assert!(String::from_utf8_lossy(&seen.body).contains("\"linden-7b\""));
}

/// OpenRouter may answer with any model of the list `models`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_restrict_every_model_of_the_body() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let flags: &[&str] = &["--owner", "a", "--model", "team-*"];
    let (keyed, keys) = Keyed::start(&engine, "{name: r, backend: e}", "", &[flags]).await;
    for (others, want) in [
        ("[\"team-a\",\"team-b\"]", 200),
        ("[\"team-a\",\"dear\"]", 403),
        ("[\"d\\u0065ar\"]", 403),
        ("[]", 200),
    ] {
        let body = request("").replace("\"m\"", &format!("\"team-chat\",\"models\":{others}"));
        let mut client = keyed.gateway.client().await;
        client.post(CHAT, &bearer(&keys[0]), &body).await;
        assert_eq!(client.answer().await.status, want, "{others}");
    }
    assert_eq!(engine.seen().len(), 2);
}

/// A key is for inference: requests that manage an engine are refused, though the backend has no
/// `api_key` that could be misused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_do_not_permit_the_management_of_engines() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let folder = kit::gateway::folder();
    let config = folder.join("gateway.yaml");
    let text = format!(
        "backends: [{{name: e, url: '{}'}}]\nroutes: [{{name: r, backend: e}}]\n\
         auth: {{keys: '{}', secret: {}}}\n",
        engine.url(),
        folder.join("keys.yaml").display(),
        super::SECRET,
    );
    std::fs::write(&config, &text).expect("the settings are written");
    let key = create(&config, &["--owner", "a"]);
    let gateway = Gateway::with_settings(&text).await;
    let send = async |start: &str| {
        let mut client = gateway.client().await;
        let fields = format!("host: x\r\ncontent-length: 0\r\n{}", bearer(&key));
        client.send(format!("{start} HTTP/1.1\r\n{fields}\r\n")).await;
        client.answer().await
    };
    for start in ["DELETE /v1/files/x", "POST /sleep", "GET /v1/nothing"] {
        let answer = send(start).await;
        assert_eq!((answer.status, &*answer.error_code()), (404, "unknown_endpoint"), "{start}");
    }
    assert_eq!(send("TRACE /").await.status, 405);
    assert!(engine.seen().is_empty());
    for start in ["GET /v1/models", "POST /tokenize"] {
        assert_eq!(send(start).await.status, 200, "{start}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_come_and_go_without_a_restart() {
    let keyed = keys_come_and_go("keys.yaml").await;
    // An invalid file changes nothing.
    let file = keyed.config.with_file_name("keys.yaml");
    let good = std::fs::read_to_string(&file).expect("it is there");
    assert!(!good.contains("llk_"), "no key is in the file");
    std::fs::write(&file, format!("{good}- {{id: x}}\n")).expect("it is written");
    keyed.gateway.wait_until(|g| g.metric("llm_lens_reload_failures_total", "") >= 1.0).await;
    keyed.gateway.wait_for_log("keys.yaml:").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_database_do_as_well() {
    use std::os::unix::fs::PermissionsExt;
    let keyed = keys_come_and_go("keys.db").await;
    let file = std::fs::metadata(keyed.config.with_file_name("keys.db")).expect("it is there");
    assert_eq!(file.permissions().mode() & 0o777, 0o600, "its owner's alone");
    let twice = key_command(&["create", "--owner", "c", "--id", "first"], &keyed.config);
    assert!(
        !twice.status.success() && String::from_utf8_lossy(&twice.stderr).contains("keys.db"),
        "{twice:?}"
    );
}

async fn keys_come_and_go(file: &str) -> Keyed {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let (keyed, keys) =
        Keyed::start_in(file, &engine, "", "", "", &[&["--owner", "a", "--id", "first"]]).await;
    let address = keyed.gateway.address();
    let status = move |key: String| {
        std::thread::spawn(move || {
            use std::io::{Read, Write};
            let mut socket = std::net::TcpStream::connect(address).expect("it listens");
            let body = request("");
            let head =
                format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n{}\r\n", body.len(), bearer(&key));
            socket.write_all((head + &body).as_bytes()).expect("it takes it");
            let mut answer = String::new();
            socket.read_to_string(&mut answer).expect("it answers");
            answer.get(9..12).unwrap_or_default().to_owned()
        })
        .join()
        .expect("it ends")
    };
    let second = create(&keyed.config, &["--owner", "b", "--expires-in", "1d"]);
    let brief = create(&keyed.config, &["--owner", "b", "--expires-in", "3s"]);
    eventually("the new key is taken", || status(second.clone()) == "200").await;
    let revoked = key_command(&["revoke", "first"], &keyed.config);
    assert!(revoked.status.success());
    eventually("the revoked key is not", || status(keys[0].clone()) == "401").await;
    assert_eq!(status(second), "200");
    eventually("the other has expired", || status(brief.clone()) == "401").await;
    let listed =
        String::from_utf8_lossy(&key_command(&["list"], &keyed.config).stdout).into_owned();
    assert!(
        listed.contains(" b ") && !listed.contains("first") && !listed.contains("llk_"),
        "{listed}"
    );
    keyed
}

/// Thousands of different bad keys, on a few connections, do not grow the memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_keys_do_not_grow_memory() {
    let _alone = crate::support::alone().await;
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let limits = "rate_limits: [{name: n, unit: requests, amount: 5, window: 1s, per: key}, {name: t, unit: total_tokens, amount: 5, per: owner}]";
    let (keyed, _) = Keyed::start(
        &engine,
        "{name: r, backend: e, auth: optional}",
        limits,
        &[&["--owner", "a"]],
    )
    .await;
    let strangers = |from: usize, n: usize| {
        let gateway = &keyed.gateway;
        async move {
            let mut client = gateway.client().await;
            for at in from..from + n {
                client.send(format!("GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer llk_{at:064}\r\n\r\n")).await;
                if client.maybe_answer().await.is_none() {
                    client = gateway.client().await;
                }
            }
        }
    };
    strangers(0, 1000).await;
    let before = keyed.gateway.resident_kib();
    strangers(1000, 4000).await;
    let after = keyed.gateway.resident_kib();
    assert!(after < before + 2048, "{before} KiB before, {after} KiB after");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_may_read_what_the_route_lets_them_and_hosts_are_checked() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let routes = "{name: r, backend: e, hosts: [llm.example.com, '*.inner.example'], cors: ['https://app.example.com']}";
    let (keyed, keys) = Keyed::start(&engine, routes, "", &[&["--owner", "a"]]).await;
    let preflight = |origin: &str| {
        format!(
            "OPTIONS {CHAT} HTTP/1.1\r\nhost: llm.example.com\r\norigin: {origin}\r\naccess-control-request-method: POST\r\naccess-control-request-headers: authorization\r\n\r\n"
        )
    };
    let mut client = keyed.gateway.client().await;
    client.send(preflight("https://app.example.com")).await;
    let allowed = client.answer().await;
    assert_eq!(
        (allowed.status, allowed.field("access-control-allow-origin")),
        (200, Some("https://app.example.com"))
    );
    assert_eq!(allowed.field("access-control-allow-headers"), Some("authorization"));
    let mut client = keyed.gateway.client().await;
    client.send(preflight("https://evil.example")).await;
    let other = client.answer().await;
    assert!(
        other.status == 401 && other.field("access-control-allow-origin").is_none(),
        "{}",
        other.head
    );
    let ask = |host: &str, origin: &str| {
        let body = request("");
        let head = format!(
            "POST {CHAT} HTTP/1.1\r\nhost: {host}\r\norigin: {origin}\r\n{}content-length: {}\r\n\r\n{body}",
            bearer(&keys[0]),
            body.len()
        );
        let gateway = &keyed.gateway;
        async move {
            let mut client = gateway.client().await;
            client.send(head).await;
            client.answer().await
        }
    };
    let good = ask("llm.example.com:8080", "https://app.example.com").await;
    assert_eq!(
        (good.status, good.field("access-control-allow-origin"), good.field("vary")),
        (200, Some("https://app.example.com"), Some("origin"))
    );
    let silent = ask("a.inner.example", "https://evil.example").await;
    assert!(silent.status == 200 && silent.field("access-control-allow-origin").is_none());
    for wrong in ["inner.example", "evil.example", "xllm.example.com"] {
        assert_eq!(
            ask(wrong, "https://app.example.com").await.error_code(),
            "host_not_served",
            "{wrong}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_route_rejects_before_the_engine() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let routes = "{name: strict, match: {headers: {x-strict: '*'}}, backend: e, auth: off, validation: strict}, {name: r, backend: e, auth: off}";
    let (keyed, _) =
        Keyed::start_with(&engine, ", context_length: 100", routes, "", &[&["--owner", "a"]]).await;
    for (body, status, code, param) in [
        (request(",\"temperature\":\"hot\""), 400, "invalid_value", "temperature"),
        (request(",\"max_tokens\":0"), 400, "invalid_value", "max_tokens"),
        (request(",\"max_tokens\":101"), 400, "context_length_exceeded", "max_tokens"),
        (request("").replace("\"m\"", "\"gpt-9\""), 404, "model_not_found", "model"),
        ("{\"model\":\"m\"}".into(), 400, "invalid_value", "messages"),
        ("{\"model\":".into(), 400, "invalid_json", ""),
    ] {
        let mut client = keyed.gateway.client().await;
        client.post(CHAT, "x-strict: 1\r\n", &body).await;
        let answer = client.answer().await;
        let error = answer.json()["error"].clone();
        assert_eq!(
            (answer.status, error["code"].as_str(), error["param"].as_str().unwrap_or("")),
            (status, Some(code), param),
            "{body}"
        );
        assert_eq!(error["type"], "invalid_request_error");
    }
    assert_eq!(engine.seen().len(), 0);
    let mut client = keyed.gateway.client().await;
    client.post(CHAT, "", &request(",\"temperature\":\"hot\"")).await;
    assert_eq!(client.answer().await.status, 200, "the other route is transparent");
    let mut client = keyed.gateway.client().await;
    client.post(CHAT, "x-strict: 1\r\n", &request(",\"temperature\":1,\"max_tokens\":50")).await;
    assert_eq!(client.answer().await.status, 200);
}

/// Requests that cannot be parsed do not bypass models, limits and queues.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uncountable_requests_are_refused() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let routes = "{name: r, backend: e, passthrough: ['/v1/rerank']}";
    let flags: &[&[&str]] = &[&["--owner", "a", "--model", "m"], &["--owner", "b"]];
    let (keyed, keys) = Keyed::start(&engine, routes, "", flags).await;
    let limited = "rate_limits: [{name: t, unit: total_tokens, amount: 1000, window: 30d}]";
    let (counted, counted_keys) =
        Keyed::start(&engine, routes, limited, &[&["--owner", "a"]]).await;
    // A limit that depends on the model cannot count a request whose model is unknown.
    let by_model = "rate_limits: [{name: m, unit: requests, amount: 1000, models: [m]}]";
    let (modelled, modelled_keys) =
        Keyed::start(&engine, routes, by_model, &[&["--owner", "a"]]).await;
    for (gateway, key, path, status) in [
        (&modelled, &modelled_keys[0], "/v1/images/generations", 403),
        (&modelled, &modelled_keys[0], "/v1/rerank", 200),
        (&modelled, &modelled_keys[0], "/tokenize", 200),
        (&keyed, &keys[0], "/infill", 403),
        (&keyed, &keys[0], "/v1/rerank", 200),
        (&keyed, &keys[1], "/infill", 200),
        (&counted, &counted_keys[0], "/infill", 403),
        (&counted, &counted_keys[0], "/v1/rerank", 200),
        (&counted, &counted_keys[0], "/tokenize", 200),
    ] {
        let mut client = gateway.gateway.client().await;
        client.post(path, &bearer(key), &request("")).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert!(status == 200 || answer.error_code() == "uncountable_endpoint");
        let why = match std::ptr::eq(gateway, &keyed) {
            true => "This API key permits certain models only",
            false => "The limits of this route cannot count requests to this API.",
        };
        assert!(status == 200 || answer.text().contains(why), "{path}: {}", answer.text());
    }
    // Counts that an engine may read differently are refused.
    for odd in [",\"max_tokens\":\"32000\"", ",\"n\":8.5", ",\"max_tokens\":1,\"Max_Tokens\":32000"]
    {
        let mut client = counted.gateway.client().await;
        client.post(CHAT, &bearer(&counted_keys[0]), &request(odd)).await;
        assert_eq!(client.answer().await.status, 400, "{odd}");
    }
    let mut client = counted.gateway.client().await;
    client
        .post(CHAT, &bearer(&counted_keys[0]), &request(",\"n_predict\":5000,\"max_tokens\":1"))
        .await;
    let answer = client.answer().await;
    // The larger bound counts, capped at the limit.
    assert_eq!(
        (answer.status, answer.field("x-ratelimit-remaining-tokens")),
        (200, Some("0")),
        "{}",
        answer.head
    );
}

/// A key file in any valid layout; `key list` shows what a key may do.
#[test]
fn keys_are_added_listed_and_revoked_in_files_of_other_programs() {
    let folder = kit::gateway::folder();
    let (file, config) = (folder.join("keys.yaml"), folder.join("gateway.yaml"));
    let text = format!(
        "backends: [{{name: e, url: 'http://127.0.0.1:1'}}]\nroutes: [{{name: r, backend: e}}]\n\
         auth: {{keys: '{}', secret: {}}}\nrate_limits: [{{name: fast, unit: requests, amount: 9}}]\n",
        file.display(),
        super::SECRET,
    );
    std::fs::write(&config, text).expect("the settings are written");
    let other = "{id: other, owner: o, subject: CN=x}";
    for layout in [
        "keys: []\n".to_owned(),
        "# nothing yet".to_owned(),
        format!("keys: [{other}]\n"),
        format!("keys:\n    - {other}"),
        "keys:\n  - id: other\n    owner: o\n    subject: CN=x\n".to_owned(),
    ] {
        std::fs::write(&file, &layout).expect("the keys are written");
        let flags =
            ["--owner", "a", "--id", "new", "--model", "m*", "--route", "r", "--limit", "fast=3"];
        create(&config, &flags);
        let list = || {
            let listed = key_command(&["list"], &config);
            assert!(listed.status.success(), "{layout}");
            String::from_utf8_lossy(&listed.stdout).into_owned()
        };
        let listed = list();
        let line = listed.lines().find(|line| line.starts_with("new ")).expect("the new key");
        for shown in [" a ", " r ", " m* ", " fast=3", " never ", "T"] {
            assert!(line.contains(shown), "{shown}: {listed}");
        }
        assert_eq!(listed.contains("other"), layout.contains("other"), "{layout}");
        // A mistake is reported without a line that the file does not have.
        let twice = key_command(&["create", "--owner", "a", "--id", "new"], &config);
        let why = String::from_utf8_lossy(&twice.stderr).into_owned();
        assert!(why.contains("keys.yaml: new key: id: the id \"new\" is used twice"), "{why}");
        if layout.contains("other") {
            assert!(key_command(&["revoke", "other"], &config).status.success(), "{layout}");
            assert!(!list().contains("other"), "{layout}");
        }
        assert!(list().contains("new"), "{layout}");
        assert!(!key_command(&["revoke", "absent"], &config).status.success());
    }
}

/// A missing or invalid file of keys leaves the keys as they were; a gauge shows since when.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_keys_or_settings_leave_the_old_ones_and_are_visible() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let (keyed, keys) = Keyed::start(&engine, "", "", &[&["--owner", "a"]]).await;
    let gateway = &keyed.gateway;
    let stale_since = "llm_lens_settings_stale_since_timestamp_seconds";
    let started = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs_f64();
    assert_eq!(gateway.metric(stale_since, ""), 0.0);
    let keys_file = keyed.config.with_file_name("keys.yaml");
    for file in [keys_file, gateway.settings_file()] {
        let away = file.with_extension("away");
        std::fs::rename(&file, &away).expect("it is there");
        gateway.wait_until(|g| g.metric(stale_since, "") > started - 60.0).await;
        let mut client = gateway.client().await;
        client.post(CHAT, &bearer(&keys[0]), &request("")).await;
        assert_eq!(client.answer().await.status, 200, "{}", file.display());
        std::fs::rename(&away, &file).expect("it is there");
        gateway.wait_until(|g| g.metric(stale_since, "") == 0.0).await;
    }
    let log = gateway.stderr();
    assert!(log.contains("reload failed") && log.contains("settings file is missing"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_see_only_the_models_that_they_permit() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let (keyed, keys) = Keyed::start(
        &engine,
        "{name: small, match: {models: [small]}, backend: e}, {name: r, backend: e}",
        "",
        &[
            &["--owner", "a"],
            &["--owner", "b", "--model", "small"],
            &["--owner", "c", "--route", "r"],
        ],
    )
    .await;
    for (key, want) in [(0, &["small", "m"][..]), (1, &["small"]), (2, &["m"])] {
        let mut client = keyed.gateway.client().await;
        let fields = bearer(&keys[key]);
        client.send(format!("GET /v1/models HTTP/1.1\r\nhost: x\r\n{fields}\r\n")).await;
        let list = client.answer().await.json();
        let ids = list["data"].as_array().expect("a list").iter().map(|model| &model["id"]);
        assert_eq!(ids.collect::<Vec<_>>(), want, "key {key}");
        // Names that a key does not permit are in no error, either.
        client.send(format!("GET /v1/models/x HTTP/1.1\r\nhost: x\r\n{fields}\r\n")).await;
        let error = client.answer().await.json();
        let message = error["error"]["message"].as_str().expect("a message").to_owned();
        assert!(message.ends_with(&format!("Known models: {}.", want.join(", "))), "{message}");
    }
    let mut client = keyed.gateway.client().await;
    client.send("GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 401);
    assert!(engine.seen().is_empty());
}

/// Keys outlive the limits that they have own amounts for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn amounts_for_a_removed_limit_are_warned_of_and_have_no_effect() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let limit = "rate_limits: [{name: fast, unit: requests, amount: 9}]";
    let flags: &[&str] = &["--owner", "a", "--id", "k1", "--limit", "fast=1"];
    let (keyed, keys) = Keyed::start(&engine, "", limit, &[flags]).await;
    let text = std::fs::read_to_string(&keyed.config).expect("it is there").replace(limit, "");
    std::fs::write(&keyed.config, &text).expect("the settings are written");
    let checked = Command::new(binary()).arg("check").arg(&keyed.config).output().expect("it runs");
    let warning = "the amounts of \"k1\" for the rate limit \"fast\" have no effect";
    assert!(checked.status.success(), "{checked:?}");
    assert!(String::from_utf8_lossy(&checked.stderr).contains(warning), "{checked:?}");
    // A reload, and a start.
    keyed.gateway.write_settings(&text);
    keyed.gateway.wait_until(|g| g.stderr().contains("settings reloaded")).await;
    for gateway in [&keyed.gateway, &Gateway::with_settings(&text).await] {
        let log = gateway.stderr();
        let is_logged =
            |line: &str| ["k1", "fast", "have no effect"].iter().all(|w| line.contains(w));
        assert!(log.lines().any(is_logged), "{log}");
        for _ in 0..3 {
            let mut client = gateway.client().await;
            client.post(CHAT, &bearer(&keys[0]), &request("")).await;
            assert_eq!(client.answer().await.status, 200);
        }
    }
}
