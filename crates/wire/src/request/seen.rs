//! Members that occur twice.
//!
//! - *In*: the keys of the request's object.
//! - *Out*: the name of a member that two parsers could read differently.
//! - *Never*: a value.

/// The members seen so far that the gateway acts on, one bit each.
#[derive(Default)]
pub(super) struct Seen(u32);

impl Seen {
    const NAMES: [&'static str; 19] = [
        "model",
        "stream",
        "max_tokens",
        "max_completion_tokens",
        "n",
        "stream_options",
        "messages",
        "input",
        "prompt",
        "inputs",
        "system",
        "tools",
        "max_output_tokens",
        "n_predict",
        "best_of",
        "options",
        "parameters",
        "sampling_params",
        "echo",
    ];

    /// Record a key. Returns its name if it is a duplicate. A key that differs from a known name in
    /// case only always counts as a duplicate: engines written in Go treat it as the same member.
    pub(super) fn record_duplicate(&mut self, key: &[u8]) -> Option<&'static str> {
        let at = Self::NAMES.iter().position(|n| n.as_bytes().eq_ignore_ascii_case(key))?;
        if Self::NAMES.get(at).is_some_and(|name| name.as_bytes() != key) {
            return Self::NAMES.get(at).copied();
        }
        let bit = 1 << at;
        let again = self.0 & bit != 0;
        self.0 |= bit;
        again.then(|| Self::NAMES.get(at).copied()).flatten()
    }
}
