use super::*;
use crate::prompts::Turn;

fn workload() -> Workload {
    Workload::new(Prompts::Made(Length::Uniform(3, 9)))
}

fn bodies(workload: &Workload, seed: u64, number: u64) -> Vec<Value> {
    let provider = Provider::default();
    let mut conversation = Conversation::new(&Arc::new(workload.clone()), seed, number);
    let mut bodies = Vec::new();
    while let Some(request) = conversation.next(&provider, "m", true) {
        bodies.push(serde_json::from_slice(&request.body).unwrap());
        conversation.add_answer(&format!("answer {}", bodies.len()));
    }
    bodies
}

#[test]
fn the_same_seed_asks_the_same_and_another_one_does_not() {
    let mut varied = workload();
    varied.turns = Length::Uniform(1, 4);
    varied.max_tokens = Some(Length::Uniform(1, 900));
    varied.images = Some(Images { count: 1, width: 8, height: 8 });
    varied.prefix = Some(Prefix::new(5, 3, &Unit::Words, 1));
    for number in 0..20 {
        assert_eq!(bodies(&varied, 1, number), bodies(&varied, 1, number));
        assert_ne!(bodies(&varied, 1, number), bodies(&varied, 2, number));
        assert_ne!(bodies(&varied, 1, number), bodies(&varied, 1, number + 1));
    }
    // Other settings do not change the prompts.
    let prompt = |workload: &Workload| bodies(workload, 1, 7)[0]["messages"][0]["content"].clone();
    let (plain, mut more) = (workload(), workload());
    more.max_tokens = Some(Length::Uniform(1, 900));
    more.turns = Length::Uniform(2, 9);
    assert_eq!(prompt(&plain), prompt(&more));
}

#[test]
fn turns_carry_the_answers_on() {
    let mut workload = workload();
    workload.turns = Length::Fixed(3);
    let bodies = bodies(&workload, 1, 0);
    assert_eq!(bodies.len(), 3);
    let roles: Vec<_> =
        bodies[2]["messages"].as_array().unwrap().iter().map(|m| &m["role"]).collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant", "user"]);
    assert_eq!(bodies[2]["messages"][1]["content"], "answer 1");
    assert_eq!(bodies[2]["messages"][0], bodies[0]["messages"][0]);
    assert_ne!(bodies[2]["messages"][2], bodies[0]["messages"][0]);
}

#[test]
fn recorded_conversations_end_with_their_file() {
    let turn = |user: &str| Turn { user: user.into(), answer: Some("y".into()) };
    let prompts = vec![FilePrompt::Turns(vec![turn("a"), turn("b")]), FilePrompt::Text("c".into())];
    let mut workload = Workload::new(Prompts::FromFile { file: "f".into(), prompts });
    workload.turns = Length::Fixed(5);
    let last = |number| bodies(&workload, 1, number).pop().unwrap()["messages"].clone();
    let texts: Vec<_> = last(2).as_array().unwrap().iter().map(|m| m["content"].clone()).collect();
    assert_eq!(texts, ["a", "answer 1", "b"]);
    workload.turns = Length::Fixed(1);
    assert_eq!(bodies(&workload, 1, 3)[0]["messages"][0]["content"], "c");
}

#[test]
fn prefixes_are_shared_by_groups() {
    let mut workload = workload();
    workload.prefix = Some(Prefix::new(20, 2, &Unit::Words, 1));
    let systems: std::collections::BTreeSet<String> = (0..50)
        .map(|number| bodies(&workload, 1, number)[0]["messages"][0]["content"].to_string())
        .collect();
    assert_eq!(systems.len(), 2);
    assert!(systems.iter().all(|text| text.split(' ').count() == 20));
}

#[test]
fn requests_are_cancelled_at_their_share() {
    let mut workload = workload();
    let after = "10ms..20ms".parse().unwrap();
    workload.cancel = Some(Cancel { share: 0.25, after });
    let workload = Arc::new(workload);
    let cancelled: Vec<Duration> = (0..4_000)
        .filter_map(|number| {
            let mut conversation = Conversation::new(&workload, 1, number);
            conversation.next(&Provider::default(), "m", true).unwrap().cancel_after
        })
        .collect();
    assert!((900..1_100).contains(&cancelled.len()), "{}", cancelled.len());
    let range = Duration::from_millis(10)..=Duration::from_millis(20);
    assert!(cancelled.iter().all(|time| range.contains(time)));
}

#[test]
fn blocks_of_a_trace_have_the_same_text_and_prompts_their_length() {
    let request = |prompt, blocks: &[u64]| TraceRequest {
        prompt,
        answer: Some(7),
        blocks: blocks.to_vec(),
        ..TraceRequest::default()
    };
    let requests = vec![request(1_200, &[1, 2, 3]), request(1_100, &[1, 2, 9]), request(40, &[])];
    let workload = Workload::new(Prompts::Trace(requests));
    let text = |number| {
        let body = &bodies(&workload, 1, number)[0];
        assert_eq!(body["max_tokens"], 7);
        body["messages"][0]["content"].as_str().unwrap().to_owned()
    };
    let (first, second) = (text(0), text(1));
    let words: Vec<&str> = first.split(' ').collect();
    let others: Vec<&str> = second.split(' ').collect();
    assert_eq!((words.len(), others.len(), text(2).split(' ').count()), (1_200, 1_100, 40));
    assert_eq!(words[..1_024], others[..1_024]);
    assert_ne!(words[1_024..1_100], others[1_024..1_100]);
}

#[test]
fn each_api_has_its_form() {
    let mut workload = workload();
    workload.images = Some(Images { count: 2, width: 2, height: 2 });
    workload.prefix = Some(Prefix::new(2, 1, &Unit::Words, 1));
    workload.tools = Some(json!([{"name": "t"}]));
    workload.body.insert("temperature".into(), json!(0));
    let workload = Arc::new(workload);
    let body = |name: &str| -> Value {
        let provider: Provider = name.parse().unwrap();
        let request = Conversation::new(&workload, 1, 0).next(&provider, "m", true).unwrap();
        serde_json::from_slice(&request.body).unwrap()
    };
    let openai = body("openai");
    assert_eq!(openai["messages"][0]["role"], "system");
    assert_eq!(openai["messages"][1]["content"][2]["type"], "image_url");
    assert_eq!((&openai["tools"][0]["name"], &openai["temperature"]), (&json!("t"), &json!(0)));
    let anthropic = body("anthropic");
    assert!(anthropic["system"].is_string() && anthropic["stream_options"].is_null());
    assert_eq!(anthropic["messages"][0]["content"][1]["source"]["media_type"], "image/png");
    assert_eq!(anthropic["max_tokens"], 1_024);
}

#[test]
fn what_cannot_be_combined_is_refused() {
    let provider = Provider::default();
    let changed = |change: fn(&mut Workload)| {
        let mut workload = workload();
        change(&mut workload);
        workload
    };
    assert_eq!(workload().check(&provider), Ok(()));
    let turns = changed(|w| (w.turns, w.tools) = (Length::Fixed(2), Some(json!([]))));
    assert!(turns.check(&provider).is_err());
    let choices = changed(|w| (w.turns, w.choices) = (Length::Fixed(2), 2));
    assert!(choices.check(&provider).is_err());
    let choices = changed(|w| w.choices = 2);
    assert_eq!(choices.check(&provider), Ok(()));
    assert!(choices.check(&"anthropic".parse().unwrap()).is_err());
    assert!("5s..1s".parse::<Pause>().is_err() && "x".parse::<Pause>().is_err());
}
