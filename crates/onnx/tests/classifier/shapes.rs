//! Which models fit: two or three inputs, any or a fixed length, and a block of a transformer.

use crate::encoder;
use crate::graph::{Dim, FLOAT, Graph};
use crate::tiny::{self, Home};
use onnx::{Classifier, Settings};

fn assert_judges(classifier: &Classifier) {
    let harm = |text: &str| classifier.score(text).unwrap()[1];
    assert!(harm("good") < 0.1, "{}", harm("good"));
    assert!(harm("good fine good fine table") < 0.1);
    assert!(harm("bad") > 0.9, "{}", harm("bad"));
    assert!(harm("bad awful bad awful table") > 0.9);
    assert!(harm(&"good ".repeat(40)) < 0.1);
    assert!(harm(&"bad ".repeat(40)) > 0.9);
}

#[test]
fn token_types_are_optional() {
    assert_judges(&Home::plain().load().unwrap());
    assert_judges(&Home::new(&tiny::model(&tiny::ANY, false), &tiny::wordpiece()).load().unwrap());
}

#[test]
fn a_fixed_length_is_padded_and_the_padding_does_not_count() {
    let any = Home::plain().load().unwrap();
    let home = Home::new(&tiny::model(&[Dim::Fixed(1), Dim::Fixed(40)], true), &tiny::wordpiece());
    let fixed = home.load().unwrap();
    assert_judges(&fixed);
    for text in ["", "good bad table", "awful"] {
        let (one, other) = (any.score(text).unwrap(), fixed.score(text).unwrap());
        assert!(
            one.iter().zip(&other).all(|(one, other)| (one - other).abs() < 1e-6),
            "{text}: {one:?} {other:?}"
        );
    }
    let refused = Classifier::load(&Settings { max_tokens: 41, ..home.settings() }).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "setting max_tokens: 41 is more than the 40 tokens that the model's inputs are fixed to"
    );
}

/// The inputs are symbolic, yet a reshape inside takes 16 tokens only: compiled for `max_tokens`
/// instead.
#[test]
fn a_length_that_is_fixed_inside_is_found_and_padded() {
    let mut graph = Graph::default();
    tiny::inputs(&mut graph, &tiny::ANY, true);
    tiny::embed(&mut graph, true);
    graph.ints("sixteen", &[3], &[1, 16, 2]);
    graph.node("Reshape", &["words", "sixteen"], "reshaped", &[]);
    tiny::judge(&mut graph, "reshaped");
    let home = Home::new(&graph.file(), &tiny::wordpiece());
    assert_judges(&home.load().unwrap());
    let refused = Classifier::load(&Settings { max_tokens: 20, ..home.settings() }).unwrap_err();
    assert!(refused.to_string().contains("is not a usable ONNX model"), "{refused}");
}

#[test]
fn a_transformer_block_runs_at_any_length() {
    let home = Home::new(&encoder::model(64), &tiny::wordpiece());
    assert_judges(&home.load().unwrap());
    assert_judges(&Classifier::load(&Settings { max_tokens: 64, ..home.settings() }).unwrap());
}

#[test]
fn more_tokens_than_the_model_has_positions_are_refused_at_load() {
    let home = Home::new(&encoder::model(64), &tiny::wordpiece());
    let refused = Classifier::load(&Settings { max_tokens: 65, ..home.settings() }).unwrap_err();
    assert!(refused.to_string().contains("is not a usable ONNX model"), "{refused}");
}

#[test]
fn of_several_outputs_the_logits_are_taken() {
    let mut graph = Graph::default();
    tiny::inputs(&mut graph, &tiny::ANY, true);
    tiny::embed(&mut graph, true);
    graph.output("words", FLOAT, &[Dim::Symbol("b"), Dim::Symbol("s"), Dim::Fixed(2)]);
    tiny::judge(&mut graph, "words");
    assert_judges(&Home::new(&graph.file(), &tiny::wordpiece()).load().unwrap());
}
