//! Values assigned to a name that identifies them as credentials.
//!
//! - *In*: nothing; a table and its checks.
//! - *Out*: `password = "..."`, `api_key: ...`, `--token ...`. The span includes the name, because
//!   only the name identifies the value.
//! - *Never*: code that fetches a credential, prose about one, or a stand-in.

use super::checks::{
    entropy, identifier, looks_generated, mixed_hex, no_random_uuid, stands_in, strong,
};
use crate::pattern::Pattern;
use crate::table::{LONG, secret};

macro_rules! pass {
    () => {
        r"(?i:(?:pg|db|my|user|root|admin|smtp|username)?password|passwd|passphrase|pwd|passwort|dbpass|pass)"
    };
}
macro_rules! key {
    () => {
        concat!(
            r"(?i:(?:client|app|jwt|auth|access|api)?(?:secret|token)(?:[_\-. ]?access)?(?:[_\-. ]?(?:key|token))?|",
            r"(?:api|access|private|license|licence|signing|encryption|auth|developer|deploy|master|preshared|facebook|github|account)[_\-. ]?key(?:sid)?|",
            r"sonar\.login|crumb|pat)"
        )
    };
}
macro_rules! operator {
    () => {
        r"[\x22'\]]{0,2}[ \t]{0,12}(?::=|=>|===|==|=|:)[ \t]{0,12}"
    };
}
macro_rules! quoted {
    () => {
        r"(?:\x22[ !#-~]{4,200}\x22|'[ -&(-~]{4,200}'|`[ -_a-~]{4,200}`|\x22[!#-~]{4,}\x22|'[!-&(-~]{4,}')"
    };
}

const PASS_QUOTED: &str = concat!(pass!(), operator!(), quoted!());
const PASS_NAKED: &str =
    concat!(pass!(), r"[ \t]{0,8}[=:][ \t]{0,8}", r"[!#-&*+\-./0-9:=?@A-Z^_a-z~]{5,}");
const PASS_PROSE: &str = concat!(
    pass!(),
    r"(?i: (?:is|was|for the user [\x22'][A-Za-z0-9_.\-]{1,32}[\x22'] is|to))? [\x22'][!#-&(-~]{4,64}[\x22']"
);
const KEY_QUOTED: &str = concat!(key!(), operator!(), quoted!());
const KEY_NAKED: &str =
    concat!(key!(), r"(?:[ \t]{0,8}[=:][ \t]{0,8}| )", r"[!#-&*+\-./0-9:=?@A-Z^_a-z~|]{12,}");

/// A name that ends with a bare word for a key, as in `STRIPE_KEY`, `"access": `, and a value that
/// may begin or end with a quotation mark. The value must be random.
const NAMED: &str = concat!(
    r"(?i:key|token|secret|access|private|apikey|auth|credential|sessionid|session|sid|sig|signature|secret_key_base|pwd|pass|password)",
    r"[\x22'\]]{0,2}[ \t]{0,4}(?::=|=>|=|:)[ \t]{0,4}[\x22'`]?[A-Za-z0-9][A-Za-z0-9_\-+/=.~%]{15,}"
);
/// A word for a password in some language, and a value after it.
const WORDS: &str = concat!(
    r"(?:[Pp]asswort|[Kk]ennwort|[Cc]ontrase(?:\xC3\xB1|n)a|[Mm]ot de passe|[Ss]enha|[Pp]arola|[Hh]as(?:\xC5\x82|l)o|[Ww]achtwoord|[Ss]alasana|[Ll](?:\xC3\xB6|o)senord|",
    r"[Aa]dgangskode|[Hh]eslo|[Jj]elsz(?:\xC3\xB3|o)|(?:\xC5\x9F|\xC5\x9E|S|s)ifre|\xD0[\xBF\x9F]\xD0\xB0\xD1\x80\xD0\xBE\xD0\xBB\xD1\x8C|",
    r"\xE5\xAF\x86\xE7\xA0\x81|\xE5\x8F\xA3\xE4\xBB\xA4|\xE3\x83\x91\xE3\x82\xB9\xE3\x83\xAF\xE3\x83\xBC\xE3\x83\x89|\xEB\xB9\x84\xEB\xB0\x80\xEB\xB2\x88\xED\x98\xB8)",
    r"(?: ?[:=] ?|\xEF\xBC\x9A ?| (?:ist|is|es|est|\xC3\xA9|e|to|jest|\xD1\x8D\xD1\x82\xD0\xBE)? ?[:=]? ?|\xE3\x81\xAF|\xE6\x98\xAF)[\x22'`]?[!#-&(-+\--.0-9:=?@A-Z^_a-z~]{8,80}"
);
/// The element of a document.
const ELEMENT: &str = r"<(?i:[a-z_:\-]{0,20}(?:password|passwd|pwd|secret|token|apikey|api_key|accesskey))>[ -;=-~]{6,200}</";
/// The option of a command line: `--password X`, `-pX` of MySQL, `--token X`.
const OPTION: &str = concat!(
    r"(?:--(?i:[a-z\-]{0,20}(?:password|passwd|pass|secret|token|api-key|apikey|access-key))(?:=| )[\x22'\\]{0,3}[!#-&(-~]{8,200}",
    r"|(?:mysql|mysqldump|mysqladmin|mariadb)[ -~]{1,80} -p[!#-&(-~]{6,80})"
);

const NETRC: &str = r"(?i:login|username|user)[ \t]{1,8}[!-~]{1,64}[ \t\r\n]{1,8}(?i:password|passwd)[ \t]{1,8}[!-~]{4,100}";

/// Score of a value that looks generated, or chosen under a rule that requires a digit.
const STRONG: f32 = 0.75;
/// Score of a value that is a word. Examples of code are full of such passwords.
const WORD: f32 = 0.55;

/// The table.
#[rustfmt::skip]
pub(crate) const PATTERNS: &[Pattern] = &[
    secret("secret.password_quoted", "GENERIC_SECRET", PASS_QUOTED, LONG, Some(|t| in_quotes(t).is_some_and(strong) && pass_quoted(t)), STRONG),
    secret("secret.password_quoted_word", "GENERIC_SECRET", PASS_QUOTED, LONG, Some(|t| !in_quotes(t).is_some_and(strong) && pass_quoted(t)), WORD),
    secret("secret.password_naked", "GENERIC_SECRET", PASS_NAKED, LONG, Some(|t| strong(after_operator(t)) && pass_naked(t)), STRONG),
    secret("secret.password_naked_word", "GENERIC_SECRET", PASS_NAKED, LONG, Some(|t| !strong(after_operator(t)) && pass_naked(t)), WORD),
    secret("secret.password_prose", "GENERIC_SECRET", PASS_PROSE, 150, Some(|t| pass_prose(t) && in_quotes(t).is_some_and(strong)), STRONG),
    secret("secret.password_prose_word", "GENERIC_SECRET", PASS_PROSE, 150, Some(|t| pass_prose(t) && !in_quotes(t).is_some_and(strong)), WORD),
    secret("secret.key_quoted", "GENERIC_SECRET", KEY_QUOTED, LONG, Some(key_quoted), STRONG),
    secret("secret.key_naked", "GENERIC_SECRET", KEY_NAKED, LONG, Some(key_naked), STRONG),
    secret("secret.key_named", "GENERIC_SECRET", NAMED, LONG, Some(key_named), STRONG),
    secret("secret.password_words", "GENERIC_SECRET", WORDS, 140, Some(password_words), STRONG),
    secret("secret.element", "GENERIC_SECRET", ELEMENT, 260, Some(element), STRONG),
    secret("secret.option", "GENERIC_SECRET", OPTION, 330, Some(option), STRONG),
    secret("secret.netrc", "GENERIC_SECRET", NETRC, 260, Some(netrc), 0.7),
    secret("secret.password_option", "GENERIC_SECRET", r"(?i:psexec)[!-~ ]{1,80} -p [A-Za-z0-9!@#%^&*_\-]{4,64}", 160, None, 0.6),
];

/// The quoted value at the end.
fn in_quotes(text: &str) -> Option<&str> {
    let quote = text.chars().next_back()?;
    let inner = text.get(..text.len() - quote.len_utf8())?;
    inner.rsplit_once(quote).map(|(_, value)| value.trim_matches(['"', '\'']))
}

/// The value after the operator.
fn after_operator(text: &str) -> &str {
    let value = text.split_once(['=', ':']).map_or(text, |(_, v)| v);
    value.trim_start_matches(['=', ':', '>', ' ', '\t', '"', '\''])
}

/// Words for the absence or the kind of a value.
#[rustfmt::skip]
const TYPES: &[&str] = &[
    "null", "none", "nil", "true", "false", "string", "str", "text", "undefined", "required",
    "optional", "empty", "password", "passwd", "not-set", "notset", "unset", "default", "bearer",
    "basic", "input", "hidden", "confirm", "invalid", "incorrect", "forgot",
];

/// Words and slashes: a path inside a program.
fn route(value: &str) -> bool {
    value.contains('/') && !value.bytes().any(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
}

/// Whether a value is code, a selector, a path, an ARN or a type: not a credential.
fn evaluated(value: &str) -> bool {
    let starts = [
        "$", "#", "%", "{", "(", "[", "&", "@", "*", "arn:", "http", "/", "process.", "os.",
        "env.", "request.", "self.", "this.", "get", "./",
    ];
    let lower = value.to_ascii_lowercase();
    starts.iter().any(|s| lower.starts_with(s))
        || value.contains(['(', '[', '{']) && value.contains([')', ']', '}'])
        || TYPES.contains(&lower.as_str())
        || route(value)
}

fn pass_quoted(text: &str) -> bool {
    let Some(value) = in_quotes(text) else { return false };
    let prose = value.split(' ').count() > 2
        || value.ends_with(['.', ':', '?', ',', ';'])
        || value.starts_with([' ', ',', ';']);
    // A quoted identifier can be the name of a field; without quotes, it is the value.
    !prose && !evaluated(value) && !stands_in(value) && !identifier(value) && entropy(value) >= 1.5
}

/// With `=`, any word counts. With `:`, the value needs a digit or a sign, because it may be prose.
fn pass_naked(text: &str) -> bool {
    let value = after_operator(text);
    let told = text.contains('=')
        || value
            .bytes()
            .any(|b| b.is_ascii_digit() || matches!(b, b'!' | b'@' | b'$' | b'#' | b'^'));
    let reference = value.contains('.')
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_'));
    let loose = value.len() >= 5
        && !value.ends_with(['.', ',', '?', ':', '=', '('])
        && entropy(value) >= 1.5;
    told && loose && !reference && !evaluated(value) && !stands_in(value) && !value.ends_with(';')
}

/// `login bob password hunter22`, as in `.netrc`: the password is the last word and has a digit.
fn netrc(text: &str) -> bool {
    let value = text.rsplit([' ', '\t']).next().unwrap_or_default().trim_matches(['"', '\'']);
    value.bytes().any(|b| b.is_ascii_digit())
        && entropy(value) >= 1.5
        && !evaluated(value)
        && !stands_in(value)
}

fn pass_prose(text: &str) -> bool {
    in_quotes(text).is_some_and(|v| !evaluated(v) && !stands_in(v) && !v.contains(' '))
}

/// Whether a value can be a key: at least two digits and two letters, random, and not code.
fn keyish(value: &str) -> bool {
    let digits = value.bytes().filter(u8::is_ascii_digit).count();
    let letters = value.bytes().filter(u8::is_ascii_alphabetic).count();
    let code = value.contains(' ') || value.starts_with("http") || value.contains("://");
    // The cheapest checks are first.
    !code
        && digits >= 2
        && letters >= 2
        && looks_generated(value)
        && entropy(value) >= 2.7
        && !mixed_hex(value)
        && !no_random_uuid(value)
        && !evaluated(value)
}

fn key_quoted(text: &str) -> bool {
    let Some(value) = in_quotes(text) else { return false };
    let worded = value.len() >= 16
        && value.contains(['#', '-', '_'])
        && entropy(value) > 3.0
        && value.bytes().all(|b| !b.is_ascii_uppercase() && b != b' ');
    value.len() >= 8 && (keyish(value) || worded && looks_generated(value) && !evaluated(value))
}

fn key_naked(text: &str) -> bool {
    let value = text.rsplit_once([' ', '\t']).map_or_else(|| after_operator(text), |(_, v)| v);
    let value =
        if value.contains('=') && !value.ends_with('=') { after_operator(value) } else { value };
    // `X25519.secret_length`, `rc0.15.0_1`: dots between words are code.
    let reference =
        value.contains('.') && value.bytes().filter(u8::is_ascii_digit).count() * 4 < value.len();
    value.len() >= 12
        && keyish(value)
        && !reference
        && !value.ends_with(['.', ',', ';', ':', '-'])
        && !odd_s3(text, value)
}

/// Whether a hexadecimal S3 secret has an odd length. AWS uses 40 characters of base64; compatible
/// services that use hexadecimal use multiples of eight digits.
fn odd_s3(text: &str, value: &str) -> bool {
    let starts = |name: &str| text.get(..name.len()).is_some_and(|t| t.eq_ignore_ascii_case(name));
    (starts("secret_access_key") || starts("access_key"))
        && !value.len().is_multiple_of(8)
        && value.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The value after the last operator, without quotation marks.
fn key_named(text: &str) -> bool {
    let value = text.split_once(['=', ':']).map_or("", |(_, value)| value);
    let value = value.trim_start_matches(['>', '=', ' ', '\t', '"', '\'', '`']);
    // A UUID after such a name identifies a session or a request.
    let uuid = value.len() == 36 && value.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
    value.len() >= 16 && !uuid && made(value) && !evaluated(value)
}

/// Whether a value is made by a generator: at least 16 characters that mix digits and letters, and
/// not the form of a date, a version, a path or words.
fn made(value: &str) -> bool {
    let value = value.trim_end_matches('=');
    let count = |of: fn(&u8) -> bool| value.bytes().filter(of).count();
    let (digits, letters) = (count(u8::is_ascii_digit), count(u8::is_ascii_alphabetic));
    let words = value.split(['-', '_', '.', '/', '+', '~', '%']);
    let longest = words.map(str::len).max().unwrap_or(0);
    digits >= 3
        && letters >= 3
        && digits * 12 >= value.len()
        && (longest >= 12 || value.len() >= 32 && entropy(value) >= 3.8)
        && looks_generated(value)
        && entropy(value) >= 3.0
        && !mixed_hex(value)
        && !no_random_uuid(value)
        // Generators write hexadecimal in whole words.
        && (value.bytes().any(|b| !b.is_ascii_hexdigit()) || value.len().is_multiple_of(8))
}

fn password_words(text: &str) -> bool {
    let value =
        text.rsplit([' ', ':', '=', '：', 'は', '是', '"', '\'', '`']).next().unwrap_or_default();
    strong(value) && !stands_in(value) && !value.contains("://")
}

fn element(text: &str) -> bool {
    let value = text.split_once('>').map_or("", |(_, rest)| rest.trim_end_matches("</"));
    strong(value) && !evaluated(value) && !stands_in(value)
}

fn option(text: &str) -> bool {
    let value = match text.rsplit_once(" -p") {
        Some((_, value)) => value,
        None => text.split_once(['=', ' ']).map_or("", |(_, value)| value),
    };
    let value = value.trim_matches(['"', '\'', '\\']);
    strong(value) && !evaluated(value) && !stands_in(value) && !value.contains("://")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        assert!(pass_quoted("password = \"hunter22\"") && pass_quoted("pwd='correct horse'"));
        assert!(
            !pass_quoted("password = \"Please enter your password\"")
                && !pass_quoted("password: \"${DB_PASS}\"")
        );
        assert!(
            pass_naked("PASSWORD=s3cr3tive")
                && !pass_naked("password: must")
                && !pass_naked("password=os.environ")
        );
    }

    #[test]
    fn keys() {
        assert!(!key_naked("secret_access_key=9f8a7d6c5b4e3f2a1b0c9a8c7d6e5f4a3b2c1d0e9f"));
        assert!(key_naked("secret_access_key=9f8a7d6c5b4e3f2a1b0c9a8c7d6e5f4a3b2c1d0e"));
        assert!(!pass_quoted("password = \"field_name\"") && pass_naked("password=field_name"));
        assert!(
            key_naked("api_key=9f8a7d6c5b4e3f2a1b0c")
                && !key_naked("token=ACCESS_TOKEN_NAME")
                && !key_naked("api_key=<your-key-12345>")
        );
    }
}
