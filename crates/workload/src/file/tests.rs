use super::*;

fn parsed(text: &str) -> WorkloadFile {
    parse("bench.yaml", text, Path::new("/nowhere")).unwrap()
}

#[test]
fn the_starter_is_valid_also_with_its_comments() {
    let file = parsed(STARTER);
    assert_eq!(file.arrival, Some(Arrival::open(Spacing::Poisson, 5.0)));
    assert_eq!(file.stop, Some(Stop::After(Duration::from_secs(30))));
    assert_eq!(file.workload.max_tokens, Some(Length::Uniform(16, 128)));
    // Files that do not exist, and what replaces other keys, stay comments.
    let text: String = STARTER
        .lines()
        .filter(|line| !line.contains("tokenizer: ") && !line.contains("file: "))
        .map(|line| {
            let is_key = line.trim_start().strip_prefix("# ").is_some_and(|rest| {
                ["provider", "model", "api_key", "conv", "shared", "cancel", "body", "sweep"]
                    .iter()
                    .any(|key| rest.starts_with(key))
            });
            if is_key { line.replacen("# ", "", 1) + "\n" } else { line.to_owned() + "\n" }
        })
        .collect();
    let file = parsed(&text);
    assert_eq!(file.provider.map(|provider| provider.name), Some("vllm"));
    assert_eq!(file.workload.turns, Length::Fixed(3));
    assert_eq!(file.prefix, Some((1_024, 4)));
    assert_eq!(file.workload.body["temperature"], 0);
    assert_eq!(file.sweep.as_ref().unwrap().rate, [1.0, 2.0, 5.0, 10.0]);
    assert_eq!(file.workload(1).prefix.unwrap().texts.len(), 4);
}

#[test]
fn arrivals_of_every_kind_are_read() {
    let arrival = |text: &str| parsed(&format!("arrival: {text}")).arrival.unwrap();
    assert_eq!(arrival("{kind: closed, concurrency: 3}"), Arrival::Closed { concurrency: 3 });
    assert_eq!(
        arrival("{kind: gamma, rate: 2.5, burstiness: 0.5}"),
        Arrival::open(Spacing::Gamma(0.5), 2.5)
    );
    let burst = Arrival::Burst { size: 9, interval: Duration::from_secs(2) };
    assert_eq!(arrival("{kind: burst, size: 9, interval: 2s}"), burst);
    let ramp =
        "{kind: constant, stages: [{from: 0, to: 9, duration: 3s}, {rate: 4, duration: 1s}]}";
    let Arrival::Open { stages, spacing: Spacing::Constant } = arrival(ramp) else { panic!() };
    assert_eq!((stages[0].to, stages[1].from, stages[1].to), (9.0, 4.0, 4.0));
}

#[test]
fn problems_are_reported_all_at_once_with_their_places() {
    let text = "\
base_url: ''
arival: {}
arrival: {kind: closed, concurrency: 0, rate: 3}
stop: {}
timeout: 5 parsecs
prompts: {length: 0, tokenizer: none.json}
cancel: {share: 2}
body: {n: 2}
provider: vlm
";
    let problems = parse("bench.yaml", text, Path::new("/nowhere")).unwrap_err().to_string();
    for wanted in [
        "bench.yaml:1:11: base_url: must not be empty",
        "bench.yaml:2:1: arival: unknown key; did you mean \"arrival\"?",
        "bench.yaml:3:38: arrival.concurrency: \"0\" is not a whole number from 1 to 15000",
        "arrival.rate: is not for closed; known: concurrency",
        "bench.yaml:4:7: stop: write either",
        "timeout: \"5 parsecs\" is not a duration",
        "prompts.length: \"0\" is not a length",
        "prompts.tokenizer: ",
        "cancel.share: \"2\" is not a number from 0 to 1",
        "cancel.after: is missing",
        "body: \"n\" is set by answers.choices",
        "provider: \"vlm\" is not a provider; did you mean \"vllm\"?",
    ] {
        assert!(problems.contains(wanted), "{wanted:?} is not in\n{problems}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (text, wanted) in [
        ("arrival: {kind: poisson}", "needs either rate or stages"),
        ("arrival: {kind: tides, rate: 1}", "\"tides\" is not a kind"),
        ("arrival: {rate: 1}", "arrival.kind: is missing"),
        ("arrival: {kind: poisson, rate: 0}", "above 0"),
        ("arrival: {kind: constant, stages: [{from: 1, duration: 1s}]}", "write either {rate"),
        ("arrival: {kind: constant, stages: [{from: 1, to: 2}]}", "a ramp needs a duration"),
        ("arrival: 3", "expected a section"),
        ("stop: {requests: 1, duration: 1s}", "write either {requests"),
        ("shared_prefix: {groups: 2}", "length: is missing"),
        ("shared_prefix: {length: 1000000, groups: 1000}", "all prefixes together"),
        ("prompts: {length: 3, file: a}", "either a length or a file"),
        ("prompts: {length: file:none.txt}", "/nowhere/none.txt"),
        ("replay: {file: a, pace: 0}", "0.001"),
        ("replay: {pace: 2}", "replay.file: is missing"),
        ("{replay: {file: a}, prompts: {length: 3}}", "arrivals and prompts of its own"),
        ("{answers: {choices: 2}, provider: anthropic}", "no choices"),
        ("tools: none.json", "/nowhere/none.json"),
        ("objectives: fast", "is not an objective"),
        ("body: [1]", "expected members"),
        ("sweep: {}", "sweep: has no values"),
        ("sweep: {rate: [1], concurrency: [1]}", "either rates or concurrencies"),
        ("sweep: {rate: [1, 0]}", "sweep.rate[1]: must be above 0"),
        ("sweep: {rate: 1}", "expected a list"),
        ("{sweep: {rate: [1]}, replay: {file: a}}", "one pace"),
        ("- a", "expected a section"),
        ("", "one YAML document"),
        ("a: b: c", "not valid YAML"),
    ] {
        match parse("b", text, Path::new("/nowhere")) {
            Ok(_) => panic!("{text:?} was accepted"),
            Err(problems) => assert!(problems.to_string().contains(wanted), "{text:?}: {problems}"),
        }
    }
}
