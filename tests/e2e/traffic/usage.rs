//! The usage file: crashes, damage, a second gateway.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kit::gateway::{binary, folder};
use kit::{Engine, Gateway, sse};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::raw::{settings, try_chat};

/// Settings with a monthly limit of `amount` requests, and the usage file.
fn limited(engine: &Engine, amount: u64) -> (String, PathBuf) {
    let file = folder().join("usage.jsonl");
    let more = format!(
        "usage_file: '{}'\nrate_limits: [{{name: month, unit: requests, amount: {amount}, window: month, per: all}}]",
        file.display()
    );
    (settings(&engine.url(), &more), file)
}

/// Sends `count` requests; returns how many were admitted.
async fn admitted(gateway: &Gateway, count: usize) -> u64 {
    let mut admitted = 0;
    for _ in 0..count {
        match try_chat(gateway.address(), kit::client::CHAT).await {
            Ok(200) => admitted += 1,
            Ok(429) => {}
            other => panic!("{other:?}"),
        }
    }
    admitted
}

/// Requests in the file.
fn saved(file: &Path) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let requests = |line: &str| serde_json::from_str::<Value>(line).ok()?["requests"].as_u64();
    text.lines().filter_map(requests).sum()
}

/// Waits until the file has `requests`; false if it takes longer than `within`.
async fn is_saved(file: &Path, requests: u64, within: Duration) -> bool {
    let until = Instant::now() + within;
    while saved(file) != requests {
        if Instant::now() > until {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    true
}

async fn kill(mut gateway: Gateway) {
    gateway.signal(Signal::SIGKILL);
    assert!(gateway.ended(Duration::from_secs(5)).await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_loop_admits_no_more_than_the_limit() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let (text, file) = limited(&engine, 20);
    let mut all = 0;
    for _ in 0..4 {
        let gateway = Gateway::with_settings(&text).await;
        all += admitted(&gateway, 8).await;
        // Usage is saved within a second; the rest is for a busy machine.
        is_saved(&file, all, Duration::from_secs(3)).await;
        kill(gateway).await;
    }
    assert_eq!(all, 20);
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&file).expect("it exists").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_usage_file_keeps_limits_and_is_reported() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let (text, file) = limited(&engine, 5);
    let gateway = Gateway::with_settings(&text).await;
    assert_eq!(admitted(&gateway, 6).await, 5);
    assert!(is_saved(&file, 5, Duration::from_secs(10)).await);
    kill(gateway).await;
    let whole = std::fs::read(&file).expect("it exists");
    let copies = || {
        let entries = std::fs::read_dir(file.parent().expect("a folder")).expect("it exists");
        let names = entries.map(|entry| entry.expect("an entry").path());
        names.filter(|name| name.display().to_string().contains(".damaged-")).collect::<Vec<_>>()
    };
    for damage in [&b"\xff"[..], b"\0\0\0\0\n", b"{\"requests\":-7}\n"] {
        let damaged = [&whole, damage].concat();
        std::fs::write(&file, &damaged).expect("it is writable");
        let gateway = Gateway::with_settings(&text).await;
        assert_eq!(admitted(&gateway, 2).await, 0, "{damage:?}");
        gateway
            .wait_until(|g| g.metric("llm_lens_usage_file_damaged_lines_total", "") == 1.0)
            .await;
        gateway.wait_for_log("usage file is damaged").await;
        assert_eq!(
            copies().iter().map(|c| std::fs::read(c).unwrap()).collect::<Vec<_>>(),
            [damaged]
        );
        copies().iter().for_each(|copy| std::fs::remove_file(copy).expect("it is there"));
        kill(gateway).await;
        assert_eq!(saved(&file), 5, "a clean file follows");
    }
    // Doubled content counts once.
    std::fs::write(&file, [&*whole, &*whole].concat()).expect("it is writable");
    let gateway = Gateway::with_settings(&text).await;
    let usage: Value = serde_json::from_str(&gateway.get("/api/usage").1).expect("JSON");
    assert_eq!(usage["usage"][0]["requests"], 5, "{usage}");
    // A file that is removed under a running gateway is written again.
    std::fs::remove_file(&file).expect("it is there");
    assert!(is_saved(&file, 5, Duration::from_secs(10)).await);
    kill(gateway).await;
    // An empty or missing file starts at zero, with a warning.
    for (remove, warning) in [(false, "usage file is empty"), (true, "usage file is missing")] {
        std::fs::write(&file, "").expect("it is writable");
        if remove {
            std::fs::remove_file(&file).expect("it is there");
        }
        let gateway = Gateway::with_settings(&text).await;
        gateway.wait_for_log(warning).await;
        assert_eq!(admitted(&gateway, 1).await, 1);
        kill(gateway).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_file_in_use_or_no_file_is_refused_at_start() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let (text, file) = limited(&engine, 20);
    let gateway = Gateway::with_settings(&text).await;
    let start = |text: String| {
        let config = folder().join("gateway.yaml");
        let listeners = "listeners: [{address: '127.0.0.1:0'}]\nadmin: {address: '127.0.0.1:0'}\n";
        std::fs::write(&config, format!("{listeners}{text}")).expect("it is writable");
        // A gateway that starts after all is ended by its caller.
        let mut command = Command::new("timeout");
        command.arg("10").arg(binary()).args(["gateway", "--config"]).arg(config);
        let output = command.output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let second = text.clone();
    let (code, log) = tokio::task::spawn_blocking(move || start(second)).await.expect("it ends");
    let process = format!("in use by another gateway (process {})", gateway.pid());
    assert!(code == Some(1) && log.contains(&process), "{code:?} {log}");
    assert_eq!(admitted(&gateway, 1).await, 1, "the first one continues");
    kill(gateway).await;
    std::fs::remove_file(&file).expect("it is there");
    std::fs::create_dir(&file).expect("the folder is writable");
    let (code, log) = tokio::task::spawn_blocking(move || start(text)).await.expect("it ends");
    assert!(code == Some(1) && log.contains("is not a regular file"), "{code:?} {log}");
    assert_eq!(log.lines().count(), 1, "{log}");
}
