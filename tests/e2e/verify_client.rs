//! `llm-lens verify-client`: load testers against a simulated engine whose truth is known.

use std::process::{Command, Output, Stdio};

use crate::raw::Folder;
use crate::support::alone;

/// 30 ms to the first token, 4 ms a token, 16 tokens.
const ENGINE: [&str; 12] = [
    "--base",
    "30ms",
    "--prefill",
    "0s",
    "--decode",
    "4ms",
    "--jitter",
    "0",
    "--tokens",
    "16",
    "--slots",
    "4",
];
/// The machine may be busy; the traps are off by more.
const TOLERANCE: [&str; 4] = ["--tolerance", "40", "--tolerance-ms", "15"];

/// A client as one writes it in an afternoon. Its options are the traps.
const CLIENT: &str = r#"
import http.client, json, os, sys, threading, time
options, out = sys.argv[1].split("+"), sys.argv[2]
host = os.environ["OPENAI_BASE_URL"].split("//")[1].split("/")[0]
assert os.environ["OPENAI_API_KEY"] == "dummy"
read = "buffer" in options and 65536 or 1
ttfts, tpots, totals, tokens, failed = [], [], [], 0, 0
def request():
    global tokens, failed
    body = json.dumps({"model": sys.argv[3], "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": "hello"}]})
    begin = time.perf_counter()
    first, last, count, usage, error, line = None, None, 0, None, False, b""
    try:
        connection = http.client.HTTPConnection(host, timeout=20)
        connection.request("POST", "/v1/chat/completions", body)
        answer = connection.getresponse()
        while True:
            line += answer.read(read) if read > 1 else answer.readline()
            if not line: break
            now = time.perf_counter()
            for event in line.split(b"\n"):
                if event.startswith(b"data: {"):
                    event = json.loads(event[6:])
                    usage = event.get("usage") or usage
                    error = error or "error" in event
                    for choice in event.get("choices", []):
                        if choice["delta"].get("content"):
                            first, last, count = first or now, now, count + 1
            line = b""
        error = error or answer.status != 200 or usage is None
    except Exception:
        error = True
    if "errors" in options: error = False
    if error or first is None:
        failed += 1
        return
    n = count if "chunks" in options or usage is None else usage["completion_tokens"]
    per_event = n / count
    tokens += n
    ttfts.append(first - begin)
    totals.append(last - begin)
    tpots.append((last - first) / max(n - per_event, 1))
requests = int(sys.argv[4])
if "open" in options:
    threads = []
    for i in range(requests):
        threads.append(threading.Thread(target=request)); threads[-1].start(); time.sleep(0.02)
    for thread in threads: thread.join()
else:
    for i in range(requests): request()
mean = lambda values: 1000 * sum(values) / max(len(values), 1)
json.dump({"ttft": mean(ttfts), "tpot": mean(tpots), "total": mean(totals), "ok": len(ttfts),
    "failed": failed, "tokens": tokens}, open(out, "w"))
"#;

async fn verify(args: Vec<String>) -> Output {
    let mut command = Command::new(kit::gateway::binary());
    command.arg("verify-client").args(args).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().expect("the binary runs"))
        .await
        .expect("it does not panic")
}

fn words(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs the client with these traps against an engine with these further settings.
async fn client(traps: &str, requests: u32, engine: &[&str]) -> (Option<i32>, String) {
    let folder = Folder::new();
    let path = |name: &str| folder.0.join(name).display().to_string();
    std::fs::write(path("client.py"), CLIENT).expect("a folder");
    let (script, result, requests) = (path("client.py"), path("r.json"), requests.to_string());
    let read = [
        "ttft.mean=ttft:ms",
        "tpot.mean=tpot:ms",
        "succeeded=ok",
        "failed=failed",
        "tokens=tokens",
    ]
    .map(|place| ["--read", place])
    .concat();
    let args = [
        &ENGINE[..],
        &TOLERANCE,
        engine,
        &["--result", &result, "--format", "json-path"],
        &read,
        &["--", "python3", &script, traps, &result, "{model}", &requests],
    ];
    let output = verify(words(&args.concat())).await;
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

/// Whether a line of the table is marked.
fn is_outside(table: &str, name: &str) -> bool {
    table.lines().any(|line| line.starts_with(name) && line.ends_with("OUTSIDE"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_load_tester_is_within_the_tolerance() {
    let _alone = alone().await;
    let folder = Folder::new();
    let path = |name: &str| folder.0.join(name).display().to_string();
    let (result, json, truth) = (path("run.json"), path("verdict.json"), path("truth.jsonl"));
    let binary = kit::gateway::binary().display().to_string();
    let args = [
        &ENGINE[..],
        &TOLERANCE,
        &["--fail", "429=0.1", "--fail", "reset=0.1", "--tokens-per-event", "2"],
        &["--result", &result, "--format", "llm-lens", "--json", &json, "--truth", &truth, "--"],
        &[binary.as_str(), "run", "--base-url", "{url}", "--concurrency", "3", "--requests", "80"],
        &["--json", &result],
    ];
    let output = verify(words(&args.concat())).await;
    let table = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{table}");
    assert!(table.contains("within the tolerance"), "{table}");
    let read = |name: &str| std::fs::read_to_string(path(name)).expect("a file");
    let verdict: serde_json::Value = serde_json::from_str(&read("verdict.json")).expect("JSON");
    assert_eq!(verdict["within"], true, "{verdict}");
    let figures = verdict["times"].as_array().expect("times");
    let compared = figures.iter().filter(|row| row["within"] == true).count();
    assert!(compared >= 12, "mean, p50 and p90 of four times: {table}");
    let rows: Vec<serde_json::Value> =
        read("truth.jsonl").lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(rows.len(), 80);
    let failed = rows.iter().filter(|row| row["end"] == "failed").count();
    assert!((3..40).contains(&failed), "{failed}");
    assert!(rows.iter().all(|row| row["end"] != "disconnected"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_client_is_within_the_tolerance() {
    let _alone = alone().await;
    let (code, table) = client("honest", 20, &["--tokens-per-event", "4"]).await;
    assert_eq!(code, Some(0), "{table}");
    let (code, table) = client("honest", 20, &["--fail", "error-event=0.2"]).await;
    assert_eq!(code, Some(0), "{table}");
    let (code, table) = client("honest", 20, &["--fail", "truncate=0.2"]).await;
    assert_eq!(code, Some(0), "{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_counts_chunks_as_tokens_is_found() {
    let _alone = alone().await;
    let (code, table) = client("chunks", 20, &["--tokens-per-event", "4"]).await;
    assert_eq!(code, Some(1), "{table}");
    assert!(is_outside(&table, "tpot") && is_outside(&table, "output tokens"), "{table}");
    assert!(!is_outside(&table, "ttft"), "{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_64_kib_at_a_time_is_found() {
    let _alone = alone().await;
    let (code, table) = client("buffer", 20, &[]).await;
    assert_eq!(code, Some(1), "{table}");
    assert!(is_outside(&table, "ttft") && is_outside(&table, "tpot"), "{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_counts_failures_as_success_is_found() {
    let _alone = alone().await;
    let (code, table) = client("errors", 20, &["--fail", "error-event=0.4"]).await;
    assert_eq!(code, Some(1), "{table}");
    assert!(is_outside(&table, "failed") && is_outside(&table, "succeeded"), "{table}");
}

/// A closed loop offers what the server lets it offer: 10 requests a second, not 50.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_loop_that_hides_queueing_is_found() {
    let _alone = alone().await;
    let (code, table) = client("closed", 60, &["--expect-rate", "50"]).await;
    assert_eq!(code, Some(1), "{table}");
    assert!(is_outside(&table, "requests/s that arrived"), "{table}");
    assert!(!is_outside(&table, "ttft"), "the waits are hidden: {table}");
    let (_, table) = client("open", 60, &["--expect-rate", "50"]).await;
    assert!(!is_outside(&table, "requests/s that arrived"), "{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bounds_and_missing_figures_have_their_exit_codes() {
    let folder = Folder::new();
    let path = |name: &str| folder.0.join(name).display().to_string();
    let (result, old) = (path("none.json"), path("old.json"));
    std::fs::write(&old, "{\"completed\": 1}").expect("a folder");
    let endless = "\
import http.client
while True:
    c = http.client.HTTPConnection('127.0.0.1', {port})
    c.request('POST', '/v1/completions', 'x')
    c.getresponse()
";
    for (args, code, says) in [
        (vec!["--", "true"], 0, "the truth alone"),
        (vec!["--", "false"], 3, "the tool failed"),
        (vec!["--timeout", "200ms", "--", "sleep", "60"], 3, "killed after 200ms"),
        (vec!["--max-requests", "20", "--", "python3", "-c", endless], 3, "after 20 requests"),
        (vec!["--result", &result, "--format", "vllm", "--", "true"], 2, "cannot read"),
        (vec!["--result", &old, "--format", "vllm", "--", "true"], 2, "cannot read"),
        (vec!["--", "/no/such/tool"], 1, "cannot start /no/such/tool"),
        (vec!["--slots", "0", "--", "true"], 1, "slots is 0, but must be from 1 to 8192"),
        (vec!["--fail", "x=1", "--", "true"], 2, "not a kind of failure"),
    ] {
        let output = verify(words(&args)).await;
        let told = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
        assert!(told.contains(says), "{args:?}: {told}");
    }
}
