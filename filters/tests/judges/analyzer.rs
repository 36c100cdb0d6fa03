//! The analyzer of personal data.

use filters::settings::{Action, Judge, JudgeKind};
use filters::{Category, Failure};
use serde_json::{Value, json};

use crate::host::{
    Act, DEADLINE, Stage, filter, found, prompt, refuses, scores, settings, talk, window,
};

fn analyzer() -> Judge {
    Judge {
        input: Action::Mask,
        output: Action::Mask,
        threshold: 0.8,
        ..settings(JudgeKind::Analyzer)
    }
}

fn entity(kind: &str, start: u64, end: u64, score: f64) -> Value {
    json!({"entity_type": kind, "start": start, "end": end, "score": score, "analysis_explanation": null})
}

#[test]
fn it_asks_about_each_text_by_itself() {
    let stage = Stage::saying(vec![json!([]); 6]);
    stage.judge(&*filter(&analyzer()), &talk()).unwrap();
    let question = |text| json!({"text": text, "language": "en", "score_threshold": 0.8});
    assert_eq!(stage.questions(), ["be nice", "hi", "hello", "42", "go on", "adds"].map(question));
}

#[test]
fn it_asks_about_a_window_for_what_the_operator_wants() {
    let stage =
        Stage::saying([json!([entity("EMAIL_ADDRESS", 0, 2, 1.0), entity("PERSON", 0, 2, 1.0)])]);
    let wanted = Judge {
        categories: vec!["PERSON".into(), "EMPLOYEE_NUMBER".into()],
        language: "de".into(),
        ..analyzer()
    };
    let report = stage.judge(&*filter(&wanted), &window("Jo")).unwrap();
    let entities = ["PERSON", "EMPLOYEE_NUMBER"];
    assert_eq!(
        stage.questions(),
        [json!({"text": "Jo", "language": "de", "score_threshold": 0.8, "entities": entities})]
    );
    assert_eq!(found(&report), [("PERSON", 0, 0..2, 1.0)]);
}

#[test]
fn places_in_characters_become_places_in_bytes() {
    let text = "Grüße 👋🏽 an Zoë, é";
    let zoe = text.find("Zoë").unwrap();
    let start = u64::try_from(text[..zoe].chars().count()).unwrap();
    let stage = Stage::saying([json!([
        entity("PERSON", start, start + 3, 0.85),
        entity("PERSON", start + 5, start + 6, 0.8)
    ])]);
    let report = stage.judge(&*filter(&analyzer()), &window(text)).unwrap();
    assert_eq!(
        found(&report),
        [("PERSON", 0, zoe..zoe + 4, 0.85), ("PERSON", 0, text.len() - 2..text.len(), 0.8)]
    );
    assert_eq!(&text[report.found[0].span.clone()], "Zoë");
    assert_eq!((report.found[0].category, report.found[0].action), (Category::Pii, Action::Mask));
}

#[test]
fn findings_stand_in_the_texts_of_the_subject() {
    use wire::request::PromptRole::{System, User};
    let stage = Stage::saying([
        json!([entity("PERSON", 0, 3, 0.9)]),
        json!([entity("SECRET_AGENT", 3, 6, 1.0), entity("URL", 0, 1, 0.1)]),
    ]);
    let report = stage
        .judge(&*filter(&analyzer()), &prompt(&[(User, "  "), (System, "Ada."), (User, "Mr Bob")]))
        .unwrap();
    assert_eq!(found(&report), [("PERSON", 1, 0..3, 0.9), ("OTHER", 2, 3..6, 1.0)]);
    assert_eq!(scores(&report), [("pii", 1.0)].into());
}

#[test]
fn what_is_left_out_may_not_pass_unseen() {
    let texts: Vec<String> = (0..80).map(|n| format!("text {n}")).collect();
    let texts: Vec<_> =
        texts.iter().map(|text| (wire::request::PromptRole::User, text.as_str())).collect();
    assert_eq!(
        Stage::saying([]).judge(&*filter(&analyzer()), &prompt(&texts)),
        Err(Failure::TooLong)
    );
    let flags = Judge { input: Action::Flag, ..analyzer() };
    let stage = Stage::saying(vec![json!([entity("ID", 5, 7, 1.0)]); 64]);
    let report = stage.judge(&*filter(&flags), &prompt(&texts)).unwrap();
    assert_eq!(
        report.found.iter().map(|found| found.text).collect::<Vec<_>>(),
        (16..80).collect::<Vec<_>>(),
        "the newest are asked about"
    );
}

#[test]
fn the_end_of_a_huge_text_is_asked_about_and_its_places_are_right() {
    let text = format!("{} Ada", "ä".repeat(200_000));
    let stage = Stage::saying([json!([])]);
    let judge = filter(&Judge { output: Action::Flag, ..analyzer() });
    stage.judge(&*judge, &window(&text)).unwrap();
    let asked = stage.questions()[0]["text"].as_str().unwrap().to_owned();
    assert!(asked.len() <= 256 * 1024 && asked.len() > 256 * 1024 - 4);
    let end = u64::try_from(asked.chars().count()).unwrap();
    stage.then([Act::Says(200, json!([entity("PERSON", end - 3, end, 1.0)]).to_string())]);
    let report = stage.judge(&*judge, &window(&text)).unwrap();
    assert_eq!(found(&report), [("PERSON", 0, text.len() - 3..text.len(), 1.0)]);
}

#[test]
fn one_failing_question_fails_the_judgement() {
    let stage = Stage::saying([json!([]), json!({"error": "?"})]);
    use wire::request::PromptRole::User;
    assert_eq!(
        stage.judge(&*filter(&analyzer()), &prompt(&[(User, "a"), (User, "b")])),
        Err(Failure::InvalidResponse)
    );
}

#[test]
fn its_questions_about_one_prompt_count_as_one() {
    let texts = talk().len();
    let (judge, stage) = (filter(&analyzer()), Stage::doing(vec![Act::Gone; 5 * texts]));
    for _ in 0..5 {
        assert_eq!(stage.judge(&*judge, &talk()), Err(Failure::Unreachable));
    }
    assert_eq!(stage.judge(&*judge, &talk()), Err(Failure::Open));
    stage.pass(std::time::Duration::from_secs(5));
    stage.then(vec![Act::Thinks(DEADLINE / 2, "[]".into()); texts]);
    assert!(stage.judge(&*judge, &talk()).is_ok(), "all of them go through together");
}

#[test]
fn nonsense_is_a_failure() {
    let results = [
        json!({"entity_type": "PERSON", "start": 0, "end": 4, "score": 1}),
        json!({"entity_type": "PERSON", "start": 3, "end": 3, "score": 1}),
        json!({"entity_type": "PERSON", "start": 2, "end": 1, "score": 1}),
        json!({"entity_type": "PERSON", "start": -1, "end": 1, "score": 1}),
        json!({"entity_type": "PERSON", "start": 0.5, "end": 1, "score": 1}),
        json!({"entity_type": "PERSON", "start": 0, "end": u64::MAX, "score": 1}),
        json!({"entity_type": "PERSON", "start": 0, "end": 1, "score": "NaN"}),
        json!({"entity_type": "PERSON", "start": 0, "end": 1}),
        json!({"entity_type": "PERSON", "end": 1, "score": 1}),
        json!({"entity_type": null, "start": 0, "end": 1, "score": 1}),
        json!({"start": 0, "end": 1, "score": 1}),
        json!([]),
    ];
    // Three characters in seven bytes, four units of UTF-16: counting those would be detected.
    refuses(&analyzer(), &window("é👋x"), results.iter().map(|result| json!([result])));
    refuses(&analyzer(), &window("abc"), results.map(|result| json!([result])));
    refuses(&analyzer(), &window("abc"), [json!({}), json!("[]"), json!([[]])]);
    refuses(&analyzer(), &window("abc"), [json!(vec![entity("PERSON", 0, 1, 1.0); 100_000])]);
}
