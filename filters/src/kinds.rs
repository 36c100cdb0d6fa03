//! Which kinds of personal data and credentials count, and with which action.
//!
//! - *In*: the settings of a guardrail, and the rules of `shield`.
//! - *Out*: the rules to scan with, tailored to the thresholds; the action on each finding; values
//!   that are never findings.
//! - *Never*: an address of a private or documentation range, unless it is asked for.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;
use shield::finding::Family;
use shield::pattern::{Allow, Pattern};

use crate::settings::{Action, GuardrailSettings};
use crate::subject::Side;

/// Groups of kinds of personal data, by name.
const GROUPS: [(&str, &[&str]); 3] = [
    ("contact", &["EMAIL_ADDRESS", "PHONE_NUMBER"]),
    ("financial", &["CREDIT_CARD", "IBAN_CODE", "CRYPTO", "ABA_ROUTING_NUMBER"]),
    ("network", &["URL", "IP_ADDRESS", "MAC_ADDRESS"]),
];
/// The group of all kinds that are in no other: identifiers of citizens and companies, and dates of
/// birth.
const NATIONAL: &str = "national";
/// All kinds.
const ALL: &str = "all";
/// Addresses of private and documentation ranges; `all` does not include them.
const RESERVED: &str = "RESERVED_IP_ADDRESS";
/// Minimum score of a credential in an answer without its own setting: examples of code are full of
/// passwords that are words.
const CREDENTIAL_IN_ANSWER: f32 = 0.6;
/// A score that needs a context word.
const NEEDS_CONTEXT: f32 = 0.2;

/// Kinds of personal data, and exceptions.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct KindSettings {
    /// Groups and kinds of personal data that are looked for.
    pub kinds: Vec<String>,
    /// Values, domains and networks that are never findings.
    pub allow: Vec<String>,
    /// Actions by kind.
    pub actions: Vec<KindAction>,
}

/// The actions on a kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KindAction {
    /// The kind.
    pub kind: String,
    /// The action in prompts; `None`: that of the family.
    pub input: Option<Action>,
    /// The action in answers; `None`: that of the family.
    pub output: Option<Action>,
    /// Minimum score of a finding.
    pub threshold: f32,
}

/// The names that `kinds` may have.
pub fn kind_names() -> Vec<Cow<'static, str>> {
    let mut kinds: Vec<_> =
        shield::rules().into_iter().filter(is_pii).map(|rule| rule.kind.clone()).collect();
    kinds.push(RESERVED.into());
    kinds.sort_unstable();
    kinds.dedup();
    let groups = GROUPS.iter().map(|group| group.0).chain([NATIONAL, ALL]).map(Cow::Borrowed);
    groups.chain(kinds).collect()
}

/// The kinds that `actions` may name: of personal data and of credentials.
pub fn is_kind(name: &str) -> bool {
    shield::rules().into_iter().any(|rule| rule.kind == name)
}

fn is_pii(rule: &&Pattern) -> bool {
    rule.family == Family::Pii
}

impl KindSettings {
    /// Every kind but reserved addresses, without exceptions.
    pub fn all() -> Self {
        KindSettings { kinds: vec![ALL.into()], ..KindSettings::default() }
    }

    fn own(&self, kind: &str) -> Option<&KindAction> {
        self.actions.iter().find(|action| action.kind == kind)
    }

    /// Whether a rule on personal data is chosen by `kinds`.
    fn chooses(&self, rule: &Pattern) -> bool {
        let reserved = rule.rule.ends_with("_reserved");
        self.kinds.iter().any(|name| match name.as_str() {
            RESERVED => reserved,
            _ if reserved => false,
            ALL => true,
            NATIONAL => !GROUPS.iter().any(|(_, kinds)| kinds.contains(&&*rule.kind)),
            name => match GROUPS.iter().find(|group| group.0 == name) {
                Some((_, kinds)) => kinds.contains(&&*rule.kind),
                None => rule.kind == name,
            },
        })
    }

    /// The action on findings of a rule: that of its kind, or else `family`.
    pub fn action(&self, rule: &Pattern, side: Side, family: Action) -> Action {
        let own = self.own(&rule.kind).and_then(|own| match side {
            Side::Input => own.input,
            Side::Output => own.output,
        });
        match own {
            Some(action) if !rule.rule.ends_with("_reserved") => action,
            _ if is_pii(&rule) && !self.chooses(rule) => Action::Off,
            _ => family,
        }
    }

    /// The rules of `shield` that have an action, with scores that respect the thresholds.
    pub fn rules(&self, side: Side, pii: Action, secrets: Action) -> Vec<Pattern> {
        let family = |rule: &Pattern| if is_pii(&rule) { pii } else { secrets };
        let chosen = |rule: &&Pattern| self.action(rule, side, family(rule)) != Action::Off;
        let all = shield::rules().into_iter().filter(chosen);
        all.filter_map(|rule| tailored(rule, self.threshold(rule, side))).collect()
    }

    fn threshold(&self, rule: &Pattern, side: Side) -> f32 {
        match self.own(&rule.kind) {
            Some(own) => own.threshold,
            None if side == Side::Output && !is_pii(&rule) => CREDENTIAL_IN_ANSWER,
            None => 0.0,
        }
    }

    /// What recognizes values that are never findings; `None` if there are none.
    pub fn allowed(&self) -> Option<Allow> {
        let entries: Vec<Entry> = self.allow.iter().map(|entry| Entry::new(entry)).collect();
        (!entries.is_empty()).then(|| {
            Arc::new(move |_: &Pattern, text: &str| entries.iter().any(|entry| entry.allows(text)))
                as Allow
        })
    }
}

/// The rule with a minimum score; `None` if it does not reach it.
fn tailored(rule: &Pattern, threshold: f32) -> Option<Pattern> {
    let mut rule = rule.clone();
    if rule.context.is_some_and(|(_, score)| score < threshold) {
        rule.context = None;
    }
    if rule.score < threshold {
        rule.context?;
        rule.score = NEEDS_CONTEXT;
    }
    Some(rule)
}

/// An entry of the allow-list.
enum Entry {
    /// The digits of a number.
    Number(String),
    /// A network, and the bits of its prefix.
    Network(IpAddr, u32),
    /// A value, lower case; it is a domain as well, if it has the form of one.
    Value(String),
}

impl Entry {
    fn new(text: &str) -> Entry {
        let (address, bits) = text.split_once('/').unwrap_or((text, ""));
        if let Ok(address) = address.parse::<IpAddr>() {
            let most = if address.is_ipv4() { 32 } else { 128 };
            return Entry::Network(address, bits.parse().unwrap_or(most).min(most));
        }
        match digits(text) {
            number if number.len() >= 5 && !text.bytes().any(|b| b.is_ascii_alphabetic()) => {
                Entry::Number(number)
            }
            _ => Entry::Value(text.trim_start_matches('@').to_lowercase()),
        }
    }

    fn allows(&self, text: &str) -> bool {
        match self {
            Entry::Number(number) => {
                !text.bytes().any(|b| b.is_ascii_alphabetic()) && digits(text) == *number
            }
            Entry::Network(network, bits) => {
                let address = text.split('/').next().unwrap_or_default().parse::<IpAddr>();
                address.is_ok_and(|address| within(address, *network, *bits))
            }
            Entry::Value(value) => {
                let text = text.to_lowercase();
                text == *value || host(&text).is_some_and(|host| is_in(host, value))
            }
        }
    }
}

fn digits(text: &str) -> String {
    text.chars().filter(char::is_ascii_digit).collect()
}

/// The host of an e-mail address or a URL without user information.
fn host(text: &str) -> Option<&str> {
    if let Some((before, host)) = text.rsplit_once('@') {
        return (!before.contains("://")).then_some(host);
    }
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next()?;
    Some(host.split_once(':').map_or(host, |(host, _)| host)).filter(|host| host.contains('.'))
}

/// Whether a host is a domain or in it.
fn is_in(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn within(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let of = |address: IpAddr| match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, true),
        IpAddr::V6(v6) => (v6.to_bits(), false),
    };
    let ((one, short), (other, shorter)) = (of(address), of(network));
    short == shorter && (bits == 0 || (one ^ other) >> (128 - bits) == 0)
}

impl GuardrailSettings {
    /// The action on findings of a rule in answers.
    pub(crate) fn answer_action(&self, rule: &Pattern) -> Action {
        let family = match rule.family {
            Family::Pii => self.output_pii,
            Family::Secret => self.output_secrets,
            Family::Leak => return self.on_honeytoken,
            Family::Placeholder => return Action::Mask,
            Family::Policy => {
                let name = rule.rule.split_once('.').map_or("", |(_, name)| name);
                let own = self.rules.iter().find(|rule| *rule.name == *name);
                return own.map_or(Action::Flag, |rule| rule.output);
            }
        };
        self.pii.action(rule, Side::Output, family)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(names: &[&str]) -> KindSettings {
        KindSettings {
            kinds: names.iter().map(|name| (*name).to_owned()).collect(),
            ..KindSettings::default()
        }
    }

    fn chosen(settings: &KindSettings) -> Vec<String> {
        let rules = settings.rules(Side::Input, Action::Flag, Action::Off);
        let mut kinds: Vec<String> = rules.iter().map(|rule| rule.rule.to_string()).collect();
        kinds.sort();
        kinds
    }

    #[test]
    fn groups_choose_kinds_and_reserved_addresses_must_be_named() {
        assert_eq!(chosen(&kinds(&[])), [""; 0]);
        assert_eq!(chosen(&kinds(&["EMAIL_ADDRESS"])), ["pii.email"]);
        let common = chosen(&kinds(&["contact", "financial", "national"]));
        let has = |rules: &[String], name: &str| rules.iter().any(|rule| rule == name);
        assert!(
            has(&common, "pii.us_ssn") && has(&common, "pii.card") && has(&common, "pii.birth")
        );
        for network in ["pii.url", "pii.domain", "pii.ipv4", "pii.mac", "pii.ipv6_reserved"] {
            assert!(!has(&common, network), "{network}");
        }
        assert!(has(&chosen(&kinds(&["network"])), "pii.ipv4"));
        assert!(!has(&chosen(&kinds(&["all", "IP_ADDRESS"])), "pii.ipv4_reserved"));
        assert_eq!(
            chosen(&kinds(&["RESERVED_IP_ADDRESS"])),
            ["pii.ipv4_reserved", "pii.ipv6_reserved"]
        );
    }

    #[test]
    fn actions_of_a_kind_take_precedence_and_thresholds_leave_rules_out() {
        let mut settings = kinds(&["contact"]);
        let own = |kind: &str, input, threshold| KindAction {
            kind: kind.into(),
            input,
            output: None,
            threshold,
        };
        settings.actions = vec![
            own("IBAN_CODE", Some(Action::Block), 0.5),
            own("EMAIL_ADDRESS", Some(Action::Off), 0.5),
            own("PHONE_NUMBER", None, 0.82),
        ];
        let rules = settings.rules(Side::Input, Action::Flag, Action::Off);
        assert!(rules.iter().any(|r| r.kind == "IBAN_CODE"));
        assert!(!rules.iter().any(|r| r.kind == "EMAIL_ADDRESS"));
        let phones: Vec<_> = rules.iter().filter(|r| r.kind == "PHONE_NUMBER").collect();
        assert_eq!(phones.len(), 1, "only international numbers score 0.85");
        let answers = settings.rules(Side::Output, Action::Flag, Action::Off);
        assert!(!answers.iter().any(|r| r.kind == "IBAN_CODE"), "it is not in `kinds`");
    }

    #[test]
    fn allowed_values_domains_numbers_and_networks() {
        let list = ["firma.de", "jo@x.org", "+49 30 901820", "10.0.0.0/8", "2a00:1450::/32"];
        let settings = KindSettings {
            allow: list.iter().map(|entry| (*entry).to_owned()).collect(),
            ..KindSettings::default()
        };
        let allow = settings.allowed().unwrap();
        let rule = shield::rules()[0];
        for allowed in [
            "kim@firma.de",
            "kim@mail.FIRMA.de",
            "https://firma.de/a?b",
            "firma.de",
            "JO@x.org",
            "+49 (30) 901-820",
            "10.2.3.4",
            "2a00:1450:4001::1",
        ] {
            assert!(allow(rule, allowed), "{allowed}");
        }
        for other in [
            "kim@notfirma.de",
            "firma.de@evil.org",
            "https://firma.de:x@evil.org/",
            "https://evil.org/firma.de",
            "+49 30 9018201",
            "11.2.3.4",
            "::1",
        ] {
            assert!(!allow(rule, other), "{other}");
        }
        assert!(KindSettings::default().allowed().is_none());
    }
}
