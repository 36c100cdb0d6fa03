//! The relay without a socket: every recorded stream, cut in every way, to every kind of client.

mod arguments;
mod captures;
mod contents;
mod delays;
mod guardrail;
mod keep_alives;
mod resume;
mod script;

use std::sync::Arc;
use std::time::Duration;

use lens::record::Outcome;
use lens::{State, Tick};
use relay::{Context, DrainDeadline, End, TokenTimeouts};
use wire::{Dialect, Framing};

use captures::{Body, streams};
use script::{ScriptedRequest, ScriptedSink, ScriptedSource, Step, Takes, context, run, settings};

const MS: Duration = Duration::from_millis(1);

/// A chat stream of so many tokens.
fn chat(tokens: usize) -> Vec<u8> {
    let event = |delta: &str, reason: &str| {
        format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{{delta}}},\"finish_reason\":{reason}}}]}}\n\n"
        )
    };
    let words: String =
        (0..tokens).map(|n| event(&format!("\"content\":\"w{n} \""), "null")).collect();
    format!(
        "{}{words}{}data: [DONE]\n\n",
        event("\"role\":\"assistant\"", "null"),
        event("", "\"stop\"")
    )
    .into_bytes()
}

/// One read for each event, a wait before each.
fn paced(body: &[u8], wait: Duration) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = body;
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\n\n") {
        steps.extend([Step::Wait(wait), Step::Read(rest[..end + 2].to_vec())]);
        rest = &rest[end + 2..];
    }
    steps
}

/// A body in two reads.
fn in_two(body: &[u8], at: usize) -> Vec<Step> {
    [&body[..at], &body[at..]]
        .into_iter()
        .filter(|part| !part.is_empty())
        .map(|part| Step::Read(part.to_vec()))
        .collect()
}

/// The client got whole lines of the body, and then the gateway's error event with this code.
fn is_told_of_the_failure(taken: &[u8], body: &[u8], code: &str) {
    let text = String::from_utf8_lossy(taken);
    let at = text.rfind('{').map_or(0, |brace| text[..brace].rfind('\n').map_or(0, |at| at + 1));
    let begin = text[..at].strip_suffix("event: error\n").unwrap_or(&text[..at]);
    let (before, error) = text.split_at(begin.len());
    assert!(body.starts_with(before.as_bytes()), "{before:?}");
    assert!(before.is_empty() || before.ends_with(['\n', '\r']), "half a line: {before:?}");
    let data = error.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or(error);
    let data: serde_json::Value = serde_json::from_str(data.trim()).expect("JSON");
    assert!(data.to_string().contains(code), "{data}");
}

/// A complete stream reached the client unchanged; an incomplete one ended with an error event.
fn is_forwarded_or_told(body: &Body, request: &ScriptedRequest, sink: &ScriptedSink, end: &End) {
    let lens = &request.answer.lens;
    if let End::Broken = end {
        assert!(!body.complete && sink.ended == Some(false), "{}", body.name);
        assert!(lens.error().is_none() && !lens.is_complete(1), "{}", body.name);
        return is_told_of_the_failure(&sink.taken, &body.bytes, "incomplete_stream");
    }
    assert!(matches!(end, End::Complete) && sink.ended == Some(true), "{}: {end:?}", body.name);
    assert_eq!(
        String::from_utf8_lossy(&sink.taken),
        String::from_utf8_lossy(&body.bytes),
        "{}",
        body.name
    );
    assert_eq!(request.answer.bytes_to_client, body.bytes.len() as u64, "{}", body.name);
}

#[tokio::test(start_paused = true)]
async fn every_stream_passes_unchanged_however_it_is_cut_and_taken() {
    let streams = streams();
    assert!(streams.len() > 50, "{} streams were found", streams.len());
    for body in streams {
        let cuts = (0..body.bytes.len()).step_by((body.bytes.len() / 24).max(1));
        let ways = cuts.map(|at| in_two(&body.bytes, at)).chain([body
            .bytes
            .chunks(1)
            .map(|byte| Step::Read(byte.to_vec()))
            .collect()]);
        let mut seen = None;
        for (way, steps) in ways.enumerate() {
            let takes = match way % 3 {
                0 => Takes::All,
                1 => Takes::Slowly(7, MS),
                _ => Takes::Slowly(1000, 3 * MS),
            };
            let mut request = ScriptedRequest::new();
            let mut source = ScriptedSource::new(body.framing, steps);
            let mut sink = ScriptedSink::new(takes);
            let (end, cut) =
                run(&mut request, context(body.dialect), &mut source, &mut sink, None).await;
            assert!(cut.is_none() && request.backend_released && request.committed);
            is_forwarded_or_told(&body, &request, &sink, &end);
            // However it was cut, the same is counted, and each mark lies between the first and the
            // last read.
            let counts = *request.answer.lens.counts();
            let read = (
                counts.events,
                counts.content_events,
                request.answer.lens.usage(),
                request.answer.lens.finish_reasons().to_vec(),
            );
            assert_eq!(*seen.get_or_insert_with(|| read.clone()), read, "{}", body.name);
            if let Some(first) = request.answer.lens.marks().first_token.arrival {
                assert!(
                    source.reads.contains(&first),
                    "{}: a token arrives when a read returns",
                    body.name
                );
            }
            let is_error = request.answer.lens.error().is_some();
            assert!(
                !body.complete || is_error || request.answer.lens.is_complete(1),
                "{}",
                body.name
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_changes_its_own_marks_and_no_other() {
    let body = chat(5);
    let steps: Vec<Step> =
        [Step::Wait(100 * MS)].into_iter().chain(paced(&body, 10 * MS)).collect();
    let mut marks = Vec::new();
    for takes in [Takes::All, Takes::Slowly(16, 50 * MS)] {
        let mut request = ScriptedRequest::new();
        let (mut source, mut sink) =
            (ScriptedSource::new(Framing::Sse, steps.clone()), ScriptedSink::new(takes));
        let began = transport::clock::now();
        run(&mut request, context(Dialect::OpenAiChat), &mut source, &mut sink, None).await;
        assert_eq!(sink.taken, body);
        let lens = request.answer.lens.marks();
        let since = |at: Option<lens::Tick>| at.expect("a mark").micros_since(began) / 1000;
        let times = (
            since(lens.first_token.arrival),
            since(lens.last_token.arrival),
            since(lens.first_token.written),
        );
        let (arrival, client) = request.answer.lens.drain_gaps();
        let longest =
            |gaps: &mut dyn Iterator<Item = u64>| gaps.max().expect("five tokens have gaps") / 1000;
        marks.push((times, longest(&mut arrival.into_iter()), longest(&mut client.into_iter())));
        let waited = request.ledger.nanos(State::ClientWrite) / 1_000_000;
        assert_eq!(waited > 0, matches!(takes, Takes::Slowly(..)), "{takes:?}: {waited} ms");
        // The parts sum to the whole, to the nanosecond.
        let spent: u64 = State::ALL.iter().map(|state| request.ledger.nanos(*state)).sum();
        let whole = transport::clock::now().nanos_since(request.ledger.started());
        assert!(spent <= whole && whole - spent < 1_000_000, "{spent} of {whole}");
    }
    let [
        ((first, last, taken), gap, client_gap),
        ((slow_first, slow_last, slow_taken), slow_gap, slow_client_gap),
    ] = marks[..]
    else {
        panic!("two runs")
    };
    // The head after 100 ms and a role event, then a token each 10 ms; timers count whole
    // milliseconds.
    assert!(
        (118..=121).contains(&first) && (158..=161).contains(&last) && taken == first,
        "{first} {last} {taken}"
    );
    assert!(
        slow_first.abs_diff(first) <= 1 && slow_last.abs_diff(last) <= 1,
        "arrival is the engine's: {slow_first} {slow_last}"
    );
    assert!(slow_taken > taken, "what is written late is late on the client's side");
    assert!((9..=11).contains(&gap) && gap == client_gap, "{gap} {client_gap}");
    assert!(
        slow_gap.abs_diff(gap) <= 1 && slow_client_gap >= 50,
        "gaps, too: {slow_gap} {slow_client_gap}"
    );
}

/// An engine may send its head at once, and comments and a role before the first token: that wait
/// has a state of its own.
#[tokio::test(start_paused = true)]
async fn the_wait_for_the_first_token_is_separate_from_the_waits_between_tokens() {
    let read = |text: &str| Step::Read(text.as_bytes().to_vec());
    let head = [Step::Wait(10 * MS), read(": ping\n\n"), Step::Wait(100 * MS)];
    let whole = "{\"choices\":[{\"index\":0,\"message\":{\"content\":\"x\"}}]}";
    for (name, framing, dialect, steps, want) in [
        (
            "a stream",
            Framing::Sse,
            Some(Dialect::OpenAiChat),
            [&head[..], &paced(&chat(5), 20 * MS)].concat(),
            // The role after 20 ms more, the first token after another 20; then four tokens, the
            // finish reason and the end marker.
            (10, 140, 120),
        ),
        (
            "a stream that is not parsed",
            Framing::Sse,
            None,
            [&head[..], &paced(&chat(5), 20 * MS)].concat(),
            (10, 0, 260),
        ),
        (
            "a whole answer",
            Framing::Json,
            Some(Dialect::OpenAiChat),
            vec![Step::Wait(10 * MS), read(&whole[..9]), Step::Wait(100 * MS), read(&whole[9..])],
            (10, 0, 100),
        ),
    ] {
        let mut request = ScriptedRequest::new();
        let (mut source, mut sink) =
            (ScriptedSource::new(framing, steps), ScriptedSink::new(Takes::All));
        let context = Context { dialect, ..context(Dialect::OpenAiChat) };
        let (end, _) = run(&mut request, context, &mut source, &mut sink, None).await;
        assert!(matches!(end, End::Complete), "{name}: {end:?}");
        let spent = |state| request.ledger.nanos(state) / 1_000_000;
        let got = [State::AwaitFirstByte, State::AwaitFirstToken, State::AwaitToken].map(spent);
        let near = |got: u64, want: u64| got.abs_diff(want) <= want / 10;
        assert!(
            near(got[0], want.0) && near(got[1], want.1) && near(got[2], want.2),
            "{name}: {got:?} ms, not {want:?}"
        );
        let all: u64 = State::ALL.iter().map(|state| request.ledger.nanos(*state)).sum();
        let whole = transport::clock::now().nanos_since(request.ledger.started());
        assert!(all <= whole && whole - all < 1_000_000, "{name}: {all} of {whole}");
    }
}

#[tokio::test(start_paused = true)]
async fn upstream_is_read_while_the_client_takes_nothing_up_to_the_ring() {
    let body = chat(400);
    let mut context = context(Dialect::OpenAiChat);
    context.ring = 4 << 10;
    context.timeouts.client_write = Duration::from_secs(7);
    let mut request = ScriptedRequest::new();
    let (mut source, mut sink) = (
        ScriptedSource::new(Framing::Sse, paced(&body, MS)),
        ScriptedSink::new(Takes::StopsAfter(200)),
    );
    let began = tokio::time::Instant::now();
    let (end, _) = run(&mut request, context, &mut source, &mut sink, None).await;
    assert!(matches!(end, End::Gone), "{end:?}");
    assert_eq!(
        (request.verdict.outcome(), request.verdict.code.as_deref()),
        (Some(Outcome::Timeout), Some("client_write_timeout"))
    );
    assert!((7..8).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    let read: usize = source.reads.len() * (body.len() / 402);
    assert!((4 << 10..8 << 10).contains(&read), "reading stops when the ring is full: {read}");
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_dies_ends_the_stream_with_an_error_event_at_every_cut() {
    let body = chat(4);
    for at in 1..body.len() - "data: [DONE]\n\n".len() {
        let mut request = ScriptedRequest::new();
        let steps = vec![Step::Read(body[..at].to_vec()), Step::Die];
        let (mut source, mut sink) =
            (ScriptedSource::new(Framing::Sse, steps), ScriptedSink::new(Takes::All));
        let (end, cut) =
            run(&mut request, context(Dialect::OpenAiChat), &mut source, &mut sink, None).await;
        assert!(matches!(end, End::Broken) && cut.is_none(), "cut at {at}: {end:?}");
        assert_eq!(sink.ended, Some(false), "the body must not look whole");
        is_told_of_the_failure(&sink.taken, &body, "upstream_died");
        // All whole events were forwarded, and nothing of the torn one.
        let whole =
            body[..at].windows(2).rposition(|pair| pair == b"\n\n").map_or(0, |end| end + 2);
        assert_eq!(request.answer.lens.counts().events > 0, whole > 0, "cut at {at}");
        assert!(sink.taken.starts_with(&body[..whole]), "cut at {at}");
        assert_eq!(request.verdict.outcome(), Some(Outcome::UpstreamFailed));
    }
}

#[tokio::test(start_paused = true)]
async fn deadlines_hold_to_the_millisecond() {
    let body = chat(3);
    let waits = |before: u64, between: u64| {
        let mut steps = vec![Step::Wait(Duration::from_millis(before))];
        steps.extend(paced(&body, Duration::from_millis(between)));
        steps
    };
    for (steps, code, after, answered) in [
        (waits(5_001, 1), "upstream_first_byte_timeout", 5_000, false),
        (waits(4_999, 1), "ok", 5_005, true),
        (waits(1, 2_001), "upstream_idle_timeout", 4_002, true),
        (waits(1, 1_900), "total_timeout", 9_000, true),
    ] {
        let mut context = context(Dialect::OpenAiChat);
        context.timeouts.first_byte = Duration::from_secs(5);
        context.timeouts.between_events = Duration::from_secs(2);
        context.timeouts.total = Duration::from_secs(9);
        let mut request = ScriptedRequest::new();
        let (mut source, mut sink) =
            (ScriptedSource::new(Framing::Sse, steps), ScriptedSink::new(Takes::All));
        let began = tokio::time::Instant::now();
        let (end, _) = run(&mut request, context, &mut source, &mut sink, None).await;
        let told = match &end {
            End::Refused(failure) => failure.code(),
            End::Complete => "ok",
            _ => request.verdict.code.as_deref().unwrap_or_default(),
        };
        assert_eq!((told, sink.head.is_some()), (code, answered), "{end:?}");
        let took = began.elapsed().as_millis();
        assert!((after..after + 10).contains(&took), "{code}: {took} ms");
    }
}

/// Comments, and events without generated text, are no tokens.
#[tokio::test(start_paused = true)]
async fn pings_extend_no_token_deadline() {
    let role = chat(0).windows(2).position(|pair| pair == b"\n\n").map(|end| end + 2);
    let role = &chat(0)[..role.expect("a role event")];
    let pings = |seconds: u64| {
        let ping = [Step::Wait(1000 * MS), Step::Read(b": ping\n\n".to_vec())];
        ping.into_iter().cycle().take(2 * seconds as usize)
    };
    let token = Step::Read(chat(1)[role.len()..].to_vec());
    for (before, between, code, after) in [
        (60, 0, "upstream_first_token_timeout", 5_000),
        (4, 60, "upstream_token_timeout", 7_000),
        (4, 2, "ok", 6_000),
    ] {
        let mut context = context(Dialect::OpenAiChat);
        context.token_timeouts =
            TokenTimeouts { first: Duration::from_secs(5), between: Duration::from_secs(3) };
        let first = Step::Read(chat(9)[..role.len() * 2].to_vec());
        let steps: Vec<Step> = [Step::Read(role.to_vec())]
            .into_iter()
            .chain(pings(before))
            .chain([first])
            .chain(pings(between))
            .chain([token.clone()])
            .collect();
        let mut request = ScriptedRequest::new();
        let (mut source, mut sink) =
            (ScriptedSource::new(Framing::Sse, steps), ScriptedSink::new(Takes::All));
        let began = tokio::time::Instant::now();
        let (end, _) = run(&mut request, context, &mut source, &mut sink, None).await;
        let told = match &end {
            End::Complete => "ok",
            _ => request.verdict.code.as_deref().unwrap_or_default(),
        };
        let took = began.elapsed().as_millis();
        assert_eq!(told, code, "{end:?} after {took} ms");
        assert!((after..after + 10).contains(&took), "{code}: {took} ms");
    }
}

/// Nothing happens in such a stream, so the beginning of the drain must wake it.
#[tokio::test(start_paused = true)]
async fn a_silent_stream_ends_with_an_error_event_when_the_grace_period_ends() {
    const HOUR: Duration = Duration::from_secs(3600);
    let whole = chat(3);
    let body = whole.strip_suffix(b"data: [DONE]\n\n").expect("an end marker");
    let (head, role) = (vec![Step::Wait(HOUR)], vec![Step::Read(body.to_vec()), Step::Wait(HOUR)]);
    for (steps, answered) in [(head, false), (role, true)] {
        let drain = Arc::<DrainDeadline>::default();
        let mut context = Context { drain: drain.clone(), ..context(Dialect::OpenAiChat) };
        context.timeouts.first_byte = HOUR;
        context.timeouts.between_events = HOUR;
        let began = tokio::time::Instant::now();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(10)).await;
            drain.set(Tick(transport::clock::now().0 + 2_000_000_000));
        });
        let mut request = ScriptedRequest::new();
        let (mut source, mut sink) =
            (ScriptedSource::new(Framing::Sse, steps), ScriptedSink::new(Takes::All));
        let (end, _) = run(&mut request, context, &mut source, &mut sink, None).await;
        let took = began.elapsed().as_millis();
        assert!((12_000..12_010).contains(&took), "{took} ms");
        if !answered {
            assert!(
                matches!(&end, End::Refused(failure) if failure.code() == "gateway_shutdown"),
                "{end:?}"
            );
            continue;
        }
        assert!(matches!(end, End::Broken) && sink.ended == Some(false), "{end:?}");
        is_told_of_the_failure(&sink.taken, body, "gateway_shutdown");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_is_gone_and_one_that_has_everything_was_served() {
    let body = chat(3);
    for (leaves_after, want) in
        [(1, "client_closed"), (body.len() / 2, "client_closed"), (body.len(), "served")]
    {
        let mut steps = paced(&body, MS);
        // The end of the body comes late, as a last chunk may.
        steps.push(Step::Wait(Duration::from_secs(60)));
        let mut request = ScriptedRequest::new();
        let (mut source, mut sink) = (
            ScriptedSource::new(Framing::Sse, steps),
            ScriptedSink::new(Takes::LeavesAfter(leaves_after)),
        );
        let (end, _) =
            run(&mut request, context(Dialect::OpenAiChat), &mut source, &mut sink, None).await;
        let got = if matches!(end, End::Served) {
            "served"
        } else {
            request.verdict.code.as_deref().unwrap_or_default()
        };
        assert_eq!(got, want, "after {leaves_after}: {end:?}");
        assert_eq!(sink.ended, Some(false));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_used_its_limit_ends_in_its_dialects_words_at_an_event() {
    let body = chat(50);
    for size in [1, 10, 37, 81, 400] {
        let steps = body.chunks(size).map(|piece| Step::Read(piece.to_vec())).collect();
        let mut request = ScriptedRequest::new();
        request.budget = Some(3);
        let (mut source, mut sink) =
            (ScriptedSource::new(Framing::Sse, steps), ScriptedSink::new(Takes::All));
        let (end, _) =
            run(&mut request, context(Dialect::OpenAiChat), &mut source, &mut sink, None).await;
        assert!(matches!(end, End::Complete), "{end:?}");
        let text = String::from_utf8_lossy(&sink.taken).into_owned();
        assert!(
            text.ends_with("\"finish_reason\":\"length\"}]}\n\ndata: [DONE]\n\n"),
            "in pieces of {size}: {text}"
        );
        let words = text.matches("\"content\"").count();
        // What came in the same read counts, and the event that was torn then.
        assert!((3..=8).contains(&words), "in pieces of {size}: {words} words");
        assert_eq!(request.verdict.outcome(), Some(Outcome::Limited));
    }
}

#[test]
fn settings_of_the_tests_are_good() {
    assert!(settings("").routes.len() == 1);
}
