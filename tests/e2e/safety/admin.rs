use super::*;

/// Clients that pipeline requests and read nothing, and clients that are silent: more than the
/// listener serves. Probes and scrapes are answered, and so is a page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_are_answered_whatever_other_admin_clients_do() {
    let _alone = crate::support::alone().await;
    let engine = Engine::start(|_| sse::stream(3, 0)).await;
    let gateway = Gateway::in_front_of(&engine.url()).await;
    for _ in 0..300 {
        crate::support::ask(&gateway, "/v1/chat/completions", "x", CHAT_STREAM).await;
    }
    let pipelined = "GET /api/requests?limit=1000 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".repeat(40);
    let mut held = Vec::new();
    for number in 0..160 {
        let mut socket = TcpStream::connect(gateway.admin).await.expect("it accepts");
        if number % 2 == 0 {
            // The gateway may close it at any time.
            let _ = socket.write_all(pipelined.as_bytes()).await;
        }
        held.push(socket);
    }
    for path in ["/healthz", "/readyz", "/metrics", "/healthz", "/api/backends"] {
        let began = Instant::now();
        assert_eq!(gateway.get(path).0, 200, "{path}");
        // Silent connections would be closed after ten seconds only, and unread ones later.
        assert!(began.elapsed() < Duration::from_secs(5), "{path}: {:?}", began.elapsed());
    }
    drop(held);
}
