//! The classifier behind `/classify`.

use filters::Category;
use filters::settings::{Judge, JudgeKind};
use serde_json::{Value, json};

use crate::host::{Stage, filter, found, refuses, scores, settings, talk, window};

fn classify(categories: &[&str]) -> Judge {
    Judge {
        categories: categories.iter().map(|word| (*word).into()).collect(),
        ..settings(JudgeKind::Classify)
    }
}

fn one(label: &str, probs: &[f64]) -> Value {
    json!({"data": [{"index": 0, "label": label, "probs": probs, "num_classes": probs.len()}]})
}

#[test]
fn it_asks_about_foreign_words_and_reads_by_index() {
    let stage = Stage::saying([json!({"data": [
        {"index": 2, "label": "BENIGN", "probs": [0.9, 0.05, 0.05], "num_classes": 3},
        {"index": 0, "label": "INJECTION", "probs": [0.1, 0.75, 0.15], "num_classes": 3},
        {"index": 1, "label": "LABEL_2"},
    ]})]);
    let report = stage.judge(&*filter(&classify(&[])), &talk()).unwrap();
    assert_eq!(stage.questions(), [json!({"model": "m", "input": ["hi", "42", "go on"]})]);
    assert_eq!(found(&report), [("INJECTION", 1, 0..2, 0.75), ("JAILBREAK", 3, 0..2, 1.0)]);
    assert_eq!(scores(&report), [("injection", 1.0)].into());
}

#[test]
fn it_asks_about_a_window() {
    let stage = Stage::saying([one("SAFE", &[0.75, 0.25, 0.0])]);
    let report = stage.judge(&*filter(&classify(&[])), &window("so it goes")).unwrap();
    assert_eq!(stage.questions(), [json!({"model": "m", "input": ["so it goes"]})]);
    assert_eq!((found(&report).len(), scores(&report)), (0, [("injection", 0.0)].into()));
}

#[test]
fn the_rest_of_two_classes_may_reach_a_low_threshold() {
    let low = Judge { threshold: 0.25, ..classify(&[]) };
    let report =
        Stage::saying([one("LABEL_0", &[0.75, 0.25])]).judge(&*filter(&low), &window("x")).unwrap();
    assert_eq!(found(&report), [("INJECTION", 0, 0..1, 0.25)]);
}

#[test]
fn the_operators_labels_count_and_no_others() {
    let toxic = classify(&["toxic", "spam"]);
    let report =
        Stage::saying([one("toxic", &[0.8, 0.2])]).judge(&*filter(&toxic), &window("x")).unwrap();
    assert_eq!(
        (found(&report), report.found[0].category),
        (vec![("TOXIC", 0, 0..1, 0.8)], Category::Toxicity)
    );
    let report =
        Stage::saying([one("Spam", &[0.8, 0.2])]).judge(&*filter(&toxic), &window("x")).unwrap();
    assert_eq!(
        (found(&report), report.found[0].category),
        (vec![("SPAM", 0, 0..1, 0.8)], Category::Unsafe)
    );
    for label in ["INJECTION", "neutral", ""] {
        let report =
            Stage::saying([one(label, &[0.8, 0.2])]).judge(&*filter(&toxic), &window("x")).unwrap();
        assert!(report.found.is_empty() && report.scores.is_empty(), "{label}");
    }
}

#[test]
fn nonsense_is_a_failure() {
    let entries = [
        json!({"index": 1, "label": "SAFE"}),
        json!({"index": -1, "label": "SAFE"}),
        json!({"index": 0}),
        json!({"index": 0, "label": 1}),
        json!({"index": 0, "label": "SAFE", "probs": []}),
        json!({"index": 0, "label": "SAFE", "probs": 0.5}),
        json!({"index": 0, "label": "SAFE", "probs": ["NaN"]}),
        json!({"index": 0, "label": "SAFE", "probs": vec![0.1; 100_000]}),
        json!("SAFE"),
    ];
    refuses(&classify(&[]), &window("x"), entries.map(|entry| json!({"data": [entry]})));
    refuses(
        &classify(&[]),
        &window("x"),
        [json!({}), json!({"data": []}), json!({"data": "SAFE"}), json!([])],
    );
    refuses(
        &classify(&[]),
        &window("x"),
        [json!({"data": vec![json!({"label": "SAFE"}); 100_000]})],
    );
    refuses(
        &classify(&[]),
        &talk(),
        [json!({"data": vec![json!({"index": 0, "label": "SAFE"}); 3]})],
    );
}
