//! Files of records, and `llm-lens export`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use kit::client::PATIENCE;
use kit::{Engine, Gateway, gateway, sse};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::ask;

const PATH: &str = "/v1/chat/completions";
const BODY: &str =
    r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"a secret prompt"}]}"#;

fn settings(engine: &Engine, sinks: &str) -> String {
    format!(
        "{sinks}\nbackends: [{{name: b, url: \"{}\"}}]\nroutes: [{{name: chat, match: {{path: /v1/*}}, backend: b}}]\n",
        engine.url()
    )
}

/// The files of a folder whose names have this end, in the order of their names.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let paths = entries.flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> =
        paths.filter(|path| path.to_string_lossy().ends_with(end)).collect();
    paths.sort();
    paths
}

fn run(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(gateway::binary())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    // A command that fails does not read its input.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    child.wait_with_output().expect("it ends")
}

#[track_caller]
fn succeeds(args: &[&str], input: &str) -> String {
    let output = run(args, input);
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {err}");
    assert!(!err.contains('\r'), "no progress without a terminal: {err:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// The ids of JSON lines.
fn ids(lines: &str) -> Vec<String> {
    let id = |line: &str| {
        let record: Value = serde_json::from_str(line).expect("JSON");
        record["id"].as_str().expect("an id").to_owned()
    };
    lines.lines().map(id).collect()
}

async fn delivered(gateway: &Gateway, records: f64) {
    let all = |gateway: &Gateway| {
        gateway.metric("llm_lens_sink_records_total", r#"sink="files""#) == records
    };
    gateway.wait_until(all).await;
}

/// The end completes the file. A killed gateway leaves an unfinished one, which the next completes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_complete_after_an_end_and_a_kill() {
    let engine = Engine::start(|_| sse::stream(3, 1)).await;
    for format in ["jsonl", "parquet"] {
        let folder = gateway::folder().join("files");
        let sinks = format!("record_files: {{path: {folder:?}, format: {format}}}");
        let end = format!(".{format}");
        for (round, signal) in [Signal::SIGTERM, Signal::SIGKILL].into_iter().enumerate() {
            let mut gateway = Gateway::with_settings(&settings(&engine, &sinks)).await;
            for number in 0..3 {
                ask(&gateway, PATH, &format!("{format}-{round}-{number}"), BODY).await;
            }
            delivered(&gateway, 3.0).await;
            assert_eq!(files(&folder, ".partial").len(), 1, "{format}");
            gateway.signal(signal);
            assert!(gateway.ended(PATIENCE).await.is_some());
            let unfinished = usize::from(signal == Signal::SIGKILL);
            assert_eq!(files(&folder, ".partial").len(), unfinished, "{format} {signal}");
            assert_eq!(files(&folder, &end).len(), 1, "{format} {signal}");
        }
        let gateway = Gateway::with_settings(&settings(&engine, &sinks)).await;
        let completed =
            |gateway: &Gateway| gateway.metric("llm_lens_record_files_completed_total", "") == 1.0;
        gateway.wait_until(completed).await;
        assert_eq!(files(&folder, &end).len(), 2, "{format}");
        let from = folder.display().to_string();
        let lines = succeeds(&["export", "--from", &from, "--to", "-"], "");
        let mut found = ids(&lines);
        found.sort();
        let all = (0..2).flat_map(|round| (0..3).map(move |n| format!("{format}-{round}-{n}")));
        assert_eq!(found, all.collect::<Vec<_>>());
        assert!(!lines.contains("secret"), "{lines}");
        let first: Value = serde_json::from_str(lines.lines().next().expect("a line")).unwrap();
        assert!(first["epoch"].is_u64() && first["sequence"] == 0, "{first}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_records_are_exported() {
    let engine = Engine::start(|_| sse::stream(3, 1)).await;
    let folder = gateway::folder();
    let store = folder.join("records");
    let sinks = format!("record_store: {{path: {store:?}}}");
    let gateway = Gateway::with_settings(&settings(&engine, &sinks)).await;
    for id in ["a", "b", "c"] {
        ask(&gateway, PATH, id, BODY).await;
    }
    ask(&gateway, "/v1/nowhere", "d", BODY).await;
    let stored =
        |gateway: &Gateway| gateway.metric("llm_lens_sink_records_total", r#"sink="store""#) == 4.0;
    gateway.wait_until(stored).await;
    let (from, to) = (store.display().to_string(), folder.join("all.parquet"));
    let to = to.display().to_string();
    let args = ["export", "--from", &from, "--to", &to, "--where", "from=1h"];
    succeeds(&args, "");
    let again = run(&args, "");
    let err = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(again.status.code() == Some(1) && err.contains("all.parquet exists"), "{err}");
    let chats = ["export", "--from", &to, "--to", "-", "--where", "outcome=ok", "--format", "csv"];
    let csv = succeeds(&chats, "");
    assert!(csv.starts_with("instance,epoch,sequence,schema,id,"), "{csv}");
    // Rows of one line each.
    assert_eq!(
        csv.lines().count() - 1,
        ids(&succeeds(&["export", "--from", &from, "--to", "-", "--where", "outcome=ok"], ""))
            .len()
    );
    // The page of the admin listener has no keys.
    let page: Value = serde_json::from_str(&gateway.get("/api/requests").1).expect("JSON");
    let lines: String =
        page["requests"].as_array().expect("records").iter().map(|r| format!("{r}\n")).collect();
    let protobuf = folder.join("requests.pb").display().to_string();
    succeeds(&["export", "--from", "-", "--to", &protobuf], &lines);
    let back = succeeds(&["export", "--from", &protobuf, "--to", "-"], "");
    assert_eq!(ids(&back), ids(&lines));
}

#[test]
fn wrong_exports_name_what_is_wrong() {
    let folder = gateway::folder();
    let bad = folder.join("bad.jsonl");
    std::fs::write(&bad, "{}\n").expect("writable");
    let (bad, to) = (bad.display().to_string(), folder.join("x.csv").display().to_string());
    let here = folder.display().to_string();
    for (args, known) in [
        (&["--from", &bad, "--to", &to] as &[&str], format!("{bad}: line 1: missing field")),
        (&["--from", &bad, "--to", &to, "--where", "rout=x"], "known: from, to, route".into()),
        (&["--from", &bad, "--to", &here], "name the format with --format".into()),
        (&["--from", &bad, "--to", "x.txt"], "states no format".into()),
        (&["--from", &bad, "--to", "-", "--format", "parquet"], "needs a file".into()),
        (&["--from", "/nowhere", "--to", &to], "/nowhere: No such file".into()),
        (&["--from", "-", "--to", &to, "--resume"], "cannot be read again".into()),
    ] {
        let output = run(&[&["export"], args].concat(), "");
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {err}");
        assert!(err.contains(&known) && !err.contains("panicked"), "{args:?}: {err}");
        for left in [".partial", ".resume"] {
            let left = files(&folder, left);
            left.iter().for_each(|path| std::fs::remove_file(path).expect("removable"));
        }
    }
}
