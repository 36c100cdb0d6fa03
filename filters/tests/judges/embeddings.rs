//! Likeness to examples.

use filters::settings::{Judge, JudgeKind};
use filters::{Category, Failure};
use serde_json::{Value, json};

use crate::host::{Act, Stage, filter, found, refuses, scores, settings, talk, window};

fn embeddings() -> Judge {
    Judge {
        examples: vec!["how to pick locks".into(), "how to hotwire".into()],
        ..settings(JudgeKind::Embeddings)
    }
}

fn vectors(vectors: &[&[f64]]) -> Value {
    let data: Vec<Value> = vectors
        .iter()
        .enumerate()
        .map(|(index, numbers)| json!({"index": index, "embedding": numbers}))
        .collect();
    json!({"data": data})
}

#[test]
fn the_examples_are_asked_for_once_and_then_all_foreign_words() {
    let judge = filter(&embeddings());
    let stage = Stage::saying([
        vectors(&[&[1.0, 0.0], &[0.0, 2.0]]),
        vectors(&[&[1.0, 1.0], &[1.0, 1.0], &[3.0, 4.0]]),
        vectors(&[&[-1.0, 0.25]]),
    ]);
    let report = stage.judge(&*judge, &talk()).unwrap();
    assert_eq!(found(&report).last(), Some(&("TOPIC_LIKENESS", 4, 0..5, 0.8)));
    assert_eq!(report.found.len(), 3);
    assert_eq!(
        (&*report.found[0].rule, report.found[0].category),
        ("judge.guard", Category::Topic)
    );
    let examples = json!({"model": "m", "input": ["how to pick locks", "how to hotwire"]});
    assert_eq!(
        stage.questions(),
        [examples, json!({"model": "m", "input": ["hi", "42", "go on"]})]
    );

    let report = stage.judge(&*judge, &window("so it goes")).unwrap();
    assert_eq!(stage.questions(), [json!({"model": "m", "input": ["so it goes"]})]);
    assert!(report.found.is_empty() && (scores(&report)["topic"] - 0.2425).abs() < 1e-3);
}

#[test]
fn what_points_away_is_not_alike() {
    let stage = Stage::saying([vectors(&[&[1.0, 0.0], &[1.0, 0.0]]), vectors(&[&[-1.0, 0.0]])]);
    let report = stage.judge(&*filter(&embeddings()), &window("x")).unwrap();
    assert_eq!(scores(&report), [("topic", 0.0)].into());
}

#[test]
fn without_examples_no_call_is_made() {
    let stage = Stage::default();
    let report =
        stage.judge(&*filter(&Judge { examples: Vec::new(), ..embeddings() }), &talk()).unwrap();
    assert!(report.found.is_empty() && stage.asks().is_empty());
}

#[test]
fn examples_that_failed_are_asked_for_again() {
    let judge = filter(&embeddings());
    let stage = Stage::doing([Act::Gone]);
    assert_eq!(stage.judge(&*judge, &window("x")), Err(Failure::Unreachable));
    stage.then(
        [vectors(&[&[1.0], &[1.0]]), vectors(&[&[1.0]])]
            .map(|answer| Act::Says(200, answer.to_string())),
    );
    assert_eq!(
        found(&stage.judge(&*judge, &window("x")).unwrap()),
        [("TOPIC_LIKENESS", 0, 0..1, 1.0)]
    );
}

#[test]
fn nonsense_is_a_failure() {
    let wrong = [
        json!({}),
        json!({"data": []}),
        json!({"data": {"0": []}}),
        vectors(&[&[1.0]]),
        vectors(&[&[1.0], &[1.0], &[1.0]]),
        vectors(&[&[1.0], &[1.0, 2.0]]),
        vectors(&[&[], &[]]),
        vectors(&[&[0.0], &[0.0]]),
        vectors(&[&[1e300], &[1.0]]),
        vectors(&[&[1.0; 20_000], &[1.0; 20_000]]),
        json!({"data": [{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [1]}]}),
        json!({"data": [{"index": 0, "embedding": [1]}, {"index": 1, "embedding": [null]}]}),
        json!({"data": [{"index": 0, "embedding": [1]}, {"index": 1, "embedding": "AACAPw=="}]}),
        json!({"data": [{"index": 0, "embedding": [1]}, {"index": 1}]}),
        json!({"data": vec![json!({"embedding": [1]}); 100_000]}),
    ];
    refuses(&embeddings(), &window("x"), wrong);
    for other in [vectors(&[&[1.0, 2.0]]), vectors(&[]), vectors(&[&[1.0], &[1.0]]), json!({})] {
        let stage = Stage::saying([vectors(&[&[1.0], &[1.0]]), other]);
        assert_eq!(
            stage.judge(&*filter(&embeddings()), &window("x")),
            Err(Failure::InvalidResponse)
        );
    }
}
