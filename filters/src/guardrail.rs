//! A guardrail, built from its settings: the filter chain, and the automata that scan answers.
//!
//! - *In*: the settings of a guardrail, the registry of named filters, a loader of local models.
//! - *Out*: a [`Guardrail`], shared by all requests of its routes.
//! - *Never*: state of a request.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Weak};

use arguments::Numbers;
use parking_lot::Mutex;
use shield::finding::{Family, Finding};
use shield::pattern::Pattern;
use shield::stream::{Automata, Channel, Edges, Options, Piece};

use crate::chain::{Chain, Link};
use crate::detect::{ClassifyText, FindPatterns, LimitSizes, MatchRules, MatchTopics};
use crate::filter::{Filter, Hooks};
use crate::judge;
use crate::patterns;
use crate::redact::Vault;
use crate::registry::{Registry, UnknownFilter};
use crate::report::Name;
use crate::settings::{self, Action, AtHoldTime, Class, FilterSettings, OnFailure};
use crate::subject::Side;

/// A guardrail, ready to use.
pub struct Guardrail {
    /// The settings.
    pub settings: Arc<settings::GuardrailSettings>,
    chain: Chain,
    scanners: Vec<Scanner>,
    /// The configured action on findings in answers, by rule.
    actions: HashMap<Cow<'static, str>, Action>,
}

/// The answer rules that share one action. Each action has its own scanner, so that a finding that
/// is only flagged or masked never hides one that must block the answer.
#[derive(Clone, Debug)]
pub struct Scanner {
    /// The action on its findings.
    pub action: Action,
    /// Its rules.
    pub automata: Arc<Automata>,
}

impl fmt::Debug for Guardrail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guardrail").field("name", &self.settings.name).finish_non_exhaustive()
    }
}

/// Parts of a text, with their replacements.
pub type Replacements = Vec<(Range<usize>, Cow<'static, str>)>;

/// Why a guardrail cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// Its rules cannot be compiled.
    #[error("guardrail {guardrail}: {why}")]
    Rules {
        /// The guardrail.
        guardrail: Arc<str>,
        /// What is wrong.
        why: String,
    },
    /// A filter of `filters` cannot be built.
    #[error("guardrail {guardrail}: {why}")]
    Filter {
        /// The guardrail.
        guardrail: Arc<str>,
        /// What is wrong.
        why: UnknownFilter,
    },
    /// A local model cannot be loaded.
    #[error("guardrail {guardrail}: judge {judge}: {why}")]
    Model {
        /// The guardrail.
        guardrail: Arc<str>,
        /// The judge.
        judge: Arc<str>,
        /// What is wrong.
        why: String,
    },
}

/// Loads the model of a judge that runs in this process.
pub type LoadModel<'l> = &'l dyn Fn(&settings::Judge) -> Result<Arc<dyn Filter>, String>;

impl Guardrail {
    /// Build a guardrail. This can take most of a second.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn build(
        settings: &Arc<settings::GuardrailSettings>,
        registry: &Registry,
        load: LoadModel<'_>,
    ) -> Result<Self, BuildError> {
        let guardrail = settings.name.clone();
        let wrong = |why: String| BuildError::Rules { guardrail: guardrail.clone(), why };
        let mut links = embedded(settings).map_err(wrong)?;
        for named in &settings.filters {
            let filter = registry
                .make(named)
                .map_err(|why| BuildError::Filter { guardrail: guardrail.clone(), why })?;
            links.push(Link::new(named.declared.clone(), filter));
        }
        for one in &settings.judges {
            let filter = match judge::build(one) {
                Some(filter) => filter,
                None => load(one).map_err(|why| BuildError::Model {
                    guardrail: guardrail.clone(),
                    judge: one.declared.name.clone(),
                    why,
                })?,
            };
            links.push(Link::new(one.declared.clone(), filter));
        }
        let mut scanners = Vec::new();
        let all = answer_rules(settings);
        for action in [Action::Block, Action::Mask, Action::Flag] {
            let rules: Vec<_> = all
                .iter()
                .filter(|rule| effective_action(settings, rule) == action)
                .cloned()
                .collect();
            let made = automata(&rules, settings).map_err(|why| wrong(why.to_string()))?;
            scanners.extend(made.map(|automata| Scanner { action, automata }));
        }
        let chain = Chain::new(links, settings.observe, settings.judges_deadline, settings.risk);
        let actions =
            all.iter().map(|rule| (rule.rule.clone(), settings.answer_action(rule))).collect();
        Ok(Guardrail { settings: settings.clone(), chain, scanners, actions })
    }

    /// Its filters.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The scanners of answers, the severest action first.
    pub fn scanners(&self) -> &[Scanner] {
        &self.scanners
    }

    /// The configured action on findings of a rule in answers, also in observe mode.
    pub fn configured_action(&self, rule: &str) -> Action {
        self.actions.get(rule).copied().unwrap_or(Action::Mask)
    }

    /// Whether this guardrail can change an answer: mask it, judge it, end it, or add a disclaimer.
    pub fn alters_answers(&self) -> bool {
        let judged = self.chain.has(Hooks::JUDGE_ANSWER) || self.chain.has(Hooks::WATCH_ANSWER);
        let acts = self.scanners.iter().any(|scanner| scanner.action >= Action::Mask);
        !self.settings.observe && (acts || judged || !self.settings.disclaimer.is_empty())
    }

    /// Whether this guardrail checks prompts, if only to record findings, or acts on them or on
    /// answers. If so, each request must be JSON that every parser reads alike.
    pub fn needs_valid_requests(&self) -> bool {
        self.chain.has(Hooks::DETECT)
            || self.chain.has(Hooks::JUDGE_PROMPT)
            || self.settings.acts_on_input()
            || self.alters_answers()
    }

    /// Whether this guardrail processes answers at all.
    pub fn reads_answers(&self) -> bool {
        !self.scanners.is_empty()
            || self.chain.has(Hooks::JUDGE_ANSWER)
            || self.chain.has(Hooks::WATCH_ANSWER)
            || self.alters_answers()
    }

    /// Scans a whole text of an answer, with the same result as in a stream. `is_json`: it holds
    /// the arguments of a tool call, and stays JSON. Returns the replacements, in order and
    /// without overlaps, and the kind of a finding that blocks the answer. `report` receives each
    /// finding with its matched text.
    pub fn find(
        &self,
        (text, is_json): (&str, bool),
        vault: &Vault,
        report: &mut dyn FnMut(&Finding, &str),
    ) -> (Replacements, Option<Cow<'static, str>>) {
        let mut found = Replacements::new();
        let mut blocked = None;
        for Scanner { action, automata } in
            self.scanners.iter().filter(|scanner| scanner.action >= Action::Mask)
        {
            let mut note = |piece: Piece<'_>| match piece {
                Piece::Mask { finding, text: matched, .. } if *action == Action::Block => {
                    report(finding, matched);
                    blocked = blocked.take().or_else(|| Some(finding.kind.clone()));
                }
                Piece::Mask { finding, text: matched, open } => {
                    report(finding, matched);
                    if let Some(instead) = replacement(finding, matched, vault) {
                        found.push((
                            finding.span.start..if open { text.len() } else { finding.span.end },
                            instead,
                        ));
                    }
                }
                Piece::Close(span) => {
                    if let Some((last, _)) =
                        found.last_mut().filter(|(last, _)| last.start == span.start)
                    {
                        last.end = span.end;
                    }
                }
                Piece::Pass(_) => {}
            };
            let mut channel = if is_json { Channel::of_json() } else { Channel::new() };
            channel.push(automata, text, &mut note);
            channel.finish(automata, &mut note);
        }
        (if is_json { in_json(text, &found, self.settings.numbers()) } else { found }, blocked)
    }
}

impl Guardrail {
    /// The matches of all rules in a whole text of an answer, whatever the action on them, with
    /// their kinds. They may overlap. Placeholders are not matches.
    pub fn matches(&self, text: &str) -> Vec<(Range<usize>, Name)> {
        let mut found: Vec<(Range<usize>, Name)> = Vec::new();
        for Scanner { automata, .. } in &self.scanners {
            let mut note = |piece: Piece<'_>| match piece {
                Piece::Mask { finding, .. } if finding.family == Family::Placeholder => {}
                Piece::Mask { finding, open, .. } => {
                    let end = if open { text.len() } else { finding.span.end };
                    found.push((finding.span.start..end, finding.kind.clone()));
                }
                Piece::Close(span) => {
                    let is_it = |(known, _): &&mut (Range<usize>, Name)| known.start == span.start;
                    if let Some((known, _)) = found.iter_mut().rev().find(is_it) {
                        known.end = span.end;
                    }
                }
                Piece::Pass(_) => {}
            };
            let mut channel = Channel::new();
            channel.push(automata, text, &mut note);
            channel.finish(automata, &mut note);
        }
        found
    }
}

/// The replacements of values that leave a text JSON.
fn in_json(text: &str, found: &Replacements, numbers: Numbers) -> Replacements {
    let spans: Vec<_> = found.iter().map(|(span, _)| span.clone()).collect();
    let mut with = |number: usize, _: &str, first: bool| match found.get(number) {
        Some((_, instead)) if first => instead.clone().into_owned(),
        _ => String::new(),
    };
    let cuts = arguments::cut_all(text, &spans, numbers, &mut with);
    cuts.into_iter().map(|cut| (cut.span, Cow::Owned(cut.with))).collect()
}

/// The replacement of a match in an answer; `None`: the match stays.
pub fn replacement(finding: &Finding, text: &str, vault: &Vault) -> Option<Cow<'static, str>> {
    match finding.family {
        Family::Placeholder => vault.open(text).map(|value| Cow::Owned(value.to_owned())),
        _ => Some(bracketed(&finding.kind)),
    }
}

/// The effective action on findings of a rule in answers: at most `Flag` in observe mode.
fn effective_action(settings: &settings::GuardrailSettings, rule: &Pattern) -> Action {
    let asked = settings.answer_action(rule);
    if settings.observe { asked.min(Action::Flag) } else { asked }
}

/// `[KIND]`.
fn bracketed(kind: &str) -> Cow<'static, str> {
    Cow::Owned(format!("[{kind}]"))
}

/// The filters that the settings switch on, the cheapest first.
fn embedded(settings: &settings::GuardrailSettings) -> Result<Vec<Link>, String> {
    let mut links = Vec::new();
    let mut link = |name: &str, filter: Option<Arc<dyn Filter>>| {
        if let Some(filter) = filter {
            let declared = FilterSettings {
                name: name.into(),
                class: Class::Guardrail,
                on_failure: OnFailure::Closed,
                deadline: std::time::Duration::ZERO,
                mode: settings.mode,
            };
            links.push(Link::new(declared, filter));
        }
    };
    fn dynamic<F: Filter + 'static>(filter: Option<F>) -> Option<Arc<dyn Filter>> {
        filter.map(|filter| Arc::new(filter) as Arc<dyn Filter>)
    }
    link("sizes", dynamic(LimitSizes::new(settings.sizes)));
    link("rules", dynamic(MatchRules::new(&settings.rules).map_err(|why| why.to_string())?));
    link(
        "patterns",
        dynamic(FindPatterns::new(&settings.pii, settings.input_pii, settings.input_secrets)),
    );
    link("topics", dynamic(MatchTopics::new(&settings.topics)?));
    let classifiers = ClassifyText::new(
        settings.input_injection,
        settings.input_toxicity,
        settings.output_toxicity,
        (settings.injection, settings.toxicity),
    );
    link("classifiers", dynamic(classifiers));
    Ok(links)
}

/// The rules whose findings in answers have an action.
fn answer_rules(settings: &settings::GuardrailSettings) -> Vec<Pattern> {
    let tables = settings.pii.rules(Side::Output, settings.output_pii, settings.output_secrets);
    let own =
        settings.rules.iter().filter(|rule| rule.output != Action::Off).flat_map(patterns::of_rule);
    let honeytokens = settings
        .honeytokens
        .iter()
        .filter(|_| settings.on_honeytoken != Action::Off)
        .map(patterns::of_honeytoken);
    let placeholders = (settings.restore && !settings.observe).then(patterns::of_placeholder);
    tables.into_iter().chain(own).chain(honeytokens).chain(placeholders).collect()
}

/// How streams are scanned.
pub(crate) fn options(hold_bytes: usize) -> Options {
    Options { hold_bytes, edges: Edges::tables(), ..Options::default() }
}

/// Key of a set of automata.
#[derive(PartialEq)]
struct Recipe {
    /// Names, expressions and scores of the rules.
    rules: Vec<(Cow<'static, str>, Cow<'static, str>, f32)>,
    hold_bytes: usize,
    masks_at_pause: bool,
    allow: Vec<String>,
}

/// Automata are large and expensive to build: guardrails with the same rules share them, also
/// across reloads. They are freed with the last guardrail that uses them.
fn automata(
    rules: &[Pattern],
    settings: &settings::GuardrailSettings,
) -> Result<Option<Arc<Automata>>, shield::stream::BuildError> {
    let options = Options {
        allow: settings.pii.allowed(),
        masks_at_pause: settings.at_hold_time != AtHoldTime::Release,
        ..options(settings.hold_bytes)
    };
    shared(rules, options, &settings.pii.allow)
}

fn shared(
    rules: &[Pattern],
    options: Options,
    allow: &[String],
) -> Result<Option<Arc<Automata>>, shield::stream::BuildError> {
    static MADE: Mutex<Vec<(Recipe, Weak<Automata>)>> = Mutex::new(Vec::new());
    if rules.is_empty() {
        return Ok(None);
    }
    let recipe = Recipe {
        rules: rules
            .iter()
            .map(|rule| (rule.rule.clone(), rule.regex.clone(), rule.score))
            .collect(),
        hold_bytes: options.hold_bytes,
        masks_at_pause: options.masks_at_pause,
        allow: allow.to_owned(),
    };
    let mut made = MADE.lock();
    made.retain(|(_, automata)| automata.strong_count() > 0);
    if let Some(automata) =
        made.iter().find(|(known, _)| *known == recipe).and_then(|(_, automata)| automata.upgrade())
    {
        return Ok(Some(automata));
    }
    let automata = Arc::new(Automata::new(rules, options)?);
    made.push((recipe, Arc::downgrade(&automata)));
    Ok(Some(automata))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guardrails_share_automata_until_the_last_one_is_dropped() {
        let rules = [patterns::of_honeytoken(&settings::Honeytoken("a planted word".into()))];
        let made = |hold, allow: &[String]| shared(&rules, options(hold), allow).unwrap().unwrap();
        let (first, again) = (made(64, &[]), made(64, &[]));
        assert!(
            Arc::ptr_eq(&first, &again)
                && !Arc::ptr_eq(&first, &made(128, &[]))
                && !Arc::ptr_eq(&first, &made(64, &["x.org".into()]))
        );
        let watch = Arc::downgrade(&first);
        drop((first, again));
        assert!(watch.upgrade().is_none());
    }
}
