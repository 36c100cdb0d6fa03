use super::*;
use proptest::prelude::*;
use wire::{Dialect, Framing, Reader, ReaderLimits};

/// Replays a chat stream of `(arrival us, written us, events in the read)`. The client may accept
/// bytes much later.
fn play(reads: &[(u64, u64, &str)]) -> StreamLens {
    let mut lens = StreamLens::new(true, 1_000_000_000);
    let mut reader = Reader::new(Dialect::OpenAiChat, Framing::Sse, ReaderLimits::default());
    let mut base = 0;
    let mut writes = Vec::new();
    for (arrival, written, text) in reads {
        lens.begin_read(Tick::from_micros(*arrival));
        lens.at(base);
        reader.feed(text.as_bytes(), &mut lens);
        base += text.len() as u64;
        writes.push((base, *written));
    }
    for (upto, at) in writes {
        lens.written(upto, Tick::from_micros(at));
    }
    lens
}

fn delta(member: &str) -> String {
    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{{member}}}}}]}}\n\n")
}

fn content() -> String {
    delta("\"content\":\"x\"")
}

fn us(tick: Option<Tick>) -> Option<u64> {
    tick.map(|t| t.0 / 1000)
}

#[test]
fn only_generated_text_is_a_first_token() {
    let lens = play(&[
        (10, 11, ": ping\n\n"),
        (20, 21, &delta("\"role\":\"assistant\",\"content\":\"\"")),
        (30, 31, &delta("\"reasoning\":\"hm\"")),
        (50, 55, &content()),
        (
            60,
            66,
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":9}}\n\n",
        ),
        (61, 67, "data: [DONE]\n\n"),
    ]);
    let m = lens.marks();
    assert_eq!(
        (us(m.first_event.arrival), us(m.role.arrival), us(m.role.written)),
        (Some(20), Some(20), Some(21))
    );
    assert_eq!(
        (us(m.reasoning.arrival), us(m.content.arrival), us(m.content.written)),
        (Some(30), Some(50), Some(55))
    );
    assert_eq!(
        (us(m.first_token.arrival), us(m.last_token.arrival), us(m.last_token.written)),
        (Some(30), Some(50), Some(55))
    );
    assert_eq!(
        (lens.counts().events, lens.counts().content_events, lens.counts().comments),
        (5, 2, 1)
    );
    assert_eq!(
        (lens.completion_tokens(), lens.end(), m.tool_call),
        ((Some(9), false), Some("[DONE]"), Mark::default())
    );
    assert_eq!(lens.tpot_us(), Some(20.0 / 8.0));
}

#[test]
fn tokens_of_the_first_event_are_not_divided_by() {
    let with_usage = |n: u64| {
        format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"x\"}}}}],\"usage\":{{\"prompt_tokens\":1,\"completion_tokens\":{n}}}}}\n\n"
        )
    };
    let lens = play(&[(100, 100, &with_usage(4)), (200, 200, &with_usage(6))]);
    assert_eq!(lens.tpot_us(), Some(50.0));
}

#[test]
fn single_read_has_no_tpot_and_coalesced_events() {
    let lens = play(&[(100, 100, &(content() + &content() + &content()))]);
    assert_eq!((lens.tpot_us(), lens.counts().coalesced), (None, 2));
    assert_eq!(lens.completion_tokens(), (Some(3), true));
}

#[test]
fn hidden_reasoning_is_not_divided_by() {
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":103,\"completion_tokens_details\":{\"reasoning_tokens\":100}}}\n\n";
    let lens =
        play(&[(0, 0, &content()), (10, 10, &content()), (20, 20, &content()), (21, 21, usage)]);
    assert_eq!(lens.tpot_us(), Some(10.0));
}

#[test]
fn stalls_are_gaps_over_the_threshold() {
    let lens = play(&[(0, 0, &content()), (1_000_000, 0, &content()), (2_000_001, 0, &content())]);
    assert_eq!(lens.counts().stalls, 1);
}

proptest! {
    #[test]
    fn a_slow_writer_changes_no_upstream_figure(
        gaps in proptest::collection::vec(0u64..100_000, 1..40),
        delays in proptest::collection::vec(0u64..5_000_000, 40),
    ) {
        let text = content();
        let mut at = 0;
        let mut late = 0;
        let (mut prompt, mut slow) = (Vec::new(), Vec::new());
        for (gap, delay) in gaps.iter().zip(&delays) {
            at += gap;
            late = late.max(at) + delay;
            prompt.push((at, at, text.as_str()));
            slow.push((at, late, text.as_str()));
        }
        let (mut prompt, mut slow) = (play(&prompt), play(&slow));
        prop_assert_eq!(prompt.tpot_us(), slow.tpot_us());
        prop_assert_eq!(prompt.itl().summary(), slow.itl().summary());
        prop_assert_eq!(prompt.counts(), slow.counts());
        prop_assert_eq!(prompt.marks().first_token.arrival, slow.marks().first_token.arrival);
        prop_assert_eq!(slow.client_itl().summary().map_or(0, |s| s.count), gaps.len() as u64 - 1);
    }
}
