//! The gateway with a local model as a judge: prompts and windows of answers, on threads of the
//! pool.

use crate::tiny::{ANY, Home, model, wordpiece};
use kit::{Client, Engine, Gateway, Step, sse};

const CHAT: &str = "/v1/chat/completions";

async fn gateway(engine: &Engine, home: &Home, judge: &str) -> Gateway {
    let files = home.settings();
    let text = format!(
        "backends: [{{name: e, url: '{}'}}]\nguardrails: [{{name: s, input_injection: off, input_toxicity: off, output_pii: off, output_secrets: off, judge_window: 32B, \
         judges: [{{name: tiny, kind: onnx, model_file: '{}', tokenizer_file: '{}', labels: [safe, bad], categories: [bad], {judge}}}]}}]\n\
         routes: [{{name: r, backend: e, guardrail: s}}]\n",
        engine.url(),
        files.model.display(),
        files.tokenizer.display(),
    );
    Gateway::with_settings(&text).await
}

async fn ask(gateway: &Gateway, text: &str, stream: bool) -> kit::client::Answer {
    let mut client: Client = gateway.client().await;
    let body = format!(
        "{{\"model\":\"m\",\"stream\":{stream},\"messages\":[{{\"role\":\"user\",\"content\":\"{text}\"}}]}}"
    );
    client.post(CHAT, "x-request-id: r\r\n", &body).await;
    client.answer().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_model_judges_prompts() {
    let home = Home::new(&model(&ANY, true), &wordpiece());
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let gateway = gateway(&engine, &home, "input: block").await;
    assert_eq!(ask(&gateway, "a good and fine table", false).await.status, 200);
    let refused = ask(&gateway, "bad awful bad", false).await;
    assert_eq!((refused.status, refused.error_code().as_str()), (400, "content_blocked"));
    let security = gateway.record("r").await.guardrail.expect("a guard");
    let account =
        security.filters.iter().find(|filter| filter.filter.as_ref() == "tiny").expect("the judge");
    assert!(account.remote_us == 0 && account.wall_us > 0, "{account:?}");
    assert_eq!(engine.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_model_judges_windows_of_answers() {
    let home = Home::new(&model(&ANY, true), &wordpiece());
    let engine = Engine::start(|_| {
        let pieces =
            ["a good and fine table, good and fine. ", "bad awful bad awful bad awful bad awful"];
        let mut steps = vec![Step::text(sse::STREAM_HEAD), Step::chunk(sse::role())];
        steps.extend(pieces.iter().map(|piece| Step::chunk(sse::content(piece))));
        steps.extend([Step::chunk(sse::finish()), Step::chunk(sse::done()), Step::end()]);
        steps
    })
    .await;
    let gateway = gateway(&engine, &home, "input: off, output: block, mode: hold").await;
    let text = ask(&gateway, "hello", true).await.text();
    assert!(text.contains("content_filter") && !text.contains("awful"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_cannot_be_loaded_is_told_before_anything_listens() {
    let home = Home::new(b"no model", &wordpiece());
    let files = home.settings();
    let folder = kit::gateway::folder();
    let file = folder.join("gateway.yaml");
    let text = format!(
        "backends: [{{name: e, url: 'http://127.0.0.1:1'}}]\nguardrails: [{{name: s, judges: [{{name: tiny, kind: onnx, model_file: '{}', tokenizer_file: '{}', labels: [safe, bad], categories: [bad]}}]}}]\nroutes: [{{name: r, backend: e, guardrail: s}}]\n",
        files.model.display(),
        files.tokenizer.display(),
    );
    std::fs::write(&file, text).expect("the folder is writable");
    let checked = std::process::Command::new(kit::gateway::binary())
        .arg("check")
        .arg(&file)
        .output()
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(
        !checked.status.success() && said.contains("judge tiny") && said.contains("model.onnx"),
        "{said}"
    );
}
