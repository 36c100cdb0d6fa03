//! Bucket boundaries of classic histograms.
//!
//! `gen_ai_*` metrics have exactly the boundaries of the OpenTelemetry GenAI conventions, v1.41, so
//! that they add up with those of other exporters. `llm_lens_*` metrics share one finer list, so
//! that both ends of a request are comparable.

/// Durations of `llm_lens_*` metrics, in seconds: at most a factor of 1.5 apart from 1 ms to 30 s,
/// so that a percentile that Prometheus interpolates is at most that factor off.
pub(super) const LENS_SECONDS: &[f64] = &[
    0.0001, 0.0002, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.007, 0.01, 0.015, 0.02,
    0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0,
    10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];

/// Durations of calls, as in the conventions, in seconds.
pub(super) const GEN_AI_SECONDS: &[f64] =
    &[0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];

/// Time to first token, as in the conventions, in seconds.
pub(super) const GEN_AI_TTFT_SECONDS: &[f64] =
    &[0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Time per output token, as in the conventions, in seconds.
pub(super) const GEN_AI_TPOT_SECONDS: &[f64] =
    &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];

/// Tokens.
pub(super) const TOKENS: &[f64] = &[
    1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0,
    16777216.0, 67108864.0,
];

/// Bytes.
pub(super) const BYTES: &[f64] =
    &[0.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0];
