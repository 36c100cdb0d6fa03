//! `/api/session`: which token a browser uses, signing in, signing out.
//!
//! - *In*: a token in a JSON body.
//! - *Out*: a cookie with a random id; the name and the role of the token.
//! - *Never*: the token in an answer, a log or the cookie.

use std::sync::Arc;

use admin_auth::{removal, session_cookie};
use axum::Extension;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use pipeline::shared::Shared;
use plan::clock;
use serde::Deserialize;
use serde_json::json;

use super::audit::{self, Outcome};
use super::{Caller, SESSION};
use crate::page::json_response;
use crate::params::{ApiError, Params};

/// Maximum bytes of the body of a sign-in.
const MAX_BODY: usize = 4096;

/// The pages of the session.
pub fn routes() -> MethodRouter<Arc<Shared>> {
    get(show).post(sign_in).delete(sign_out)
}

/// The body of a sign-in.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignIn {
    token: String,
}

/// What the caller may do.
async fn show(Extension(caller): Extension<Caller>, params: Params) -> Result<Response, ApiError> {
    params.check(&[])?;
    Ok(json_response(&json!({
        "auth": caller.grant.is_some(),
        "name": caller.name(),
        "role": caller.role().name(),
        "session_left_s": caller.grant.as_ref().and_then(|grant| Some(grant.session_left?.as_secs())),
    })))
}

async fn sign_in(
    Extension(mut caller): Extension<Caller>,
    params: Params,
    request: Request,
) -> Result<Response, ApiError> {
    params.check(&[])?;
    let SignIn { token } = read(request.into_body()).await?;
    let (id, grant) = {
        let plan = caller.shared.plan.load();
        let settings = plan.settings.admin.auth.as_ref();
        let settings = settings
            .ok_or_else(|| ApiError::not_found("there is no sign-in; admin.auth is not set"))?;
        let signed_in = caller.access.sign_in(settings, &token, caller.client, clock::now());
        signed_in.map_err(ApiError::denied)?
    };
    let left = grant.session_left.unwrap_or_default();
    let cookie = session_cookie(&id, left, caller.is_secure);
    let shown = json!({
        "auth": true,
        "name": &*grant.name,
        "role": grant.role.name(),
        "session_left_s": left.as_secs(),
    });
    caller.grant = Some(grant);
    record(&caller, &Method::POST);
    with_cookie(json_response(&shown), &cookie)
}

async fn sign_out(
    Extension(caller): Extension<Caller>,
    params: Params,
) -> Result<Response, ApiError> {
    params.check(&[])?;
    if let Some(grant) = &caller.grant {
        caller.access.sign_out(grant);
        record(&caller, &Method::DELETE);
    }
    with_cookie(StatusCode::NO_CONTENT.into_response(), &removal(caller.is_secure))
}

fn record(caller: &Caller, method: &Method) {
    let status = StatusCode::OK;
    audit::record(caller, method, &Uri::from_static(SESSION), Outcome::Status(status));
}

/// Read the body of a sign-in. No error contains a part of it.
async fn read(body: Body) -> Result<SignIn, ApiError> {
    let bytes = axum::body::to_bytes(body, MAX_BODY).await;
    let bytes = bytes.map_err(|_| {
        ApiError::bad("", format!("the body cannot be read, or is over {MAX_BODY} bytes"))
    })?;
    serde_json::from_slice(&bytes)
        .map_err(|_| ApiError::bad("token", "the body must be {\"token\": \"...\"}".into()))
}

fn with_cookie(mut answer: Response, cookie: &str) -> Result<Response, ApiError> {
    let cookie = HeaderValue::from_str(cookie).map_err(|_| ApiError::internal())?;
    answer.headers_mut().insert(header::SET_COOKIE, cookie);
    let no_store = HeaderValue::from_static("no-store");
    answer.headers_mut().insert(header::CACHE_CONTROL, no_store);
    Ok(answer)
}
