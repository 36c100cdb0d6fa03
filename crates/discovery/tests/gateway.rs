//! The real binary, built with the feature, beside a scripted API of a cluster.

mod api;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use api::{WATCHING, event, list, slice};
use kit::{Engine, Gateway, Step, sse};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_go_to_the_pods_that_are_ready() {
    let (one, other) =
        (Engine::start(|_| sse::stream(3, 2)).await, Engine::start(|_| sse::stream(3, 2)).await);
    let ports = [one.address.port(), other.address.port()];
    let replaced = Arc::new(AtomicBool::new(false));
    let told = replaced.clone();
    let cluster = Engine::start(move |seen| {
        if !seen.head.contains("watch=true") {
            return list(1, &[slice("a", 1, "IPv4", ports[0], &[("127.0.0.1", Some(true))])]);
        }
        let next =
            event("MODIFIED", &slice("a", 2, "IPv4", ports[1], &[("127.0.0.1", Some(true))]));
        vec![Step::text(WATCHING), Step::Until(told.clone()), next, Step::Hang]
    })
    .await;
    let file = std::env::temp_dir().join(format!("llm-lens-kubeconfig-{}", std::process::id()));
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: '{}'}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u, namespace: models}}}}]\nusers: [{{name: u, user: {{token: t0ken}}}}]\n",
        cluster.url()
    );
    std::fs::write(&file, text).expect("a temporary folder");
    let settings = "backends: [{name: like, url: 'http://vllm.models.svc:8000'}]\n\
                    pools: [{name: p, template: like, discover: {kubernetes: vllm, port: http}}]\nroutes: [{name: r, pool: p}]\n";
    let gateway = Gateway::with_command(settings, |command| {
        command.env("KUBECONFIG", &file);
    })
    .await;
    let ask = async || {
        let mut client = gateway.client().await;
        client
            .post("/v1/chat/completions", "", "{\"model\":\"m\",\"stream\":true,\"messages\":[]}")
            .await;
        let answer = client.answer().await;
        assert!(
            answer.complete && answer.status == 200,
            "{} {} {}",
            answer.head,
            answer.text(),
            gateway.stderr()
        );
        answer.field("x-llm-lens-backend").unwrap_or_default().to_owned()
    };
    assert!(ask().await.starts_with(&format!("p/127.0.0.1-{};", ports[0])));
    replaced.store(true, Ordering::SeqCst);
    gateway
        .until(|gateway| {
            gateway.get("/api/backends").1.contains(&format!("p/127.0.0.1-{}\"", ports[1]))
        })
        .await;
    assert!(ask().await.starts_with(&format!("p/127.0.0.1-{};", ports[1])));
    let _ = std::fs::remove_file(&file);
}
