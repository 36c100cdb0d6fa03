//! Findings and cost of an output guardrail, for the record, the metrics and the audit log.

use contents::{Draft, Span};
use filters::Side;
use lens::guardrail::FilterAccount;

use super::OutputGuard;
use super::render::Elsewhere;
use super::text_channels::channel_name;
use crate::request::{Note, Request};

/// Filter name of the answer scanners in accounts. The prompt filter of that name has the same
/// rules.
const SCANNERS: &str = "patterns";

impl OutputGuard {
    /// Report findings, costs and hold times to the request.
    pub(crate) fn report<S>(&mut self, request: &mut impl Request<S>) {
        request.flush_holds(&mut self.held);
        self.store(request.parts().guarded.contents.as_deref_mut());
        let into = request.parts().guarded;
        into.hold = self.held.summary();
        into.held_events = self.held_events;
        into.held_bytes_max = self.held_bytes as u64;
        into.delays = Some(self.delays.measured());
        let mut word = "pass";
        let in_channels = self.texts.found(&self.context);
        // Events repeat the texts of channels, so a rule that was found there is not counted again.
        let is_new = |rule: &filters::Name| in_channels.iter().all(|(known, _)| known != rule);
        let Elsewhere { counts, notes: elsewhere } = std::mem::take(&mut self.elsewhere);
        let more: Vec<_> = counts.into_iter().filter(|(rule, _)| is_new(rule)).collect();
        let elsewhere: Vec<Note> =
            elsewhere.into_iter().filter(|note| is_new(&note.found.rule)).collect();
        for (rule, count) in in_channels.into_iter().chain(more) {
            word =
                filters::more_severe(word, self.context.guardrail.configured_action(&rule).name());
            *into.output.entry(rule).or_default() += u64::from(count);
        }
        into.word = filters::more_severe(into.word, word);
        if !self.context.guardrail.scanners().is_empty() {
            into.accounts.push(self.scanners(word));
        }
        let mut notes = std::mem::take(&mut self.texts.notes);
        notes.extend(elsewhere);
        filters::merge_accounts(&mut into.accounts, self.filters.take_accounts());
        if let Some(judges) = &mut self.judges {
            filters::merge_accounts(&mut into.accounts, std::mem::take(&mut judges.accounts));
            for (filter, key, found) in std::mem::take(&mut judges.found) {
                *into.output.entry(found.rule.clone()).or_default() += 1;
                notes.push(Note {
                    side: Side::Output,
                    filter,
                    found,
                    channel: Some(channel_name(key.1)),
                    hash: None,
                });
            }
        }
        request.audit(&notes);
    }

    /// Passes the texts to the contents of the request, with the findings of judges.
    fn store(&mut self, draft: Option<&mut Draft>) {
        let Some(draft) = draft else { return };
        let guardrail = self.context.guardrail.clone();
        draft.scan_answer_with(Box::new(move |text| {
            let matches = guardrail.matches(text).into_iter();
            matches.map(|(range, kind)| Span { range, kind }).collect()
        }));
        let Some(judges) = &self.judges else {
            return self.texts.store(draft, Some(|_| usize::MAX));
        };
        for (_, key, found) in &judges.found {
            if let (Some(at), Some(tap)) = (self.texts.position(*key), &mut self.texts.tap) {
                tap.found(at, found.span.clone(), &found.kind);
            }
        }
        self.texts.store(draft, judges.judged());
    }

    /// The account of the scanners, with their verdict.
    fn scanners(&self, verdict: &'static str) -> FilterAccount {
        let micros = self.worked / 1000;
        FilterAccount {
            filter: SCANNERS.into(),
            side: Side::Output.name().into(),
            verdict: verdict.into(),
            failure: None,
            calls: 1,
            cpu_us: micros,
            queue_us: 0,
            remote_us: 0,
            wall_us: micros,
            critical: self.judges.is_none(),
        }
    }
}
