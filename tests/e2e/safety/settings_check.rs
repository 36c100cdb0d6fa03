use super::admin_auth::{GRAFANA, OPERATOR, OPS, bearer, send, status};
use super::*;
use crate::raw::Folder;
use crate::support::eventually;

/// A variable that the gateway has, and whose value no answer may have.
const VALUE: &str = "the-value-of-a-variable";

fn settings(engine: &Engine, folder: &Folder) -> String {
    let backends = folder.file("backends.txt", "http://127.0.0.1:9\n");
    format!(
        "admin: {{address: '127.0.0.1:0', auth: {{tokens: [{{name: ops, token: {OPS}, role: operator}}, {{name: grafana, token: {GRAFANA}}}]}}}}\n\
         zone: 'zone-${{CHECKED}}'\nbackends: [{{name: e, url: '{}', api_key: k-secret}}]\n\
         pools: [{{name: p, template: e, backends_file: '{}'}}]\n\
         guardrails: [{{name: g, input_pii: redact}}]\n\
         routes: [{{name: r, backend: e, guardrail: g}}, {{name: filed, pool: p, match: {{path: /f}}}}]\n",
        engine.url(),
        backends.display()
    )
}

async fn check(gateway: &Gateway, text: &str) -> serde_json::Value {
    let fields = format!("{OPERATOR}{}", bearer(OPS));
    let answer = send(gateway, 1, "POST /api/settings/check", &fields, text).await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert!(!answer.contains("k-secret") && !answer.contains(OPS), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

async fn start(folder: &Folder) -> (Gateway, String) {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let text = settings(&engine, folder);
    let gateway = Gateway::with_command(&text, |command| {
        command.env("CHECKED", "west").env("HIDDEN", VALUE);
    });
    (gateway.await, text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_says_what_a_text_would_change() {
    let folder = Folder::new();
    let (gateway, text) = start(&folder).await;
    let in_force = std::fs::read_to_string(gateway.settings_file()).expect("a file");
    let same = check(&gateway, &in_force).await;
    assert_eq!(
        (&same["valid"], &same["changes"]),
        (&true.into(), &serde_json::json!([])),
        "{same}"
    );
    let changed = in_force
        .replace("api_key: k-secret", "api_key: k-other, weight: 3")
        .replace(", guardrail: g}", "}")
        + "\nlimits: {records: 9}\n";
    let changed = check(&gateway, &changed).await;
    let paths: Vec<_> = changed["changes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| (one["path"].as_str().expect("a path"), one["needs_restart"] == true))
        .collect();
    let want = [
        ("backends[e].weight", false),
        // It has the settings of its template.
        ("backends[p/127.0.0.1-9].weight", false),
        ("limits.records", true),
        ("routes[r].guardrail", false),
    ];
    assert_eq!(paths, want, "{changed}");
    assert_eq!(changed["loosened"], serde_json::json!(["guardrail of route \"r\""]), "{changed}");
    let wrong = check(&gateway, "routes: [{name: r, backend: none}]\nbackends: [{name: e, url: 'http://e'}]\nguardrails: [{name: g, rules: [{name: x, regex: '(', input: block}]}]\n").await;
    let problems = wrong["problems"].as_array().expect("a list");
    let found = |path: &str| {
        problems.iter().find(|one| one["path"] == path).unwrap_or_else(|| panic!("{path}: {wrong}"))
    };
    assert_eq!((&found("routes[0].backend")["line"], &wrong["valid"]), (&1.into(), &false.into()));
    assert_eq!(found("guardrails[0].rules[0].regex")["line"], 3);
    assert!(text.contains("zone"));
    // Nothing was changed.
    assert_eq!(check(&gateway, &in_force).await["changes"], serde_json::json!([]));
}

/// The check must not tell what the caller cannot read: variables, files, and whether they exist.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_reads_nothing_for_its_caller() {
    let folder = Folder::new();
    let (gateway, _) = start(&folder).await;
    let base = "backends: [{name: e, url: 'http://e'}]\nroutes: [{name: r, backend: e}]\n";
    let mut answers = Vec::new();
    let there = folder.file("there.pem", "-----BEGIN");
    for (variable, file) in [("HIDDEN", there.as_path()), ("NOT_SET", "/no/such/file".as_ref())] {
        let file = file.display();
        let text = format!(
            "{base}workers: 1\npools: [{{name: x, template: e, backends_file: '{file}'}}]\n\
             listeners: [{{address: '127.0.0.1:1', tls: {{cert: '{file}', key: '{file}'}}}}]\n\
             auth: {{keys: '{file}', secret: '${{{variable}}}-and-some-more-text-to-be-long-enough'}}\n\
             store: {{url: 'file:{file}'}}\nusage_file: '{file}/x'\nrecord_store: {{path: '{file}'}}\n"
        );
        let valid = check(&gateway, &text).await.to_string();
        let text = format!("{base}zone: '${{{variable}}}'\n");
        let invalid = check(&gateway, &text).await.to_string();
        assert!(invalid.contains("is not read here"), "{invalid}");
        for answer in [valid, invalid] {
            assert!(!answer.contains(VALUE), "{answer}");
            answers.push(answer.replace(&file.to_string(), "FILE"));
        }
    }
    assert_eq!(answers[..2], answers[2..]);
    // The same text in the same setting is in force.
    let known = check(&gateway, &format!("{base}zone: 'zone-${{CHECKED}}'\n")).await;
    assert_eq!(known["valid"], true, "{known}");
    let changes = known["changes"].as_array().expect("a list");
    assert!(changes.iter().all(|one| one["path"] != "zone"), "{known}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_is_for_operators_and_bounded() {
    let folder = Folder::new();
    let (gateway, _) = start(&folder).await;
    let post = "POST /api/settings/check";
    let viewer = format!("{OPERATOR}{}", bearer(GRAFANA));
    assert_eq!(status(&send(&gateway, 1, post, &viewer, "workers: 1").await), 403);
    assert_eq!(status(&send(&gateway, 1, post, &bearer(OPS), "workers: 1").await), 400);
    let operator = format!("{OPERATOR}{}", bearer(OPS));
    let large = "#".repeat((1 << 20) + 1);
    assert_eq!(status(&send(&gateway, 1, post, &operator, &large).await), 413);
    let bomb = "a: &a [x, x]\nb: &b [*a, *a]\n";
    let bomb = check(&gateway, bomb).await;
    assert!(
        bomb["problems"][0]["message"].as_str().is_some_and(|m| m.contains("aliases")),
        "{bomb}"
    );
    eventually("the check is in the audit log", || {
        gateway.stderr().contains("path=/api/settings/check")
    })
    .await;
}
