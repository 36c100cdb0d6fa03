//! Decides whether a backend resumes an answer or restarts it.
//!
//! An engine that cannot continue a message answers the chat from the start, and the client would
//! receive the same text twice.
//!
//! - *In*: the text before the resume point, and the text after it.
//! - *Out*: a verdict, as soon as there is enough text.
//! - *Never*: a verdict based on a few words, which may match by chance.

use transport::StreamBuffer;

/// Number of equal leading bytes that proves a restart.
const MIN_EQUAL_BYTES: usize = 32;
/// Minimum bytes of text before the resume point for a verdict. Shorter text may repeat by chance.
const MIN_TEXT: usize = 16;
/// Maximum bytes of a stream that are held. A longer stream without a verdict is released: it is
/// white space, or little text in very many events.
const MAX_RESUME_HELD_BYTES: usize = 16 << 10;

/// What the resuming backend does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resumed {
    /// Too little text for a verdict.
    Unknown,
    /// It continues the answer.
    Continues,
    /// It restarts the answer.
    Restarts,
}

/// A resume point that is still being verified.
#[derive(Debug)]
pub(crate) struct ResumeCheck {
    /// Bytes of text before the resume point.
    pub(crate) text_before: usize,
    /// Bytes of the stream before it.
    pub(crate) bytes_before: u64,
    /// Bytes received since then; none of them was sent to the client.
    pub(crate) held: StreamBuffer,
}

impl ResumeCheck {
    pub(crate) fn new(text_before: usize, bytes_before: u64) -> Self {
        ResumeCheck { text_before, bytes_before, held: StreamBuffer::default() }
    }

    /// The verdict on all text so far. `is_all`: the text is complete.
    pub(crate) fn verdict(&mut self, text: &str, is_all: bool) -> Resumed {
        self.held.commit();
        match text.split_at_checked(self.text_before) {
            Some((before, behind)) if self.held.len() < MAX_RESUME_HELD_BYTES => {
                verdict(before, behind, is_all)
            }
            _ => Resumed::Continues,
        }
    }

    /// Release what was held.
    pub(crate) fn release(&mut self, out: &mut StreamBuffer) {
        self.held.commit();
        out.push(self.held.pending());
        self.held = StreamBuffer::default();
    }
}

fn verdict(before: &str, behind: &str, is_all: bool) -> Resumed {
    // Templates and engines differ in the white space that an answer begins with.
    let (before, behind) = (before.trim_start().as_bytes(), behind.trim_start().as_bytes());
    let same = before.iter().zip(behind).take_while(|(one, other)| one == other).count();
    let enough = MIN_EQUAL_BYTES.min(before.len());
    // Repetitive text may legitimately repeat again.
    let repeats = || {
        before
            .get(1..)
            .zip(before.get(..enough / 2))
            .is_some_and(|(rest, begin)| memchr::memmem::find(rest, begin).is_some())
    };
    let differs = same < before.len().min(behind.len());
    // The verdict must not depend on how much of the text has arrived.
    match () {
        () if before.len() < MIN_TEXT || repeats() => Resumed::Continues,
        () if same >= enough || is_all && same >= MIN_TEXT && !differs => Resumed::Restarts,
        () if differs || is_all => Resumed::Continues,
        () => Resumed::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_text_is_a_restart() {
        let before = "The sea is wide, deep and cold, and nobody knows its end.";
        for (behind, want) in [
            ("", Resumed::Unknown),
            (" And", Resumed::Continues),
            (" The", Resumed::Unknown),
            ("\n\nThe sea is wide, ", Resumed::Unknown),
            ("The sea is wide, but", Resumed::Continues),
            ("The sea is wide, deep and cold, ", Resumed::Restarts),
            ("The sea is wide, deep and cold, but not here", Resumed::Restarts),
            (before, Resumed::Restarts),
        ] {
            assert_eq!(verdict(before, behind, false), want, "{behind:?}");
        }
        assert_eq!(
            verdict("The sea is wide.", "The sea is wide. It", false),
            Resumed::Restarts,
            "all of it, and more"
        );
        assert_eq!(verdict(before, "The sea is wide, ", true), Resumed::Restarts, "cut short");
        assert_eq!(verdict(before, "The sea", true), Resumed::Continues, "too little text");
        assert_eq!(
            verdict("ha ha ha", "ha ha ha ha", false),
            Resumed::Continues,
            "too little text before the resume point"
        );
    }

    #[test]
    fn text_that_repeats_itself_may_continue() {
        for line in ["ab\n", "0, ", "----", "I must not talk in class.\n"] {
            let before = line.repeat(20);
            assert_eq!(verdict(&before, &before, false), Resumed::Continues, "{line:?}");
        }
    }
}
