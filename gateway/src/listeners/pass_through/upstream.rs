//! The backend's side of a request that pingora forwards: its peer, the fields about the client,
//! and what follows from a failure.

use lens::record::Outcome;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};
use pipeline::exchange::{Exchange, Routed};
use pipeline::stage::{call_log, select};
use plan::forwarded::{self, Peer};
use routing::AttemptResult;

use super::respond::upstream_refusal;
use super::{FOREVER, Passing, nonzero};

/// The peer of the selected backend, with a permit for its connection.
pub(super) async fn find_peer(ctx: &mut Passing) -> Result<Box<HttpPeer>> {
    let routed = ctx.exchange.as_ref().and_then(|e| e.routed.as_ref());
    let Some(routed) = routed else {
        return Error::e_explain(ErrorType::InternalError, "no route");
    };
    let Some(upstream) = routed.upstream() else {
        return Error::e_explain(ErrorType::HTTPStatus(503), "no backend");
    };
    let timeouts = routed.route.route.timeouts;
    // Release the permit of a previous attempt first.
    ctx.permit = None;
    ctx.permit = upstream.permit();
    if ctx.permit.is_none() {
        return Error::e_explain(ErrorType::HTTPStatus(503), "all connections are in use");
    }
    let looked_up = tokio::time::timeout(
        nonzero(timeouts.connect).unwrap_or(FOREVER),
        transport::peer(upstream),
    )
    .await;
    let mut peer = match looked_up {
        Ok(Ok(peer)) => peer,
        Ok(Err(error)) => {
            return Error::e_because(
                ErrorType::ConnectError,
                "the backend's name has no address",
                error,
            );
        }
        Err(_) => {
            return Error::e_explain(
                ErrorType::ConnectTimedout,
                "resolving the backend's name took too long",
            );
        }
    };
    peer.options.connection_timeout = nonzero(timeouts.connect);
    peer.options.total_connection_timeout = nonzero(timeouts.connect);
    peer.options.read_timeout = nonzero(timeouts.first_byte);
    Ok(Box::new(peer))
}

/// Select another backend for a request that the backend has not received, or for a safe one whose
/// backend failed before its answer. The failure is recorded.
pub(super) fn selects_another(
    session: &Session,
    ctx: &mut Passing,
    (error, is_sent): (&Error, bool),
) -> bool {
    // The gateway's own connection limit proves nothing about the backend.
    let ended = match error.etype() {
        ErrorType::HTTPStatus(_) => AttemptResult::Unknown,
        _ => AttemptResult::Failure,
    };
    let code = upstream_refusal(error).code;
    (is_safe(session) || !is_sent) && select_next(session, ctx, (code, None, ended))
}

/// Select another backend for a safe request that this one refused. The refusal is recorded.
pub(super) fn retries_refused(session: &Session, ctx: &mut Passing, status: u16) -> bool {
    let Some(exchange) = &ctx.exchange else { return false };
    let upstream = exchange.routed.as_ref().and_then(Routed::upstream);
    let is_retryable = upstream.is_some_and(|upstream| upstream.is_retryable(status));
    let failure = (&*format!("http_{status}"), Some(status), exchange.fault(status));
    is_retryable && is_safe(session) && select_next(session, ctx, failure)
}

fn is_safe(session: &Session) -> bool {
    matches!(session.req_header().method.as_str(), "GET" | "HEAD")
}

fn select_next(
    session: &Session,
    ctx: &mut Passing,
    (code, status, ended): (&str, Option<u16>, AttemptResult),
) -> bool {
    let Some(exchange) = &mut ctx.exchange else { return false };
    let is_whole = !session.as_ref().retry_buffer_truncated();
    if session.response_written().is_some() || !is_whole || !select::may_retry(exchange) {
        return false;
    }
    select::record_failure(exchange, code, status, ended);
    exchange.attempts.passes = false;
    select::select(exchange).is_ok()
}

/// Replace the fields about the client, or remove them if the backend must not learn them.
pub(super) fn describe_client(request: &mut RequestHeader, peer: &Peer, send: bool) -> Result<()> {
    let mut own: Vec<(String, Vec<u8>)> = request
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect();
    // HTTP/2 may have the authority in place of the host.
    let authority = request.uri.authority().map(|name| name.as_str().as_bytes().to_vec());
    own.extend(authority.map(|name| ("host".to_owned(), name)));
    for (name, _) in own.iter().filter(|(name, _)| forwarded::is_replaced(name)) {
        request.remove_header(name.as_str());
    }
    if send {
        let fields = own.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        let mut sent = Vec::with_capacity(5);
        forwarded::fields(peer, fields, |name, value| sent.push((name, value.to_vec())));
        for (name, value) in sent {
            request.insert_header(name, value)?;
        }
    }
    Ok(())
}

/// Remove the backend's hop-by-hop fields. The framing is left for pingora to read.
pub(super) fn remove_hop_by_hop(response: &mut ResponseHeader) {
    let nominated: Vec<String> = response
        .headers
        .get_all("connection")
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| {
            !matches!(name.as_str(), "close" | "content-length" | "transfer-encoding" | "")
        })
        .collect();
    let known = [
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "upgrade",
    ];
    for name in known.into_iter().chain(nominated.iter().map(String::as_str)) {
        response.remove_header(name);
    }
}

/// Write a log line about a call that the backend failed.
pub(super) fn log_failure(exchange: &Exchange, error: &Error) {
    let is_fault = *error.esource() != pingora::ErrorSource::Downstream
        && matches!(exchange.verdict.outcome(), Some(Outcome::UpstreamFailed | Outcome::Timeout));
    let (Some(routed), Some(code), true) =
        (&exchange.routed, exchange.verdict.code.as_deref(), is_fault)
    else {
        return;
    };
    let Some(backend) = routed.upstream().map(|upstream| &upstream.backend.name) else { return };
    call_log::log_failure(exchange, backend, code, &error.to_string());
}
