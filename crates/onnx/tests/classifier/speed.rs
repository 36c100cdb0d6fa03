//! What a call costs on the tiny models, that is without a real model's arithmetic: the price of
//! tokenizer, plan and windows. `cargo test --release -- --nocapture speed` prints it.

use crate::encoder;
use crate::tiny::{self, Home};
use onnx::Classifier;
use std::time::{Duration, Instant};

/// The median of several rounds, so that a busy neighbour does not count.
fn per_call(classifier: &Classifier, text: &str) -> Duration {
    const CALLS: u32 = 50;
    let round = || {
        let start = Instant::now();
        (0..CALLS).for_each(|_| drop(classifier.score(text).unwrap()));
        start.elapsed() / CALLS
    };
    let mut rounds: Vec<Duration> = (0..9).map(|_| round()).collect();
    rounds.sort();
    rounds[rounds.len() / 2]
}

#[test]
fn a_call_is_cheap_beside_any_real_model() {
    for (name, model) in [
        ("mean of words", tiny::model(&tiny::ANY, true)),
        ("transformer block", encoder::model(64)),
    ] {
        let home = Home::new(&model, &tiny::wordpiece());
        let start = Instant::now();
        let classifier = home.load().unwrap();
        println!("{name}: load {:?}", start.elapsed());
        for (text, windows) in [("good bad table".to_owned(), 1), ("good bad ".repeat(100), 8)] {
            let cost = per_call(&classifier, &text);
            println!("{name}: {} bytes, {windows} windows: {cost:?} per call", text.len());
            assert_eq!(classifier.read(&text).unwrap().windows, windows);
            assert!(cost < Duration::from_millis(200), "{cost:?}");
        }
    }
}
