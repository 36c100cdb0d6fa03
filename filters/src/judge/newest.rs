//! Selects the texts of a subject for a call.
//!
//! - *In*: a subject, and the roles that are wanted.
//! - *Out*: at most [`MAX_TEXTS`] pieces of at most [`MAX_TEXT_BYTES`] together, in the subject's
//!   order.
//! - *Never*: a split character; a blank text, which several servers refuse.
//!
//! The newest texts are kept. Tool definitions often follow the messages in a body. They are
//! selected last, because a client with many tools would otherwise displace its own messages.

use wire::request::PromptRole;

use crate::subject::{Subject, TextSource};

/// Maximum texts in a call.
pub(super) const MAX_TEXTS: usize = 64;
/// Maximum bytes of text in a call. Judges read far less at a time; more would only load the
/// network.
pub(super) const MAX_TEXT_BYTES: usize = 256 * 1024;

/// A text, or the end of one that is too long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'s> {
    /// Which text of the subject.
    pub(super) at: usize,
    /// The role of the text.
    pub(super) voice: TextSource,
    /// Where `words` begin in that text.
    pub(super) from: usize,
    /// The text, or its end.
    pub(super) words: &'s str,
}

impl Piece<'_> {
    /// Bytes of the whole text of the subject.
    pub(super) fn whole(&self) -> usize {
        self.from + self.words.len()
    }
}

/// The newest texts of the wanted roles, at most `most`, and whether nothing was left out.
pub(super) fn newest<'s>(
    subject: &'s Subject,
    most: usize,
    wanted: impl Fn(TextSource) -> bool,
) -> (Vec<Piece<'s>>, bool) {
    let (mut pieces, mut left, mut whole) = (Vec::new(), MAX_TEXT_BYTES, true);
    for rank in 0..=LAST_RANK {
        for at in (0..subject.len()).rev() {
            let Some(voice) =
                subject.voice(at).filter(|voice| rank_of(*voice) == rank && wanted(*voice))
            else {
                continue;
            };
            let text = subject.text(at);
            if text.trim().is_empty() {
                continue;
            }
            if pieces.len() == most || left == 0 {
                whole = false;
                break;
            }
            let from = cut(text, left);
            whole &= from == 0;
            let words = text.get(from..).unwrap_or_default();
            if words.trim().is_empty() {
                continue;
            }
            // A text that was cut is the last: less than a character of room is left.
            left = if from == 0 { left - words.len() } else { 0 };
            pieces.push(Piece { at, voice, from, words });
        }
    }
    pieces.sort_by_key(|piece| piece.at);
    (pieces, whole)
}

/// The role of a text in a call.
pub(super) fn role(voice: TextSource) -> &'static str {
    match voice {
        TextSource::Prompt(PromptRole::System) => "system",
        TextSource::Prompt(PromptRole::User) => "user",
        TextSource::Prompt(PromptRole::Assistant) | TextSource::Answer(_) => "assistant",
        TextSource::Prompt(PromptRole::Tool) => "tool",
        TextSource::Prompt(PromptRole::ToolDefinition) => "tool_definition",
    }
}

const LAST_RANK: u8 = 2;

fn rank_of(voice: TextSource) -> u8 {
    match voice {
        TextSource::Prompt(PromptRole::ToolDefinition) => LAST_RANK,
        TextSource::Prompt(PromptRole::System) => 1,
        TextSource::Prompt(PromptRole::User | PromptRole::Assistant | PromptRole::Tool)
        | TextSource::Answer(_) => 0,
    }
}

/// Where the last `bytes` of a text begin, at a character.
fn cut(text: &str, bytes: usize) -> usize {
    let from = text.len().saturating_sub(bytes);
    (from..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::{Place, Side, Sizes};

    fn of(texts: &[(PromptRole, &str)]) -> Subject {
        let mut builder = Subject::build(Side::Input, Sizes::default(), 0);
        texts.iter().for_each(|(speaker, text)| {
            builder.text(TextSource::Prompt(*speaker), Place::default(), text)
        });
        builder.done()
    }

    #[test]
    fn newest_texts_are_kept_in_order() {
        let many: Vec<(PromptRole, String)> =
            (0..100).map(|n| (PromptRole::User, format!("text {n}"))).collect();
        let subject = of(&many.iter().map(|(s, t)| (*s, t.as_str())).collect::<Vec<_>>());
        let (pieces, whole) = newest(&subject, MAX_TEXTS, |_| true);
        assert!(!whole);
        assert_eq!(pieces.len(), MAX_TEXTS);
        assert_eq!((pieces[0].at, pieces[MAX_TEXTS - 1].words), (36, "text 99"));
    }

    #[test]
    fn trailing_tool_definitions_do_not_displace_messages() {
        let mut texts = vec![
            (PromptRole::System, "rules"),
            (PromptRole::User, "words"),
            (PromptRole::User, " \n"),
        ];
        texts.extend([(PromptRole::ToolDefinition, "tool"); 70]);
        let subject = of(&texts);
        let at: Vec<usize> = newest(&subject, 3, |_| true).0.iter().map(|piece| piece.at).collect();
        assert_eq!(at, [0, 1, 72]);
    }

    #[test]
    fn oldest_text_is_cut_at_a_character_boundary() {
        let long = "é".repeat(MAX_TEXT_BYTES / 2);
        let subject =
            of(&[(PromptRole::User, "lost"), (PromptRole::User, &long), (PromptRole::User, "abc")]);
        let (pieces, whole) = newest(&subject, MAX_TEXTS, |_| true);
        assert!(!whole);
        assert_eq!(pieces.len(), 2);
        assert_eq!(
            (pieces[0].from, pieces[0].words.len(), pieces[0].whole()),
            (4, MAX_TEXT_BYTES - 4, MAX_TEXT_BYTES)
        );
        assert_eq!(pieces[1].words, "abc");
    }
}
