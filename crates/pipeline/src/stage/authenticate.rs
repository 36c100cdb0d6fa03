//! Stage 2: authenticates the caller.
//!
//! - *In*: the credential of the head, the keys of the plan.
//! - *Out*: a caller, the anonymous caller, or a refusal that does not reveal which keys exist.
//! - *Never*: a credential stored, logged or forwarded. Known and unknown credentials take the same
//!   time.
//!
//! The head alone identifies the caller, before the body is read. The route decides whether that is
//! enough.

use std::sync::Arc;

use config::settings::{Auth, Route};
use http1::head::{Head, RequestLine};
use lens::State;
use traffic::{Caller, Identity, credential};

use crate::exchange::{CredentialCheck, Exchange, ShownCredential};
use plan::Plan;
use plan::client_certificate::ClientCertificate;
use plan::clock;
use refusal::Refusal;

/// Read the credential of a head; `None` without `auth`. `certificate` is the connection's, which
/// the handshake has verified; a credential in the head comes first.
pub fn read_credential(
    plan: &Plan,
    head: &Head<'_, RequestLine<'_>>,
    certificate: Option<&ClientCertificate>,
) -> Option<ShownCredential> {
    let keys = plan.keys.as_ref()?;
    let began = clock::now();
    let who = match credential(|name| head.get(name)) {
        None => {
            let known = certificate.and_then(|certificate| {
                keys.find_certificate(&certificate.proves, clock::wall_us())
            });
            known.map_or(CredentialCheck::Anonymous, CredentialCheck::Known)
        }
        Some(shown) => match (keys.find(shown, clock::wall_us()), &plan.jwks) {
            (Some(caller), _) => CredentialCheck::Known(caller),
            // A JWT has two dots; an API key has none.
            (None, Some(tokens)) if shown.bytes().filter(|byte| *byte == b'.').count() == 2 => {
                match tokens.authenticate(shown, &plan.settings.rate_limits) {
                    Identity::Valid(caller) => CredentialCheck::Known(caller),
                    Identity::Invalid => CredentialCheck::Unknown,
                    Identity::KeysPending => CredentialCheck::NotYet,
                }
            }
            (None, _) => CredentialCheck::Unknown,
        },
    };
    Some(ShownCredential { who, began, ended: clock::now() })
}

/// Apply the client limits, store the credential for `authorize`, and refuse at once a credential
/// that no route accepts.
pub fn admit(exchange: &mut Exchange, shown: Option<ShownCredential>) -> Result<(), Refusal> {
    if !exchange
        .shared
        .client_limits
        .admit_request(exchange.accepted.client, &exchange.plan.settings.limits)
    {
        return Err(Refusal::address_too_fast());
    }
    let Some(shown) = shown else { return Ok(()) };
    let before = exchange.ledger.state();
    exchange.ledger.switch(State::Authenticate, shown.began);
    exchange.ledger.switch(before, shown.ended);
    let least = exchange.plan.routes.iter().map(|route| route.route.auth).min().unwrap_or_default();
    let refused = refusal(&shown.who, least);
    exchange.credential = Some(shown);
    refused.map_or(Ok(()), Err)
}

/// Check the credential against the matched route, and set the caller.
pub fn authorize(exchange: &mut Exchange) -> Result<(), Refusal> {
    let Some(ShownCredential { who, .. }) = exchange.credential.take() else { return Ok(()) };
    let Some(routed) = &exchange.routed else { return Ok(()) };
    let route = &routed.route.route;
    let Some(caller) = caller_on(&exchange.plan, &who, route)? else { return Ok(()) };
    let facts = exchange.inspected.facts.as_ref();
    let model = facts.and_then(|facts| facts.model.as_deref());
    // A key that is restricted to models must not call without naming one.
    let mut models = std::iter::once(model.unwrap_or_default())
        .chain(facts.into_iter().flat_map(|facts| &facts.other_models).map(String::as_str));
    if exchange.accepted.dialect.is_some() && !models.all(|model| caller.may_use_model(model)) {
        return Err(Refusal::forbidden_model());
    }
    exchange.caller = Some(caller);
    Ok(())
}

/// The caller on a route; `None` on routes without authentication.
pub fn caller_on(
    plan: &Plan,
    who: &CredentialCheck,
    route: &Route,
) -> Result<Option<Arc<Caller>>, Refusal> {
    if route.auth == Auth::Off {
        return Ok(None);
    }
    if let Some(refusal) = refusal(who, route.auth) {
        return Err(refusal);
    }
    let caller = match who {
        CredentialCheck::Known(caller) => caller.clone(),
        CredentialCheck::Anonymous | CredentialCheck::Unknown | CredentialCheck::NotYet => {
            plan.anonymous.clone()
        }
    };
    if !caller.may_use(&route.name) {
        return Err(Refusal::forbidden_route());
    }
    Ok(Some(caller))
}

fn refusal(who: &CredentialCheck, wanted: Auth) -> Option<Refusal> {
    match (who, wanted) {
        (CredentialCheck::NotYet, Auth::Optional | Auth::Required) => {
            Some(Refusal::identity_unavailable())
        }
        (CredentialCheck::Unknown, Auth::Optional | Auth::Required) => Some(Refusal::bad_key()),
        (CredentialCheck::Anonymous, Auth::Required) => Some(Refusal::no_key()),
        _ => None,
    }
}
