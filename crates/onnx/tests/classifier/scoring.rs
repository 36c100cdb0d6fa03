//! What texts are scored.

use crate::tiny::{self, Home};
use onnx::{Activation, Classifier, InferenceError, Settings};

fn harm(classifier: &Classifier, text: &str) -> f32 {
    let scores = classifier.score(text).unwrap();
    assert!(
        scores.len() == 2 && scores.iter().all(|score| (0.0..=1.0).contains(score)),
        "{scores:?}"
    );
    scores[1]
}

#[test]
fn good_words_score_low_and_a_bad_word_scores_high() {
    let classifier = Home::plain().load().unwrap();
    assert_eq!(classifier.labels(), ["safe", "unsafe"]);
    assert!(harm(&classifier, "good fine table") < 0.1);
    assert!(harm(&classifier, "bad") > 0.9);
    assert!(harm(&classifier, "good fine BAD table") > 0.9);
    assert!(harm(&classifier, "a badish thing, \"awful\"!") > 0.9);
}

#[test]
fn unknown_words_and_odd_texts_are_scored_by_the_bias() {
    let classifier = Home::plain().load().unwrap();
    let bias = harm(&classifier, "");
    assert!((bias - 0.1192).abs() < 1e-3, "{bias}");
    for text in [
        "zebra",
        "   \n\t ",
        "\u{0}\u{1}",
        "\u{4f60}\u{597d}",
        "\u{1f980}\u{1f980}",
        "[CLS] [SEP] [PAD]",
        &"x".repeat(5000),
    ] {
        assert!((harm(&classifier, text) - bias).abs() < 1e-6, "{text:?}");
    }
}

#[test]
fn softmax_sums_to_one_and_sigmoid_does_not() {
    let home = Home::plain();
    let soft = home.load().unwrap().score("bad table").unwrap();
    assert!((soft.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    let single =
        Classifier::load(&Settings { activation: Activation::Sigmoid, ..home.settings() }).unwrap();
    let scores = single.score("good good bad bad").unwrap();
    assert!(scores[0] > 0.8 && scores[1] > 0.9, "{scores:?}");
}

#[test]
fn one_bad_word_in_a_long_text_is_found_wherever_it_stands() {
    let home = Home::plain();
    let classifier = Classifier::load(&Settings { max_windows: 100, ..home.settings() }).unwrap();
    let words = |bad: usize| {
        (0..300)
            .map(|index| if index == bad { "bad" } else { "good" })
            .collect::<Vec<_>>()
            .join(" ")
    };
    for bad in 0..300 {
        assert!(harm(&classifier, &words(bad)) > 0.2, "{bad}");
    }
    let clean = classifier.read(&words(300)).unwrap();
    assert!(clean.scores[1] < 0.01 && clean.scores[0] > 0.9);
    assert_eq!((clean.windows, clean.skipped_windows), (30, 0));
}

#[test]
fn windows_beyond_the_bound_are_told_and_both_ends_are_read() {
    let classifier = Home::plain().load().unwrap();
    let filler = "good ".repeat(300);
    let reading = classifier.read(&filler).unwrap();
    assert_eq!((reading.windows, reading.skipped_windows), (8, 22));
    assert!(harm(&classifier, &format!("bad {filler}")) > 0.2);
    assert!(harm(&classifier, &format!("{filler} bad")) > 0.2);
    let amid = classifier.read(&format!("{filler} bad {filler}")).unwrap();
    assert!(amid.scores[1] < 0.01 && amid.skipped_windows > 0, "skipped windows are reported");
}

#[test]
fn a_text_over_the_bound_is_refused_before_it_is_tokenized() {
    let home = Home::plain();
    let classifier = Classifier::load(&Settings { max_text_bytes: 8, ..home.settings() }).unwrap();
    harm(&classifier, "good bad");
    let refused = classifier.score("good  bad").unwrap_err();
    assert_eq!(refused.to_string(), "the text has 9 bytes, the settings allow 8");
}

#[test]
fn an_empty_text_without_a_frame_is_nothing_to_judge() {
    let classifier = Home::new(&tiny::model(&tiny::ANY, false), &tiny::wordlevel()).load().unwrap();
    assert!(harm(&classifier, "bad") > 0.9);
    assert!(matches!(classifier.score(""), Err(InferenceError::NoTokens)));
    assert!(matches!(classifier.score("  \n"), Err(InferenceError::NoTokens)));
}

#[test]
fn threads_share_one_classifier() {
    let classifier = Home::plain().load().unwrap();
    let alone = classifier.score("good bad table").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                (0..50).for_each(|_| assert_eq!(classifier.score("good bad table").unwrap(), alone))
            });
        }
    });
}
