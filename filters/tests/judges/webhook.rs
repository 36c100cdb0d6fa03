//! The operator's own service.

use filters::Category;
use filters::settings::{Action, Judge, JudgeKind};
use serde_json::{Value, json};

use crate::host::{Stage, filter, found, prompt, refuses, scores, settings, talk, window};

fn webhook() -> Judge {
    settings(JudgeKind::Webhook)
}

fn action(judge: &Judge, answer: Value) -> Action {
    Stage::saying([answer])
        .judge(&*filter(judge), &window("x"))
        .expect("an answer that makes sense")
        .action()
}

#[test]
fn it_asks_about_every_text_with_its_role() {
    let stage = Stage::saying([json!({"verdict": "pass"})]);
    let report = stage.judge(&*filter(&webhook()), &talk()).unwrap();
    assert!(report.found.is_empty());
    let text = |role, text| json!({"role": role, "text": text});
    assert_eq!(
        stage.questions(),
        [json!({
            "phase": "input",
            "texts": [
                text("system", "be nice"),
                text("user", "hi"),
                text("assistant", "hello"),
                text("tool", "42"),
                text("user", "go on"),
                text("tool_definition", "adds"),
            ],
            "sizes": {"bytes": 25, "messages": 3, "tools": 0, "nesting": 0, "output_tokens": null},
        })]
    );
}

#[test]
fn it_asks_about_a_window() {
    let stage = Stage::saying([json!({"verdict": "block", "score": 0.75, "kind": "violence"})]);
    let report = stage.judge(&*filter(&webhook()), &window("so it goes")).unwrap();
    let sizes =
        json!({"bytes": 10, "messages": 0, "tools": 0, "nesting": 0, "output_tokens": null});
    let texts = [json!({"role": "assistant", "text": "so it goes"})];
    assert_eq!(stage.questions(), [json!({"phase": "output", "texts": texts, "sizes": sizes})]);
    assert_eq!(found(&report), [("VIOLENCE", 0, 0..10, 0.75)]);
    assert_eq!(
        (report.found[0].category, report.found[0].action),
        (Category::Toxicity, Action::Block)
    );
}

#[test]
fn the_settings_are_the_ceiling() {
    let verdicts = ["pass", "flag", "redact", "block"];
    for (at, ceiling) in
        [Action::Off, Action::Flag, Action::Mask, Action::Block].into_iter().enumerate()
    {
        let judge = Judge { output: ceiling, ..webhook() };
        for (asked, verdict) in verdicts.into_iter().enumerate() {
            let expected = [Action::Off, Action::Flag, Action::Mask, Action::Block][asked.min(at)];
            assert_eq!(
                action(&judge, json!({"verdict": verdict})),
                expected,
                "{verdict} under {ceiling:?}"
            );
        }
    }
}

#[test]
fn scores_below_the_threshold_are_no_findings() {
    let report = Stage::saying([json!({"verdict": "block", "score": 0.25})])
        .judge(&*filter(&webhook()), &window("x"))
        .unwrap();
    assert_eq!((report.found.len(), scores(&report)), (0, [("unsafe", 0.25)].into()));
    let report = Stage::saying([json!({"verdict": "pass", "score": 0.75})])
        .judge(&*filter(&webhook()), &window("x"))
        .unwrap();
    assert_eq!((report.found.len(), scores(&report)), (0, [("unsafe", 0.75)].into()));
}

#[test]
fn spans_are_counted_in_characters_of_the_texts_that_were_sent() {
    use wire::request::PromptRole::User;
    let spans = json!([
        {"text": 1, "start": 1, "end": 3, "kind": "secret plan"},
        {"text": 0, "start": 0, "end": 1},
    ]);
    let judge = Judge {
        input: Action::Mask,
        categories: vec!["secret plan".into(), "hate".into()],
        ..webhook()
    };
    let stage = Stage::saying([json!({"verdict": "block", "kind": "hate", "spans": spans})]);
    let report = stage
        .judge(&*filter(&judge), &prompt(&[(User, "ab"), (User, ""), (User, "ü👋éx")]))
        .unwrap();
    assert_eq!(found(&report), [("SECRET_PLAN", 2, 2..8, 1.0), ("HATE", 0, 0..1, 1.0)]);
    assert!(report.found.iter().all(|found| found.action == Action::Mask));
}

#[test]
fn what_is_taken_out_without_a_place_is_taken_out_whole() {
    use wire::request::PromptRole::User;
    let stage = Stage::saying([json!({"verdict": "redact"})]);
    let report =
        stage.judge(&*filter(&webhook()), &prompt(&[(User, "one"), (User, "three")])).unwrap();
    assert_eq!(found(&report), [("OTHER", 0, 0..3, 1.0), ("OTHER", 1, 0..5, 1.0)]);
}

#[test]
fn kinds_outside_the_list_are_other_or_nothing() {
    let answer = json!({"verdict": "block", "kind": "user_4711"});
    let report = Stage::saying([answer.clone()]).judge(&*filter(&webhook()), &window("x")).unwrap();
    assert_eq!(found(&report), [("OTHER", 0, 0..1, 1.0)]);
    let listed = Judge { categories: vec!["hate".into()], ..webhook() };
    assert_eq!(action(&listed, answer), Action::Off);
    assert_eq!(
        action(&listed, json!({"verdict": "block"})),
        Action::Block,
        "it does not say what, and that cannot be ruled out"
    );
}

#[test]
fn nonsense_is_a_failure() {
    let spans = [
        json!({"text": 1, "start": 0, "end": 1}),
        json!({"text": -1, "start": 0, "end": 1}),
        json!({"text": 0, "start": 0, "end": 4}),
        json!({"text": 0, "start": 1, "end": 1}),
        json!({"text": 0, "start": 2, "end": 1}),
        json!({"text": 0, "start": 0}),
        json!({"start": 0, "end": 1}),
        json!({"text": 0, "start": 0, "end": 1, "kind": 7}),
        json!(7),
    ];
    refuses(
        &webhook(),
        &window("é👋x"),
        spans.map(|span| json!({"verdict": "redact", "spans": [span]})),
    );
    let answers = [
        json!({}),
        json!([]),
        json!("block"),
        json!({"verdict": "BLOCK"}),
        json!({"verdict": "maybe"}),
        json!({"verdict": true}),
        json!({"verdict": "pass", "score": "NaN"}),
        json!({"verdict": "pass", "kind": 1}),
        json!({"verdict": "pass", "spans": {}}),
        json!({"verdict": "flag", "spans": vec![json!({"text": 0, "start": 0, "end": 1}); 100_000]}),
    ];
    refuses(&webhook(), &window("é👋x"), answers);
}
