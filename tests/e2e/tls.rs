//! TLS on both legs. Certificates are made when the tests run, by the openssl command.

use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use kit::client::{CHAT_STREAM, PATIENCE, post};
use kit::{Engine, Gateway, sse};
use lens::record::Outcome;
use rustls::pki_types::ServerName;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::support::{ask, in_time, settings, short_chat};

const PATH: &str = "/v1/chat/completions";

/// A CA, and a certificate for 127.0.0.1 and localhost signed by it; deleted at the end of the
/// test.
pub struct Certificates(PathBuf);

impl Certificates {
    pub fn make() -> Certificates {
        let folder = kit::gateway::folder();
        let openssl = |arguments: &str| {
            let done = Command::new("openssl")
                .args(arguments.split(' '))
                .current_dir(&folder)
                .output()
                .expect("the openssl command is installed");
            assert!(
                done.status.success(),
                "openssl {arguments}: {}",
                String::from_utf8_lossy(&done.stderr)
            );
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
        openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=authority"));
        openssl(&format!(
            "req {key} -keyout key.pem -out request.pem -subj /O=Acme,Inc/CN=gateway"
        ));
        std::fs::write(
            folder.join("names"),
            "subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n",
        )
        .expect("the folder is writable");
        openssl(
            "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -set_serial 7 -days 2 -extfile names -out cert.pem",
        );
        Certificates(folder)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn shown(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn chain(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path)
        .expect("a PEM file")
        .collect::<Result<_, _>>()
        .expect("certificates")
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A TLS connection to a gateway that offers these protocols.
async fn connect(
    gateway: &Gateway,
    certificates: &Certificates,
    alpn: &[&str],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    chain(&certificates.file("ca.pem"))
        .into_iter()
        .for_each(|c| roots.add(c).expect("an authority"));
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .expect("versions");
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    let socket = TcpStream::connect(gateway.address()).await.expect("the gateway accepts");
    let name = ServerName::try_from("localhost").expect("a name");
    in_time(TlsConnector::from(Arc::new(config)).connect(name, socket)).await.expect("a handshake")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_may_come_over_tls() {
    let certificates = Certificates::make();
    let engine = Engine::start(|_| sse::stream(3, 5)).await;
    let listener = format!(
        "listeners: [{{address: '127.0.0.1:0', tls: {{cert: '{}', key: '{}', min_version: 1.2}}}}]",
        certificates.shown("cert.pem"),
        certificates.shown("key.pem")
    );
    let gateway = Gateway::with_settings(&settings(&engine.url(), "", "", &listener)).await;
    let want: String = sse::role()
        + &(0..3).map(|i| sse::content(&format!("t{i} "))).collect::<String>()
        + &sse::finish()
        + &sse::done();

    // HTTP/1.1, with ALPN and without, in both versions of TLS.
    for (alpn, version) in [
        (&["http/1.1"][..], &rustls::version::TLS13),
        (&[], &rustls::version::TLS13),
        (&["http/1.1"], &rustls::version::TLS12),
    ] {
        let mut client = connect(&gateway, &certificates, alpn, &[version]).await;
        client.write_all(post(PATH, "", CHAT_STREAM).as_bytes()).await.unwrap();
        client
            .write_all(post(PATH, "connection: close\r\n", CHAT_STREAM).as_bytes())
            .await
            .unwrap();
        let mut all = Vec::new();
        // An end without close_notify would be an error here.
        in_time(client.read_to_end(&mut all)).await.unwrap();
        let all = String::from_utf8(all).unwrap();
        assert_eq!(
            (
                all.matches("HTTP/1.1 200 OK\r\n").count(),
                all.matches("[DONE]").count(),
                all.matches("\r\n0\r\n\r\n").count() + all.matches("000000\r\n\r\n").count()
            ),
            (2, 2, 2),
            "{all}"
        );
    }

    // HTTP/2 by ALPN.
    let tls = connect(&gateway, &certificates, &["h2", "http/1.1"], rustls::ALL_VERSIONS).await;
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (send, connection) = in_time(h2::client::handshake(tls)).await.unwrap();
    // Ends with the test's runtime.
    tokio::spawn(connection);
    let request = http::Request::post(format!("https://localhost{PATH}"))
        .header("x-request-id", "h2")
        .body(())
        .unwrap();
    let mut send = in_time(send.ready()).await.unwrap();
    let (answer, mut stream) = send.send_request(request, false).unwrap();
    stream.send_data(Bytes::from_static(CHAT_STREAM.as_bytes()), true).unwrap();
    let mut answer = in_time(answer).await.unwrap().into_body();
    let mut all = Vec::new();
    while let Some(piece) = in_time(poll_fn(|cx| answer.poll_data(cx))).await {
        let piece = piece.unwrap();
        answer.flow_control().release_capacity(piece.len()).unwrap();
        all.extend_from_slice(&piece);
    }
    assert_eq!(String::from_utf8(all).unwrap(), want);
    assert_eq!((gateway.record("h2").await.outcome, gateway.records().len()), (Outcome::Ok, 7));

    // The certificate is valid for two days.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let listener = format!("listener=\"{}\"", gateway.address());
    let expiry = gateway.metric("llm_lens_certificate_expiry_timestamp_seconds", &listener);
    let left = expiry - now.as_secs_f64();
    assert!((86_400.0..2.0 * 86_400.0 + 60.0).contains(&left), "{left} s");

    // A client of TLS 1.0 or 1.1 learns why it is refused.
    for minor in [1, 2] {
        let body = [&[3, minor][..], &[7; 32], &[0, 0, 2, 0, 0x2f, 1, 0]].concat();
        let hello = [&[22, 3, 1, 0, 45, 1, 0, 0, 41][..], &body].concat();
        let mut old = TcpStream::connect(gateway.address()).await.unwrap();
        old.write_all(&hello).await.unwrap();
        let mut alert = Vec::new();
        in_time(old.read_to_end(&mut alert)).await.unwrap();
        assert_eq!(alert, [21, 3, 1, 0, 2, 2, 70], "protocol_version");
    }

    // A client that does not speak TLS, or stops in mid-handshake, blocks no other.
    let mut plain = gateway.client().await;
    plain.send(post(PATH, "", CHAT_STREAM)).await;
    assert!(plain.is_closed_within(PATIENCE).await);
    let _silent = gateway.client().await;
    connect(&gateway, &certificates, &[], rustls::ALL_VERSIONS).await;
}

/// An engine behind TLS that answers each request with a short stream; returns its URL.
async fn tls_engine(certificates: &Certificates) -> String {
    let key = PrivateKeyDer::from_pem_file(certificates.file("key.pem")).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions");
    let config = config
        .with_no_client_auth()
        .with_single_cert(chain(&certificates.file("cert.pem")), key)
        .expect("a pair");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("https://{}", listener.local_addr().expect("bound"));
    // Ends with the test's runtime.
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut socket) = acceptor.accept(socket).await else { return };
                let mut request = Vec::new();
                while matches!(socket.read_buf(&mut request).await, Ok(n) if n > 0) {
                    if String::from_utf8_lossy(&request).ends_with(CHAT_STREAM) {
                        request.clear();
                        let body = short_chat();
                        let answer =
                            format!("{}{:x}\r\n{body}\r\n0\r\n\r\n", sse::STREAM_HEAD, body.len());
                        if socket.write_all(answer.as_bytes()).await.is_err()
                            || socket.flush().await.is_err()
                        {
                            return;
                        }
                    }
                }
            });
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engines_over_tls_are_verified() {
    let (certificates, others) = (Certificates::make(), Certificates::make());
    let url = tls_engine(&certificates).await;
    let tls =
        |ca: &Certificates, name: &str| format!(", tls: {{ca: '{}'{name}}}", ca.shown("ca.pem"));
    for (backend, fine) in [
        (tls(&certificates, ""), true),
        (tls(&certificates, ", server_name: localhost"), true),
        (tls(&certificates, ", server_name: example.com"), false),
        (tls(&others, ""), false),
        (String::new(), false),
    ] {
        let gateway = Gateway::with_settings(&settings(&url, &backend, "", "workers: 1")).await;
        for id in ["first", "again"] {
            let answer = ask(&gateway, PATH, id, CHAT_STREAM).await;
            let record = gateway.record(id).await;
            if fine {
                assert_eq!(
                    (answer.status, answer.text(), record.outcome),
                    (200, short_chat(), Outcome::Ok),
                    "{backend}"
                );
            } else {
                assert_eq!(
                    (answer.status, answer.error_code().as_str()),
                    (502, "upstream_connect_failed"),
                    "{backend}"
                );
                assert_eq!(
                    (record.outcome, record.sent_us),
                    (Outcome::UpstreamFailed, None),
                    "{backend}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_through_is_verified_the_same_way() {
    let (certificates, others) = (Certificates::make(), Certificates::make());
    let url = tls_engine(&certificates).await;
    for (ca, status) in [(&others, 502), (&certificates, 200)] {
        let gateway = Gateway::with_settings(&settings(
            &url,
            &format!(", tls: {{ca: '{}'}}", ca.shown("ca.pem")),
            "",
            "",
        ))
        .await;
        assert_eq!(ask(&gateway, "/tokenize", "passing", CHAT_STREAM).await.status, status);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mismatched_certificate_and_key_fail_at_startup() {
    let (one, other) = (Certificates::make(), Certificates::make());
    for (cert, key) in [
        (one.shown("cert.pem"), other.shown("key.pem")),
        (one.shown("key.pem"), one.shown("key.pem")),
        (one.shown("missing.pem"), one.shown("key.pem")),
    ] {
        let text = settings(
            "http://127.0.0.1:1",
            "",
            "",
            &format!(
                "admin: {{address: '127.0.0.1:0'}}\nlisteners: [{{address: '127.0.0.1:0', tls: {{cert: '{cert}', key: '{key}'}}}}]"
            ),
        );
        let file = one.file("gateway.yaml");
        std::fs::write(&file, text).unwrap();
        let ended = tokio::task::spawn_blocking(move || {
            Command::new(kit::gateway::binary()).args(["gateway", "--config"]).arg(file).output()
        });
        let ended = in_time(ended).await.unwrap().expect("the binary runs");
        let told = String::from_utf8_lossy(&ended.stderr);
        assert!(
            !ended.status.success() && told.contains(".pem") && !told.contains("panicked"),
            "{told}"
        );
    }
}

/// Configuration of a client, with a client certificate if `own` is given.
fn client(
    certificates: &Certificates,
    versions: &[&'static rustls::SupportedProtocolVersion],
    own: Option<&str>,
) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    chain(&certificates.file("ca.pem"))
        .into_iter()
        .for_each(|c| roots.add(c).expect("an authority"));
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .expect("versions");
    let config = config.with_root_certificates(roots);
    let config = match own {
        None => config.with_no_client_auth(),
        Some(name) => {
            let key = PrivateKeyDer::from_pem_file(certificates.file("key.pem")).expect("a key");
            config.with_client_auth_cert(chain(&certificates.file(name)), key).expect("they fit")
        }
    };
    TlsConnector::from(Arc::new(config))
}

/// Sends a request over TLS; returns the status and the serial number of the server's certificate.
/// `None`: the handshake failed.
async fn status(gateway: &Gateway, connector: &TlsConnector) -> Option<(String, Vec<u8>)> {
    let socket = TcpStream::connect(gateway.address()).await.ok()?;
    let name = ServerName::try_from("localhost").expect("a name");
    let mut tls = in_time(connector.connect(name, socket)).await.ok()?;
    let shown = tls.get_ref().1.peer_certificates()?.first()?.to_vec();
    tls.write_all(post(PATH, "connection: close\r\n", CHAT_STREAM).as_bytes()).await.ok()?;
    let mut all = Vec::new();
    in_time(tls.read_to_end(&mut all)).await.ok()?;
    Some((String::from_utf8_lossy(all.get(9..12)?).into_owned(), shown))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_change_without_a_restart_and_old_versions_stay_out() {
    let certificates = Certificates::make();
    let engine = Engine::start(|_| sse::stream(1, 0)).await;
    let (cert, key) = (certificates.shown("cert.pem"), certificates.shown("key.pem"));
    let listener =
        format!("listeners: [{{address: '127.0.0.1:0', tls: {{cert: '{cert}', key: '{key}'}}}}]");
    let gateway = Gateway::with_settings(&settings(&engine.url(), "", "", &listener)).await;
    let modern = client(&certificates, &[&rustls::version::TLS13], None);
    let (said, first) = status(&gateway, &modern).await.expect("1.3 is spoken");
    assert_eq!(said, "200");
    assert!(
        status(&gateway, &client(&certificates, &[&rustls::version::TLS12], None)).await.is_none(),
        "1.2 is not, by default"
    );
    // A certificate that does not match its key changes nothing; one that matches is used soon.
    let old = std::fs::read(certificates.file("cert.pem")).expect("it is there");
    std::fs::copy(certificates.file("ca.pem"), certificates.file("cert.pem"))
        .expect("it is writable");
    let stale = "llm_lens_settings_stale_since_timestamp_seconds";
    gateway.wait_until(|g| g.stderr().contains("new certificate is invalid")).await;
    gateway.wait_until(|g| g.metric(stale, "") > 0.0).await;
    assert_eq!(status(&gateway, &modern).await.expect("the old one holds").1, first);
    std::fs::remove_file(certificates.file("cert.pem")).expect("it is there");
    gateway.wait_until(|g| g.stderr().matches("new certificate is invalid").count() == 2).await;
    assert!(gateway.metric(stale, "") > 0.0);
    std::fs::write(certificates.file("cert.pem"), old).expect("it is writable");
    let done = Command::new("openssl")
        .args("x509 -req -in request.pem -CA ca.pem -CAkey ca.key -set_serial 8 -days 2 -extfile names -out cert.pem".split(' '))
        .current_dir(&certificates.0)
        .output()
        .expect("openssl runs");
    assert!(done.status.success());
    let began = std::time::Instant::now();
    // A connector of its own each time: a resumed session shows the certificate that it began with.
    while status(&gateway, &client(&certificates, &[&rustls::version::TLS13], None))
        .await
        .expect("it is spoken")
        .1
        == first
    {
        assert!(began.elapsed() < PATIENCE, "the new certificate is not in force");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_certificate_authenticates() {
    let certificates = Certificates::make();
    let engine = Engine::start(|_| sse::stream(1, 0)).await;
    // The gateway's certificate is signed by the CA, too.
    let printed = Command::new("openssl")
        .args(["x509", "-in", &certificates.shown("cert.pem"), "-noout", "-fingerprint", "-sha256"])
        .output();
    let printed = String::from_utf8(printed.expect("openssl runs").stdout).expect("text");
    let fingerprint = printed.trim().rsplit('=').next().expect("a fingerprint").to_owned();
    let keys = certificates.file("keys.yaml");
    let known_as = |how: &str| {
        std::fs::write(&keys, format!("keys:\n- {{id: robot, owner: factory, {how}}}\n"))
            .expect("it is writable");
    };
    known_as(&format!("certificate: '{fingerprint}'"));
    let more = |how: &str| {
        format!(
            "listeners: [{{address: '127.0.0.1:0', tls: {{cert: '{}', key: '{}', client_ca: '{}', client_certificates: {how}}}}}]\n\
             auth: {{keys: '{}', secret: a-secret-for-tests}}",
            certificates.shown("cert.pem"),
            certificates.shown("key.pem"),
            certificates.shown("ca.pem"),
            keys.display()
        )
    };
    let (anonymous, known) = (
        client(&certificates, &[&rustls::version::TLS13], None),
        client(&certificates, &[&rustls::version::TLS13], Some("cert.pem")),
    );
    let gateway = Gateway::with_settings(&settings(&engine.url(), "", "", &more("optional"))).await;
    assert_eq!(status(&gateway, &anonymous).await.expect("a connection").0, "401");
    assert_eq!(status(&gateway, &known).await.expect("a connection").0, "200");
    let records = gateway.records();
    assert!(records.iter().any(|record| record.owner.as_deref() == Some("factory")), "{records:?}");
    let gateway = Gateway::with_settings(&settings(&engine.url(), "", "", &more("required"))).await;
    assert!(
        status(&gateway, &anonymous).await.is_none(),
        "without a certificate there is no connection"
    );
    assert_eq!(status(&gateway, &known).await.expect("a connection").0, "200");
    for (name, want) in [
        ("CN=gateway,O=Acme\\,Inc", "200"),
        ("DNS:localhost", "200"),
        ("CN=gateway", "401"),
        ("localhost", "401"),
    ] {
        known_as(&format!("subject: '{name}'"));
        let gateway =
            Gateway::with_settings(&settings(&engine.url(), "", "", &more("optional"))).await;
        assert_eq!(status(&gateway, &known).await.expect("a connection").0, want, "{name}");
    }
}

/// Settings of a TLS listener on a free port.
fn tls_listener(certificates: &Certificates) -> String {
    format!(
        "listeners: [{{address: '127.0.0.1:0', tls: {{cert: '{}', key: '{}'}}}}]",
        certificates.shown("cert.pem"),
        certificates.shown("key.pem")
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_in_the_handshake_are_counted_and_timed() {
    let certificates = Certificates::make();
    let engine = Engine::start(|_| sse::stream(1, 0)).await;
    let more = tls_listener(&certificates)
        + "\nlimits: {connections_per_address: 5}\ntimeouts: {request_head: 2s}";
    let gateway = Gateway::with_settings(&settings(&engine.url(), "", "", &more)).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(gateway.client().await);
    }
    gateway.wait_until(|g| g.metric("llm_lens_client_limited_connections_total", "") == 15.0).await;
    assert_eq!(gateway.metric("llm_lens_client_connections", ""), 5.0);
    for client in &mut silent {
        assert!(client.is_closed_within(PATIENCE).await, "open after request_head");
    }
    gateway.wait_until(|g| g.metric("llm_lens_tls_handshake_failures_total", "") == 5.0).await;
    gateway.wait_until(|g| g.metric("llm_lens_client_connections", "") == 0.0).await;
    let modern = client(&certificates, &[&rustls::version::TLS13], None);
    assert_eq!(status(&gateway, &modern).await.expect("a place is free").0, "200");
}

/// The PROXY header stands before the handshake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_header_may_precede_the_handshake() {
    let certificates = Certificates::make();
    let engine = Engine::start(|_| sse::stream(1, 0)).await;
    let more = tls_listener(&certificates).replace("tls:", "proxy_protocol: true, tls:")
        + "\ntrusted_proxies: [127.0.0.1]";
    let gateway = Gateway::with_settings(&settings(&engine.url(), "", "", &more)).await;
    let modern = client(&certificates, &[&rustls::version::TLS13], None);
    let mut socket = TcpStream::connect(gateway.address()).await.expect("the gateway accepts");
    socket.write_all(b"PROXY TCP4 192.0.2.7 10.0.0.1 1234 443\r\n").await.unwrap();
    let name = ServerName::try_from("localhost").expect("a name");
    let mut tls = in_time(modern.connect(name, socket)).await.expect("a handshake");
    tls.write_all(post(PATH, "connection: close\r\n", CHAT_STREAM).as_bytes()).await.unwrap();
    let mut all = Vec::new();
    in_time(tls.read_to_end(&mut all)).await.unwrap();
    assert!(all.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&all));
    let head = engine.seen().pop().expect("a request").head;
    assert_eq!(crate::support::field(&head, "x-forwarded-for"), Some("192.0.2.7"));
    assert_eq!(crate::support::field(&head, "x-forwarded-proto"), Some("https"));
}

/// A port scanner does not fill the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_handshakes_are_counted_and_not_logged() {
    let certificates = Certificates::make();
    let engine = Engine::start(|_| sse::stream(1, 0)).await;
    let listener = tls_listener(&certificates);
    let gateway = Gateway::with_settings(&settings(&engine.url(), "", "", &listener)).await;
    for _ in 0..50 {
        let mut plain = gateway.client().await;
        plain.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(plain.is_closed_within(PATIENCE).await, "no TLS");
    }
    gateway.wait_until(|g| g.metric("llm_lens_tls_handshake_failures_total", "") == 50.0).await;
    let log = gateway.stderr();
    assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_versions_are_refused_with_an_alert() {
    let certificates = Certificates::make();
    let engine = Engine::start(|_| sse::stream(1, 0)).await;
    let listener = tls_listener(&certificates);
    let gateway = Gateway::with_settings(&settings(&engine.url(), "", "", &listener)).await;
    let old = client(&certificates, &[&rustls::version::TLS12], None);
    let socket = TcpStream::connect(gateway.address()).await.expect("the gateway accepts");
    let name = ServerName::try_from("localhost").expect("a name");
    let error = in_time(old.connect(name, socket)).await.expect_err("1.2 is refused");
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
}

/// A client that agrees on HTTP/2 and sends nothing is idle, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_connections_over_tls_without_a_preface_are_ended() {
    let certificates = Certificates::make();
    let engine = Engine::start(|_| sse::stream(1, 0)).await;
    let more = tls_listener(&certificates) + "\ntimeouts: {idle: 300ms}";
    let gateway = Gateway::with_settings(&settings(&engine.url(), "", "", &more)).await;
    let mut silent = connect(&gateway, &certificates, &["h2"], &[&rustls::version::TLS13]).await;
    let mut received = Vec::new();
    // The end may come without a TLS `close_notify`.
    let _ = in_time(silent.read_to_end(&mut received)).await;
    gateway.wait_until(|g| g.metric("llm_lens_client_connections", "") == 0.0).await;
}
