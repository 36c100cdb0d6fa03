//! Clients behind load balancers, what backends learn of them, lists of networks.

use super::*;
use crate::support::field;

const CLAIMS: &str = "x-forwarded-for: 1.1.1.1\r\nx-forwarded-proto: https\r\n\
                      x-forwarded-host: public.example\r\nx-real-ip: 1.1.1.1\r\n\
                      forwarded: for=1.1.1.1\r\n";

fn last_head(engine: &Engine) -> String {
    engine.seen().last().map(|seen| seen.head.clone()).expect("the engine got a request")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_about_the_client_are_believed_from_trusted_proxies_only() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let direct = ["127.0.0.1", "http", "gateway", "", "for=127.0.0.1;host=\"gateway\";proto=http"];
    let trusted = [
        "1.1.1.1, 127.0.0.1",
        "https",
        "public.example",
        "",
        "for=1.1.1.1, for=127.0.0.1;host=\"gateway\";proto=http",
    ];
    for (more, want) in [("", direct), ("trusted_proxies: [10.0.0.0/8, 127.0.0.1]", trusted)] {
        let gateway = Gateway::with_settings(&settings(&engine.url(), more)).await;
        for path in WAYS {
            let mut client = gateway.client().await;
            client.post(path, CLAIMS, CHAT).await;
            assert_eq!(client.answer().await.status, 200);
            let head = last_head(&engine);
            let names = [
                "x-forwarded-for",
                "x-forwarded-proto",
                "x-forwarded-host",
                "x-real-ip",
                "forwarded",
            ];
            let sent = names.map(|name| field(&head, name).unwrap_or_default());
            assert_eq!(sent, want, "{path} {more}: {head}");
            assert_eq!(field(&head, "via"), Some("1.1 llm-lens"), "{path}: {head}");
            assert_eq!(head.to_ascii_lowercase().matches("forwarded-for").count(), 1, "{head}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_clients_are_described_as_well() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    for path in WAYS {
        let claim = h2raw::literal(b"x-forwarded-for", b"1.1.1.1");
        let length = h2raw::literal(b"content-length", CHAT.len().to_string().as_bytes());
        let head = [h2raw::post(path), claim, length].concat();
        let frames =
            [frame(HEADERS, END_HEADERS, 1, &head), frame(DATA, END_STREAM, 1, CHAT.as_bytes())];
        let (good, _) = h2raw::one_stream(gateway.address(), &frames).await;
        assert!(good, "{path}");
        let head = last_head(&engine);
        assert_eq!(field(&head, "x-forwarded-for"), Some("127.0.0.1"), "{path}: {head}");
        assert_eq!(field(&head, "via"), Some("2 llm-lens"), "{path}: {head}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_can_be_kept_from_learning_the_client() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let text = settings(&engine.url(), "").replace("'}]", "', forwarded_headers: false}]");
    let gateway = Gateway::with_settings(&text).await;
    for path in WAYS {
        let mut client = gateway.client().await;
        client.post(path, CLAIMS, CHAT).await;
        assert_eq!(client.answer().await.status, 200);
        let head = last_head(&engine).to_ascii_lowercase();
        assert!(!head.contains("forwarded") && !head.contains("via:"), "{path}: {head}");
        assert!(!head.contains("x-real-ip"), "{path}: {head}");
    }
}

/// Limits by address apply to clients, not to the load balancer in front of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_by_address_see_the_client_behind_a_trusted_proxy() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let more = "trusted_proxies: [127.0.0.0/8]\nlimits: {requests_per_address: 1}";
    let gateway = Gateway::with_settings(&settings(&engine.url(), more)).await;
    let ask = async |claim: String| {
        let mut client = gateway.client().await;
        client.post(WAYS[0], &format!("{claim}\r\n"), CHAT).await;
        client.answer().await.status
    };
    // `Forwarded` alone states the client as well.
    type Claim = fn(&str, &str, &str) -> String;
    let lists: [(u8, Claim); 2] = [
        (0, |own, client, proxy| format!("x-forwarded-for: {own}, {client}{proxy}")),
        (100, |own, client, proxy| {
            let proxy = proxy.replace(", ", ", for=");
            format!("forwarded: for={own}, For=\"{client}:80\";proto=https{proxy}")
        }),
    ];
    for (base, claim) in lists {
        for number in 1..20 {
            // What the client itself claims stands before the address that the proxy has seen.
            let client = format!("192.0.2.{}", base + number);
            assert_eq!(ask(claim("8.8.8.8", &client, ", 127.0.0.9")).await, 200, "{client}");
        }
        let (mut statuses, client) = (Vec::new(), format!("192.0.2.{}", base + 99));
        for number in 1..20 {
            statuses.push(ask(claim(&format!("8.8.8.{number}"), &client, "")).await);
        }
        assert!(statuses.contains(&429), "{statuses:?}");
    }
}

fn proxied(url: &str, more: &str) -> String {
    settings(url, &format!("listeners: [{{address: '127.0.0.1:0', proxy_protocol: true}}]\n{more}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_header_states_the_client() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let more = "trusted_proxies: [127.0.0.1]\nlimits: {connections_per_address: 1}";
    let gateway = Gateway::with_settings(&proxied(&engine.url(), more)).await;
    let first = "PROXY TCP4 192.0.2.7 10.0.0.1 1234 80\r\n".as_bytes();
    let second = [
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".as_slice(),
        &[192, 0, 2, 8, 10, 0, 0, 1, 1, 1, 0, 80],
    ]
    .concat();
    let mut open = Vec::new();
    for (header, want) in [(first, "192.0.2.7"), (&second[..], "192.0.2.8")] {
        let mut client = gateway.client().await;
        client.send(header).await;
        for path in WAYS {
            client.post(path, "", CHAT).await;
            assert_eq!(client.answer().await.status, 200);
            assert_eq!(field(&last_head(&engine), "x-forwarded-for"), Some(want));
        }
        open.push(client);
    }
    // HTTP/2 without TLS begins after the header as well.
    let mut client = gateway.client().await;
    client.send(b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n").await;
    let request = [
        h2raw::hello(&[]),
        frame(HEADERS, END_HEADERS, 1, &h2raw::post(WAYS[0])),
        frame(DATA, END_STREAM, 1, CHAT.as_bytes()),
    ];
    client.send(request.concat()).await;
    crate::support::eventually("the engine has it", || engine.seen().len() == 5).await;
    assert_eq!(field(&last_head(&engine), "x-forwarded-for"), Some("2001:db8::1"));
    // Another connection of the same client is one too many.
    let mut again = gateway.client().await;
    again.send(first).await;
    assert!(again.is_closed_within(kit::client::PATIENCE).await);
    assert_eq!(gateway.metric("llm_lens_client_limited_connections_total", ""), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_without_a_proxy_header_of_a_trusted_proxy_are_closed() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let header = "PROXY TCP4 192.0.2.7 10.0.0.1 1234 80\r\n";
    let request = post(WAYS[0], "", CHAT);
    for (trusted, bytes) in [
        ("127.0.0.1", request.clone()),
        ("127.0.0.1", header.replace("TCP4", "TCP5") + &request),
        ("10.0.0.0/8", header.to_owned() + &request),
        // Slower than `request_head`.
        ("127.0.0.1", header[..20].to_owned()),
    ] {
        let more = format!("trusted_proxies: ['{trusted}']\ntimeouts: {{request_head: 300ms}}");
        let gateway = Gateway::with_settings(&proxied(&engine.url(), &more)).await;
        let mut client = gateway.client().await;
        client.send(&bytes).await;
        assert!(client.is_closed_within(kit::client::PATIENCE).await, "{bytes}");
        let denied = "llm_lens_client_denied_connections_total";
        gateway.wait_until(|g| g.metric(denied, "") == 1.0).await;
    }
    assert!(engine.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_admit_the_networks_of_their_lists() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    for (lists, admitted) in [
        ("allow: [127.0.0.0/8]", true),
        ("allow: [10.0.0.0/8]", false),
        ("deny: [127.0.0.1]", false),
        ("deny: [10.0.0.0/8]", true),
        ("allow: [127.0.0.0/8], deny: [127.0.0.1/32]", false),
    ] {
        let more = format!("listeners: [{{address: '127.0.0.1:0', {lists}}}]");
        let gateway = Gateway::with_settings(&settings(&engine.url(), &more)).await;
        let answered = try_chat(gateway.address(), CHAT).await;
        assert_eq!(answered == Ok(200), admitted, "{lists}: {answered:?}");
        let denied = gateway.metric("llm_lens_client_denied_connections_total", "");
        assert_eq!(denied == 0.0, admitted, "{lists}: {denied}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_connections_end_after_an_answer() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let more = "limits: {connection_age: 500ms}";
    let gateway = Gateway::with_settings(&settings(&engine.url(), more)).await;
    for path in WAYS {
        let mut client = gateway.client().await;
        let begun = Instant::now();
        loop {
            client.post(path, "", CHAT).await;
            let answer = client.answer().await;
            assert_eq!(answer.status, 200);
            if answer.field("connection") == Some("close") {
                break;
            }
            assert!(begun.elapsed() < kit::client::PATIENCE, "{path}: never closed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(begun.elapsed() > Duration::from_millis(400), "{path}: closed early");
        assert!(client.is_closed_within(kit::client::PATIENCE).await, "{path}");
    }
    let mut socket = TcpStream::connect(gateway.address()).await.expect("the gateway accepts");
    socket.write_all(&h2raw::hello(&[])).await.expect("the gateway reads");
    let (frames, _) =
        h2raw::listen(&mut socket, kit::client::PATIENCE, |frame| frame.kind == GOAWAY).await;
    assert!(frames.iter().any(|frame| frame.kind == GOAWAY), "no GOAWAY");
}

/// Clients may repeat their ids, and put keys where they do not belong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_unique_and_have_no_keys() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    for path in WAYS {
        let mut client = gateway.client().await;
        client.post(path, "x-request-id: same\r\n", CHAT).await;
        assert_eq!(client.answer().await.field("x-request-id"), Some("same"));
    }
    gateway.wait_until(|g| g.records().len() == 2).await;
    let ids: Vec<_> = gateway.records().into_iter().map(|record| record.unique_id).collect();
    assert!(ids[0].is_some() && ids[1].is_some() && ids[0] != ids[1], "{ids:?}");
    let key = format!("llk_{}", "0123456789abcdef".repeat(4));
    let mut client = gateway.client().await;
    let body = CHAT.replace("\"m\"", &format!("\"{key}\""));
    client.post(WAYS[0], &format!("x-request-id: {key}\r\n"), &body).await;
    assert_eq!(client.answer().await.status, 200);
    client.post(&format!("/tokenize/{key}"), "", CHAT).await;
    assert_eq!(client.answer().await.status, 200);
    gateway.wait_until(|g| g.records().len() == 4).await;
    let (_, records) = gateway.get("/api/requests");
    assert!(!records.contains(&key), "{records}");
    assert_eq!(records.matches("llk_***").count(), 2, "{records}");
}
