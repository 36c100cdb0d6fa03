//! Query parameters of admin pages, and their errors.

use std::collections::HashMap;

use admin_auth::Denial;
use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// The parameters of a query, percent-decoded. Of two with the same name the last counts.
pub struct Params(HashMap<String, String>);

impl Params {
    /// A parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All parameters by name.
    pub fn all(&self) -> &HashMap<String, String> {
        &self.0
    }

    /// Refuse a parameter that the page does not have: ignoring it would give a wrong answer.
    ///
    /// # Errors
    /// The first unknown parameter.
    pub fn check(&self, known: &'static [&'static str]) -> Result<(), ApiError> {
        let mut unknown: Vec<&String> =
            self.0.keys().filter(|name| !known.contains(&name.as_str())).collect();
        unknown.sort_unstable();
        let Some(name) = unknown.first() else { return Ok(()) };
        let takes = match known {
            [] => "this page has no parameters".to_owned(),
            known => format!("known: {}", known.join(", ")),
        };
        Err(ApiError::bad("", format!("unknown parameter {name:?}; {takes}")))
    }

    /// A whole number, or `default` where the query has none.
    ///
    /// # Errors
    /// The parameter is something else.
    pub fn number(&self, name: &'static str, default: u64) -> Result<u64, ApiError> {
        let Some(text) = self.get(name) else { return Ok(default) };
        text.parse().map_err(|_| {
            ApiError::bad(name, format!("{name} must be a whole number, not {text:?}"))
        })
    }

    /// Whether a parameter is `true`.
    pub fn is_true(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }
}

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let query = Query::try_from_uri(&parts.uri)
            .map_err(|_| ApiError::bad("", "the query string is malformed".into()))?;
        Ok(Params(query.0))
    }
}

/// An error of an admin page: a message and, if one is wrong, the parameter.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    param: &'static str,
    message: String,
    /// A field of the answer.
    field: Option<(HeaderName, HeaderValue)>,
}

impl ApiError {
    fn new(status: StatusCode, param: &'static str, message: String) -> Self {
        ApiError { status, param, message, field: None }
    }

    /// 401, 403 or 429: authentication denies the request.
    pub fn denied(denial: Denial) -> Self {
        let challenge = |text| Some((header::WWW_AUTHENTICATE, HeaderValue::from_static(text)));
        let (status, message, field) = match denial {
            Denial::NoCredential => (
                StatusCode::UNAUTHORIZED,
                "a token of admin.auth is required: send it as Authorization: Bearer TOKEN, or sign in to the dashboard".into(),
                challenge("Bearer realm=\"llm-lens admin\""),
            ),
            Denial::WrongToken => (
                StatusCode::UNAUTHORIZED,
                "the token is not one of admin.auth".into(),
                challenge("Bearer realm=\"llm-lens admin\", error=\"invalid_token\""),
            ),
            Denial::TooManyAttempts { wait } => {
                let seconds = wait.as_secs() + 1;
                (
                    StatusCode::TOO_MANY_REQUESTS,
                    format!("too many attempts with wrong tokens from this address; try again in {seconds} s"),
                    Some((header::RETRY_AFTER, seconds.into())),
                )
            }
            Denial::Role => (
                StatusCode::FORBIDDEN,
                "this needs a token with the role operator".into(),
                challenge("Bearer realm=\"llm-lens admin\", error=\"insufficient_scope\""),
            ),
            Denial::CrossSite => (
                StatusCode::FORBIDDEN,
                "a page of another origin cannot make changes".into(),
                None,
            ),
        };
        ApiError { field, ..ApiError::new(status, "", message) }
    }

    /// 400: a parameter is wrong.
    pub fn bad(param: &'static str, message: String) -> Self {
        ApiError::new(StatusCode::BAD_REQUEST, param, message)
    }

    /// 403: the page is not for this client.
    pub fn forbidden(message: String) -> Self {
        ApiError::new(StatusCode::FORBIDDEN, "", message)
    }

    /// 421: the listener does not serve the `Host`.
    pub fn wrong_host(host: &str) -> Self {
        let message = format!(
            "the admin listener does not serve the host {host:?}; use an IP address or localhost, or add the name to admin.hosts"
        );
        ApiError::new(StatusCode::MISDIRECTED_REQUEST, "host", message)
    }

    /// 503: the page cannot be served at the moment.
    pub fn unavailable(message: String) -> Self {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "", message)
    }

    /// 413: the body is too large.
    pub fn too_large(message: String) -> Self {
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "", message)
    }

    /// 429: the client has too many requests in progress.
    pub fn too_many(message: &str) -> Self {
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, "", message.to_owned())
    }

    /// 502: what the page calls does not answer.
    pub fn bad_gateway(message: String) -> Self {
        ApiError::new(StatusCode::BAD_GATEWAY, "", message)
    }

    /// What is wrong, and what to do.
    pub fn message(&self) -> String {
        self.message.clone()
    }

    /// 404: there is no such page.
    pub fn not_found(message: &str) -> Self {
        ApiError::new(StatusCode::NOT_FOUND, "", message.to_owned())
    }

    /// 410: there was such a page.
    pub fn gone(message: String) -> Self {
        ApiError::new(StatusCode::GONE, "", message)
    }

    /// 405: the page does not support the method.
    pub fn method_not_allowed() -> Self {
        let message = "this path does not support the method; GET / lists all paths".into();
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "", message)
    }

    /// 500: the page failed.
    pub fn internal() -> Self {
        let message = "internal error; the log has the cause".into();
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let param = Some(self.param).filter(|param| !param.is_empty());
        let body = json!({"error": {"message": self.message, "param": param}}).to_string();
        let kind = [(header::CONTENT_TYPE, "application/json")];
        let mut answer = (self.status, kind, body).into_response();
        answer.headers_mut().extend(self.field);
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(uri: &str) -> Result<Params, ApiError> {
        let (mut parts, ()) =
            axum::http::Request::builder().uri(uri).body(()).expect("a request").into_parts();
        Params::from_request_parts(&mut parts, &()).await
    }

    #[tokio::test]
    async fn parameters_are_decoded_and_numbers_are_checked() {
        let params = read("/api?route=a%2Fb+c&limit=7&tools=true&header=1").await.expect("a query");
        assert_eq!((params.get("route"), params.get("other")), (Some("a/b c"), None));
        assert_eq!(
            (params.number("limit", 1).ok(), params.number("more", 1).ok()),
            (Some(7), Some(1))
        );
        assert!(params.is_true("tools") && !params.is_true("header"));
        let wrong = read("/api?limit=-1")
            .await
            .expect("a query")
            .number("limit", 1)
            .expect_err("not whole");
        assert_eq!((wrong.status, wrong.param), (StatusCode::BAD_REQUEST, "limit"));
        assert!(read("/api").await.expect("no query").get("limit").is_none());
    }

    #[tokio::test]
    async fn unknown_parameters_are_refused_and_the_known_ones_named() {
        let params = read("/api?limit=7&rout=x").await.expect("a query");
        let error = params.check(&["limit", "route"]).expect_err("it is unknown");
        assert_eq!(error.status, StatusCode::BAD_REQUEST);
        assert_eq!(error.message, "unknown parameter \"rout\"; known: limit, route");
        assert!(params.check(&["limit", "rout"]).is_ok());
        assert!(read("/api").await.expect("no query").check(&[]).is_ok());
    }
}
