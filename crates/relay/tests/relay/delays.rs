//! What the client feels of a guardrail: delays of events, in scripted time.

use std::time::Duration;

use lens::State;
use relay::AnswerDelays;
use wire::Framing;

use crate::guardrail::guarded;
use crate::script::{ScriptedRequest, ScriptedSink, ScriptedSource, Step, Takes, run};

const ROLE: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"},\"finish_reason\":null}]}\n\n";
const END: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
const MS: u64 = 1_000_000;

fn event(content: &str) -> String {
    format!(
        "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{content}\"}},\"finish_reason\":null}}]}}\n\n"
    )
}

/// Events with a wait of 100 ms before each.
fn paced(events: &[String]) -> Vec<Step> {
    let wait = || Step::Wait(Duration::from_millis(100));
    events.iter().flat_map(|event| [wait(), Step::Read(event.clone().into_bytes())]).collect()
}

fn words(words: &[&str]) -> Vec<String> {
    let content = words.iter().map(|word| event(word));
    [ROLE.to_owned()].into_iter().chain(content).chain([END.to_owned()]).collect()
}

/// Relay, and return the delays in whole milliseconds with the milliseconds in the hold state.
async fn relayed(
    guardrail: &str,
    framing: Framing,
    steps: Vec<Step>,
    takes: Takes,
) -> ([Option<u64>; 3], u64) {
    let mut request = ScriptedRequest::new();
    let (mut source, mut sink) = (ScriptedSource::new(framing, steps), ScriptedSink::new(takes));
    run(&mut request, guarded(guardrail), &mut source, &mut sink, None).await;
    let AnswerDelays { first_event, first_token, last_event } =
        request.guarded.delays.expect("the guardrail reads the answer");
    let millis = [first_event, first_token, last_event].map(|nanos| Some(nanos? / MS));
    (millis, request.ledger.nanos(State::Hold) / MS)
}

/// Each event waits for the next word, but the end comes when it would without a guardrail.
#[tokio::test(start_paused = true)]
async fn stream_that_ends_at_its_own_time_has_no_delay_at_its_end() {
    let _kept = guarded("output_pii: mask");
    let told = ["Write", " to", " ann", " or", " bob", " and", " be", " well"];
    let all = relayed("output_pii: mask", Framing::Sse, paced(&words(&told)), Takes::All).await;
    let (delays, held) = all;
    assert_eq!(delays, [Some(0), Some(100), Some(0)], "the first word waits for the second");
    assert!(held >= 700, "held {held} ms of 900");
}

#[tokio::test(start_paused = true)]
async fn event_that_waits_for_the_hold_time_is_delayed_by_it() {
    let mut steps = paced(&words(&["mail ann.lee@exam"]));
    steps.insert(4, Step::Wait(Duration::from_secs(5)));
    let guardrail = "output_pii: mask, hold_time: 300ms";
    let (delays, held) = relayed(guardrail, Framing::Sse, steps, Takes::All).await;
    assert_eq!(delays, [Some(0), Some(300), Some(0)]);
    assert_eq!(held, 300);
}

/// The head and the events of a JSON answer leave when all of it is decided, which is at its end.
#[tokio::test(start_paused = true)]
async fn json_answer_is_delayed_by_nothing_but_work() {
    let body = "{\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"mail ann.lee@example.com\"},\"finish_reason\":\"stop\"}]}";
    let (first, rest) = body.split_at(40);
    let steps = paced(&[first.to_owned(), rest.to_owned()]);
    let (delays, _) = relayed("output_pii: mask", Framing::Json, steps, Takes::All).await;
    assert_eq!((delays[0], delays[2]), (Some(0), Some(0)));
}

/// The client accepts 15 bytes each 80 ms, which is slower than the engine: the events wait for it.
#[tokio::test(start_paused = true)]
async fn wait_for_a_slow_client_is_no_delay() {
    let told = ["Write", " to", " ann", " or", " bob", " and", " be", " well"];
    let slow = Takes::Slowly(15, Duration::from_millis(80));
    let (delays, _) = relayed("output_pii: mask", Framing::Sse, paced(&words(&told)), slow).await;
    assert_eq!(delays, [Some(0), Some(0), Some(0)]);
}

#[tokio::test(start_paused = true)]
async fn answer_that_the_guardrail_ends_has_no_last_event_to_compare() {
    let told = ["It is", " AKIAZ7Q2MXN4RTV6WYB3", " today"];
    let all =
        relayed("output_secrets: block", Framing::Sse, paced(&words(&told)), Takes::All).await;
    assert_eq!((all.0[0], all.0[2]), (Some(0), None));
}

#[tokio::test(start_paused = true)]
async fn observed_answers_are_not_delayed() {
    let told = ["mail", " ann", ".lee@", "example.com", " now"];
    let guardrail = "mode: observe, output_pii: mask";
    let (delays, held) = relayed(guardrail, Framing::Sse, paced(&words(&told)), Takes::All).await;
    assert_eq!((delays, held), ([Some(0), Some(0), Some(0)], 0));
}
