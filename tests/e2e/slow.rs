//! Tests that take more than five seconds: upgrades, and files that must settle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kit::client::{CHAT, PATIENCE};
use kit::{Engine, Gateway, sse};
use nix::sys::signal::Signal;

use crate::audit_log::{MAIL, head, verify};
use crate::raw::{Folder, Process, ends_well, free_address, running_stream, settings_at, try_chat};

/// Addresses and the upgrade socket shared by successive gateways.
struct UpgradeSetup {
    folder: Folder,
    text: String,
}

impl UpgradeSetup {
    fn new(url: &str) -> UpgradeSetup {
        UpgradeSetup::with(url, "")
    }

    /// `more` are more sections; `FOLDER` in them is the folder.
    fn with(url: &str, more: &str) -> UpgradeSetup {
        let folder = Folder::new();
        let more = format!(
            "shutdown: {{grace: 15s, upgrade_socket: '{}'}}\n{}",
            folder.0.join("upgrade.sock").display(),
            more.replace("FOLDER", &folder.0.display().to_string()),
        );
        let text = settings_at(free_address(), free_address(), url, &more);
        UpgradeSetup { folder, text }
    }

    /// Starts a successor, and signals `old` to hand over once the successor waits for the
    /// listeners.
    async fn successor(&self, old: &Gateway) -> Gateway {
        let socket = self.folder.0.join("upgrade.sock");
        let starting = Gateway::with_command(&self.text, |command| {
            command.arg("--upgrade");
        });
        let telling = async {
            let until = std::time::Instant::now() + PATIENCE;
            while !socket.exists() {
                assert!(
                    std::time::Instant::now() < until,
                    "the successor does not wait at {}",
                    socket.display()
                );
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            old.signal(Signal::SIGQUIT);
        };
        tokio::join!(starting, telling).0
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_upgrades_in_a_row_lose_nothing() {
    let _alone = crate::support::alone().await;
    let engine = Engine::start(|request| {
        let streamed = String::from_utf8_lossy(&request.body).contains("stream");
        if streamed { sse::stream(40, 100) } else { sse::chat_answer() }
    })
    .await;
    let setup = UpgradeSetup::new(&engine.url());
    let mut running = Gateway::with_settings(&setup.text).await;
    let address = running.address();
    let stop = Arc::new(AtomicBool::new(false));
    let steady = tokio::spawn({
        let stop = stop.clone();
        async move {
            let mut results = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                results.push(try_chat(address, CHAT).await);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            results
        }
    });
    for _ in 0..2 {
        let mut streams = Vec::new();
        for _ in 0..10 {
            streams.push(tokio::spawn(ends_well(running_stream(address).await)));
        }
        let next = setup.successor(&running).await;
        assert_eq!(next.address(), address);
        assert_ne!(next.pid(), running.pid());
        for stream in streams {
            assert!(stream.await.unwrap(), "a stream was cut: {}", running.stderr());
        }
        let status = running
            .ended(Duration::from_secs(5))
            .await
            .expect("the old one ends with its last stream");
        assert_eq!(status.code(), Some(0), "{}", running.stderr());
        assert_eq!(try_chat(address, CHAT).await, Ok(200), "the new one serves");
        running = next;
    }
    stop.store(true, Ordering::Relaxed);
    let results = steady.await.unwrap();
    let failed: Vec<_> = results.iter().filter(|r| **r != Ok(200)).collect();
    assert!(failed.is_empty(), "{} of {} requests failed: {failed:?}", failed.len(), results.len());
    assert!(results.len() > 100, "{}", results.len());
}

/// Settings that change while a gateway starts take effect, and signals do not end it. The start is
/// long here, because a successor waits for its predecessor.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_and_signals_during_the_start_take_effect() {
    let before = Engine::start(|_| sse::chat_answer()).await;
    let after = Engine::start(|_| sse::chat_answer()).await;
    let setup = UpgradeSetup::new(&before.url());
    let old = Gateway::with_settings(&setup.text).await;
    let folder = Folder::new();
    let (file, next) = (folder.0.join("gateway.yaml"), folder.0.join("next.yaml"));
    std::fs::write(&file, format!("{}\nworkers: 2\n", setup.text)).unwrap();
    // Its time is that of the first file.
    let text = setup.text.replace(&before.url(), &after.url());
    std::fs::write(&next, format!("{text}\nworkers: 2\n")).unwrap();
    let out = std::process::Stdio::null;
    let mut command = std::process::Command::new(kit::gateway::binary());
    command.args(["gateway", "--upgrade", "--config"]).arg(&file).stdout(out()).stderr(out());
    let mut new = Process(command.spawn().unwrap());
    let pid = new.0.id();
    let socket = setup.folder.0.join("upgrade.sock");
    wait_for(|| socket.exists()).await;
    std::fs::rename(&next, &file).unwrap();
    let process = nix::unistd::Pid::from_raw(pid as i32);
    for signal in [Signal::SIGUSR1, Signal::SIGUSR2] {
        nix::sys::signal::kill(process, signal).unwrap();
    }
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
    assert_eq!(u64::from_str_radix(pending.trim(), 16).unwrap() & 0xa00, 0xa00, "{status}");
    old.signal(Signal::SIGQUIT);
    let mut served = 0;
    while after.seen().is_empty() {
        assert!(new.0.try_wait().unwrap().is_none(), "the successor ended");
        served += usize::from(try_chat(old.address(), CHAT).await == Ok(200));
        assert!(served < 5000, "the new settings are not in force");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn wait_for(holds: impl Fn() -> bool) {
    let until = std::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(std::time::Instant::now() < until, "it did not come to hold");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// During an upgrade, both gateways store their records.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_gateways_of_an_upgrade_store_their_records() {
    let engine = Engine::start(|request| {
        let streamed = String::from_utf8_lossy(&request.body).contains("stream");
        if streamed { sse::stream(20, 100) } else { sse::chat_answer() }
    })
    .await;
    let setup = UpgradeSetup::with(&engine.url(), "record_store: {path: FOLDER/records}");
    let mut old = Gateway::with_settings(&setup.text).await;
    for _ in 0..9 {
        assert_eq!(try_chat(old.address(), CHAT).await, Ok(200));
    }
    let stream = running_stream(old.address()).await;
    let new = setup.successor(&old).await;
    for _ in 0..5 {
        assert_eq!(try_chat(new.address(), CHAT).await, Ok(200));
    }
    let stored = |gateway: &Gateway| {
        let facets = gateway.get("/api/facets?fields=outcome").1;
        let facets: serde_json::Value = serde_json::from_str(&facets).unwrap();
        facets["facets"]["outcome"]["values"][0]["records"].as_u64()
    };
    // The stream of the old one runs, so both have the folder open.
    new.wait_until(|gateway| stored(gateway) == Some(14)).await;
    assert!(ends_well(stream).await);
    assert_eq!(old.ended(PATIENCE).await.and_then(|status| status.code()), Some(0));
    assert_eq!(stored(&new), Some(15));
    let dropped = new.metric("llm_lens_sink_dropped_records_total", "sink=\"store\"");
    assert_eq!(dropped, 0.0, "{}", new.stderr());
}

/// During an upgrade, both gateways write the audit log, and its chain stays one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_gateways_of_an_upgrade_write_one_audit_chain() {
    let engine = Engine::start(|request| {
        if !String::from_utf8_lossy(&request.body).contains("stream") {
            return sse::chat_answer();
        }
        let mut steps = sse::stream(50, 100);
        let address = kit::Step::chunk(sse::content("jane.roe@example.org "));
        steps.insert(steps.len() - 3, address);
        steps
    })
    .await;
    let audit = "audit: {file: FOLDER/log/audit.jsonl, max_size: 2KiB, keep: 20}\n\
                 guardrails: [{name: g, input_pii: flag, output_pii: flag}]";
    let mut setup = UpgradeSetup::with(&engine.url(), audit);
    setup.text = setup.text.replace("backend: e}", "backend: e, guardrail: g}");
    let log = setup.folder.0.join("log");
    std::fs::create_dir(&log).unwrap();
    let mut old = Gateway::with_settings(&setup.text).await;
    for _ in 0..4 {
        assert_eq!(try_chat(old.address(), MAIL).await, Ok(200));
    }
    old.wait_until(|gateway| head(gateway).0 == 4).await;
    let stream = running_stream(old.address()).await;
    let new = setup.successor(&old).await;
    for _ in 0..4 {
        assert_eq!(try_chat(new.address(), MAIL).await, Ok(200));
    }
    // Both have the listeners until the old one drains, so either may have answered.
    let lines = || {
        let files = std::fs::read_dir(&log).expect("its folder").flatten();
        let files = files.filter(|file| !file.file_name().to_string_lossy().ends_with(".head"));
        files.map(|file| std::fs::read_to_string(file.path()).unwrap_or_default().lines().count())
    };
    crate::support::eventually("all have written", || lines().sum::<usize>() >= 8).await;
    // The finding of the old gateway comes last, unless the machine is very slow.
    assert!(ends_well(stream).await);
    assert_eq!(old.ended(PATIENCE).await.and_then(|status| status.code()), Some(0));
    assert_eq!(try_chat(new.address(), MAIL).await, Ok(200));
    new.wait_until(|gateway| head(gateway).0 == 10).await;
    let (code, text) = verify(&[&log], &["--head", &head(&new).1]);
    assert!(code == Some(0) && text.ends_with("valid\n") && !text.contains("note"), "{text}");
    assert_eq!(new.metric("llm_lens_audit_lines_dropped_total", ""), 0.0);
}

/// The successor counts what its predecessor has counted, to the last request, also of a stream
/// that ends after the hand-over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limit_of_a_day_continues_after_an_upgrade() {
    let engine = Engine::start(|request| {
        let streamed = String::from_utf8_lossy(&request.body).contains("stream");
        if streamed { sse::stream(20, 100) } else { sse::chat_answer() }
    })
    .await;
    let more = "usage_file: FOLDER/usage.jsonl\nrate_limits: [{name: day, unit: requests, amount: 20, window: day, per: all}]";
    let setup = UpgradeSetup::with(&engine.url(), more);
    let mut old = Gateway::with_settings(&setup.text).await;
    for _ in 0..9 {
        assert_eq!(try_chat(old.address(), CHAT).await, Ok(200));
    }
    let stream = running_stream(old.address()).await;
    let mut new = setup.successor(&old).await;
    assert!(ends_well(stream).await);
    assert_eq!(old.ended(PATIENCE).await.and_then(|status| status.code()), Some(0));
    // The interval at which a successor reads is a tenth of a second.
    let requests = |gateway: &Gateway| {
        let usage: serde_json::Value =
            serde_json::from_str(&gateway.get("/api/usage").1).expect("JSON");
        usage["usage"][0]["requests"].as_u64()
    };
    let until = std::time::Instant::now() + Duration::from_secs(2);
    while requests(&new) != Some(10) {
        assert!(std::time::Instant::now() < until, "{:?} {}", requests(&new), new.stderr());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut statuses = Vec::new();
    for _ in 0..20 {
        statuses.push(try_chat(new.address(), CHAT).await);
    }
    assert_eq!(statuses.iter().filter(|status| **status == Ok(200)).count(), 10, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == Ok(429)).count(), 10, "{statuses:?}");
    // The file has the usage of both.
    new.signal(Signal::SIGTERM);
    assert!(new.ended(PATIENCE).await.is_some());
    let again = Gateway::with_settings(&setup.text).await;
    assert_eq!(requests(&again), Some(20));
    assert_eq!(try_chat(again.address(), CHAT).await, Ok(429));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn admin_listener_is_served_only_by_the_successor() {
    let engine = Engine::start(|_| sse::stream(60, 100)).await;
    let setup = UpgradeSetup::new(&engine.url());
    let old = Gateway::with_settings(&setup.text).await;
    let stream = running_stream(old.address()).await;
    let new = setup.successor(&old).await;
    // The old gateway still has a stream to serve, and drains when the successor has reported.
    old.wait_until(|g| g.stderr().contains("draining")).await;
    let statuses: Vec<u16> = (0..30).map(|_| new.get("/readyz").0).collect();
    assert!(statuses.iter().all(|s| *s == 200), "{statuses:?}");
    drop(stream);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_successor_the_old_one_goes_on() {
    let engine = Engine::start(|_| sse::stream(20, 100)).await;
    let setup = UpgradeSetup::new(&engine.url());
    let mut gateway = Gateway::with_settings(&setup.text).await;
    let stream = tokio::spawn(ends_well(running_stream(gateway.address()).await));
    gateway.signal(Signal::SIGQUIT);
    gateway.wait_until(|g| g.stderr().contains("no successor took the listeners")).await;
    assert!(stream.await.unwrap());
    assert_eq!(try_chat(gateway.address(), CHAT).await, Ok(200));
    assert_eq!(gateway.get("/readyz").0, 200);
    // It still reloads, and still ends on a signal.
    gateway.signal(Signal::SIGHUP);
    gateway.wait_until(|g| g.metric("llm_lens_reloads_total", "") == 1.0).await;
    gateway.signal(Signal::SIGTERM);
    let status = gateway.ended(Duration::from_secs(3)).await.expect("it ends");
    assert_eq!(status.code(), Some(0));
}

/// A successor takes the listeners and then cannot serve: one of its addresses is taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_cannot_serve_changes_nothing() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let setup = UpgradeSetup::new(&engine.url());
    let gateway = Gateway::with_settings(&setup.text).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let more = format!("listeners: [{{address: '{}'}}, ", taken.local_addr().expect("bound"));
    let file = setup.folder.file("next.yaml", setup.text.replace("listeners: [", &more));
    let mut command = std::process::Command::new(kit::gateway::binary());
    command.args(["gateway", "--upgrade", "--config"]).arg(file);
    let successor = tokio::task::spawn_blocking(move || command.output().expect("it starts"));
    let socket = setup.folder.0.join("upgrade.sock");
    crate::support::eventually("the successor waits", || socket.exists()).await;
    gateway.signal(Signal::SIGQUIT);
    let output = successor.await.expect("no panic");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("cannot listen"), "{told}");
    gateway.wait_until(|g| g.stderr().contains("no successor took the listeners")).await;
    assert_eq!(try_chat(gateway.address(), CHAT).await, Ok(200));
    assert_eq!(gateway.get("/readyz").0, 200);
    // A good one still gets them.
    let next = setup.successor(&gateway).await;
    assert_eq!(try_chat(next.address(), CHAT).await, Ok(200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrade_socket_in_a_shared_folder_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let setup = UpgradeSetup::new("http://127.0.0.1:9");
    let mode = std::fs::Permissions::from_mode(0o1777);
    std::fs::set_permissions(&setup.folder.0, mode).expect("our folder");
    let file = setup.folder.file("gateway.yaml", &setup.text);
    let mut command = std::process::Command::new(kit::gateway::binary());
    command.args(["gateway", "--upgrade", "--config"]).arg(file);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("other users may write"), "{told}");
}

/// A settings file that is written in place is not read before it is complete.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settings_file_that_is_still_written_is_not_read() {
    use std::io::Write as _;
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let folder = Folder::new();
    let keys = folder
        .file("keys.yaml", format!("keys:\n  - {{id: a, owner: o, hash: '{}'}}\n", "0".repeat(64)));
    let auth = format!("auth: {{keys: '{}', secret: 0123456789abcdef-secret}}\n", keys.display());
    let base = crate::raw::settings(&engine.url(), "");
    let gateway = Gateway::with_settings(&format!("{base}{auth}")).await;
    let whole = std::fs::read_to_string(gateway.settings_file()).expect("its file");
    let (begin, rest) = whole.split_at(whole.find("auth:").expect("its member"));
    assert_eq!(try_chat(gateway.address(), CHAT).await, Ok(401));
    // Pieces arrive more often than the file settles. A prefix of it is valid, without `auth`.
    let mut file = std::fs::File::create(gateway.settings_file()).expect("its file");
    for piece in begin.as_bytes().chunks(begin.len().div_ceil(6)) {
        file.write_all(piece).expect("its file");
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(try_chat(gateway.address(), CHAT).await, Ok(401));
    }
    file.write_all(&rest.as_bytes()[..rest.len() - 1]).expect("its file");
    file.write_all(b"\n").expect("its file");
    drop(file);
    gateway.wait_until(|g| g.metric("llm_lens_reloads_total", "") == 1.0).await;
    assert_eq!(try_chat(gateway.address(), CHAT).await, Ok(401));
    // A complete file without `auth` takes effect, and the log reports it.
    gateway.write_settings(begin);
    gateway.wait_until(|g| g.metric("llm_lens_reloads_total", "") == 2.0).await;
    assert_eq!(try_chat(gateway.address(), CHAT).await, Ok(200));
    gateway.wait_for_log("protect less").await;
    let removed = || -> serde_json::Value {
        let page: serde_json::Value =
            serde_json::from_str(&gateway.get("/api/settings").1).expect("JSON");
        page["last_reload"]["removed"].clone()
    };
    assert_eq!(removed(), serde_json::json!(["auth"]));
    // The same settings again restore nothing.
    gateway.signal(Signal::SIGHUP);
    gateway.wait_until(|g| g.metric("llm_lens_reloads_total", "") >= 3.0).await;
    assert_eq!(removed(), serde_json::json!(["auth"]));
    gateway.write_settings(&whole);
    gateway.wait_until(|g| g.stderr().matches("settings reloaded").count() >= 4).await;
    gateway.wait_until(|_| removed() == serde_json::json!([])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_are_heard_while_a_reload_hangs() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let mut gateway = Gateway::with_settings(&crate::raw::settings(&engine.url(), "")).await;
    let file = gateway.settings_file();
    std::fs::remove_file(&file).expect("its file");
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).expect("its folder");
    gateway.signal(Signal::SIGHUP);
    gateway.wait_until(|g| g.metric("llm_lens_reload_failures_total", "") >= 1.0).await;
    assert_eq!(try_chat(gateway.address(), CHAT).await, Ok(200));
    gateway.signal(Signal::SIGTERM);
    let status = gateway.ended(Duration::from_secs(5)).await.expect("it ends");
    assert_eq!(status.code(), Some(0));
}

/// A file that the settings name may be on a disk that hangs. The failure is counted, and the next
/// reload does not wait for the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_that_hangs_fails_and_the_next_one_goes_on() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let keys = kit::gateway::folder().join("keys.yaml");
    std::fs::write(&keys, "keys: []\n").expect("its folder");
    let auth = format!("auth: {{keys: '{}', secret: {}}}", keys.display(), "s".repeat(32));
    let gateway = Gateway::with_settings(&crate::raw::settings(&engine.url(), &auth)).await;
    std::fs::remove_file(&keys).expect("its file");
    nix::unistd::mkfifo(&keys, nix::sys::stat::Mode::S_IRWXU).expect("its folder");
    gateway.signal(Signal::SIGHUP);
    gateway.wait_until(|g| g.metric("llm_lens_reload_failures_total", "") >= 1.0).await;
    let stale = "llm_lens_settings_stale_since_timestamp_seconds";
    assert!(gateway.metric(stale, "") > 0.0);
    let reload = gateway.get("/api/settings").1;
    assert!(reload.contains("cannot be read within"), "{reload}");
    std::fs::remove_file(&keys).expect("its file");
    std::fs::write(&keys, "keys: []\n").expect("its folder");
    gateway.signal(Signal::SIGHUP);
    gateway.wait_until(|g| g.metric("llm_lens_reloads_total", "") >= 1.0).await;
    assert_eq!(gateway.metric(stale, ""), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_during_an_upgrade_is_not_lost() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let setup = UpgradeSetup::new(&engine.url());
    let mut gateway = Gateway::with_settings(&setup.text).await;
    gateway.signal(Signal::SIGQUIT);
    gateway.wait_until(|g| g.stderr().contains("handing the listeners over")).await;
    gateway.signal(Signal::SIGTERM);
    let status = gateway
        .ended(Duration::from_secs(9))
        .await
        .expect("it ends, at the latest when no successor took the listeners");
    assert_eq!(status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_without_a_running_gateway_reports_it_and_exits() {
    let setup = UpgradeSetup::new("http://127.0.0.1:9");
    let file = setup.folder.file("gateway.yaml", &setup.text);
    let mut command = std::process::Command::new(kit::gateway::binary());
    command.args(["gateway", "--upgrade", "--config"]).arg(file);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("upgrade.sock") && told.contains("QUIT"), "{told}");
    assert!(!told.contains("panicked"), "{told}");
}
