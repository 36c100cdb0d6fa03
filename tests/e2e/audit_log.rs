//! The chain of the audit log: restarts, kills, rotation, and `llm-lens audit verify`.

use std::path::Path;
use std::process::Command;

use kit::client::PATIENCE;
use kit::{Engine, Gateway, sse};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::raw::{Folder, try_chat};

pub const MAIL: &str =
    r#"{"model":"m","messages":[{"role":"user","content":"mail jane.roe@example.org"}]}"#;
const KEY: &str = "the-key-of-the-chain";

/// Settings of a gateway whose guardrail finds addresses in prompts.
fn settings(engine: &Engine, audit: &str) -> String {
    format!(
        "backends: [{{name: e, url: '{}'}}]\nguardrails: [{{name: g, input_pii: flag}}]\n\
         routes: [{{name: r, backend: e, guardrail: g}}]\n{audit}\n",
        engine.url()
    )
}

/// `llm-lens audit verify`: its exit code and its output.
pub fn verify(paths: &[&Path], options: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(kit::gateway::binary());
    let output = command
        .args(["audit", "verify"])
        .args(options)
        .args(paths)
        .env("CHAIN_KEY", KEY)
        .output()
        .expect("the binary runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).expect("UTF-8"))
}

/// Number and hash of the last line, as the gateway publishes them.
pub fn head(gateway: &Gateway) -> (u64, String) {
    let page: Value = serde_json::from_str(&gateway.get("/api/audit").1).expect("JSON");
    let head = &page["head"];
    let chain = head["chain"].as_str().expect("a hash").to_owned();
    (head["sequence"].as_u64().expect("a number"), chain)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chain_survives_restarts_kills_and_rotation() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let folder = Folder::new();
    let log = folder.0.join("log");
    std::fs::create_dir(&log).unwrap();
    let file = log.join("audit.jsonl");
    let audit = format!(
        "audit: {{file: '{}', max_size: 2KiB, keep: 50, chain_key: {KEY}}}",
        file.display()
    );
    let settings = settings(&engine, &audit);
    let (mut lines, mut last) = (0, String::new());
    for turn in 0..4 {
        let mut gateway = Gateway::with_settings(&settings).await;
        assert_eq!(head(&gateway), (lines, if lines == 0 { "0".repeat(64) } else { last }));
        for _ in 0..4 {
            assert_eq!(try_chat(gateway.address(), MAIL).await, Ok(200));
        }
        lines += 4;
        gateway.wait_until(|gateway| head(gateway).0 == lines).await;
        if turn == 0 {
            // As logrotate does.
            std::fs::rename(&file, log.join("renamed")).unwrap();
            gateway.signal(Signal::SIGHUP);
            assert_eq!(try_chat(gateway.address(), MAIL).await, Ok(200));
            lines += 1;
            gateway.wait_until(|gateway| head(gateway).0 == lines).await;
        }
        last = head(&gateway).1;
        assert_eq!(gateway.metric("llm_lens_audit_sequence", ""), lines as f64);
        assert!(!gateway.get("/api/settings").1.contains(KEY));
        gateway.signal(if turn == 1 { Signal::SIGKILL } else { Signal::SIGTERM });
        assert!(gateway.ended(PATIENCE).await.is_some());
        if turn == 1 {
            // A line that the crash has cut.
            let text = std::fs::read_to_string(&file).unwrap();
            let cut = &text.lines().last().unwrap()[..100];
            std::fs::write(&file, format!("{text}{cut}")).unwrap();
            let (code, text) = verify(&[&log], &["--key-env", "CHAIN_KEY"]);
            assert_eq!(code, Some(1), "{text}");
            assert!(text.contains("a line of 100 bytes is cut"), "{text}");
        }
    }
    let key = folder.file("chain.key", format!("{KEY}\n")).display().to_string();
    let (code, text) = verify(&[&log], &["--key-file", &key, "--head", &last]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.ends_with(&format!("head: line {lines}, {last}\nvalid\n")), "{text}");
    assert!(text.contains(": a line of 101 bytes is not of the chain, as the next line"), "{text}");
    assert!(text.contains("/renamed: ") && text.contains("/audit.jsonl.1: "), "{text}");

    let (code, text) = verify(&[&log], &[]);
    assert!(code == Some(1) && text.contains(" lines from here on need the key"), "{text}");
    let other = "0".repeat(64);
    let (code, text) = verify(&[&log], &["--key-file", &key, "--head", &other]);
    assert!(code == Some(1) && text.contains("(of --head) is not in the log"), "{text}");
    let (code, text) = verify(&[&log], &["--key-env", "NOT_SET"]);
    assert!(code == Some(1) && text.contains("--key-env NOT_SET: the variable is"), "{text}");

    // An edited line, and a removed file.
    let rotated = log.join("audit.jsonl.2");
    let text = std::fs::read_to_string(&rotated).unwrap();
    std::fs::write(&rotated, text.replacen("pii.email", "pii.phone", 1)).unwrap();
    let (code, text) = verify(&[&log], &["--key-file", &key]);
    assert!(code == Some(1) && text.contains("/audit.jsonl.2:1: line "), "{text}");
    assert!(text.ends_with("invalid: 1 problem\n"), "{text}");
    std::fs::remove_file(&rotated).unwrap();
    let (code, text) = verify(&[&log], &["--key-file", &key]);
    assert!(code == Some(1) && text.contains(" of the chain are missing before"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_without_an_audit_log_has_no_head() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = Gateway::with_settings(&settings(&engine, "")).await;
    let (status, text) = gateway.get("/api/audit");
    assert!(status == 404 && text.contains("set audit.file"), "{text}");
}
