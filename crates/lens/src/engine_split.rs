//! How an engine splits its own time, beside what the gateway measured.
//!
//! vLLM (`metrics`, with `--enable-per-request-metrics`), llama.cpp (`timings`) and Ollama report
//! durations in their answers. The difference to the gateway's figures is time on the network and
//! in parts of the engine that its report does not cover.
//!
//! - *In*: durations from the engine, and the gateway's measurements of the same answer.
//! - *Out*: an [`EngineSplit`] for the record.
//! - *Never*: a negative remainder. Reports that exceed what was measured disagree with it.

use serde::{Deserialize, Serialize};
use wire::EngineTimes;

/// A report may exceed the measurement by this many microseconds or by this share: engines stamp
/// on another thread and round.
const EXCESS: Tolerance = Tolerance { micros: 2_000, share: 0.05 };
/// Generation times may differ by this much in both directions: engines stamp tokens before they
/// send them, and a server may send several at once.
const DECODE: Tolerance = Tolerance { micros: 20_000, share: 0.2 };

/// The engine's report on one answer. Durations in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EngineSplit {
    /// Waiting in the engine's queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_us: Option<u64>,
    /// Loading the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_us: Option<u64>,
    /// Processing the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefill_us: Option<u64>,
    /// Generating: first to last token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decode_us: Option<u64>,
    /// The rest of the measured time: network, and what the engine does not report. Of a stream,
    /// the rest of `engine_ttft_us`; of another answer, the rest of `engine_us`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unexplained_us: Option<u64>,
    /// Whether the report contradicts the measurement.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub disagrees: bool,
}

/// What the gateway measured of the same answer, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured {
    /// Whether the answer was a stream.
    pub stream: bool,
    /// Request sent to first token event read.
    pub ttft_us: Option<u64>,
    /// First to last token event read.
    pub decode_us: Option<u64>,
    /// Request sent to end of answer.
    pub engine_us: Option<u64>,
}

#[derive(Clone, Copy)]
struct Tolerance {
    micros: u64,
    share: f64,
}

impl Tolerance {
    /// How far two durations may differ if the measured one is `micros`.
    fn of(self, micros: u64) -> u64 {
        self.micros.max((micros as f64 * self.share) as u64)
    }
}

impl EngineSplit {
    /// The split of an answer; `None` if the engine reported nothing.
    pub fn new(times: EngineTimes, measured: Measured) -> Option<Self> {
        if times == EngineTimes::default() {
            return None;
        }
        let EngineTimes { queue, load, prefill, decode } = times;
        let mut split = EngineSplit {
            queue_us: queue,
            load_us: load,
            prefill_us: prefill,
            decode_us: decode,
            ..EngineSplit::default()
        };
        let (whole, generating) = match measured.stream {
            true => (measured.ttft_us, 0),
            false => (measured.engine_us, decode.unwrap_or(0)),
        };
        if let (Some(whole), Some(prefill)) = (whole, prefill) {
            let before = queue.unwrap_or(0).saturating_add(load.unwrap_or(0));
            let reported = before.saturating_add(prefill).saturating_add(generating);
            split.unexplained_us = Some(whole.saturating_sub(reported));
            split.disagrees = reported > whole.saturating_add(EXCESS.of(whole));
        }
        if let (true, Some(reported), Some(seen)) = (measured.stream, decode, measured.decode_us) {
            split.disagrees |= reported.abs_diff(seen) > DECODE.of(seen);
        }
        Some(split)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(queue: u64, prefill: u64, decode: u64) -> EngineTimes {
        EngineTimes { queue: Some(queue), load: None, prefill: Some(prefill), decode: Some(decode) }
    }

    fn stream(ttft: u64, decode: u64) -> Measured {
        Measured {
            stream: true,
            ttft_us: Some(ttft),
            decode_us: Some(decode),
            engine_us: Some(ttft + decode),
        }
    }

    #[test]
    fn the_rest_of_the_first_token_is_unexplained() {
        let split = EngineSplit::new(times(12_300, 85_200, 900_000), stream(100_000, 910_000));
        let split = split.unwrap();
        assert_eq!((split.unexplained_us, split.disagrees), (Some(2_500), false));
        assert_eq!(EngineSplit::new(EngineTimes::default(), stream(1, 1)), None);
    }

    #[test]
    fn an_answer_that_is_no_stream_splits_as_a_whole() {
        let measured = Measured { engine_us: Some(1_000_000), ..Measured::default() };
        let split = EngineSplit::new(times(1_000, 99_000, 880_000), measured).unwrap();
        assert_eq!((split.unexplained_us, split.disagrees), (Some(20_000), false));
    }

    #[test]
    fn reports_beyond_the_measurement_disagree() {
        let cases = [
            // Within rounding, beyond it, and beyond the share.
            (times(0, 101_000, 900_000), false),
            (times(0, 106_000, 900_000), true),
            (times(90_000, 20_000, 900_000), true),
            // Generation: 20 % either way.
            (times(0, 90_000, 1_070_000), false),
            (times(0, 90_000, 1_090_000), true),
            (times(0, 90_000, 700_000), true),
        ];
        for (times, disagrees) in cases {
            let split = EngineSplit::new(times, stream(100_000, 900_000)).unwrap();
            assert_eq!(split.disagrees, disagrees, "{times:?}");
        }
        // Without a prefill nothing is known of the first token.
        let decode = EngineTimes { decode: Some(5), ..EngineTimes::default() };
        let split = EngineSplit::new(decode, stream(100, 5)).unwrap();
        assert_eq!((split.unexplained_us, split.disagrees), (None, false));
    }
}
