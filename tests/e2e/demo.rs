//! `llm-lens demo`: what a new user starts first.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use kit::{Engine, sse};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

/// The load of the simulated engines takes some ten seconds.
const PATIENCE: Duration = Duration::from_secs(90);

/// A real engine is requested beside the simulated ones, and a signal ends the gateway.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_requests_a_real_engine_and_ends_with_a_signal() {
    let engine = Engine::start(|seen| {
        if seen.head.starts_with("GET ") {
            return sse::json(200, &json!({"data": [{"id": "small-model"}]}).to_string());
        }
        sse::stream(3, 1)
    })
    .await;
    let mut command = Command::new(kit::gateway::binary());
    command.args(["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.args(["--backend", &engine.url()]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut demo = command.stderr(Stdio::null()).spawn().expect("the binary runs");
    let (lines, received) = mpsc::sync_channel(1000);
    let out = BufReader::new(demo.stdout.take().expect("it is piped"));
    std::thread::spawn(move || {
        out.lines().map_while(Result::ok).try_for_each(|line| lines.send(line))
    });
    let shown = tokio::task::spawn_blocking(move || {
        let mut shown = Vec::new();
        while let Ok(line) = received.recv_timeout(PATIENCE) {
            shown.push(line);
            if shown.last().is_some_and(|line| line.ends_with("Ctrl-C ends")) {
                kill(Pid::from_raw(demo.id().cast_signed()), Signal::SIGTERM).expect("it runs");
            }
        }
        let _ = demo.kill();
        let status = demo.wait().expect("it ended");
        assert!(status.success(), "{status}: {}", shown.join("\n"));
        shown.join("\n")
    });
    let shown = shown.await.expect("it ends");
    assert!(shown.starts_with("open the dashboard in a browser: http://127.0.0.1:"), "{shown}");
    for want in ["8 to small-model", "real / engine ", "on route real", "\"model\":\"small-model\""]
    {
        assert!(shown.contains(want), "{want}: {shown}");
    }
    let prompts = engine.seen().iter().filter(|seen| seen.head.starts_with("POST ")).count();
    assert!(prompts >= 8, "{prompts}");
}
