//! `llm-lens run`: the load generator as people and scripts use it.

use std::collections::HashSet;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;

use kit::engine::Seen;
use kit::{Engine, Step, sse};

/// Runs the load generator to its end.
async fn load(args: &[&str]) -> Output {
    let mut command = Command::new(kit::gateway::binary());
    command.arg("run").args(args).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().expect("the binary runs"))
        .await
        .expect("it does not panic")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A server may announce keep-alive and close after each answer: a reused connection that closes
/// before any byte of an answer is replaced, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_on_connections_that_the_server_closed_are_sent_again() {
    // Closes with the request in hand, which the client cannot see before it sends.
    let engine = Engine::start(second_answer(vec![Step::Close])).await;
    for arrival in [["--concurrency", "2"], ["--rate", "200"]] {
        let url = engine.url();
        let args = ["--base-url", &url, "--model", "m", "--requests", "30"];
        let output = load(&[&args[..], &arrival].concat()).await;
        assert!(text(&output.stdout).contains("30 requests in"), "{}", text(&output.stdout));
        assert!(text(&output.stdout).contains(" s, 0 failed"), "{}", text(&output.stdout));
    }
    assert!(engine.seen().len() > 60, "no connection was reused");
}

/// Answers the first request of each connection, and the second one with these steps.
fn second_answer(second: Vec<Step>) -> impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static {
    let served = Mutex::new(HashSet::new());
    move |seen| {
        let first = served.lock().expect("no test panicked in here").insert(seen.connection);
        if first { sse::stream(3, 1) } else { second.clone() }
    }
}

/// A connection that closes in the middle of an answer, or without one at its first use, is a
/// failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_a_server_began_to_answer_are_not_sent_again() {
    let torn_head = vec![Step::text("HTTP/1.1 200 OK\r\ncontent-ty"), Step::Close];
    let torn_body = vec![Step::text(sse::STREAM_HEAD), Step::chunk(sse::role()), Step::Close];
    for second in [torn_head, torn_body] {
        let engine = Engine::start(second_answer(second)).await;
        let url = engine.url();
        let output = load(&["--base-url", &url, "--model", "m", "--requests", "4"]).await;
        assert!(text(&output.stdout).contains(" s, 2 failed"), "{}", text(&output.stdout));
        assert_eq!(engine.seen().len(), 4, "{}", text(&output.stdout));
    }
    let engine = Engine::start(|_| vec![Step::Close]).await;
    let url = engine.url();
    let output = load(&["--base-url", &url, "--model", "m", "--requests", "4"]).await;
    assert!(text(&output.stdout).contains(" s, 4 failed"), "{}", text(&output.stdout));
    assert_eq!(engine.seen().len(), 4, "{}", text(&output.stdout));
}
