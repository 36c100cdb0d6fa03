//! The dashboard: pages of the admin listener for people.
//!
//! - *In*: GET requests of a browser.
//! - *Out*: files that are a part of the binary. Their scripts read `/api` of the same listener.
//! - *Never*: a request to another host, an inline script, a value of a request in a page.
//!
//! `assets/` has plain modules, which need no build. `assets/vendor/` has `uPlot`, under its own
//! license.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// Where the files are served.
pub const PATH: &str = "/dashboard/{*file}";

/// The page may load its own files, and nothing else from anywhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page, and the files that it loads.
macro_rules! files {
    ($($name:literal),* $(,)?) => {
        /// Name and content of each file.
        const FILES: &[(&str, &[u8])] = &[$(($name, include_bytes!(concat!("../assets/", $name)))),*];
    };
}

files![
    "index.html",
    "icon.svg",
    "style.css",
    "main.js",
    "lib/api.js",
    "lib/definitions.js",
    "lib/dom.js",
    "lib/format.js",
    "lib/heat.js",
    "lib/plot.js",
    "lib/session.js",
    "lib/shares.js",
    "lib/states.js",
    "lib/verdict.js",
    "lib/views.js",
    "pages/backends.js",
    "pages/check.js",
    "pages/contents.js",
    "pages/definitions.js",
    "pages/guardrails.js",
    "pages/latency.js",
    "pages/overview.js",
    "pages/playground.js",
    "pages/request.js",
    "pages/requests.js",
    "pages/settings.js",
    "pages/sign_in.js",
    "pages/usage.js",
    "vendor/uplot.css",
    "vendor/uplot.js",
];

/// The page.
pub fn page() -> Response {
    file("index.html").unwrap_or_else(|| StatusCode::NOT_FOUND.into_response())
}

/// A file of the page, if there is one with this name.
pub fn file(name: &str) -> Option<Response> {
    let (_, content) = FILES.iter().find(|(known, _)| *known == name)?;
    let fields: [(HeaderName, HeaderValue); 4] = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type(name))),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        // Another version may be served next time.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    Some((fields, *content).into_response())
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, end)| end) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str) -> &'static str {
        let (_, content) = FILES.iter().find(|(known, _)| *known == name).expect("a file");
        std::str::from_utf8(content).expect("UTF-8")
    }

    /// Each file that a script imports, or that the page loads, is served.
    #[test]
    fn no_file_is_missing() {
        for (name, _) in FILES.iter().filter(|(name, _)| name.ends_with(".js")) {
            for line in text(name).lines().filter(|line| line.starts_with("import ")) {
                let path = line.rsplit('"').nth(1).expect("a quoted path");
                let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                let imported = match (path.strip_prefix("../"), path.strip_prefix("./")) {
                    (Some(rest), _) => rest.to_owned(),
                    (_, Some(rest)) if folder.is_empty() => rest.to_owned(),
                    (_, Some(rest)) => format!("{folder}/{rest}"),
                    _ => panic!("{name}: {line}"),
                };
                assert!(file(&imported).is_some(), "{name}: {line}");
            }
        }
        let loaded = text("index.html").split('"').filter_map(|it| it.strip_prefix("/dashboard/"));
        assert!(loaded.clone().count() >= 5);
        for name in loaded {
            assert!(file(name).is_some(), "{name}");
        }
    }

    /// The policy forbids them, so they would not run.
    #[test]
    fn there_is_nothing_inline_and_no_other_host() {
        let page = text("index.html");
        assert!(!page.contains("<style") && !page.contains("style=") && !page.contains("onclick"));
        assert!(page.split("<script").skip(1).all(|script| script.starts_with(" src=")), "{page}");
        let own = FILES.iter().filter(|(name, _)| !name.starts_with("vendor/"));
        for (name, _) in own.filter(|(name, _)| !name.ends_with(".svg")) {
            assert!(!text(name).contains("https://"), "{name}");
            assert!(!text(name).contains("innerHTML"), "{name}: text must not become markup");
        }
    }

    #[test]
    fn files_have_a_policy_and_a_type() {
        let answer = file("main.js").expect("a file");
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/javascript; charset=utf-8");
        assert_eq!(answer.headers()[header::CONTENT_SECURITY_POLICY], POLICY);
        assert!(!POLICY.contains("  ") && !POLICY.contains("unsafe"));
        assert!(file("../Cargo.toml").is_none() && file("").is_none());
    }
}
