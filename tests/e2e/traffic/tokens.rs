//! JWTs of an identity provider, signed with a key made by openssl.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use kit::gateway::folder;
use kit::{Engine, Gateway, sse};
use serde_json::{Value, json};

use super::{CHAT, bearer, request};
use crate::support::{eventually, settings};

/// An Ed25519 key of an issuer.
struct Signer {
    folder: PathBuf,
    kid: &'static str,
}

impl Signer {
    fn new(kid: &'static str) -> Signer {
        let folder = folder();
        run(&folder, "genpkey -algorithm ed25519 -out key.pem");
        run(&folder, "pkey -in key.pem -pubout -outform DER -out public.der");
        Signer { folder, kid }
    }

    fn jwk(&self) -> Value {
        let public = std::fs::read(self.folder.join("public.der")).expect("it is there");
        json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": self.kid, "x": base64url(&public[public.len() - 32..])})
    }

    fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({"alg": "EdDSA", "typ": "JWT", "kid": self.kid}), claims)
    }

    fn token_with(&self, header: &Value, claims: &Value) -> String {
        let text = format!(
            "{}.{}",
            base64url(header.to_string().as_bytes()),
            base64url(claims.to_string().as_bytes())
        );
        std::fs::write(self.folder.join("text"), &text).expect("it is writable");
        run(&self.folder, "pkeyutl -sign -inkey key.pem -rawin -in text -out signature");
        format!(
            "{text}.{}",
            base64url(&std::fs::read(self.folder.join("signature")).expect("it is there"))
        )
    }
}

fn run(folder: &Path, arguments: &str) {
    let done = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .stderr(Stdio::null())
        .status()
        .expect("openssl runs");
    assert!(done.success(), "openssl {arguments}");
}

fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for piece in bytes.chunks(3) {
        let bits = piece.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - piece.len()));
        (0..=piece.len())
            .for_each(|at| out.push(char::from(DIGITS[(bits >> (18 - 6 * at) & 63) as usize])));
    }
    out
}

fn in_seconds(seconds: i64) -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64 + seconds
}

fn claims() -> Value {
    json!({"iss": "https://id.example", "aud": "llm", "sub": "ada", "team": "search", "models": ["m"], "exp": in_seconds(300)})
}

fn with(change: Value) -> Value {
    let mut claims = claims();
    for (name, value) in change.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    claims
}

async fn status(gateway: &Gateway, token: &str) -> (u16, String) {
    let mut client = gateway.client().await;
    client
        .post(CHAT, &format!("x-request-id: {}\r\n{}", token.len(), bearer(token)), &request(""))
        .await;
    let answer = client.answer().await;
    (answer.status, if answer.status == 200 { String::new() } else { answer.error_code() })
}

/// An issuer with its key set, a gateway that accepts its tokens, and an accepted token.
struct Issued {
    engine: Engine,
    provider: Engine,
    gateway: Gateway,
    old: Signer,
    new: Signer,
    rotated: Arc<AtomicBool>,
    good: String,
}

async fn issued() -> Issued {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let (old, new) = (Signer::new("one"), Signer::new("two"));
    let (rotated, sets) = (
        Arc::new(AtomicBool::new(false)),
        [json!({"keys": [old.jwk()]}), json!({"keys": [new.jwk()]})],
    );
    let provider = {
        let rotated = rotated.clone();
        Engine::start(move |_| {
            sse::json(200, &sets[usize::from(rotated.load(Ordering::Relaxed))].to_string())
        })
        .await
    };
    let auth = format!(
        "auth: {{jwt: [{{issuer: 'https://id.example', audience: llm, jwks: '{}/keys', owner_claim: team, models_claim: models}}]}}",
        provider.url()
    );
    let gateway =
        Gateway::with_settings(&settings(&engine.url(), ", models: [m]", "", &auth)).await;
    let good = old.token(&claims());
    // The start waits for the keys.
    let said = status(&gateway, &good).await;
    assert_eq!(said.0, 200, "{said:?}");
    Issued { engine, provider, gateway, old, new, rotated, good }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_authenticate_the_caller() {
    let Issued { engine, gateway, old, good, .. } = issued().await;
    let record = gateway.record(&good.len().to_string()).await;
    assert_eq!(
        (record.owner.as_deref(), record.caller.as_deref()),
        (Some("search"), Some("https://id.example#ada"))
    );
    assert!(engine.seen().iter().all(|seen| !seen.head.contains(&good)), "the token stays here");

    let forged = format!("{}.{}", good.rsplit_once('.').expect("three parts").0, "A".repeat(86));
    let none = format!(
        "{}.{}.",
        base64url(json!({"alg": "none", "kid": "one"}).to_string().as_bytes()),
        base64url(claims().to_string().as_bytes())
    );
    for (what, token, want) in [
        ("expired", old.token(&with(json!({"exp": in_seconds(-300)}))), 401),
        ("not yet valid", old.token(&with(json!({"nbf": in_seconds(300)}))), 401),
        ("of another issuer", old.token(&with(json!({"iss": "https://evil.example"}))), 401),
        ("for another audience", old.token(&with(json!({"aud": "mail"}))), 401),
        ("without an end", old.token(&with(json!({"exp": null}))), 401),
        ("whose end is a text", old.token(&with(json!({"exp": "never"}))), 401),
        ("without owner", old.token(&with(json!({"team": ""}))), 401),
        ("forged", forged, 401),
        ("of no algorithm", none, 401),
        (
            "signed as if with a secret",
            old.token_with(&json!({"alg": "HS256", "kid": "one"}), &claims()),
            401,
        ),
        ("for another model", old.token(&with(json!({"models": ["x"]}))), 403),
        ("for no model", old.token(&with(json!({"models": []}))), 401),
    ] {
        assert_eq!(status(&gateway, &token).await.0, want, "a token {what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_a_removed_key_are_refused() {
    let Issued { provider, gateway, old, new, rotated, good, .. } = issued().await;
    // The issuer changes its key: new tokens are accepted soon, old ones are refused.
    rotated.store(true, Ordering::Relaxed);
    let fresh = new.token(&claims());
    eventually("the new key is fetched", || {
        let (address, fresh) = (gateway.address(), fresh.clone());
        let ask = move || {
            use std::io::{Read, Write};
            let mut socket = std::net::TcpStream::connect(address).ok()?;
            let body = request("");
            write!(
                socket,
                "POST {CHAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n{}\r\n{body}",
                body.len(),
                bearer(&fresh)
            )
            .ok()?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer).ok()?;
            answer.get(9..12).map(str::to_owned)
        };
        std::thread::spawn(ask).join().ok().flatten().as_deref() == Some("200")
    })
    .await;
    assert_eq!(status(&gateway, &good).await.0, 401, "what the old key signed is nothing any more");
    // An unknown key id causes a fetch now and then, not each time.
    let before = provider.seen().len();
    for at in 0..30 {
        status(
            &gateway,
            &Signer { folder: old.folder.clone(), kid: "three" }
                .token(&with(json!({"sub": at.to_string()}))),
        )
        .await;
    }
    assert!(provider.seen().len() <= before + 2, "{} fetches", provider.seen().len() - before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_without_the_keys_of_an_issuer_is_not_ready() {
    use crate::raw::{Folder, Process, free_address, send_raw, settings_at};
    let (address, admin, provider) = (free_address(), free_address(), free_address());
    let auth = format!(
        "auth: {{jwt: [{{issuer: 'https://id.example', audience: llm, jwks: 'http://{provider}/keys'}}]}}"
    );
    let folder = Folder::new();
    let text = settings_at(address, admin, "http://127.0.0.1:9", &auth);
    let file = folder.file("gateway.yaml", text);
    let mut gateway = Process::start(&file, "off", Stdio::null(), Stdio::null());
    gateway.accepts(admin).await;
    let heard = send_raw(admin, "GET /readyz?backends=ignore HTTP/1.0\r\n\r\n").await;
    assert_eq!(heard.statuses, [503], "{}", heard.text);
    assert!(heard.text.contains("the keys of issuer https://id.example"), "{}", heard.text);
}
