//! A route's guard, made ready: which rules, and what is done about what they find.
//!
//! - *In*: a shield of the settings.
//! - *Out*: findings in prompts; which findings an answer must not show.
//! - *Never*: state of a request.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use config::settings::{Action, Shield};
use parking_lot::Mutex;
use shield::classify::Model;
use shield::finding::{Family, Finding};
use shield::normalise::{Limits, normalise};
use shield::pattern::Pattern;
use shield::scan::Scanner;
use shield::stream::{Automata, Channel, Edges, Options, Piece};

/// A shield made ready.
pub(crate) struct Guard {
    pub(crate) settings: Arc<Shield>,
    prompts: Option<Scanner>,
    answers: Option<Arc<Automata>>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("name", &self.settings.name).finish_non_exhaustive()
    }
}

impl Guard {
    /// Make it ready; this takes a good part of a second.
    pub(crate) fn build(settings: &Arc<Shield>) -> Self {
        let prompts = rules(&[(Family::Pii, settings.input_pii), (Family::Secret, settings.input_secrets)]);
        let answers = rules(&[(Family::Pii, settings.output_pii), (Family::Secret, settings.output_secrets)]);
        let prompts = (!prompts.is_empty()).then(|| Scanner::new(&prompts));
        Guard { prompts, answers: automata(&answers, settings.hold_bytes), settings: settings.clone() }
    }

    /// The rules of answers.
    pub(crate) fn automata(&self) -> Option<&Automata> {
        self.answers.as_deref()
    }

    /// Whether findings of that family are taken out of answers.
    pub(crate) fn masks(&self, family: Family) -> bool {
        let action = match family {
            Family::Pii => self.settings.output_pii,
            Family::Secret => self.settings.output_secrets,
        };
        action == Action::Mask && !self.settings.observe
    }

    /// Whether anything is taken out of answers.
    pub(crate) fn masks_any(&self) -> bool {
        self.masks(Family::Pii) || self.masks(Family::Secret)
    }

    /// What a whole text of an answer must not show, in order and without overlaps; the same as in a stream.
    pub(crate) fn find(&self, text: &str) -> Vec<(Range<usize>, &'static str)> {
        let mut found: Vec<(Range<usize>, &'static str)> = Vec::new();
        let Some(automata) = self.automata() else { return found };
        let mut note = |piece: Piece<'_>| match piece {
            Piece::Mask { finding, open } if self.masks(finding.family) => {
                found.push((finding.span.start..if open { text.len() } else { finding.span.end }, finding.kind));
            }
            Piece::Close(span) => {
                if let Some((last, _)) = found.last_mut().filter(|(last, _)| last.start == span.start) {
                    last.end = span.end;
                }
            }
            Piece::Pass(_) | Piece::Mask { .. } => {}
        };
        let mut channel = Channel::new();
        channel.push(automata, text, &mut note);
        channel.finish(automata, &mut note);
        found
    }

    /// What a text of a prompt holds: the rule, what to call it, and whether it is refused for it. `foreign` words come from users
    /// and tools; only those are judged by the classifiers, because a system prompt that forbids something reads like an attack.
    pub(crate) fn inspect(&self, text: &str, foreign: bool) -> Vec<(&'static str, &'static str, bool)> {
        let mut found = Vec::new();
        if let Some(scanner) = &self.prompts {
            scanner.find(text, &mut found);
        }
        let refuses = |action| action == Action::Block && !self.settings.observe;
        let by_pattern = |finding: &Finding| {
            let action = if finding.family == Family::Pii { self.settings.input_pii } else { self.settings.input_secrets };
            (finding.rule, finding.kind, refuses(action))
        };
        let mut all: Vec<_> = found.iter().map(by_pattern).collect();
        let (injection, toxicity) = (self.settings.input_injection, self.settings.input_toxicity);
        if foreign && (injection != Action::Off || toxicity != Action::Off) {
            let scores = model().score(&normalise(text, &NORMALISED));
            let judged = [
                (scores.injection, injection, "injection.classifier", "PROMPT_INJECTION"),
                (scores.toxicity, toxicity, "toxicity.classifier", "TOXIC_LANGUAGE"),
            ];
            let above = judged.into_iter().filter(|(score, action, ..)| *score > 0.5 && *action != Action::Off);
            all.extend(above.map(|(_, action, rule, kind)| (rule, kind, refuses(action))));
        }
        all
    }
}

/// What the classifiers read of one text of a prompt: a quarter of a mebibyte costs them four milliseconds.
const NORMALISED: Limits = Limits { max_input: 256 << 10, max_output: 512 << 10, max_views: 64, max_depth: 2 };

/// The classifiers, made ready once for the process.
fn model() -> &'static Model {
    static MODEL: LazyLock<Model> =
        LazyLock::new(|| Model::from_bytes(shield::WEIGHTS).expect("invariant: the weights are of this version, a test sees to it"));
    &MODEL
}

/// The rules of the families about whose findings something is done.
fn rules(actions: &[(Family, Action)]) -> Vec<&'static Pattern> {
    let wanted = |family| actions.iter().any(|(of, action)| *of == family && *action != Action::Off);
    shield::rules().into_iter().filter(|rule| wanted(rule.family)).collect()
}

/// What automata are made of.
type Recipe = (Vec<&'static str>, usize);

/// Automata are large and dear: shields with the same rules share them, and so do reloads.
fn automata(rules: &[&'static Pattern], hold_bytes: usize) -> Option<Arc<Automata>> {
    static MADE: Mutex<Vec<(Recipe, Arc<Automata>)>> = Mutex::new(Vec::new());
    if rules.is_empty() {
        return None;
    }
    let recipe = (rules.iter().map(|rule| rule.rule).collect(), hold_bytes);
    let mut made = MADE.lock();
    if let Some((_, automata)) = made.iter().find(|(known, _)| *known == recipe) {
        return Some(automata.clone());
    }
    let options = Options { hold_bytes, edges: Edges::tables(), ..Options::default() };
    let automata = Arc::new(Automata::new(rules, options).expect("invariant: the tables compile, their tests see to it"));
    made.push((recipe, automata.clone()));
    Some(automata)
}
