use http::HeaderValue;

use super::*;
use crate::cookie::{NAME, session_cookie};

const OPS: &str = "the-token-of-operators";
const GRAFANA: &str = "the-token-of-grafana";

fn settings(tokens: &str) -> AdminAuth {
    let text = format!(
        "admin: {{auth: {{tokens: [{tokens}]}}}}\nbackends: [{{name: b, url: 'http://127.0.0.1:1'}}]\n\
         routes: [{{name: r, backend: b}}]\n"
    );
    let settings = config::parse("test", &text).unwrap_or_else(|problems| panic!("{problems}"));
    settings.admin.auth.expect("it is set")
}

fn both() -> AdminAuth {
    let ops = format!("{{name: ops, token: {OPS}, role: operator}}");
    settings(&format!("{ops}, {{name: grafana, token: {GRAFANA}}}"))
}

fn with(name: header::HeaderName, value: &str) -> HeaderMap {
    HeaderMap::from_iter([(name, HeaderValue::from_str(value).expect("a value"))])
}

fn with_token(token: &str) -> HeaderMap {
    with(header::AUTHORIZATION, &format!("Bearer {token}"))
}

fn at(seconds: u64) -> Tick {
    Tick::from_micros(seconds * 1_000_000)
}

fn client() -> Option<IpAddr> {
    Some(IpAddr::from([192, 0, 2, 1]))
}

#[test]
fn tokens_have_names_and_roles_and_others_are_denied() {
    let (access, settings) = (Access::default(), both());
    let check = |headers| access.authenticate(&settings, &headers, client(), at(0));
    for (token, name, role) in
        [(OPS, "ops", AdminRole::Operator), (GRAFANA, "grafana", AdminRole::Viewer)]
    {
        let grant = check(with_token(token)).expect("a token of the settings");
        assert_eq!((&*grant.name, grant.role, grant.session_left), (name, role, None));
    }
    assert!(check(with(header::AUTHORIZATION, &format!("bEARER  {OPS} "))).is_ok());
    for wrong in ["", "x", &OPS[1..], &OPS[..OPS.len() - 1], &format!("{OPS}x"), "ops"] {
        assert_eq!(check(with_token(wrong)).expect_err(wrong), Denial::WrongToken);
    }
    for none in ["", "Basic b3BzOnRoZS10b2tlbg==", OPS] {
        let denied = check(with(header::AUTHORIZATION, none)).expect_err(none);
        assert_eq!(denied, Denial::NoCredential);
    }
    assert_eq!(check(HeaderMap::new()).expect_err("no field"), Denial::NoCredential);
}

#[test]
fn a_cookie_stands_for_its_token_until_sign_out() {
    let (access, settings) = (Access::default(), both());
    let (id, grant) = access.sign_in(&settings, GRAFANA, client(), at(0)).expect("a token");
    assert_eq!((&*grant.name, grant.session_left), ("grafana", Some(settings.session)));
    let cookie = session_cookie(&id, settings.session, true);
    assert!(!cookie.contains(GRAFANA) && cookie.starts_with(&format!("{NAME}=")));
    assert!(cookie.ends_with("; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict; Secure"));
    let headers = with(header::COOKIE, &format!("other=1; {NAME}=old; {NAME}={}", id.reveal()));
    let check = |now| access.authenticate(&settings, &headers, client(), now);
    assert_eq!(check(at(43_199)).expect("open").session_left, Some(Duration::from_secs(1)));
    assert_eq!(check(at(43_200)).expect_err("expired"), Denial::NoCredential);
    let grant = check(at(1)).expect("open");
    assert!(access.is_valid(Some(&settings), &grant, at(1)));
    access.sign_out(&grant);
    assert!(check(at(1)).is_err() && !access.is_valid(Some(&settings), &grant, at(1)));
}

#[test]
fn removed_tokens_and_lower_roles_end_grants_at_once() {
    let (access, before) = (Access::default(), both());
    let (id, session) = access.sign_in(&before, OPS, client(), at(0)).expect("a token");
    let token = access.authenticate(&before, &with_token(OPS), client(), at(0)).expect("a token");
    let headers = with(header::COOKIE, &format!("{NAME}={}", id.reveal()));
    let without = settings(&format!("{{name: ops, token: {GRAFANA}, role: operator}}"));
    let lower = settings(&format!("{{name: ops, token: {OPS}}}"));
    for after in [&without, &lower] {
        assert!(!access.is_valid(Some(after), &session, at(1)));
        assert!(!access.is_valid(Some(after), &token, at(1)));
    }
    assert!(access.authenticate(&without, &headers, client(), at(1)).is_err());
    let grant = access.authenticate(&lower, &headers, client(), at(1)).expect("still a token");
    assert_eq!(grant.role, AdminRole::Viewer);
    assert!(access.is_valid(None, &session, at(1)), "authentication was removed");
}

#[test]
fn an_address_runs_out_of_attempts_and_its_sessions_stay() {
    let (access, settings) = (Access::default(), both());
    let (id, _) = access.sign_in(&settings, OPS, client(), at(0)).expect("a token");
    let wrong = |now| access.authenticate(&settings, &with_token("wrong"), client(), now);
    while wrong(at(0)).expect_err("wrong") == Denial::WrongToken {}
    // Even the right token is not checked, or guesses would not be bounded.
    let right = access.authenticate(&settings, &with_token(OPS), client(), at(1));
    let wait = Duration::from_secs(4);
    assert_eq!(right.expect_err("limited"), Denial::TooManyAttempts { wait });
    assert!(access.sign_in(&settings, OPS, client(), at(1)).is_err());
    let cookie = with(header::COOKIE, &format!("{NAME}={}", id.reveal()));
    assert!(access.authenticate(&settings, &cookie, client(), at(1)).is_ok());
    let other = Some(IpAddr::from([192, 0, 2, 2]));
    assert!(access.authenticate(&settings, &with_token(OPS), other, at(1)).is_ok());
    assert!(access.authenticate(&settings, &with_token(OPS), client(), at(5)).is_ok());
    let value = |reason: &str| {
        let all = samples_of(&access, &settings);
        all.into_iter().find(|(name, _)| name == reason).map(|(_, value)| value)
    };
    assert_eq!((value("wrong_token"), value("too_many_attempts")), (Some(20.0), Some(3.0)));
    assert_eq!(value("llm_lens_admin_sessions"), Some(1.0));
}

fn samples_of(access: &Access, settings: &AdminAuth) -> Vec<(String, f64)> {
    let mut samples = Samples::default();
    access.observe(Some(settings), at(5), &mut samples);
    let name = |sample: &lens::observe::Sample| {
        sample.labels.first().map_or(sample.name.to_owned(), |(_, value)| value.clone())
    };
    samples.into_vec().iter().map(|sample| (name(sample), sample.value)).collect()
}

#[test]
fn nothing_shows_a_secret() {
    let (access, settings) = (Access::default(), both());
    let signed_in = access.sign_in(&settings, OPS, client(), at(0)).expect("a token");
    let shown = format!("{access:?} {signed_in:?} {settings:?}");
    assert!(!shown.contains(OPS) && !shown.contains(signed_in.0.reveal()), "{shown}");
}
