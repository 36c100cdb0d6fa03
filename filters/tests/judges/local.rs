//! Judges in this process.

use std::sync::Arc;

use filters::judge::{Local, LocalModel};
use filters::settings::{Action, Judge, JudgeKind};
use filters::{Failure, Report};

use crate::host::{Stage, found, prompt, settings, talk, window};

/// A model that calls a text with `evil` an injection, and reads no more than a hundred bytes.
#[derive(Debug)]
struct Tiny(Vec<String>);

impl LocalModel for Tiny {
    fn labels(&self) -> &[String] {
        &self.0
    }

    fn read(&self, text: &str) -> Result<(Vec<f32>, bool), Failure> {
        match text {
            "panic" => panic!("a model that panics"),
            "odd" => Ok((vec![f32::NAN, f32::NAN], true)),
            _ => {
                let evil = f32::from(u8::from(text.contains("evil")));
                Ok((vec![1.0 - evil, evil * 0.9], text.len() <= 100))
            }
        }
    }
}

fn judge(text: &str, action: Action) -> Result<Report, Failure> {
    let labels = ["BENIGN", "INJECTION"].map(str::to_owned).to_vec();
    let settings = Judge { input: action, output: action, ..settings(JudgeKind::Onnx) };
    let judge = Local::new(&settings, Arc::new(Tiny(labels))).expect("a label counts");
    Stage::saying([]).judge(&judge, &window(text))
}

#[test]
fn it_finds_the_labels_that_count() {
    assert_eq!(judge("all is well", Action::Block).unwrap().found, []);
    assert_eq!(
        found(&judge("an evil word", Action::Block).unwrap()),
        [("INJECTION", 0, 0..12, 0.9)]
    );
    let nan = judge("odd", Action::Block).unwrap();
    assert_eq!(found(&nan), [("INJECTION", 0, 0..3, 1.0)], "what is no number is no clean bill");
}

#[test]
fn unread_text_does_not_pass_where_findings_have_an_action() {
    let long = "harmless ".repeat(20);
    assert_eq!(judge(&long, Action::Block), Err(Failure::TooLong));
    assert_eq!(judge(&long, Action::Flag).unwrap().found, []);
    assert_eq!(judge("panic", Action::Block), Err(Failure::Panicked));
}

#[test]
fn it_hears_users_and_tools_and_must_have_something_to_find() {
    let labels = |labels: &[&str]| labels.iter().map(|&label| label.to_owned()).collect::<Vec<_>>();
    let local =
        Local::new(&settings(JudgeKind::Onnx), Arc::new(Tiny(labels(&["SAFE", "JAILBREAK"]))))
            .unwrap();
    let said = prompt(&[
        (wire::request::PromptRole::System, "evil"),
        (wire::request::PromptRole::Tool, "evil"),
    ]);
    assert_eq!(
        found(&Stage::saying([]).judge(&local, &said).unwrap()),
        [("JAILBREAK", 1, 0..4, 0.9)]
    );
    assert!(Stage::saying([]).judge(&local, &talk()).unwrap().found.is_empty());
    let why = Local::new(&settings(JudgeKind::Onnx), Arc::new(Tiny(labels(&["good", "bad"]))))
        .unwrap_err();
    assert!(why.contains("good, bad") && why.contains("categories"), "{why}");
    let listed = Judge { categories: labels(&["bad"]), ..settings(JudgeKind::Onnx) };
    assert!(Local::new(&listed, Arc::new(Tiny(labels(&["good", "bad"])))).is_ok());
}
