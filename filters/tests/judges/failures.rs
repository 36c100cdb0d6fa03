//! What is the same for all kinds: servers that fail, and unexpected answers.

use std::sync::Arc;

use filters::settings::{Action, Judge, JudgeKind, Template};
use filters::{Failure, Side, Subject};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::host::{Act, DEADLINE, Stage, filter, prompt, settings, talk, window};

/// A judge of each kind and template.
fn all() -> Vec<Judge> {
    use JudgeKind::{Analyzer, Classify, Embeddings, GuardModel, Moderation, Webhook};
    let kinds = [Moderation, Classify, Analyzer, Webhook, Embeddings].map(settings);
    let guards = [Template::LlamaGuard, Template::PromptGuard, Template::YesNo];
    let guards = guards.map(|template| Judge { template, ..settings(GuardModel) });
    kinds
        .into_iter()
        .chain(guards)
        .map(|judge| Judge { examples: vec!["bad".into()], ..judge })
        .collect()
}

/// An answer that each finds good, for one text.
fn good(judge: &Judge) -> Act {
    let answer = match (judge.kind, judge.template) {
        (JudgeKind::Moderation, _) => json!({"results": [{"flagged": false, "categories": {}}]}),
        (JudgeKind::Classify, _) => json!({"data": [{"index": 0, "label": "SAFE"}]}),
        (JudgeKind::Analyzer, _) => json!([]),
        (JudgeKind::Webhook, _) => json!({"verdict": "pass"}),
        (JudgeKind::Embeddings, _) => json!({"data": [{"index": 0, "embedding": [1.0]}]}),
        (_, Template::YesNo) => json!({"choices": [{"message": {"content": "no"}}]}),
        _ => json!({"choices": [{"message": {"content": "safe"}}]}),
    };
    Act::Says(200, answer.to_string())
}

#[test]
fn a_model_in_this_process_is_not_ours() {
    assert!(filters::judge::build(&settings(JudgeKind::Onnx)).is_none());
}

#[test]
fn failures_have_their_names() {
    let html = "<html><body>502 Bad Gateway</body></html>";
    let nested = "[".repeat(100_000);
    let cases = [
        (Act::Says(500, "{}".into()), Failure::Overloaded),
        (Act::Says(429, "{}".into()), Failure::Overloaded),
        (Act::Says(400, "{}".into()), Failure::Refused),
        (Act::Says(404, html.into()), Failure::Refused),
        (Act::Says(302, String::new()), Failure::Refused),
        (Act::Says(200, html.into()), Failure::InvalidResponse),
        (Act::Says(200, String::new()), Failure::InvalidResponse),
        (Act::Says(200, "null".into()), Failure::InvalidResponse),
        (Act::Says(200, "{\"results\":".into()), Failure::InvalidResponse),
        (Act::Says(200, nested), Failure::InvalidResponse),
        (Act::Says(200, "[1e999]".into()), Failure::InvalidResponse),
        (Act::Says(200, "[NaN]".into()), Failure::InvalidResponse),
        (Act::Gone, Failure::Unreachable),
        (Act::Silent, Failure::Deadline),
    ];
    for judge in all() {
        for (act, failure) in &cases {
            let stage = Stage::doing([act.clone()]);
            assert_eq!(
                stage.judge(&*filter(&judge), &window("x")),
                Err(*failure),
                "{:?} {act:?}",
                judge.kind
            );
        }
    }
}

#[test]
fn a_failing_judge_opens_its_breaker_and_is_probed() {
    for judge in all() {
        let (filter, stage) =
            (filter(&judge), Stage::doing([Act::Silent, Act::Gone, Act::Says(500, String::new())]));
        stage.then([Act::Says(503, "<html>".into()), Act::Silent]);
        for _ in 0..5 {
            assert_ne!(stage.judge(&*filter, &window("x")), Err(Failure::Open));
        }
        assert_eq!(stage.asks().len(), 5);
        assert_eq!(stage.judge(&*filter, &window("x")), Err(Failure::Open));
        assert!(stage.asks().is_empty(), "{:?}", judge.kind);

        stage.pass(5 * DEADLINE);
        stage.then([Act::Silent]);
        assert_eq!(stage.judge(&*filter, &window("x")), Err(Failure::Deadline), "one is tried");
        assert_eq!(stage.judge(&*filter, &window("x")), Err(Failure::Open));
        stage.pass(5 * DEADLINE);
        stage.then([good(&judge), good(&judge), good(&judge)]);
        for _ in 0..2 {
            assert!(stage.judge(&*filter, &window("x")).is_ok(), "{:?}", judge.kind);
        }
    }
}

/// What one client's text makes of a judge, an error or nonsense, does not silence it for all
/// others.
#[test]
fn a_clients_text_does_not_open_the_breaker() {
    for judge in all() {
        let (filter, stage) = (filter(&judge), Stage::default());
        for number in 0..12 {
            stage.then([if number % 2 == 0 {
                Act::Says(400, "{}".into())
            } else {
                Act::Says(200, "Well...".into())
            }]);
            assert_ne!(stage.judge(&*filter, &window("x")), Err(Failure::Open), "{:?}", judge.kind);
        }
    }
}

/// A value without members.
fn leaves() -> impl Strategy<Value = Value> + Clone {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2_i64..12).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
    ]
}

/// Any JSON, with the members that judges look for.
fn wild_answers() -> impl Strategy<Value = Value> {
    let names = prop::sample::select(NAMES);
    leaves().prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(names.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

const NAMES: &[&str] = &[
    "results",
    "data",
    "choices",
    "message",
    "content",
    "verdict",
    "spans",
    "index",
    "embedding",
    "text",
    "start",
    "end",
];

/// Mostly what is given, else anything.
fn mostly(values: impl Strategy<Value = Value> + 'static) -> impl Strategy<Value = Value> {
    prop_oneof![40 => values, 1 => leaves()]
}

fn word(words: &'static [&'static str]) -> impl Strategy<Value = Value> {
    mostly(prop::sample::select(words).prop_map(Value::from))
}

fn numbers() -> impl Strategy<Value = Value> + Clone {
    prop_oneof![4 => (-0.5..1.5).prop_map(Value::from), 1 => (-9e99..9e99).prop_map(Value::from)]
}

/// One part of an answer, as all kinds have it at once.
fn parts() -> impl Strategy<Value = Value> {
    let members = prop::collection::btree_map(
        prop::sample::select(&["hate", "sexual", "made up"][..]),
        mostly(numbers()),
        0..4,
    );
    let scores = mostly(members.prop_map(|members| json!(members)));
    let list = || mostly(prop::collection::vec(numbers(), 3).prop_map(Value::from));
    let place = |range: std::ops::Range<u64>| mostly(range.prop_map(Value::from));
    let words = (
        word(&["PERSON", "URL", "made up"]),
        word(&["hate", "made up"]),
        word(&["INJECTION", "SAFE", "LABEL_2", "made up"]),
        word(&[
            "safe",
            "unsafe",
            "unsafe\nS1,S99",
            "INJECTION 0.7",
            "LABEL_1 nan",
            "yes",
            "no",
            "<think>no</think>yes",
        ]),
    );
    let places = (place(0..3), place(2..8), place(0..2));
    (words, places, mostly(numbers()), scores, list(), list()).prop_map(
        |((entity, kind, label, content), (start, end, text), score, scores, probs, embedding)| {
            json!({
                "entity_type": entity, "start": start, "end": end, "score": score, "text": text, "kind": kind,
                "flagged": true, "category_scores": scores, "categories": {"violence": true},
                "label": label, "probs": probs, "embedding": embedding, "message": {"content": content},
            })
        },
    )
}

/// Answers that make sense but for a part here and there.
fn near_answers() -> impl Strategy<Value = Value> {
    let verdict = word(&["pass", "flag", "redact", "block"]);
    let answer = (prop::collection::vec(parts(), 1..3), verdict, mostly(numbers()), any::<u8>());
    answer.prop_map(|(parts, verdict, score, shape)| {
        let spans = if shape & 1 == 0 { json!([]) } else { json!(parts) };
        let object = json!({"results": parts, "data": parts, "choices": parts, "verdict": verdict, "score": score, "spans": spans});
        if shape & 6 == 0 { json!(parts) } else { object }
    })
}

/// What a report promises, whatever was answered.
fn keeps_its_promises(judge: &Judge, subject: &Arc<Subject>, answer: &str) {
    let stage = Stage::doing(vec![Act::Says(200, answer.to_owned()); 6]);
    let Ok(report) = stage.judge(&*filter(judge), subject) else { return };
    let ceiling = if subject.side() == Side::Input { judge.input } else { judge.output };
    for found in &report.found {
        assert!(found.score >= judge.threshold && found.score <= 1.0);
        assert!(found.action <= ceiling && found.action > Action::Off);
        assert!(
            subject.text(found.text).get(found.span.clone()).is_some_and(|cut| !cut.is_empty())
        );
        assert!(found.kind.chars().all(|c| c.is_ascii_uppercase() || c == '_'), "{}", found.kind);
        assert_eq!(found.rule, "judge.guard");
    }
    assert!(report.scores.iter().all(|(_, score)| (0.0..=1.0).contains(score)));
}

/// Each judge is asked about each subject, and answered with this.
fn call_all(answer: &Value) {
    let answer = answer.to_string();
    use wire::request::PromptRole::{System, User};
    let long = prompt(&[(System, "Grüße 👋🏽"), (User, "an Zoë, é")]);
    for judge in all() {
        let masks =
            Judge { input: Action::Mask, output: Action::Flag, threshold: 0.2, ..judge.clone() };
        for subject in [&long, &window("é👋x und so"), &talk()] {
            keeps_its_promises(&judge, subject, &answer);
            keeps_its_promises(&masks, subject, &answer);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_wild_answer_makes_a_judge_panic(answer in wild_answers()) {
        call_all(&answer);
    }

    #[test]
    fn no_near_answer_makes_a_judge_panic(answer in near_answers()) {
        call_all(&answer);
    }

    #[test]
    fn no_body_makes_a_judge_panic(body in ".{0,64}", status in 0_u16..=u16::MAX) {
        for judge in all() {
            let stage = Stage::doing(vec![Act::Says(status, body.clone()); 16]);
            let _ = stage.judge(&*filter(&judge), &window("é👋x"));
        }
    }
}
