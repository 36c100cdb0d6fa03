//! The gateway's own answers on pingora's sessions.

use http1::head::{Head, RequestLine};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};
use pipeline::ExchangeGuard;
use pipeline::exchange::{Exchange, ShownCredential};
use pipeline::stage::models;
use plan::current_request;
use refusal::Refusal;
use relay::Failure;

use super::UNREADABLE;

/// Answer a CORS preflight.
pub(super) async fn allow(session: &mut Session, fields: String) -> Result<()> {
    let mut header = ResponseHeader::build(200, Some(8))?;
    header.insert_header("content-length", "0")?;
    for (name, value) in fields.lines().filter_map(|line| line.split_once(": ")) {
        header.insert_header(name.to_owned(), value)?;
    }
    session.write_response_header(Box::new(header), true).await
}

/// Answer a request for models.
pub(super) async fn answer_models(
    session: &mut Session,
    exchange: &mut ExchangeGuard,
    head: &Head<'_, RequestLine<'_>>,
    shown: Option<ShownCredential>,
) -> Result<()> {
    let id = exchange.accepted.id.clone();
    match current_request::scope(id, models::list(exchange, head, shown)).await {
        Ok(body) => answer(session, exchange, (200, ""), body).await,
        Err(refusal) => refuse(session, exchange, &refusal).await,
    }
}

/// Send an error of the gateway on pingora's session, and close the connection, because the request
/// may be partly unread.
pub(super) async fn refuse(
    session: &mut Session,
    exchange: &mut Exchange,
    refusal: &Refusal,
) -> Result<()> {
    exchange.verdict.decide(refusal.outcome, Some(refusal.code));
    exchange.answer.status = Some(refusal.status);
    session.set_keepalive(None);
    let body = exchange.accepted.errors.body(&refusal.error(&exchange.accepted.id));
    answer(session, exchange, (refusal.status, &refusal.fields), body).await
}

/// Send a JSON answer of the gateway on pingora's session.
async fn answer(
    session: &mut Session,
    exchange: &Exchange,
    (status, fields): (u16, &str),
    body: String,
) -> Result<()> {
    let accepted = &exchange.accepted;
    let mut header = ResponseHeader::build(status, Some(8))?;
    header.insert_header("content-type", "application/json")?;
    let cors = exchange.cors.as_deref().unwrap_or_default();
    let fields = fields.lines().chain(cors.lines());
    for (name, value) in fields.filter_map(|line| line.split_once(": ")) {
        header.insert_header(name.to_owned(), value)?;
    }
    header.insert_header("content-length", body.len().to_string())?;
    header.insert_header("x-request-id", &*accepted.id)?;
    if let Some(name) = accepted.errors.id_field() {
        header.insert_header(name, &*accepted.id)?;
    }
    // The answer to HEAD has no body.
    let has_body = session.req_header().method != "HEAD";
    session.write_response_header(Box::new(header), !has_body).await?;
    if has_body {
        session.write_response_body(Some(body.into()), true).await?;
    }
    Ok(())
}

/// The answer for an error of the backend.
pub(super) fn upstream_refusal(error: &Error) -> Refusal {
    match error.etype() {
        ErrorType::HTTPStatus(503) => Refusal::busy(),
        ErrorType::ConnectTimedout => Refusal::connect_timeout(),
        ErrorType::ReadTimedout => Refusal::from(&Failure::FirstByteTimeout),
        ErrorType::Custom(UNREADABLE) => Refusal::from(&Failure::Unreadable),
        ErrorType::InvalidHTTPHeader => Refusal::upstream_invalid(),
        kind if kind.as_str().contains("Connect") && *kind != ErrorType::ConnectionClosed => {
            Refusal::connect_failed()
        }
        _ => Refusal::upstream_closed(),
    }
}
