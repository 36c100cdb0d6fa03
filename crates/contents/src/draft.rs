//! The content of a request while it runs.
//!
//! - *In*: the texts of its prompt with their findings; the tap of its answer; how it ended.
//! - *Out*: the redacted content, made by the thread of the recorder.
//! - *Never*: more than `contents.max_text` bytes of a prompt, and of an answer; a text in the
//!   output of `Debug`.

use std::fmt;
use std::sync::Arc;

use crate::budget::Lease;
use crate::content::{AnswerText, Content, Labeled, Part, PromptText, Word};
use crate::redact::{MAX_SPANS, RawText, Replacer, Span, Values, ceil, floor};
use crate::tap::{AnswerTap, RawAnswer, TEXT_OVERHEAD, TOO_MANY_FINDINGS};

/// Bytes that a draft counts besides its texts.
pub(crate) const DRAFT_OVERHEAD: usize = 512;

/// Finds the matches in a whole text.
pub type Scan = Box<dyn Fn(&str) -> Vec<Span> + Send + Sync>;

/// The texts of a request that is not settled.
pub struct Draft {
    lease: Lease,
    /// The lease of the answer's texts.
    answer_lease: Option<Lease>,
    max_text: usize,
    prompt: Part<(PromptText, RawText)>,
    answer: RawAnswer,
    has_answer: bool,
    /// Scans texts of the answer once more, on the thread of the recorder.
    scan: Option<Scan>,
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (prompt, answer) = (&self.prompt, &self.answer);
        f.debug_struct("Draft")
            .field("prompt", prompt)
            .field("answer", answer)
            .finish_non_exhaustive()
    }
}

/// The request that a content belongs to.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its unique id: a UUID, version 7, of the gateway.
    pub unique_id: Arc<str>,
    /// Its id.
    pub id: Arc<str>,
    /// When it ended, Unix microseconds.
    pub at: u64,
    /// Its route.
    pub route: Arc<str>,
    /// Why its answer is not complete; `None`: it is.
    pub incomplete: Option<Word>,
}

impl Draft {
    pub(crate) fn new(lease: Lease, max_text: usize) -> Self {
        Draft {
            lease,
            answer_lease: None,
            max_text,
            prompt: Part::default(),
            answer: Part::default(),
            has_answer: false,
            scan: None,
        }
    }

    /// Set the prompt: role, text and findings of each of its texts, in order. If they are too
    /// long, the last ones are kept, because a conversation repeats its beginning.
    pub fn set_prompt<'t>(
        &mut self,
        texts: impl DoubleEndedIterator<Item = (&'static str, &'t str, Vec<Span>)>,
    ) {
        let (mut left, mut spans) = (self.max_text, 0);
        let mut kept = Vec::new();
        for (role, text, found) in texts.rev() {
            let room = left.saturating_sub(TEXT_OVERHEAD);
            let from = ceil(text, text.len().saturating_sub(room));
            let end = text.get(from..).unwrap_or_default();
            if room == 0 || !self.lease.grow(end.len() + TEXT_OVERHEAD) {
                self.prompt.cut = true;
                break;
            }
            left = room - end.len();
            spans += found.len();
            let found = found.into_iter().filter_map(|span| after(span, from)).collect();
            let label = PromptText { role: role.into(), text: String::new() };
            kept.push((label, RawText { text: end.to_owned(), spans: found }));
            if from > 0 {
                self.prompt.cut = true;
                break;
            }
        }
        if spans > MAX_SPANS {
            return self.leave_prompt_out(TOO_MANY_FINDINGS);
        }
        kept.reverse();
        self.prompt.texts = kept;
    }

    /// The prompt is not stored, for this reason.
    pub fn leave_prompt_out(&mut self, why: &'static str) {
        self.prompt = Part { texts: Vec::new(), cut: false, incomplete: Some(why.into()) };
    }

    /// A tap for the answer. A second one is of another attempt, and replaces the first.
    pub fn tap_answer(&self) -> AnswerTap {
        AnswerTap::new(self.lease.another(), self.max_text)
    }

    /// Set the answer. `decided`: for a text of the tap, how many of its bytes are decided. `None`
    /// if it could not be checked.
    pub fn set_answer(&mut self, tap: AnswerTap, decided: Option<impl Fn(usize) -> usize>) {
        self.has_answer = true;
        let Some(decided) = decided else {
            self.answer = Part { incomplete: Some("not_checked".into()), ..Part::default() };
            return;
        };
        let (lease, answer) = tap.finish(decided);
        self.answer_lease = Some(lease);
        self.answer = answer;
    }

    /// Scan the texts of the answer once more, each as a whole. A guardrail passes text that was
    /// held for its maximum time, so that its stream may have a match that no scanner has seen.
    pub fn scan_answer_with(&mut self, scan: Scan) {
        self.scan = Some(scan);
    }

    /// Another answer begins. That of an earlier attempt, which the client did not get, is dropped.
    pub fn forget_answer(&mut self) {
        (self.has_answer, self.answer) = (false, Part::default());
        self.answer_lease = None;
    }

    /// Whether an answer was parsed.
    pub fn has_answer(&self) -> bool {
        self.has_answer
    }

    fn scan_answer(&mut self) {
        let Some(scan) = &self.scan else { return };
        for (_, raw) in &mut self.answer.texts {
            raw.spans.extend(scan(&raw.text));
        }
        if self.answer.texts.iter().map(|(_, raw)| raw.spans.len()).sum::<usize>() > 2 * MAX_SPANS {
            let incomplete = Some(TOO_MANY_FINDINGS.into());
            self.answer = Part { incomplete, ..Part::default() };
        }
    }

    /// The redacted content.
    pub(crate) fn into_content(mut self, request: &Request) -> Content {
        self.scan_answer();
        let mut values = Values::default();
        let max = self.max_text.saturating_mul(2);
        let mut prompt = redacted(self.prompt, &mut values);
        let mut answer: Part<AnswerText> = redacted(self.answer, &mut values);
        let replacer = values.replacer();
        replace(&mut prompt, replacer.as_ref(), max);
        replace(&mut answer, replacer.as_ref(), max);
        answer.incomplete = answer.incomplete.or_else(|| request.incomplete.clone());
        Content {
            unique_id: request.unique_id.to_string(),
            request_id: request.id.to_string(),
            at: request.at,
            route: request.route.to_string(),
            prompt,
            answer,
        }
    }
}

/// A span in the text from `from` on.
fn after(Span { range, kind }: Span, from: usize) -> Option<Span> {
    if range.is_empty() {
        return Some(Span { range, kind });
    }
    let end = range.end.checked_sub(from).filter(|end| *end > 0)?;
    Some(Span { range: range.start.saturating_sub(from)..end, kind })
}

fn redacted<T: Labeled>(raw: Part<(T, RawText)>, values: &mut Values) -> Part<T> {
    let texts = raw.texts.into_iter().map(|(mut label, raw)| {
        *label.text_mut() = raw.redact(values);
        label
    });
    Part { texts: texts.collect(), cut: raw.cut, incomplete: raw.incomplete }
}

/// Replaces values that were found elsewhere in the request. Replacements may be longer than the
/// text, so that it is cut once more at `max` bytes.
fn replace<T: Labeled>(part: &mut Part<T>, replacer: Option<&Replacer>, max: usize) {
    let Some(replacer) = replacer else {
        part.texts.clear();
        part.incomplete = Some("not_checked".into());
        return;
    };
    let mut left = max;
    for label in &mut part.texts {
        let text = label.text_mut();
        replacer.replace(text);
        if text.len() > left {
            text.truncate(floor(text, left));
            part.cut = true;
        }
        left -= text.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::{Budget, MAX_MEMORY};

    fn draft(max_text: usize) -> Draft {
        Draft::new(Arc::<Budget>::default().lease(DRAFT_OVERHEAD).unwrap(), max_text)
    }

    fn request() -> Request {
        let (unique_id, id) = ("018f0000-0000-7000-8000-000000000000".into(), "client".into());
        Request { unique_id, id, at: 7, route: "chat".into(), incomplete: None }
    }

    fn span(range: std::ops::Range<usize>) -> Span {
        Span { range, kind: "SECRET".into() }
    }

    fn texts(content: &Content) -> Vec<&str> {
        content.prompt.texts.iter().map(|text| &*text.text).collect()
    }

    #[test]
    fn newest_texts_of_a_long_prompt_are_kept_and_no_finding_is_cut_open() {
        let prompt = |draft: &mut Draft| {
            let user = ("user", "key hunter2000 and more", vec![span(4..14)]);
            draft.set_prompt([("system", "be kind", vec![]), user].into_iter());
        };
        let mut whole = draft(1000);
        prompt(&mut whole);
        let content = whole.into_content(&request());
        assert_eq!(
            (texts(&content), content.prompt.cut),
            (vec!["be kind", "key [SECRET] and more"], false)
        );
        // Cut within the finding, after it, and within the first text.
        for (room, want) in [
            (12, vec!["[SECRET] and more"]),
            (9, vec![" and more"]),
            (23 + TEXT_OVERHEAD + 4, vec!["kind", "key [SECRET] and more"]),
        ] {
            let mut cut = draft(TEXT_OVERHEAD + room);
            prompt(&mut cut);
            let content = cut.into_content(&request());
            assert_eq!((texts(&content), content.prompt.cut), (want, true), "{room}");
        }
    }

    #[test]
    fn answers_are_cut_at_what_is_decided_and_at_the_maximum() {
        let mut draft = draft(TEXT_OVERHEAD + 20);
        let mut tap = draft.tap_answer();
        tap.begin(0, "content", 0);
        for piece in ["the key ", "hunt", "er2", "000 and much more"] {
            tap.push(0, piece);
        }
        tap.found(0, 8..usize::MAX, &"SECRET".into());
        tap.close(0, 8..18);
        tap.found(0, 30..33, &"LATER".into());
        draft.set_answer(tap, Some(|_| 32));
        assert!(draft.has_answer());
        let content =
            draft.into_content(&Request { incomplete: Some("timeout".into()), ..request() });
        let [text] = &content.answer.texts[..] else { panic!("one text") };
        assert_eq!((&*text.text, content.answer.cut), ("the key [SECRET] a", true));
        assert_eq!(content.answer.incomplete.as_deref(), Some("timeout"));
        assert!(!format!("{content:?}").contains("the key"));
    }

    #[test]
    fn values_of_the_prompt_are_replaced_in_the_answer() {
        let mut draft = draft(1000);
        draft.set_prompt([("user", "ssn 078051120", vec![span(4..13)])].into_iter());
        let mut tap = draft.tap_answer();
        tap.begin(0, "content", 0);
        tap.push(0, "it is 078051120, half 0780");
        draft.set_answer(tap, Some(|_| 22));
        let content = draft.into_content(&request());
        assert_eq!(content.answer.texts[0].text, "it is [SECRET], half ");
    }

    #[test]
    fn answers_are_scanned_as_a_whole_too() {
        let mut draft = draft(1000);
        let mut tap = draft.tap_answer();
        tap.begin(0, "content", 0);
        ["it is hun", "ter2000"].into_iter().for_each(|piece| tap.push(0, piece));
        tap.found(0, 0..2, &"WORD".into());
        draft.set_answer(tap, Some(|_| usize::MAX));
        draft.scan_answer_with(Box::new(|text| {
            text.match_indices("hunter2000").map(|(at, found)| span(at..at + found.len())).collect()
        }));
        assert_eq!(draft.into_content(&request()).answer.texts[0].text, "[WORD] is [SECRET]");
    }

    #[test]
    fn too_many_findings_and_unchecked_answers_store_no_text() {
        let mut draft = draft(1 << 20);
        let found = (0..MAX_SPANS + 1).map(|at| span(at..at + 1)).collect();
        let text = "x".repeat(MAX_SPANS + 1);
        draft.set_prompt([("user", &*text, found)].into_iter());
        let mut tap = draft.tap_answer();
        tap.begin(0, "content", 0);
        tap.push(0, &text);
        draft.set_answer(tap, None::<fn(usize) -> usize>);
        let content = draft.into_content(&request());
        assert!(content.prompt.texts.is_empty() && content.answer.texts.is_empty());
        assert_eq!(content.prompt.incomplete.as_deref(), Some("too_many_findings"));
        assert_eq!(content.answer.incomplete.as_deref(), Some("not_checked"));
    }

    /// A thousand streams at once stay within the memory of all contents, and each is cut where it
    /// ends.
    #[test]
    fn memory_of_a_thousand_streams_is_bounded() {
        let budget = Arc::<Budget>::default();
        let mut running: Vec<(Draft, AnswerTap)> = (0..1000)
            .filter_map(|_| Some(Draft::new(budget.lease(DRAFT_OVERHEAD)?, 64 << 10)))
            .map(|draft| {
                let mut tap = draft.tap_answer();
                tap.begin(0, "content", 0);
                (draft, tap)
            })
            .collect();
        assert_eq!(running.len(), 1000);
        for _ in 0..80 {
            running.iter_mut().for_each(|(_, tap)| tap.push(0, &"x".repeat(1000)));
            assert!(budget.used() <= MAX_MEMORY);
        }
        let mut stored = 0;
        for (mut draft, tap) in running {
            draft.set_answer(tap, Some(|_| usize::MAX));
            let content = draft.into_content(&request());
            assert!(content.answer.cut);
            stored += content.answer.texts.iter().map(|text| text.text.len()).sum::<usize>();
        }
        assert!((MAX_MEMORY / 2..=MAX_MEMORY).contains(&stored), "{stored}");
        assert_eq!(budget.used(), 0);
    }
}
