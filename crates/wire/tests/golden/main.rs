//! Every capture, replayed whole, byte by byte and cut at every position, against its golden
//! reading.
//!
//! The captures under `captures/` come from real servers (vLLM, llama.cpp, llama-cpp-python,
//! transformers) or were made by hand after the named sources of others; `captures/README.md`
//! defines the fields of `expected`.

#![expect(clippy::unwrap_used, reason = "a capture that is not as it should be fails its test")]

mod replay;
mod traps;

use replay::{Capture, Reading};

/// Dialects that wait for the adapters that will need them; their streams are forwarded and marked
/// "not parsed".
const NOT_READ: [&str; 5] = ["bedrock-converse", "cohere-v2", "gemini", "triton-generate", "other"];

fn readable() -> Vec<Capture> {
    let all = Capture::all();
    assert!(all.len() > 250, "captures are missing: found {}", all.len());
    all.into_iter().filter(|c| !NOT_READ.contains(&c.protocol())).collect()
}

#[test]
fn whole_captures_match_their_golden_reading() {
    let mut wrong = Vec::new();
    for capture in readable() {
        let reading = Reading::of(&capture, &[capture.bytes()]);
        wrong.extend(capture.differences(&reading));
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn byte_by_byte_reads_the_same() {
    for capture in readable() {
        let bytes: Vec<&[u8]> = capture.bytes().chunks(1).collect();
        assert_eq!(
            Reading::of(&capture, &bytes),
            Reading::of(&capture, &[capture.bytes()]),
            "{}",
            capture.name()
        );
    }
}

/// Cut in two at every position of the small captures, and at every position of a window of the
/// large ones.
#[test]
fn cut_at_every_position_reads_the_same() {
    const EVERY: usize = 6_000;
    const WINDOW: usize = 1_500;
    for capture in readable() {
        let bytes = capture.bytes();
        let whole = Reading::of(&capture, &[bytes]);
        let cuts: Vec<usize> = match bytes.len() {
            n if n <= EVERY => (0..=n).collect(),
            n => (0..WINDOW).chain(n - WINDOW..=n).collect(),
        };
        for cut in cuts {
            let (a, b) = bytes.split_at(cut);
            assert_eq!(Reading::of(&capture, &[a, b]), whole, "{} cut at {cut}", capture.name());
        }
    }
}

#[test]
fn content_times_are_those_of_the_reads() {
    for capture in readable() {
        if let Some(difference) = capture.content_times_differ() {
            panic!("{}: {difference}", capture.name());
        }
    }
}
