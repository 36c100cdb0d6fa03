//! The moderation endpoint.

use std::sync::Arc;

use filters::settings::{Action, Judge, JudgeKind};
use filters::{Category, Hooks, Subject};
use serde_json::{Value, json};

use crate::host::{Stage, filter, found, refuses, scores, settings, talk, window};

fn moderation() -> Judge {
    settings(JudgeKind::Moderation)
}

fn clean() -> Value {
    json!({"flagged": false, "categories": {"hate": false}, "category_scores": {"hate": 0.01}})
}

#[test]
fn it_asks_about_every_text() {
    let stage =
        Stage::saying([json!({"results": [clean(), clean(), clean(), clean(), clean(), clean()]})]);
    let report = stage.judge(&*filter(&moderation()), &talk()).unwrap();
    assert!(report.found.is_empty());
    assert_eq!(scores(&report), [("toxicity", 0.01)].into());
    let asks = stage.asks();
    assert_eq!((&*asks[0].backend, &*asks[0].path), ("guards", "/ask"));
    let question: Value = serde_json::from_slice(&asks[0].body).unwrap();
    assert_eq!(
        question,
        json!({"model": "m", "input": ["be nice", "hi", "hello", "42", "go on", "adds"]})
    );
}

#[test]
fn it_asks_about_a_window_and_names_no_model_that_is_not_set() {
    let stage = Stage::saying([json!({"results": [clean()]})]);
    stage
        .judge(&*filter(&Judge { model: String::new(), ..moderation() }), &window("so it goes"))
        .unwrap();
    assert_eq!(stage.questions(), [json!({"input": ["so it goes"]})]);
}

#[test]
fn an_empty_subject_makes_no_call() {
    let stage = Stage::default();
    assert!(
        stage
            .judge(&*filter(&moderation()), &Arc::new(Subject::of_user(" \n")))
            .unwrap()
            .found
            .is_empty()
    );
    assert!(stage.asks().is_empty());
}

#[test]
fn it_takes_part_where_something_is_done() {
    let hooks = |input, output| filter(&Judge { input, output, ..moderation() }).hooks();
    assert_eq!(hooks(Action::Flag, Action::Off), Hooks::JUDGE_PROMPT);
    assert_eq!(hooks(Action::Off, Action::Mask), Hooks::JUDGE_ANSWER);
    assert_eq!(hooks(Action::Flag, Action::Block), Hooks::JUDGE_PROMPT | Hooks::JUDGE_ANSWER);
    assert_eq!(hooks(Action::Off, Action::Off), Hooks::NONE);
}

#[test]
fn categories_from_the_threshold_on_are_findings() {
    let result = json!({
        "flagged": false,
        "categories": {"hate": false, "self-harm": true, "sexual": null},
        "category_scores": {"hate": 0.5, "violence": 0.25, "harassment/threatening": 0.75},
    });
    let stage = Stage::saying([json!({"results": [result]})]);
    let report = stage
        .judge(&*filter(&Judge { output: Action::Mask, ..moderation() }), &window("grr 𝄞"))
        .unwrap();
    assert_eq!(
        found(&report),
        [
            ("SELF_HARM", 0, 0..8, 1.0),
            ("HARASSMENT_THREATENING", 0, 0..8, 0.75),
            ("HATE", 0, 0..8, 0.5)
        ]
    );
    assert_eq!(scores(&report), [("toxicity", 0.75), ("unsafe", 1.0)].into());
    let first = &report.found[0];
    assert_eq!(
        (&*first.rule, first.category, first.action),
        ("judge.guard", Category::Unsafe, Action::Mask)
    );
}

#[test]
fn unlisted_categories_become_one_other_or_nothing() {
    let result =
        json!({"flagged": true, "category_scores": {"user_1": 0.6, "user_2": 0.9, "hate": 0.8}});
    let answer = json!({"results": [result]});
    let report =
        Stage::saying([answer.clone()]).judge(&*filter(&moderation()), &window("x")).unwrap();
    assert_eq!(found(&report), [("OTHER", 0, 0..1, 0.9), ("HATE", 0, 0..1, 0.8)]);
    let listed = Judge { categories: vec!["hate".into()], ..moderation() };
    let report = Stage::saying([answer]).judge(&*filter(&listed), &window("x")).unwrap();
    assert_eq!(found(&report), [("HATE", 0, 0..1, 0.8)]);
}

#[test]
fn scores_beyond_their_range_are_forced_into_it() {
    let result = json!({"flagged": true, "category_scores": {"hate": 1e300, "sexual": -5}});
    let report = Stage::saying([json!({"results": [result]})])
        .judge(&*filter(&moderation()), &window("x"))
        .unwrap();
    assert_eq!(scores(&report), [("toxicity", 1.0), ("unsafe", 0.0)].into());
}

#[test]
fn the_newest_of_a_long_conversation_are_asked_about() {
    let texts: Vec<String> = (0..100).map(|n| format!("text {n}")).collect();
    let texts: Vec<_> =
        texts.iter().map(|text| (wire::request::PromptRole::User, text.as_str())).collect();
    let mut results = vec![clean(); 64];
    results[63] = json!({"flagged": true, "category_scores": {"hate": 1}});
    let stage = Stage::saying([json!({"results": results})]);
    let flags = Judge { input: filters::settings::Action::Flag, ..moderation() };
    let report = stage.judge(&*filter(&flags), &crate::host::prompt(&texts)).unwrap();
    assert_eq!(found(&report), [("HATE", 99, 0..7, 1.0)]);
    assert_eq!(stage.questions()[0]["input"][0], "text 36");
}

#[test]
fn nonsense_is_a_failure() {
    let many: serde_json::Map<String, Value> =
        (0..1000).map(|n| (n.to_string(), json!(0.5))).collect();
    let results = [
        json!({}),
        json!({"flagged": true}),
        json!({"categories": {}, "category_scores": {}}),
        json!({"flagged": "no", "category_scores": {}}),
        json!({"flagged": true, "category_scores": {"hate": "NaN"}}),
        json!({"flagged": true, "category_scores": {"hate": [1]}}),
        json!({"flagged": true, "category_scores": [0.5]}),
        json!({"flagged": true, "categories": {"hate": 1}}),
        json!({"flagged": true, "category_scores": many}),
        json!(null),
    ];
    refuses(&moderation(), &window("x"), results.map(|result| json!({"results": [result]})));
    let lists = [
        json!({}),
        json!({"results": {}}),
        json!({"results": []}),
        json!({"results": [clean(), clean()]}),
        json!([clean()]),
    ];
    refuses(&moderation(), &window("x"), lists);
    refuses(&moderation(), &window("x"), [json!({"results": vec![clean(); 100_000]})]);
}
