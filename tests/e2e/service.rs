//! The gateway as a service: reports to the service manager, probes, a drain by the operator,
//! variables in place of arguments.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use kit::client::PATIENCE;
use kit::{Engine, Gateway, sse};
use nix::sys::signal::Signal;

use crate::raw::{Folder, ends_well, free_address, running_stream, settings, settings_at};

/// A service manager: the next report of the gateway, other than those of the watchdog.
struct Manager(UnixDatagram);

impl Manager {
    fn listen(folder: &Folder) -> Manager {
        let socket = UnixDatagram::bind(folder.0.join("notify")).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Manager(socket)
    }

    fn any_report(&self) -> String {
        let mut buffer = [0; 1024];
        let len = self.0.recv(&mut buffer).expect("a report");
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    }

    fn report(&self) -> String {
        loop {
            let report = self.any_report();
            if report != "WATCHDOG=1\n" {
                return report;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_manager_gets_each_state_of_the_gateway() {
    let folder = Folder::new();
    let manager = Manager::listen(&folder);
    let engine = Engine::start(|_| sse::stream(10, 100)).await;
    let more = "shutdown: {grace: 40s}";
    let mut gateway = Gateway::with_command(&settings(&engine.url(), more), |command| {
        command
            .env("NOTIFY_SOCKET", folder.0.join("notify"))
            .env("WATCHDOG_USEC", "600000")
            .env_remove("WATCHDOG_PID");
    })
    .await;
    assert_eq!(manager.report(), "READY=1\nSTATUS=serving\n");
    assert_eq!(manager.any_report(), "WATCHDOG=1\n", "within the timeout of a test");

    gateway.signal(Signal::SIGHUP);
    let report = manager.report();
    assert!(report.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{report}");
    assert_eq!(manager.report(), "READY=1\nSTATUS=serving\n");
    std::fs::write(gateway.settings_file(), "routes: 1\n").expect("the folder is writable");
    gateway.signal(Signal::SIGHUP);
    assert!(manager.report().starts_with("RELOADING=1\n"));
    let report = manager.report();
    assert!(report.starts_with("READY=1\n") && report.contains("reload failed"), "{report}");

    // The watchdog is fed while streams still run.
    let stream = tokio::spawn(ends_well(running_stream(gateway.address()).await));
    gateway.signal(Signal::SIGTERM);
    let report = manager.report();
    assert!(report.starts_with("STOPPING=1\nEXTEND_TIMEOUT_USEC=30000000\n"), "{report}");
    let report = manager.report();
    assert!(report.contains("EXTEND_TIMEOUT_USEC=70000000\n"), "grace and 30 s: {report}");
    assert_eq!(manager.any_report(), "WATCHDOG=1\n");
    assert!(stream.await.expect("no panic"), "the stream ends well");
    let status = gateway.ended(PATIENCE).await.expect("it ends with its last stream");
    assert_eq!(status.code(), Some(0), "{}", gateway.stderr());
}

fn probe(arguments: &[&str]) -> Output {
    Command::new(kit::gateway::binary())
        .arg("probe")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_has_the_exit_code_of_the_readiness() {
    let engine = Engine::start(|_| sse::stream(1, 0)).await;
    let gateway = Gateway::with_settings(&settings(&engine.url(), "")).await;
    let admin = gateway.admin().to_string();
    let ready = probe(&[&admin]);
    assert_eq!((ready.status.code(), text(&ready.stdout)), (Some(0), "ready\n".into()));

    engine.stop_listening();
    gateway.wait_until(|g| g.get("/readyz").0 == 503).await;
    let unready = probe(&[&admin]);
    assert_eq!(unready.status.code(), Some(1));
    assert!(text(&unready.stderr).contains("is not ready: 503: "), "{}", text(&unready.stderr));
    assert_eq!(probe(&[&admin, "--backends", "ignore"]).status.code(), Some(0));
    assert_eq!(gateway.get("/livez"), (200, "ok\n".into()));

    for (address, wanted) in
        [(free_address(), "does not answer"), (gateway.address(), "is not ready: 502")]
    {
        let failed = probe(&[&address.to_string(), "--timeout", "1s"]);
        assert_eq!(failed.status.code(), Some(1));
        assert!(text(&failed.stderr).contains(wanted), "{address}: {}", text(&failed.stderr));
    }
    assert_eq!(probe(&[&admin, "--timeout", "0s"]).status.code(), Some(2));
}

/// A listener that accepts and never answers.
#[test]
fn a_probe_ends_with_its_timeout() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = silent.local_addr().expect("bound").to_string();
    let begun = std::time::Instant::now();
    let failed = probe(&[&address, "--timeout", "300ms"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(text(&failed.stderr).contains("timed out"), "{}", text(&failed.stderr));
    assert!(begun.elapsed() >= Duration::from_millis(300));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_drains_the_gateway() {
    let engine = Engine::start(|_| sse::stream(10, 100)).await;
    let more = "shutdown: {grace: 15s}";
    let mut gateway = Gateway::with_settings(&settings(&engine.url(), more)).await;
    assert_eq!(gateway.get("/api/drain").0, 405, "a link cannot end the gateway");
    let (status, body) = gateway.post("/api/drain", "");
    assert!(status == 400 && body.contains("x-llm-lens-operator"), "{status} {body}");
    let operator = "x-llm-lens-operator: me\r\n";
    assert_eq!(gateway.post("/api/drain?now=true", operator).0, 400);
    assert_eq!(gateway.get("/readyz").0, 200, "none of these had an effect");

    let stream = tokio::spawn(ends_well(running_stream(gateway.address()).await));
    let (status, body) = gateway.post("/api/drain", operator);
    let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &body["grace_s"], &body["draining"]), (202, &15.0.into(), &true.into()));
    gateway.wait_until(|g| g.get("/readyz") == (503, "draining\n".into())).await;
    assert!(stream.await.expect("no panic"), "the stream ends well");
    let status = gateway.ended(PATIENCE).await.expect("it ends with its last stream");
    assert_eq!(status.code(), Some(0), "{}", gateway.stderr());
}

/// A dry run finds the problems of a start, and binds nothing: the address is in use.
#[test]
fn a_dry_run_checks_and_exits() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound");
    let folder = Folder::new();
    let good = folder.file("good.yaml", settings_at(address, free_address(), "http://e:1", ""));
    let bad = folder.file("bad.yaml", "routes: 1\n");
    let listen = address.to_string();
    let (good, bad) = (good.display().to_string(), bad.display().to_string());
    for (arguments, code) in [
        (&["--config", &good][..], 0),
        (&["--config", &bad], 1),
        (&["--upstream", "http://127.0.0.1:1", "--listen", &listen], 0),
        (&["--upstream", "ftp://x"], 1),
        (&["--config", &good, "--upgrade"], 2),
    ] {
        let mut command = Command::new(kit::gateway::binary());
        command.args(["gateway", "--dry-run"]).args(arguments);
        let done = command.stdin(Stdio::null()).output().expect("the binary runs");
        assert_eq!(done.status.code(), Some(code), "{arguments:?}: {}", text(&done.stderr));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_take_the_place_of_arguments() {
    let engine = Engine::start(|_| sse::stream(1, 0)).await;
    let folder = Folder::new();
    let mut command = Command::new(kit::gateway::binary());
    command
        .arg("gateway")
        .env("LLM_LENS_UPSTREAM", engine.url())
        .env("LLM_LENS_LISTEN", "127.0.0.1:0")
        .env("LLM_LENS_ADMIN", "127.0.0.1:0")
        .env("LLM_LENS_WORKERS", "1")
        .env("LLM_LENS_LOG_FORMAT", "json");
    let gateway = Gateway::start(command, folder.0.clone()).await;
    let mut client = gateway.client().await;
    client.send("GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    gateway.signal(Signal::SIGHUP);
    gateway.wait_until(|g| g.stderr().contains("nothing to reload")).await;
    let log = gateway.stderr();
    assert!(log.lines().all(|line| line.starts_with('{')), "{log}");

    // An argument has precedence, and both kinds together are refused.
    let file = folder.file("other.yaml", settings(&engine.url(), ""));
    let both = Command::new(kit::gateway::binary())
        .args(["gateway", "--config"])
        .arg(file)
        .env("LLM_LENS_UPSTREAM", engine.url())
        .output()
        .expect("the binary runs");
    assert_eq!(both.status.code(), Some(2), "{}", text(&both.stderr));
}
