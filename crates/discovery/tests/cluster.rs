//! Against a scripted API of a cluster.

mod api;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use config::Endpoint;
use futures_util::StreamExt;
use kit::{Engine, Step};

use api::{WATCHING, event, json, list, slice};

/// What the API answers when it is asked for all, for the first time and after.
fn listed(time: usize) -> Vec<Step> {
    match time {
        // It is there, and has no time.
        0 => json(
            "500 Internal Server Error",
            "{\"kind\":\"Status\",\"status\":\"Failure\",\"message\":\"busy\",\"code\":500}",
        ),
        1 => list(
            1,
            &[
                slice(
                    "a",
                    1,
                    "IPv4",
                    8000,
                    &[("10.0.0.1", Some(true)), ("10.0.0.2", Some(false)), ("10.0.0.3", None)],
                ),
                slice("six", 1, "IPv6", 8000, &[("fd00::1", Some(true))]),
                slice("names", 1, "FQDN", 8000, &[("pod.test", Some(true))]),
            ],
        ),
        // After what was missed: one pod only.
        _ => list(9, &[slice("a", 9, "IPv4", 8000, &[("10.0.0.1", Some(true))])]),
    }
}

/// What it sends to watchers.
fn watched(time: usize) -> Vec<Step> {
    let begun = Step::text(WATCHING);
    if time > 0 {
        return vec![begun, Step::Hang];
    }
    vec![
        begun,
        event(
            "MODIFIED",
            &slice("a", 2, "IPv4", 8000, &[("10.0.0.1", Some(true)), ("10.0.0.2", Some(true))]),
        ),
        Step::ms(100),
        event("ADDED", &slice("b", 3, "IPv4", 8000, &[("10.0.1.1", Some(true))])),
        Step::ms(100),
        // Pods are ready, but none has the port: the backends stay as they are.
        event(
            "MODIFIED",
            &slice("a", 3, "IPv4", 8000, &[("10.0.0.9", Some(true))])
                .replace("\"http\"", "\"renamed\""),
        ),
        event(
            "MODIFIED",
            &slice("b", 3, "IPv4", 8000, &[("10.0.1.9", Some(true))])
                .replace("\"http\"", "\"renamed\""),
        ),
        event(
            "MODIFIED",
            &slice("a", 3, "IPv4", 8000, &[("10.0.0.1", Some(true)), ("10.0.0.2", Some(true))]),
        ),
        Step::ms(100),
        event("DELETED", &slice("b", 4, "IPv4", 8000, &[("10.0.1.1", Some(true))])),
        Step::ms(100),
        // What it remembers is too old for us: everything is listed again.
        event(
            "ERROR",
            "{\"kind\":\"Status\",\"status\":\"Failure\",\"message\":\"too old\",\"reason\":\"Expired\",\"code\":410}",
        ),
        Step::end(),
    ]
}

fn client(cluster: &Engine) -> kube::Client {
    let mut config = kube::Config::new(cluster.url().parse().expect("a URL"));
    config.default_namespace = "models".into();
    config.auth_info.token = Some("t0ken".to_owned().into());
    kube::Client::try_from(config).expect("a client")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_ready_of_a_service_is_found_and_followed() {
    let (lists, watches) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let cluster = Engine::start(move |seen| match seen.head.contains("watch=true") {
        true => watched(watches.fetch_add(1, Ordering::SeqCst)),
        false => listed(lists.fetch_add(1, Ordering::SeqCst)),
    })
    .await;
    let service = discovery::kubernetes::Service {
        namespace: None,
        name: "vllm".into(),
        port: Some("http".into()),
    };
    let mut found = Box::pin(discovery::kubernetes::endpoints_in(client(&cluster), service));
    let at = |addresses: &[&str]| -> Vec<Endpoint> {
        addresses
            .iter()
            .map(|address| Endpoint {
                address: address.parse().expect("an address"),
                port: 8000,
                weight: 0,
                zone: Some("z1".into()),
            })
            .collect()
    };
    let wanted = [
        at(&["10.0.0.1", "10.0.0.3"]),
        at(&["10.0.0.1", "10.0.0.2"]),
        at(&["10.0.0.1", "10.0.0.2", "10.0.1.1"]),
        // The one whose port is gone; while the other's is gone as well, nothing.
        at(&["10.0.1.1"]),
        at(&["10.0.0.1", "10.0.0.2"]),
        at(&["10.0.0.1", "10.0.0.2"]),
        at(&["10.0.0.1"]),
    ];
    for (step, wanted) in wanted.iter().enumerate() {
        let next = tokio::time::timeout(Duration::from_secs(30), found.next())
            .await
            .expect("in time")
            .expect("it never ends");
        assert_eq!(next, *wanted, "step {step}");
    }
    for seen in cluster.seen() {
        let path = "GET /apis/discovery.k8s.io/v1/namespaces/models/endpointslices?";
        let ours = seen.head.starts_with(path)
            && seen.head.contains("labelSelector=kubernetes.io%2Fservice-name%3Dvllm");
        assert!(ours && seen.head.contains("Bearer t0ken"), "{}", seen.head);
    }
}
