//! Authentication, rate limits and admission.

mod admission;
mod keys;
mod limits;
mod shared;
mod tokens;
mod usage;

use std::path::PathBuf;
use std::process::{Command, Output};

use kit::gateway::{binary, folder};
use kit::{Engine, Gateway, Step, sse};

const CHAT: &str = "/v1/chat/completions";
const SECRET: &str = "a-secret-for-tests-only";

/// A gateway with keys, and its settings file.
struct Keyed {
    gateway: Gateway,
    config: PathBuf,
}

impl Keyed {
    /// `routes` are entries of their list, or nothing for one route `r`; `more` are more sections.
    async fn start(
        engine: &Engine,
        routes: &str,
        more: &str,
        first: &[&[&str]],
    ) -> (Keyed, Vec<String>) {
        Keyed::start_with(engine, "", routes, more, first).await
    }

    /// `backend` are more members of the backend.
    async fn start_with(
        engine: &Engine,
        backend: &str,
        routes: &str,
        more: &str,
        first: &[&[&str]],
    ) -> (Keyed, Vec<String>) {
        Keyed::start_in("keys.yaml", engine, backend, routes, more, first).await
    }

    /// `file` is the file of the keys.
    async fn start_in(
        file: &str,
        engine: &Engine,
        backend: &str,
        routes: &str,
        more: &str,
        first: &[&[&str]],
    ) -> (Keyed, Vec<String>) {
        let folder = folder();
        let routes = if routes.is_empty() { "{name: r, backend: e}" } else { routes };
        let text = format!(
            "backends: [{{name: e, url: '{}', api_key: backend-key, models: [m]{backend}}}]\nroutes: [{routes}]\nauth: {{keys: '{}', secret: {SECRET}}}\n{more}\n",
            engine.url(),
            folder.join(file).display(),
        );
        let config = folder.join("gateway.yaml");
        std::fs::write(&config, &text).expect("the settings are written");
        let keys = first.iter().map(|flags| create(&config, flags)).collect();
        (Keyed { gateway: Gateway::with_settings(&text).await, config }, keys)
    }
}

/// Run `llm-lens key`.
fn key_command(args: &[&str], config: &std::path::Path) -> Output {
    Command::new(binary())
        .arg("key")
        .args(args)
        .arg("--config")
        .arg(config)
        .output()
        .expect("it runs")
}

/// A new key.
fn create(config: &std::path::Path, flags: &[&str]) -> String {
    let made = key_command(&[&["create"], flags].concat(), config);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8_lossy(&made.stdout).trim().to_owned()
}

fn bearer(key: &str) -> String {
    format!("authorization: Bearer {key}\r\n")
}

fn request(more: &str) -> String {
    format!(
        "{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":\"hello there\"}}]{more}}}"
    )
}

/// An engine that streams 2,000 events, unless the client disconnects.
async fn endless() -> Engine {
    Engine::start(|_| {
        let mut steps = vec![Step::text(sse::STREAM_HEAD), Step::chunk(sse::role())];
        for i in 0..2000 {
            steps.extend([Step::ms(2), Step::chunk(sse::content(&format!("t{i}")))]);
        }
        steps
    })
    .await
}
