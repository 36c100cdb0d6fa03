//! What is refused, and in which words. Nothing here may panic through the crate.

use crate::graph::{Dim, FLOAT, Graph, INT32, INT64};
use crate::tiny::{self, ANY, Home, LOGITS};
use onnx::{Classifier, InferenceError, LoadError, Settings};

fn refusal(model: &[u8]) -> LoadError {
    Home::new(model, &tiny::wordpiece()).load().unwrap_err()
}

/// The plain graph with other inputs; the nodes come after them.
fn with_inputs(inputs: impl FnOnce(&mut Graph)) -> Vec<u8> {
    let mut graph = Graph::default();
    inputs(&mut graph);
    tiny::embed(&mut graph, false);
    tiny::judge(&mut graph, "words");
    graph.file()
}

#[test]
fn a_broken_model_file_is_refused() {
    let whole = tiny::model(&ANY, true);
    for (name, bytes) in [
        ("empty", &b""[..]),
        ("text", b"not a model"),
        ("noise", &[0xff; 64]),
        ("half", &whole[..whole.len() / 2]),
    ] {
        let refused = refusal(bytes);
        assert!(matches!(refused, LoadError::Model { .. }), "{name}: {refused}");
    }
}

#[test]
fn a_model_cut_or_spoilt_anywhere_never_panics_through() {
    let whole = tiny::model(&ANY, false);
    let silent = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    for at in (0..whole.len()).step_by(5) {
        let _ = refusal(&whole[..at]);
        let mut spoilt = whole.clone();
        spoilt[at] ^= 0x55;
        if let Ok(classifier) = Home::new(&spoilt, &tiny::wordpiece()).load() {
            let _ = classifier.score("good bad table zebra");
        }
    }
    std::panic::set_hook(silent);
}

#[test]
fn a_missing_file_is_named() {
    let home = Home::plain();
    std::fs::remove_file(home.path().join("tokenizer.json")).unwrap();
    let refused = home.load().unwrap_err();
    assert!(
        matches!(&refused, LoadError::File { path, .. } if path.ends_with("tokenizer.json")),
        "{refused}"
    );
    let home = Home::plain();
    std::fs::remove_file(home.path().join("model.onnx")).unwrap();
    let refused = home.load().unwrap_err().to_string();
    assert!(refused.starts_with("cannot read ") && refused.contains("model.onnx"), "{refused}");
}

#[test]
fn a_broken_tokenizer_file_is_refused() {
    for broken in ["", "{}", "[1, 2", &tiny::wordpiece().replace("WordPiece", "WordPeace")] {
        let refused = Home::new(&tiny::model(&ANY, true), broken).load().unwrap_err();
        assert!(matches!(&refused, LoadError::Tokenizer { .. }), "{refused}");
    }
}

#[test]
fn files_over_their_bound_are_refused() {
    let home = Home::plain();
    let refused =
        Classifier::load(&Settings { max_model_bytes: 100, ..home.settings() }).unwrap_err();
    assert!(matches!(refused, LoadError::FileTooLarge { max_bytes: 100, .. }), "{refused}");
    let refused =
        Classifier::load(&Settings { max_tokenizer_bytes: 100, ..home.settings() }).unwrap_err();
    assert!(
        refused.to_string().ends_with(
            "tokenizer.json has more than 100 bytes, the maximum that the settings allow"
        ),
        "{refused}"
    );
}

#[test]
fn a_wrong_number_of_labels_is_refused() {
    let home = Home::plain();
    let labels = ["a", "b", "c"].map(String::from).to_vec();
    let refused = Classifier::load(&Settings { labels, ..home.settings() }).unwrap_err();
    assert_eq!(refused.to_string(), "the model gives 2 scores, the settings name 3 labels");
}

#[test]
fn inputs_that_we_cannot_fill_are_refused() {
    let both = |graph: &mut Graph| tiny::inputs(graph, &ANY, false);
    let unknown = refusal(&with_inputs(|graph| {
        both(graph);
        graph.input("pixel_values", FLOAT, &ANY);
    }));
    let sentence = "model input \"pixel_values\": is not one that we can fill (input_ids, attention_mask, token_type_ids)";
    assert_eq!(unknown.to_string(), sentence);
    let missing = refusal(&with_inputs(|graph| {
        graph.input("input_ids", INT64, &ANY);
    }));
    assert_eq!(missing.to_string(), "model input \"attention_mask\": is missing from the model");
    let typed = |kind, shape: &[Dim]| {
        refusal(&with_inputs(|graph| {
            graph.input("input_ids", kind, shape).input("attention_mask", INT64, &ANY);
        }))
        .to_string()
    };
    assert_eq!(typed(INT32, &ANY), "model input \"input_ids\": holds int32, we fill int64");
    assert_eq!(
        typed(INT64, &ANY[..1]),
        "model input \"input_ids\": has 1 dimensions, we fill [batch, sequence]"
    );
    let batch = [Dim::Fixed(8), Dim::Symbol("s")];
    assert_eq!(
        typed(INT64, &batch),
        "model input \"input_ids\": wants a batch of 8, we judge one window at a time"
    );
}

#[test]
fn outputs_that_are_no_logits_are_refused() {
    let of = |outputs: &[(&str, i64, &[Dim])]| {
        let mut graph = Graph::default();
        tiny::inputs(&mut graph, &ANY, false);
        tiny::embed(&mut graph, false);
        for (name, kind, shape) in outputs {
            graph.output(name, *kind, shape);
        }
        refusal(&graph.file()).to_string()
    };
    assert_eq!(of(&[]), "model output: 0 outputs and none is called \"logits\"");
    assert_eq!(of(&[("nowhere", FLOAT, &LOGITS)]), "model output: no node makes \"nowhere\"");
    assert_eq!(
        of(&[("words", INT64, &LOGITS)]),
        "model output: \"words\" holds int64, we read float32"
    );
    let by_token = of(&[("words", FLOAT, &[ANY[0], ANY[1], Dim::Fixed(2)])]);
    assert!(
        by_token.contains("its output has the shape [1, 2, 2], we read [1, labels]"),
        "{by_token}"
    );
}

#[test]
fn weights_in_another_file_are_refused() {
    let mut graph = Graph::default();
    tiny::inputs(&mut graph, &ANY, false);
    graph.external("word_table", &[10, 2], "../../../etc/passwd");
    graph.node("Gather", &["word_table", "input_ids"], "words", &[]);
    tiny::judge(&mut graph, "words");
    let refused = refusal(&graph.file()).to_string();
    assert!(
        refused.ends_with("its weights lie in another file; save it with the weights inside"),
        "{refused}"
    );
}

#[test]
fn an_operator_that_tract_lacks_is_named() {
    let mut graph = Graph::default();
    tiny::inputs(&mut graph, &ANY, false);
    tiny::embed(&mut graph, false);
    graph.node("Conjure", &["words"], "magic", &[]);
    tiny::judge(&mut graph, "magic");
    let refused = refusal(&graph.file()).to_string();
    assert!(
        refused.contains("is not a usable ONNX model") && refused.contains("Conjure"),
        "{refused}"
    );
}

/// The tokenizer knows a word that the model has no row for: tract panics, the caller gets an
/// error, the classifier lives on.
#[test]
fn a_token_that_the_model_does_not_know_is_an_error() {
    let tokenizer = tiny::wordpiece().replace("\"good\":4", "\"good\":4,\"later\":4000");
    let classifier = Home::new(&tiny::model(&ANY, true), &tokenizer).load().unwrap();
    assert!(matches!(classifier.score("good later"), Err(InferenceError::Model { .. })));
    assert!(classifier.score("bad").unwrap()[1] > 0.9);
}

#[test]
fn logits_that_are_no_numbers_are_an_error() {
    let mut graph = Graph::default();
    tiny::inputs(&mut graph, &ANY, false);
    tiny::embed(&mut graph, false);
    graph.node("Log", &["words"], "logs", &[]);
    tiny::judge(&mut graph, "logs");
    let classifier = Home::new(&graph.file(), &tiny::wordpiece()).load().unwrap();
    let error = classifier.score("table").unwrap_err();
    assert_eq!(error.to_string(), "the model gave a score that is not finite for label \"safe\"");
}
