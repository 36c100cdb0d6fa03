//! Finds protection that new settings remove.
//!
//! - *In*: the settings in force and the new ones.
//! - *Out*: what the new ones do not have any more, for the log and `/api/settings`.
//! - *Never*: a refusal. The operator may want less.

use std::collections::BTreeMap;

use config::Settings;
use config::settings::{Action, Auth, GuardrailSettings, Limit, Limits, Route};
use traffic::settings::Window;

/// Protection that was in force, and that the new settings do not have, or only in part.
pub fn removed(before: &Settings, after: &Settings) -> Vec<String> {
    let mut removed = Vec::new();
    if before.auth.is_some() && after.auth.is_none() {
        removed.push("auth".to_owned());
    }
    if before.admin.auth.is_some() && after.admin.auth.is_none() {
        removed.push("admin.auth".to_owned());
    }
    let added = |network| !before.trusted_proxies.contains(network);
    if after.trusted_proxies.iter().any(added) {
        removed
            .push("checks of fields about the client (trusted_proxies has more networks)".into());
    }
    removed.extend(client_limits(&before.limits, &after.limits));
    for limit in &before.rate_limits {
        match after.rate_limits.iter().find(|after| after.name == limit.name) {
            None => removed.push(format!("rate limit {:?}", limit.name)),
            Some(now) if allows_more(limit, now) => {
                removed.push(format!("part of rate limit {:?} (it allows more)", limit.name));
            }
            Some(_) => {}
        }
    }
    for now in &after.routes {
        match before.routes.iter().find(|before| before.name == now.name) {
            Some(route) => removed.extend(of_route(route, now, after)),
            None if after.auth.is_some() && now.auth == Auth::Off => {
                removed.push(format!("auth of requests that the new route {:?} matches", now.name));
            }
            None => {}
        }
    }
    removed
}

/// Limits by client address that are gone or higher.
fn client_limits(before: &Limits, after: &Limits) -> Vec<String> {
    // Zero is no limit.
    let is_higher = |before: usize, after: usize| before > 0 && (after == 0 || after > before);
    let size = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    [
        ("connections", before.connections, after.connections),
        ("connections_per_address", before.connections_per_address, after.connections_per_address),
        (
            "requests_per_address",
            size(before.requests_per_address),
            size(after.requests_per_address),
        ),
    ]
    .into_iter()
    .filter(|(_, before, after)| is_higher(*before, *after))
    .map(|(name, ..)| format!("part or all of limits.{name}"))
    .collect()
}

/// Whether a limit allows more in the same time. Limits of different kinds are not compared.
fn allows_more(before: &Limit, after: &Limit) -> bool {
    let is_shorter = match (before.quota.window, after.quota.window) {
        (Window::Rolling(before), Window::Rolling(after)) => after < before,
        (Window::Month, Window::Day) => true,
        _ => false,
    };
    before.unit == after.unit && (after.quota.amount > before.quota.amount || is_shorter)
}

fn of_route(before: &Route, now: &Route, after: &Settings) -> Vec<String> {
    let name = &before.name;
    let lost = [
        ("auth", after.auth.is_some() && now.auth < before.auth),
        ("validation", before.strict && !now.strict),
        ("hosts", !before.hosts.is_empty() && now.hosts.is_empty()),
        ("guardrail", is_enforced(before) && !is_enforced(now)),
    ];
    let lost = lost.iter().filter(|(_, lost)| *lost);
    let mut removed: Vec<String> =
        lost.map(|(what, _)| format!("{what} of route {name:?}")).collect();
    if now.passthrough.iter().any(|pattern| !before.passthrough.contains(pattern)) {
        removed.push(format!("checks of paths that are new in passthrough of route {name:?}"));
    }
    if let (Some(before), Some(now)) = (&before.guardrail, &now.guardrail)
        && !before.observe
        && !now.observe
    {
        let weaker = weaker_actions(before, now);
        removed.extend(weaker.map(|action| format!("{action} in the guardrail of route {name:?}")));
    }
    removed
}

/// Whether a guardrail of the route may change or refuse a request or an answer.
fn is_enforced(route: &Route) -> bool {
    route.guardrail.as_ref().is_some_and(|guardrail| !guardrail.observe)
}

/// Actions that masked or blocked, and are weaker or gone.
fn weaker_actions(
    before: &GuardrailSettings,
    now: &GuardrailSettings,
) -> impl Iterator<Item = String> {
    let now = actions(now);
    actions(before).into_iter().filter_map(move |(name, action)| {
        let weaker = now.get(&name).is_none_or(|now| *now < action);
        (action >= Action::Mask && weaker).then_some(name)
    })
}

/// All actions of a guardrail, by the names of their settings.
fn actions(guardrail: &GuardrailSettings) -> BTreeMap<String, Action> {
    let own = [
        ("input_injection", guardrail.input_injection),
        ("input_toxicity", guardrail.input_toxicity),
        ("input_pii", guardrail.input_pii),
        ("input_secrets", guardrail.input_secrets),
        ("output_toxicity", guardrail.output_toxicity),
        ("output_pii", guardrail.output_pii),
        ("output_secrets", guardrail.output_secrets),
        ("on_honeytoken", guardrail.on_honeytoken),
        ("risk.on_medium", guardrail.risk.on_medium),
        ("risk.on_high", guardrail.risk.on_high),
    ]
    .map(|(name, action)| (name.to_owned(), action));
    let topics =
        guardrail.topics.iter().map(|topic| (format!("topic {:?}", topic.name), topic.action));
    let rules = guardrail.rules.iter().flat_map(|rule| {
        [("input", rule.input), ("output", rule.output)]
            .map(|(side, action)| (format!("{side} of rule {:?}", rule.name), action))
    });
    let judges = guardrail.judges.iter().flat_map(|judge| {
        [("input", judge.input), ("output", judge.output)]
            .map(|(side, action)| (format!("{side} of judge {:?}", judge.declared.name), action))
    });
    own.into_iter().chain(topics).chain(rules).chain(judges).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "
auth: {jwt: [{issuer: 'https://id', audience: a, jwks: 'https://id/keys'}]}
admin: {auth: {tokens: [{name: ops, token: an-operators-token}]}}
limits: {requests_per_address: 5}
rate_limits: [{name: day, unit: requests, amount: 100, window: day, per: all}]
guardrails: [{name: g, input_pii: block, rules: [{name: x, regex: secret, input: block}]}]
backends: [{name: b, url: 'http://127.0.0.1:1'}]
routes:
- {name: r, backend: b, auth: required, guardrail: g, hosts: [llm.example]}
";

    fn after(change: (&str, &str)) -> Vec<String> {
        let parse = |text: &str| {
            config::parse("test", text).unwrap_or_else(|problems| panic!("{text}: {problems}"))
        };
        assert!(BEFORE.contains(change.0), "{}", change.0);
        removed(&parse(BEFORE), &parse(&BEFORE.replace(change.0, change.1)))
    }

    #[test]
    fn weaker_settings_are_reported() {
        for (change, want) in [
            (
                ("admin: {auth: {tokens: [{name: ops, token: an-operators-token}]}}", ""),
                "admin.auth",
            ),
            (("auth: required", "auth: optional"), "auth of route \"r\""),
            (("input_pii: block", "input_pii: flag"), "input_pii in the guardrail of route \"r\""),
            (
                ("regex: secret, input: block", "regex: secret, input: off"),
                "input of rule \"x\" in the guardrail of route \"r\"",
            ),
            ((", hosts: [llm.example]", ""), "hosts of route \"r\""),
            (
                ("guardrail: g,", "guardrail: g, passthrough: ['*'],"),
                "checks of paths that are new in passthrough of route \"r\"",
            ),
            (
                ("limits: {requests_per_address: 5}", "zone: x"),
                "part or all of limits.requests_per_address",
            ),
            (
                ("requests_per_address: 5", "requests_per_address: 6"),
                "part or all of limits.requests_per_address",
            ),
            (("amount: 100", "amount: 101"), "part of rate limit \"day\" (it allows more)"),
            (
                ("routes:", "routes:\n- {name: open, backend: b, auth: off, match: {path: /x}}"),
                "auth of requests that the new route \"open\" matches",
            ),
            (
                ("auth: {jwt", "trusted_proxies: [10.0.0.0/8]\nauth: {jwt"),
                "checks of fields about the client (trusted_proxies has more networks)",
            ),
        ] {
            assert_eq!(after(change), [want], "{change:?}");
        }
    }

    #[test]
    fn stricter_settings_are_not_reported() {
        for change in [
            ("input_pii: block", "input_pii: block, input_secrets: block"),
            ("amount: 100", "amount: 99"),
            ("requests_per_address: 5", "requests_per_address: 4"),
            ("hosts: [llm.example]", "hosts: [llm.example], validation: strict"),
            ("name: day", "name: day, warn_at: 0.5"),
        ] {
            assert!(after(change).is_empty(), "{change:?}: {:?}", after(change));
        }
    }
}
