//! Whether a backend that was asked to go on with an answer does so, or begins it anew.
//!
//! An engine that does not know how to continue a message answers the chat again, and the client would hear the same twice.
//!
//! - *In*: what was said before the seam, and what is said behind it.
//! - *Out*: a verdict, as soon as there is enough to tell.
//! - *Never*: a verdict by chance: of a few words, nobody can say.

use crate::downstream::out::Out;

/// Bytes that are the same from the beginning on: so many are no chance.
const SAME: usize = 32;
/// What was said must be so long that the same again is no chance, if it is all of it.
const LEAST: usize = 16;

/// What the one behind the seam does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    Unknown,
    GoesOn,
    BeginsAnew,
}

/// A seam behind which nobody knows yet.
#[derive(Debug)]
pub(super) struct Seam {
    /// Bytes of text before it.
    pub(super) at: usize,
    /// What has come since; nobody has heard it.
    pub(super) kept: Out,
}

impl Seam {
    pub(super) fn new(at: usize) -> Self {
        Seam { at, kept: Out::default() }
    }

    /// What the one behind it does, by all that was said.
    pub(super) fn behind(&self, content: &str) -> Behind {
        content.split_at_checked(self.at).map_or(Behind::GoesOn, |(said, more)| behind(said, more))
    }

    /// What was kept, for the client.
    pub(super) fn release(mut self, out: &mut Out) {
        self.kept.commit();
        out.push(self.kept.pending());
    }

    /// Bytes that were kept, and are nobody's now.
    pub(super) fn forget(mut self) -> u64 {
        self.kept.commit();
        self.kept.payload_queued()
    }
}

fn behind(said: &str, more: &str) -> Behind {
    // Templates and engines differ in the white space that an answer begins with.
    let (said, more) = (said.trim_start(), more.trim_start());
    let same = said.bytes().zip(more.bytes()).take_while(|(one, other)| one == other).count();
    match () {
        () if said.len() < LEAST || same < said.len().min(more.len()) => Behind::GoesOn,
        () if same >= SAME.min(said.len()) => Behind::BeginsAnew,
        () => Behind::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_says_the_same_again_begins_anew() {
        let said = "The sea is wide, deep and cold, and nobody knows its end.";
        for (more, want) in [
            ("", Behind::Unknown),
            (" And", Behind::GoesOn),
            (" The", Behind::Unknown),
            ("\n\nThe sea is wide, ", Behind::Unknown),
            ("The sea is wide, but", Behind::GoesOn),
            ("The sea is wide, deep and cold, ", Behind::BeginsAnew),
            (said, Behind::BeginsAnew),
        ] {
            assert_eq!(behind(said, more), want, "{more:?}");
        }
        assert_eq!(behind("ha ha ha", "ha ha ha ha"), Behind::GoesOn, "of so little nobody can say");
        assert_eq!(behind("The sea is wide.", "The sea is wide. It"), Behind::BeginsAnew, "all of it, and more");
    }
}
