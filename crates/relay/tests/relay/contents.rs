//! Stored answers: redacted whatever the action on a finding, however the stream is cut, and up to
//! what the scanners have decided.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use contents::{Content, ContentOptions, Keys, MasterKey, Recorder};
use filters::settings::Action;
use relay::{Context, End};
use shield::stream::{Channel, Piece};
use uuid::Uuid;
use wire::{Dialect, Framing};

use crate::guardrail::guarded;
use crate::script::{ScriptedRequest, ScriptedSink, ScriptedSource, Step, Takes, context, run};

/// Stores the contents of scripted requests.
struct Store {
    recorder: Recorder,
    _folder: tempfile::TempDir,
}

fn wall_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros() as u64
}

impl Store {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let current = MasterKey::from_hex(&"5".repeat(64)).expect("a key");
        let recorder = Recorder::start(ContentOptions {
            folder: folder.path().to_owned(),
            keys: Keys { current, previous: Vec::new() },
            keep: Duration::from_secs(3600),
            max_size: 64 << 20,
            max_text: 64 << 10,
            wall_us,
        });
        Store { recorder: recorder.expect("a recorder"), _folder: folder }
    }

    fn request(&self) -> ScriptedRequest {
        let mut request = ScriptedRequest::new();
        request.guarded.contents = self.recorder.draft();
        request
    }

    /// Passes the draft of a request to the recorder. Returns the id to find it by.
    fn store(&self, request: &mut ScriptedRequest) -> String {
        let unique_id = Uuid::now_v7().to_string();
        let draft = request.guarded.contents.take().expect("a draft");
        assert!(!format!("{draft:?}").contains('@'), "texts are not printed");
        let id = contents::Request {
            unique_id: unique_id.clone().into(),
            id: "test".into(),
            at: wall_us(),
            route: "r".into(),
            incomplete: None,
        };
        self.recorder.store(draft, id);
        unique_id
    }

    /// The content of a stored request.
    fn find(&self, id: &str) -> Content {
        self.recorder.close();
        self.recorder.reader().find(id, wall_us() / 1000).expect("it is stored")
    }
}

/// The only text of an answer.
fn text(content: &Content) -> &str {
    match &*content.answer.texts {
        [text] => &text.text,
        [] => "",
        more => panic!("{} texts", more.len()),
    }
}

fn event(content: &str) -> String {
    let content = serde_json::Value::from(content);
    format!(
        "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":{content}}},\"finish_reason\":null}}]}}\n\n"
    )
}

const END: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

/// The matches of all rules of a guardrail in a text, up to the first one that blocks it.
fn matches(context: &Context, text: &str) -> Vec<String> {
    let guardrail = context.guardrail.as_ref().expect("one");
    let mut end = text.len();
    for scanner in guardrail.scanners().iter().filter(|one| one.action == Action::Block) {
        let mut channel = Channel::new();
        let mut note = |piece: Piece<'_>| match piece {
            Piece::Mask { finding, .. } => end = end.min(finding.span.start),
            Piece::Pass(_) | Piece::Close(_) => {}
        };
        channel.push(&scanner.automata, text, &mut note);
        channel.finish(&scanner.automata, &mut note);
    }
    let found = guardrail.matches(text).into_iter().filter(|(span, _)| span.start <= end);
    found.map(|(span, _)| text[span].to_owned()).collect()
}

/// Numbers that look random, the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    fn text(&mut self) -> String {
        const WORDS: [&str; 16] = [
            "and ",
            "the mail is ann.lee@example.com",
            ", so ",
            "ssn 078-05-1120 ",
            "078-05-1120",
            "4111 1111 1111 1111",
            " ünïcode → ",
            "AKIAZ7Q2MXN4RTV6WYB3",
            " blue heron ",
            "call +1 415 555 2671 now",
            "ghp_x7Kq2mZ9pL4vT8wR1yB6nC3dF5gH0jS2aQ9e",
            "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEAv8\n-----END RSA PRIVATE KEY-----\n",
            "ann.lee@",
            "password: hunter2000hunter",
            "\n",
            "x",
        ];
        (0..2 + self.below(10)).map(|_| WORDS[self.below(WORDS.len())]).collect()
    }

    /// The text in pieces, cut at any characters.
    fn pieces(&mut self, text: &str) -> Vec<String> {
        let (mut pieces, width) = (vec![String::new()], 1 + self.below(24));
        for letter in text.chars() {
            if self.below(width) == 0 {
                pieces.push(String::new());
            }
            pieces.last_mut().expect("one").push(letter);
        }
        pieces
    }
}

/// Rules with each action, and one rule of the operator that overlaps none of the others' actions.
const RULE: &str = "rules: [{name: heron, phrases: ['blue heron'], output: flag}]";

#[tokio::test(start_paused = true)]
async fn no_match_is_in_a_stored_answer_whatever_its_action_and_however_it_is_cut() {
    let (store, mut numbers) = (Store::new(), Numbers(0x9e37_79b9_7f4a_7c15));
    let mut stored = Vec::new();
    for guardrail in [
        "output_pii: flag, output_secrets: flag",
        "output_pii: mask, output_secrets: flag",
        "output_pii: flag, output_secrets: block",
        "input_pii: redact, output_pii: mask, output_secrets: mask, restore: true",
        "mode: observe, output_pii: block, output_secrets: mask",
        "output_pii: mask, output_secrets: mask, hold_bytes: 256",
    ] {
        let context = guarded(&format!("{guardrail}, {RULE}"));
        for _ in 0..40 {
            let text = numbers.text();
            let found = matches(&context, &text);
            let blocks = guardrail.contains("output_secrets: block");
            for round in 0..3 {
                let pieces = numbers.pieces(&text);
                let body: String = pieces.iter().map(|piece| event(piece)).collect();
                let size = 1 + numbers.below(400);
                let body = body + END;
                let steps = body.as_bytes().chunks(size).map(|piece| Step::Read(piece.to_vec()));
                let mut request = store.request();
                let mut source = ScriptedSource::new(Framing::Sse, steps.collect());
                let mut sink = ScriptedSink::new(Takes::All);
                let (end, _) =
                    run(&mut request, context.clone(), &mut source, &mut sink, None).await;
                assert!(matches!(end, End::Complete), "{end:?}");
                let id = store.store(&mut request);
                stored.push((id, guardrail, text.clone(), found.clone(), round > 0 && !blocks));
            }
        }
    }
    let (mut before, mut with_matches) = (String::new(), 0);
    for (id, guardrail, original, found, is_again) in &stored {
        let content = store.find(id);
        let text = text(&content);
        for value in found.iter().filter(|value| value.len() >= 4) {
            assert!(!text.contains(value.as_str()), "{guardrail}: {value:?} in {text:?}");
        }
        // However the stream is cut, the same is stored. A blocked one ends with a read.
        assert!(!is_again || text == before, "{guardrail}: {text:?}, not {before:?}");
        if found.is_empty() {
            assert_eq!(text, original, "{guardrail}");
        }
        with_matches += usize::from(text.contains('['));
        before = text.to_owned();
    }
    assert!(with_matches > stored.len() / 2, "{with_matches} of {}", stored.len());
}

#[tokio::test(start_paused = true)]
async fn every_channel_is_stored_by_itself_and_nothing_beside_them() {
    let event = |choice: u64, delta: serde_json::Value| {
        let choice = serde_json::json!({"index": choice, "delta": delta});
        format!("data: {}\n\n", serde_json::json!({"note": "bob@example.com", "choices": [choice]}))
    };
    let call = |text: &str| serde_json::json!({"tool_calls": [{"index": 0, "function": {"arguments": text}}]});
    let body = [
        event(0, serde_json::json!({"reasoning_content": "ask ann.lee@"})),
        event(1, serde_json::json!({"content": "one"})),
        event(0, serde_json::json!({"content": "it is "})),
        event(0, call("{\"to\":\"ann.lee@exam")),
        event(0, serde_json::json!({"reasoning_content": "example.com now"})),
        event(0, call("ple.com\"}")),
        event(0, serde_json::json!({"content": "done"})),
        END.into(),
    ];
    for (guardrail, framing) in
        [("output_pii: flag", Framing::Sse), ("output_pii: mask", Framing::Sse)]
    {
        let store = Store::new();
        let mut request = store.request();
        let steps = body.iter().map(|event| Step::Read(event.clone().into_bytes())).collect();
        let mut source = ScriptedSource::new(framing, steps);
        let mut sink = ScriptedSink::new(Takes::All);
        run(&mut request, guarded(guardrail), &mut source, &mut sink, None).await;
        let id = store.store(&mut request);
        let content = store.find(&id);
        let texts: Vec<_> = content
            .answer
            .texts
            .iter()
            .map(|text| (text.choice, &*text.channel, text.index, &*text.text))
            .collect();
        let want = [
            (0, "reasoning", 0, "ask [EMAIL_ADDRESS] now"),
            (1, "content", 0, "one"),
            (0, "content", 0, "it is done"),
            (0, "tool_arguments", 0, "{\"to\":\"[EMAIL_ADDRESS]\"}"),
        ];
        assert_eq!(texts, want, "{guardrail}");
        assert_eq!((content.answer.cut, content.answer.incomplete), (false, None));
    }
}

/// Of a number that was held for the maximum time, a mask goes to the client, which takes the blank
/// behind it and whose kind is a guess. A text that is only flagged is scanned as a whole.
#[tokio::test(start_paused = true)]
async fn match_that_was_held_for_too_long_is_not_stored() {
    for (guardrail, want) in [
        ("output_pii: mask, hold_time: 200ms", "pay with [PHONE_NUMBER]now"),
        ("output_pii: flag", "pay with [CREDIT_CARD] now"),
    ] {
        let store = Store::new();
        let mut request = store.request();
        let steps = vec![
            Step::Read(event("pay with 4111 1111 ").into_bytes()),
            Step::Wait(Duration::from_secs(30)),
            Step::Read((event("1111 1111 now") + END).into_bytes()),
        ];
        let mut source = ScriptedSource::new(Framing::Sse, steps);
        let mut sink = ScriptedSink::new(Takes::All);
        run(&mut request, guarded(guardrail), &mut source, &mut sink, None).await;
        let id = store.store(&mut request);
        assert_eq!(text(&store.find(&id)), want, "{guardrail}");
    }
}

/// What a scanner still holds may be the start of a secret.
#[tokio::test(start_paused = true)]
async fn undecided_text_of_a_broken_answer_is_not_stored() {
    for guardrail in ["output_secrets: flag", "output_secrets: mask"] {
        let body = event("the key is ") + &event("AKIAZ7Q2MXN4");
        for (takes, last) in [
            (Takes::LeavesAfter(10), Step::Wait(Duration::from_secs(1))),
            (Takes::LeavesAfter(10), Step::Die),
        ] {
            let store = Store::new();
            let mut request = store.request();
            let steps = vec![Step::Read(body.clone().into_bytes()), last];
            let mut source = ScriptedSource::new(Framing::Sse, steps);
            let mut sink = ScriptedSink::new(takes);
            run(&mut request, guarded(guardrail), &mut source, &mut sink, None).await;
            let id = store.store(&mut request);
            assert_eq!(text(&store.find(&id)), "the key is ", "{guardrail} {takes:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn blocked_answer_is_stored_up_to_the_match() {
    let store = Store::new();
    let mut request = store.request();
    let pieces = ["mail bob@example.com, the key is ", "AKIAZ7Q2MXN4RTV6WYB3", " and more"];
    let body = pieces.map(event).concat() + END;
    let mut source = ScriptedSource::new(Framing::Sse, vec![Step::Read(body.into_bytes())]);
    let mut sink = ScriptedSink::new(Takes::All);
    let guardrail = guarded("output_pii: flag, output_secrets: block");
    run(&mut request, guardrail, &mut source, &mut sink, None).await;
    let id = store.store(&mut request);
    let content = store.find(&id);
    assert_eq!(text(&content), "mail [EMAIL_ADDRESS], the key is [AWS_ACCESS_KEY]");
}

/// A whole answer, in a guardrail that holds it and in one that does not; and an answer without a
/// draft.
#[tokio::test(start_paused = true)]
async fn whole_answers_are_stored_and_others_are_not() {
    let body = r#"{"choices":[{"index":0,"message":{"content":"mail bob@example.com"},"finish_reason":"stop"}]}"#;
    for guardrail in ["output_pii: flag", "output_pii: mask", "output_pii: block"] {
        let store = Store::new();
        for stores in [false, true] {
            let mut request = if stores { store.request() } else { ScriptedRequest::new() };
            let steps = body.as_bytes().chunks(30).map(|piece| Step::Read(piece.to_vec()));
            let mut source = ScriptedSource::new(Framing::Json, steps.collect());
            let mut sink = ScriptedSink::new(Takes::All);
            run(&mut request, guarded(guardrail), &mut source, &mut sink, None).await;
            assert_eq!(request.guarded.contents.is_some(), stores);
            if stores {
                let id = store.store(&mut request);
                assert_eq!(text(&store.find(&id)), "mail [EMAIL_ADDRESS]", "{guardrail}");
            }
        }
    }
}

/// The answer of an attempt that the client did not get must not stay in the content of the next.
#[tokio::test(start_paused = true)]
async fn answer_of_a_failed_attempt_is_dropped() {
    let store = Store::new();
    let mut request = store.request();
    // Held as a whole, and broken off.
    let half = r#"{"choices":[{"index":0,"message":{"content":"first"}}"#;
    let steps = vec![Step::Read(half.into()), Step::Die];
    let mut source = ScriptedSource::new(Framing::Json, steps);
    let mut sink = ScriptedSink::new(Takes::All);
    let guardrail = guarded("output_pii: mask");
    let (end, _) = run(&mut request, guardrail.clone(), &mut source, &mut sink, None).await;
    assert!(matches!(end, End::Refused(_)), "{end:?}");
    let draft = request.guarded.contents.as_ref().expect("a draft");
    assert!(draft.has_answer());
    // An answer that is not parsed.
    let plain = Context { guardrail: None, dialect: None, ..context(Dialect::OpenAiChat) };
    let mut source = ScriptedSource::new(Framing::Opaque, vec![Step::Read(b"second".to_vec())]);
    let (end, _) = run(&mut request, plain, &mut source, &mut sink, None).await;
    assert!(matches!(end, End::Complete), "{end:?}");
    assert!(!request.guarded.contents.as_ref().expect("a draft").has_answer());
    let id = store.store(&mut request);
    assert!(store.find(&id).answer.texts.is_empty());
}

/// Answers each call with this verdict, after this time.
struct Judge(&'static str, Duration);
impl filters::Host for Judge {
    fn now(&self) -> lens::Tick {
        transport::clock::now()
    }
    fn sleep(&self, time: Duration) -> filters::BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(time))
    }
    fn send(
        &self,
        _: filters::HostRequest,
    ) -> filters::BoxFuture<'static, Result<filters::HostResponse, filters::Failure>> {
        let (body, delay) = (self.0.as_bytes().to_vec().into(), self.1);
        Box::pin(async move {
            tokio::time::sleep(delay).await;
            Ok(filters::HostResponse { status: 200, body })
        })
    }
    fn offload(&self, job: filters::Job) -> Result<(), filters::Failure> {
        job();
        Ok(())
    }
}

/// A judge that fails open leaves findings unknown, so the text is not stored.
#[tokio::test(start_paused = true)]
async fn answers_that_a_judge_could_not_check_are_not_stored() {
    let judges = "output_pii: flag, judges: [{name: hook, kind: webhook, backend: b, path: /judge, \
                  on_failure: open, output: flag, mode: cut}]";
    let store = Store::new();
    let mut request = store.request();
    let body = event("hello there") + END;
    let mut source = ScriptedSource::new(Framing::Sse, vec![Step::Read(body.into_bytes())]);
    let mut sink = ScriptedSink::new(Takes::All);
    let (end, _) = run(&mut request, guarded(judges), &mut source, &mut sink, None).await;
    assert!(matches!(end, End::Complete), "{end:?}");
    let id = store.store(&mut request);
    let content = store.find(&id);
    assert_eq!((text(&content), content.answer.incomplete.as_deref()), ("", Some("not_checked")));
}

/// Judges may report any part of a text; a finding without a place covers all of it.
#[tokio::test(start_paused = true)]
async fn findings_of_judges_are_replaced_too() {
    let judges = "output_pii: flag, judges: [{name: hook, kind: webhook, backend: b, path: /judge, \
                  output: flag, mode: end}]";
    for (verdict, want) in [
        (r#"{"verdict": "pass"}"#, "hello there, Jane"),
        (r#"{"verdict": "block", "kind": "NAME"}"#, "[OTHER]"),
    ] {
        let store = Store::new();
        let mut request = store.request();
        request.host = Arc::new(Judge(verdict, Duration::ZERO));
        let body = event("hello there, ") + &event("Jane") + END;
        let mut source = ScriptedSource::new(Framing::Sse, vec![Step::Read(body.into_bytes())]);
        let mut sink = ScriptedSink::new(Takes::All);
        run(&mut request, guarded(judges), &mut source, &mut sink, None).await;
        let id = store.store(&mut request);
        assert_eq!(text(&store.find(&id)), want, "{verdict}");
    }
}

/// A client that leaves has got text that no judge has seen. It is judged, and then stored; without
/// a judge's answer, it is not.
#[tokio::test(start_paused = true)]
async fn text_until_the_client_left_is_judged_and_stored() {
    let judges = "output_pii: flag, judges: [{name: hook, kind: webhook, backend: b, path: /judge, \
                  output: flag, mode: MODE}]";
    let late = Duration::from_secs(60);
    for (mode, delay, verdict, want) in [
        ("end", Duration::ZERO, r#"{"verdict": "pass"}"#, "so far "),
        ("cut", Duration::ZERO, r#"{"verdict": "pass"}"#, "so far "),
        ("end", Duration::ZERO, r#"{"verdict": "block", "kind": "NAME"}"#, "[OTHER]"),
        ("end", late, r#"{"verdict": "pass"}"#, ""),
    ] {
        let store = Store::new();
        let mut request = store.request();
        request.host = Arc::new(Judge(verdict, delay));
        let steps = vec![Step::Read(event("so far ").into_bytes()), Step::Wait(late)];
        let mut source = ScriptedSource::new(Framing::Sse, steps);
        let mut sink = ScriptedSink::new(Takes::LeavesAfter(event("so far ").len()));
        let context = guarded(&judges.replace("MODE", mode));
        let began = tokio::time::Instant::now();
        let (end, _) = run(&mut request, context, &mut source, &mut sink, None).await;
        assert!(matches!(end, End::Gone), "{end:?}");
        assert!(began.elapsed() <= Duration::from_secs(1), "{:?}", began.elapsed());
        let id = store.store(&mut request);
        assert_eq!(text(&store.find(&id)), want, "{mode} {verdict} {delay:?}");
    }
}

/// The task of the request is canceled, as by `timeouts.total`.
#[tokio::test(start_paused = true)]
async fn text_of_a_canceled_answer_is_stored() {
    let store = Store::new();
    let mut request = store.request();
    let wait = Step::Wait(Duration::from_secs(60));
    let steps = vec![Step::Read(event("so far, ").into_bytes()), wait];
    let mut source = ScriptedSource::new(Framing::Sse, steps);
    let mut sink = ScriptedSink::new(Takes::All);
    let relayed = run(&mut request, guarded("output_pii: flag"), &mut source, &mut sink, None);
    let canceled = tokio::time::timeout(Duration::from_secs(1), relayed).await;
    assert!(canceled.is_err(), "{canceled:?}");
    let id = store.store(&mut request);
    assert_eq!(text(&store.find(&id)), "so far, ");
}
