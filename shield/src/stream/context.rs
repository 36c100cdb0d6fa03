//! The text before a candidate, in which context words raise the score.
//!
//! - *In*: the original text, also where it was masked.
//! - *Out*: the last [`REACH`] bytes.
//! - *Never*: more than those bytes kept.

/// Bytes before a candidate in which context words count.
pub(super) const REACH: usize = crate::boundary::CONTEXT_BYTES;

/// The last bytes before the held text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail {
    bytes: [u8; REACH],
    length: u8,
}

impl Tail {
    /// A tail without text.
    pub(super) fn new() -> Self {
        Tail { bytes: [0; REACH], length: 0 }
    }

    /// What is kept.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// Append `passed`, and keep the last bytes.
    pub(super) fn slide(&mut self, passed: &[u8]) {
        if passed.is_empty() {
            return;
        }
        let mut joined = [0; REACH];
        let length = join(self.bytes(), passed, &mut joined);
        self.bytes = joined;
        self.length = length as u8;
    }
}

/// Writes the last bytes of `before` and `text`, which follow each other, to `joined`. Returns
/// their number.
pub(super) fn join(before: &[u8], text: &[u8], joined: &mut [u8; REACH]) -> usize {
    let text = text.get(text.len().saturating_sub(REACH)..).unwrap_or_default();
    let room = REACH - text.len();
    let before = before.get(before.len().saturating_sub(room)..).unwrap_or_default();
    for (to, from) in joined.iter_mut().zip(before.iter().chain(text)) {
        *to = *from;
    }
    before.len() + text.len()
}
