//! Ends an answer that repeats itself.
//!
//! Small models, and large ones at low temperature, sometimes repeat themselves until their tokens
//! run out. A text loops if it ends with one phrase of at least [`MIN_PHRASE_BYTES`] bytes,
//! repeated `times` times. The last [`TAIL_BYTES`] bytes are checked at each end of a line and
//! after each [`CHECK_INTERVAL_BYTES`] bytes: some microseconds, twice a paragraph.
//!
//! Registered as `stop-loops`, with `times` (3 to 1000, default 20: a table or a poem may repeat a
//! line a few times).

use std::collections::BTreeMap;

use wire::Channel;

use crate::filter::{AnswerFacts, AnswerWatch, Filter, FilterRefusal, Hooks};

/// Bytes kept at the end of each channel.
const TAIL_BYTES: usize = 8 << 10;
/// Bytes between two checks.
const CHECK_INTERVAL_BYTES: usize = 256;
/// Maximum channels tracked separately; further ones share the last slot.
const MAX_CHANNELS: usize = 64;
/// Minimum bytes of a phrase; a shorter one is a row of dashes, or a table.
const MIN_PHRASE_BYTES: usize = 8;

/// The filter that ends looping answers.
#[derive(Debug)]
pub struct StopLoops {
    times: usize,
}

impl StopLoops {
    /// A filter with these settings.
    ///
    /// # Errors
    /// A setting is unknown or invalid.
    pub fn new(with: &BTreeMap<String, String>) -> Result<Self, String> {
        if let Some(unknown) = with.keys().find(|key| *key != "times") {
            return Err(format!("unknown setting {unknown:?}; the only setting is times"));
        }
        let times = with
            .get("times")
            .map_or(Ok(20), |times| times.parse())
            .map_err(|_| "times must be a whole number".to_owned())?;
        if !(3..=1000).contains(&times) {
            return Err("times must be from 3 to 1000".into());
        }
        Ok(StopLoops { times })
    }
}

impl Filter for StopLoops {
    fn hooks(&self) -> Hooks {
        Hooks::WATCH_ANSWER
    }

    fn watch(&self, facts: &AnswerFacts) -> Option<Box<dyn AnswerWatch>> {
        facts.streamed.then(|| {
            Box::new(Watching { times: self.times, channels: Vec::new() }) as Box<dyn AnswerWatch>
        })
    }
}

#[derive(Debug)]
struct Watching {
    times: usize,
    channels: Vec<Tail>,
}

/// The end of a channel's text.
#[derive(Debug)]
struct Tail {
    of: (u32, Channel),
    text: Vec<u8>,
    /// Bytes since the last check.
    fresh: usize,
}

impl AnswerWatch for Watching {
    fn text(&mut self, choice: u32, channel: Channel, text: &str) -> Result<(), FilterRefusal> {
        let of = (choice, channel);
        let at = self.channels.iter().position(|tail| tail.of == of).unwrap_or_else(|| {
            if self.channels.len() < MAX_CHANNELS {
                self.channels.push(Tail { of, text: Vec::new(), fresh: 0 });
            }
            self.channels.len() - 1
        });
        let Some(tail) = self.channels.get_mut(at) else { return Ok(()) };
        tail.text.extend_from_slice(text.as_bytes());
        tail.fresh += text.len();
        if tail.fresh < CHECK_INTERVAL_BYTES && !text.contains('\n') {
            return Ok(());
        }
        tail.fresh = 0;
        if tail.text.len() > 2 * TAIL_BYTES {
            tail.text.drain(..tail.text.len() - TAIL_BYTES);
        }
        if loops(&tail.text, self.times) {
            let message = "The answer repeated itself and was ended.".to_owned();
            return Err(FilterRefusal { status: 502, code: "answer_loops", message });
        }
        Ok(())
    }
}

/// Whether a text ends with one phrase, repeated `times` times.
///
/// If a text ends with a phrase of length `p`, repeated `n` times, its last `(n - 1) * p` bytes
/// equal the bytes that lie `p` before them. The lengths to try are the distances to earlier
/// occurrences of the last few bytes.
fn loops(text: &[u8], times: usize) -> bool {
    let Some(end) = text.len().checked_sub(MIN_PHRASE_BYTES).and_then(|at| text.get(at..)) else {
        return false;
    };
    let longest = text.len() / times;
    let from = text.len().saturating_sub(longest + MIN_PHRASE_BYTES);
    let before = text.get(from..text.len() - 1).unwrap_or_default();
    memchr::memmem::rfind_iter(before, end)
        .map(|at| text.len() - MIN_PHRASE_BYTES - (from + at))
        .filter(|period| *period >= MIN_PHRASE_BYTES)
        .any(|period| {
            let span = period * (times - 1);
            let (Some(last), Some(shifted)) =
                (text.len().checked_sub(span), text.len().checked_sub(span + period))
            else {
                return false;
            };
            text.get(last..) == text.get(shifted..text.len() - period)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(times: &str) -> Box<dyn AnswerWatch> {
        let with = [("times".to_owned(), times.to_owned())].into();
        let facts = AnswerFacts { status: 200, streamed: true, request_id: "r".into() };
        StopLoops::new(&with).unwrap().watch(&facts).unwrap()
    }

    fn ends(times: &str, text: &str, width: usize) -> Option<usize> {
        let (mut watch, mut said) = (watch(times), 0);
        for piece in text.as_bytes().chunks(width) {
            said += piece.len();
            if watch.text(0, Channel::Content, std::str::from_utf8(piece).unwrap()).is_err() {
                return Some(said);
            }
        }
        None
    }

    #[test]
    fn looping_text_is_ended_however_it_is_cut() {
        let looping = format!("To be sure: {}", "I am sorry, I cannot say. ".repeat(60));
        for width in [1, 3, 7, 40, 1000] {
            let at = ends("10", &looping, width).expect("the answer is ended");
            assert!((260..1100).contains(&at), "{width}: {at}");
        }
        let lines = "and so on and on\n".repeat(12);
        assert_eq!(ends("10", &lines, 5).map(|at| at < lines.len()), Some(true));
    }

    #[test]
    fn similar_lines_are_not_a_loop() {
        let numbered: String =
            (0..200).map(|n| format!("{n}. the same words once more\n")).collect();
        let table = "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n".repeat(2);
        for text in
            [numbered.as_str(), &table, &"-".repeat(150), &"Row, row, row your boat.\n".repeat(5)]
        {
            assert_eq!(ends("20", text, 4), None, "{}", text.get(..40).unwrap_or(text));
        }
    }

    #[test]
    fn channels_are_separate_and_settings_are_validated() {
        let mut watch = watch("3");
        for _ in 0..2 {
            for choice in 0..2 {
                assert!(
                    watch.text(choice, Channel::Content, "one phrase of some length\n").is_ok()
                );
            }
        }
        assert!(watch.text(0, Channel::Content, "one phrase of some length\n").is_err());
        for (key, value) in [("times", "2"), ("times", "many"), ("time", "3")] {
            assert!(StopLoops::new(&[(key.to_owned(), value.to_owned())].into()).is_err());
        }
    }
}
