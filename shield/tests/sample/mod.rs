//! Rules for the tests and measurements of the scanner; the real ones are the tables'.

use std::borrow::Cow::Borrowed;
use std::sync::LazyLock;

use shield::finding::Family;
use shield::pattern::Pattern;

fn rule(
    rule: &'static str,
    kind: &'static str,
    family: Family,
    regex: &'static str,
    longest: usize,
) -> Pattern {
    Pattern {
        rule: Borrowed(rule),
        kind: Borrowed(kind),
        family,
        regex: Borrowed(regex),
        longest,
        check: None,
        score: 0.9,
        context: None,
        close: false,
    }
}

use Family::{Pii, Secret};

/// A dozen rules of all shapes: wide starts, literal prefixes, checks, context words, long bodies,
/// look-behind.
pub static RULES: LazyLock<Vec<Pattern>> = LazyLock::new(|| {
    vec![
        rule(
            "pii.email",
            "EMAIL_ADDRESS",
            Pii,
            r"[A-Za-z0-9_%+-][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}",
            320,
        ),
        Pattern {
            check: Some(luhn),
            ..rule("pii.card", "CREDIT_CARD", Pii, r"[0-9](?:[ -]?[0-9]){12,18}", 40)
        },
        Pattern {
            score: 0.3,
            context: Some((&["ssn", "social security"], 0.9)),
            ..rule("pii.ssn", "US_SSN", Pii, r"[0-9]{3}-?[0-9]{2}-?[0-9]{4}", 11)
        },
        rule(
            "pii.phone",
            "PHONE_NUMBER",
            Pii,
            r"\+[0-9]{1,3}[ -]?(?:\([0-9]{1,4}\)[ -]?)?[0-9]{2,4}(?:[ -]?[0-9]{2,4}){1,4}",
            40,
        ),
        rule("pii.ip", "IP_ADDRESS", Pii, r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}", 15),
        rule(
            "pii.iban",
            "IBAN",
            Pii,
            r"[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?",
            42,
        ),
        rule("secret.aws", "AWS_ACCESS_KEY", Secret, r"AKIA[A-Z0-9]{16}", 20),
        rule("secret.github", "GITHUB_TOKEN", Secret, r"gh[pousr]_[A-Za-z0-9]{36}", 40),
        rule("secret.openai", "API_KEY", Secret, r"sk-[A-Za-z0-9_-]{20,200}", 203),
        rule(
            "secret.jwt",
            "JWT",
            Secret,
            r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
            4096,
        ),
        rule(
            "secret.pem",
            "PRIVATE_KEY",
            Secret,
            r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----[A-Za-z0-9+/=\s]{16,}-----END [A-Z ]{0,20}PRIVATE KEY-----",
            8192,
        ),
        rule(
            "secret.password",
            "PASSWORD",
            Secret,
            r#"(?i-u:password|passwd|pwd)["']?[ ]{0,2}[:=][ ]{0,2}["']?[!-~]{8,64}"#,
            96,
        ),
        Pattern {
            check: Some(mixed),
            score: 0.4,
            context: Some((&["key", "token", "secret"], 0.7)),
            ..rule("secret.generic", "SECRET", Secret, r"[A-Za-z0-9_-]{32,128}", 128)
        },
        rule("pii.handle", "NAME", Pii, r"Señor [A-Z](?:[a-z]|é){2,12}", 40),
    ]
});

/// The check digit of card numbers.
fn luhn(text: &str) -> bool {
    let digits = text.bytes().rev().filter(u8::is_ascii_digit).map(|byte| u32::from(byte - b'0'));
    let sum: u32 = digits
        .enumerate()
        .map(|(at, digit)| if at % 2 == 0 { digit } else { digit * 2 - 9 * u32::from(digit > 4) })
        .sum();
    sum.is_multiple_of(10)
}

/// Letters and digits both.
fn mixed(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_digit())
        && text.bytes().any(|byte| byte.is_ascii_alphabetic())
}
