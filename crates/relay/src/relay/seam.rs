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
/// Most bytes of a stream that are kept: who says nothing but white space, or the same in very many events, is heard.
const KEPT: usize = 16 << 10;

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
    /// Bytes of the stream before it.
    pub(super) from: u64,
    /// What has come since; nobody has heard it.
    pub(super) kept: Out,
}

impl Seam {
    pub(super) fn new(at: usize, from: u64) -> Self {
        Seam { at, from, kept: Out::default() }
    }

    /// What the one behind it does, by all that was said. `is_all`: there will be no more.
    pub(super) fn behind(&mut self, content: &str, is_all: bool) -> Behind {
        self.kept.commit();
        match content.split_at_checked(self.at) {
            Some((said, more)) if self.kept.len() < KEPT => behind(said, more, is_all),
            _ => Behind::GoesOn,
        }
    }

    /// What was kept, for the client.
    pub(super) fn release(&mut self, out: &mut Out) {
        self.kept.commit();
        out.push(self.kept.pending());
        self.kept = Out::default();
    }
}

fn behind(said: &str, more: &str, is_all: bool) -> Behind {
    // Templates and engines differ in the white space that an answer begins with.
    let (said, more) = (said.trim_start().as_bytes(), more.trim_start().as_bytes());
    let same = said.iter().zip(more).take_while(|(one, other)| one == other).count();
    let enough = SAME.min(said.len());
    // Who has said the same twice may well say it once more.
    let circles = || said.get(1..).zip(said.get(..enough / 2)).is_some_and(|(rest, begin)| memchr::memmem::find(rest, begin).is_some());
    match () {
        () if said.len() < LEAST || same < said.len().min(more.len()) || circles() => Behind::GoesOn,
        () if same >= enough || is_all && same >= LEAST => Behind::BeginsAnew,
        () if is_all => Behind::GoesOn,
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
            assert_eq!(behind(said, more, false), want, "{more:?}");
        }
        assert_eq!(behind("The sea is wide.", "The sea is wide. It", false), Behind::BeginsAnew, "all of it, and more");
        assert_eq!(behind(said, "The sea is wide, ", true), Behind::BeginsAnew, "cut short");
        assert_eq!(behind(said, "The sea", true), Behind::GoesOn, "of so little nobody can say");
        assert_eq!(behind("ha ha ha", "ha ha ha ha", false), Behind::GoesOn, "neither of that");
    }

    #[test]
    fn who_goes_in_circles_may_go_on() {
        for line in ["ab\n", "0, ", "----", "I must not talk in class.\n"] {
            let said = line.repeat(20);
            assert_eq!(behind(&said, &said, false), Behind::GoesOn, "{line:?}");
        }
    }
}
