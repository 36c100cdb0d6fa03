//! Settings files as people write them, and what they are told.

fn problems(text: &str) -> Vec<String> {
    let problems = config::parse("gateway.yaml", text).expect_err("the file is wrong");
    problems.to_string().lines().map(str::to_owned).collect()
}

const GOOD: &str = "
backends:
  - {name: a, url: 'http://127.0.0.1:8000/base/', models: [m1]}
  - {name: b, url: 'https://engine.test', api_key: '${PATH}x'}
routes:
  - name: gold
    backend: b
    match: {headers: {X-Tier: gold}, models: ['m*']}
    timeouts: {connect: 1s}
  - {name: rest, backend: a}
timeouts: {connect: 2s, first_byte: 7s}
";

#[test]
fn a_good_file_is_understood() {
    let s = config::parse("f", &GOOD.replace("${PATH}x", "k-1")).unwrap();
    assert_eq!(s.listeners[0].address.to_string(), "127.0.0.1:8080");
    assert_eq!((s.backends[0].prefix.as_str(), s.backends[0].port), ("/base", 8000));
    assert_eq!(
        (s.backends[1].port, s.backends[1].tls.as_ref().unwrap().server_name.as_str()),
        (443, "engine.test")
    );
    assert_eq!(
        (s.routes[0].timeouts.connect.as_secs(), s.routes[1].timeouts.connect.as_secs()),
        (1, 2)
    );
    // A route without a timeout uses that of the file, then the default.
    assert_eq!(
        (s.routes[0].timeouts.first_byte.as_secs(), s.routes[0].timeouts.total.as_secs()),
        (7, 3600)
    );
    assert_eq!(s.routes[0].headers, [("x-tier".to_owned(), Some("gold".to_owned()))]);
    assert!(s.routes[0].models[0].matches("m1") && !s.routes[0].models[0].matches("x"));
    assert_eq!(s.limits.stream_buffer, 256 << 10);
}

#[test]
fn urls_of_engines_are_read_as_clients_write_them() {
    let url = |url: &str| {
        config::parse(
            "f",
            &format!("backends: [{{name: a, url: '{url}'}}]\nroutes: [{{name: r, backend: a}}]\n"),
        )
        .map(|settings| settings.backends[0].prefix.clone())
        .map_err(|problems| problems.to_string())
    };
    assert_eq!(url("http://engine:8000/v1").as_deref(), Ok(""));
    assert_eq!(url("https://engine/api/v1/").as_deref(), Ok("/api"));
    for (text, want) in [
        ("http://engine:99999", "invalid port; ports go from 1 to 65535"),
        ("http://engine:0", "invalid port"),
        ("http://engine:+80", "invalid port"),
        ("engine:8000/v1", "has no scheme; write \"http://engine:8000/v1\""),
        (
            "http://engine/v1/chat/completions",
            "ends with /v1/chat/completions, which is the path of a request; write \"http://engine\"",
        ),
        ("127.0.0.1:8000", "has no scheme; write \"http://127.0.0.1:8000\""),
        ("ftp://engine", "is neither http nor https"),
        ("http://:8000", "has no host"),
        ("http://[]:8000", "has no host"),
    ] {
        let problem = url(text).unwrap_err();
        assert!(problem.contains(want), "{text}: {problem}");
    }
}

#[test]
fn urls_of_stores_are_checked_and_not_shown() {
    let text = |url: &str| {
        format!(
            "backends: [{{name: a, url: 'http://a'}}]\nroutes: [{{name: r, backend: a}}]\n\
             store: {{url: '{url}'}}\n"
        )
    };
    for fine in [
        "redis://127.0.0.1",
        "redis://127.0.0.1:6379/",
        "redis://user:pass@redis.example:6379/3?protocol=resp3",
        "redis://:p%40ss@[::1]:6379",
    ] {
        assert!(config::parse("f", &text(fine)).is_ok(), "{fine}");
    }
    for (url, why) in [
        ("http://127.0.0.1", "must begin with redis://"),
        (
            "rediss://:secret@redis.example:6380",
            "asks for TLS, which is not supported; write redis://",
        ),
        ("redis://:secret@127.0.0.1:99999", "has an invalid port; ports go from 1 to 65535"),
        ("redis://127.0.0.1:abc", "has an invalid port; ports go from 1 to 65535"),
        ("redis://127.0.0.1:0", "has an invalid port; ports go from 1 to 65535"),
        ("redis://127.0.0.1:+80", "has an invalid port; ports go from 1 to 65535"),
        ("redis://[::1]:", "has an invalid port; ports go from 1 to 65535"),
        ("redis://", "has no host; write for example \"redis://127.0.0.1:6379\""),
        ("redis://:secret@", "has no host; write for example \"redis://127.0.0.1:6379\""),
        ("redis://0.0.0.0", "has an invalid host; write for example \"redis://127.0.0.1:6379\""),
        ("redis://1.2.3.400", "has an invalid host; write for example \"redis://127.0.0.1:6379\""),
        ("redis://a,b", "has an invalid host; write for example \"redis://127.0.0.1:6379\""),
        (
            "redis://h/first",
            "has an invalid database; write its number, as in \"redis://127.0.0.1:6379/0\"",
        ),
    ] {
        let told = problems(&text(url));
        assert_eq!(told, [format!("gateway.yaml:3:14: store.url: {why}")], "{url}");
    }
}

#[test]
fn key_of_the_audit_chain_must_not_be_short() {
    let text = |key| format!("{GOOD}audit: {{file: x, chain_key: {key}}}\n");
    assert!(config::parse("f", &text("sixteen-and-more")).is_ok());
    let told = problems(&text("fifteen-letters"));
    let [told] = &*told else { panic!("{told:?}") };
    assert!(
        told.ends_with("audit.chain_key: must have at least 16 characters")
            && !told.contains("fifteen"),
        "{told}"
    );
}

#[test]
fn every_problem_is_told_at_once_with_its_place() {
    let text = "listeners:\n  - adress: 127.0.0.1:80\nbackends:\n  - name: a\n    url: ftp://x\nroutes:\n  - name: r\n    backend: a\n    stall: 5 parsecs\nworkers: many\ncolour: blue\n";
    let told = problems(text);
    assert_eq!(
        told,
        [
            "gateway.yaml:2:5: listeners[0].adress: unknown key; did you mean \"address\"?",
            "gateway.yaml:5:10: backends[0].url: \"ftp://x\" is neither http nor https; write for example \"http://127.0.0.1:8000\"",
            "gateway.yaml:9:12: routes[0].stall: \"5 parsecs\" is not a duration; write for example \
             250ms, 5s, 2m30s or 30d (units: us, ms, s, m, h, d)",
            "gateway.yaml:10:10: workers: \"many\" is not a whole number from 0 to 1024",
            "gateway.yaml:11:1: colour: unknown key; known here: listeners, trusted_proxies, admin, workers, backends, pools, zone, guardrails, auth, rate_limits, store, usage_file, prices, routes, objectives, audit, access_log, otlp, record_store, record_files, contents, timeouts, limits, guardrail_threads, shutdown",
        ]
    );
}

/// A problem is reported once: what refers to an entry with a problem is not another one.
#[test]
fn references_to_entries_with_problems_are_not_reported() {
    for (text, told) in [
        (
            "backends: [{name: a, url: x}, {name: b, url: 'http://b'}]\n\
             pools: [{name: p, backends: [a]}, {name: q, backends: [a, b]}]\n\
             guardrails: [{name: g, judges: [{name: j, backend: a, input: block}]}]\n\
             routes: [{name: r, backend: a}, {name: s, pool: p}, {name: t, pool: q, hedge: {}}]\n",
            &["gateway.yaml:1:27: backends[0].url: \"x\" has no scheme; write \"http://x\""][..],
        ),
        (
            "backends: [{nam: a, url: 'http://a'}]\nroutes: [{name: r, backend: a}]\n",
            &["gateway.yaml:1:13: backends[0].nam: unknown key; did you mean \"name\"?"],
        ),
        (
            "backend: [{name: a, url: 'http://a'}]\nroutes: [{name: r, backend: a}]\n",
            &["gateway.yaml:1:1: backend: unknown key; did you mean \"backends\"?"],
        ),
        (
            "backends: [{name: a, url: 'http://a'}]\npools: {name: p}\n\
             routes: [{name: r, pool: p}, {name: s, bakend: a}]\n",
            &[
                "gateway.yaml:2:8: pools: expected a list; begin each entry with \"- \"",
                "gateway.yaml:3:40: routes[1].bakend: unknown key; did you mean \"backend\"?",
            ],
        ),
        (
            "backends: [{name: a, url: 'http://a', admission: {max_tokens: x}}]\nauth: 1\n\
             routes: [{name: r, backend: a, auth: required}]\n",
            &[
                "gateway.yaml:1:63: backends[0].admission.max_tokens: \"x\" is not a whole number from 0 to 1000000000",
                "gateway.yaml:2:7: auth: expected a section with keys such as \"keys\"",
            ],
        ),
    ] {
        assert_eq!(problems(text), told, "{text}");
    }
}

#[test]
fn unknown_pools_of_a_route_are_told_together() {
    let told = problems(
        "backends: [{name: a, url: 'http://a'}]\npools: [{name: p, backends: [a]}]\n\
         routes: [{name: r, pool: x, fallback: [p, y], canary: {pool: z, max_ttft_ratio: 0.5}}]\n",
    );
    let names = ["pool \"x\"", "pool \"y\"", "pool \"z\"", "max_ttft_ratio"];
    assert_eq!(told.len(), names.len(), "{told:?}");
    for name in names {
        assert!(told.iter().any(|problem| problem.contains(name)), "{name}: {told:?}");
    }
}

#[test]
fn canary_of_a_route_is_another_pool() {
    let told = problems(
        "backends: [{name: a, url: 'http://a'}]\npools: [{name: p, backends: [a]}]\n\
         routes: [{name: r, pool: p, canary: {pool: p}}]\n",
    );
    assert_eq!(
        told,
        ["gateway.yaml:3:44: routes[0].canary.pool: is the route's own pool; name another one"]
    );
}

#[test]
fn hosts_of_routes_are_names_without_ports() {
    let told = |host: &str| {
        let text = format!(
            "backends: [{{name: a, url: 'http://a'}}]\nroutes: [{{name: r, backend: a, hosts: ['{host}']}}]\n"
        );
        config::parse("gateway.yaml", &text).map(drop).map_err(|problems| problems.to_string())
    };
    for valid in ["api.example", "*.example", "127.0.0.1", "[::1]"] {
        assert_eq!(told(valid), Ok(()), "{valid}");
    }
    for wrong in ["127.0.0.1:80", "http://x", "[::1]:80", "a b", ""] {
        let problem = told(wrong).expect_err(wrong);
        assert!(problem.contains("routes[0].hosts: ") && problem.contains("without a port"));
    }
}

#[test]
fn endpoints_of_collectors_are_checked() {
    let told_with = |endpoint: &str, more: &str| {
        config::parse(
            "gateway.yaml",
            &format!(
                "backends: [{{name: a, url: 'http://a'}}]\nroutes: [{{name: r, backend: a}}]\n\
                 otlp: {{endpoint: '{endpoint}'{more}}}\n"
            ),
        )
        .map(drop)
        .map_err(|problems| problems.to_string())
    };
    let told = |endpoint: &str| told_with(endpoint, "");
    for valid in ["http://127.0.0.1:4318", "https://otel/v1"] {
        assert_eq!(told(valid), Ok(()), "{valid}");
    }
    // Only for gRPC, a host and a port are enough.
    assert_eq!(told_with("collector:4317", ", protocol: grpc"), Ok(()));
    for (wrong, why) in [
        ("http://127.0.0.1:99999", "has an invalid port; ports go from 1 to 65535"),
        ("http://:4318", "has no host"),
        ("ftp://collector", "is neither http nor https"),
        ("127.0.0.1:4318", "write for example \"http://127.0.0.1:4318\""),
        ("x", "write for example"),
        ("http://me:secret@collector", "the URL contains credentials"),
    ] {
        let problem = told(wrong).unwrap_err();
        assert!(
            problem.contains("gateway.yaml:3:18: otlp.endpoint: ") && problem.contains(why),
            "{wrong}: {problem}"
        );
    }
}

#[test]
fn the_spill_of_otlp_is_bounded() {
    let load = |spill: &str| {
        config::parse(
            "gateway.yaml",
            &format!(
                "backends: [{{name: a, url: 'http://a'}}]\nroutes: [{{name: r, backend: a}}]\n\
                 otlp: {{endpoint: 'http://c', spill: {{{spill}}}}}\n"
            ),
        )
    };
    let spill = load("path: /spill, when_full: drop_newest").expect("valid").otlp.spill;
    let spill = spill.expect("it is given");
    assert_eq!((spill.path.to_str(), spill.max_size), (Some("/spill"), 256 << 20));
    assert_eq!((spill.max_age.as_secs(), spill.drops_oldest), (24 * 3600, false));
    for (wrong, why) in [
        ("max_size: 64MiB", "otlp.spill.path"),
        ("path: '', max_size: 64MiB", "otlp.spill.path: must be a folder"),
        ("path: /x, max_size: 1MiB", "otlp.spill.max_size: must be at least 16MiB"),
        ("path: /x, max_age: 5s", "otlp.spill.max_age: must be at least 1m"),
        ("path: /x, when_full: stop", "otlp.spill.when_full"),
    ] {
        let problem = load(wrong).unwrap_err().to_string();
        assert!(problem.contains(why), "{wrong}: {problem}");
    }
}

/// Unknown keys and wrong values do not hide what is wrong with the meaning of the rest.
#[test]
fn problems_of_form_and_meaning_are_reported_together() {
    let told = problems(
        "backends: [{name: a, url: 'http://127.0.0.1:0', colour: blue, health: {interval: 0s}}]\n\
         guardrails: [{name: g, rules: [{name: x, regex: '(a'}]}]\n\
         rate_limits: [{name: l, unit: cost, amount: 0, window: soon, routes: [chat]}]\n\
         listeners: [{address: '127.0.0.1:99999'}, {address: '0.0.0.0:9090'}]\n\
         routes: [{name: r, backend: b, guardrail: h, match: {path: x}, cors: [y]}]\nworkers: many\n",
    );
    for want in [
        "backends[0].url: \"http://127.0.0.1:0\" has an invalid port",
        "backends[0].colour: unknown key",
        "backends[0].health.interval: must be greater than 0s",
        "guardrails[0].rules[0].regex",
        "rate_limits[0].unit: cost needs a price",
        "rate_limits[0].amount: must be from",
        "rate_limits[0].window: \"soon\" is not a window",
        "rate_limits[0].routes: route \"chat\" does not exist; known: r",
        "listeners[0].address: \"127.0.0.1:99999\": 99999 is not a port; ports go up to 65535",
        "listeners[1].address: 0.0.0.0:9090 is taken by the admin listener, 127.0.0.1:9090",
        "routes[0].backend: backend \"b\" does not exist",
        "routes[0].guardrail: guardrail \"h\" does not exist; ",
        "routes[0].match.path: \"x\" must begin with a slash",
        "routes[0].cors: \"y\" is not an origin",
        "workers: \"many\" is not a whole number",
    ] {
        assert!(told.iter().any(|problem| problem.contains(want)), "{want}: {told:#?}");
    }
    assert_eq!(told.len(), 15, "{told:#?}");
    let told = problems(
        "backends: [{name: a, url: 'http://a'}]\nroutes: [{name: r, pool: p, guardrail: g}]\n",
    );
    for want in [
        "pool \"p\" does not exist; none is defined",
        "guardrail \"g\" does not exist; none is defined",
    ] {
        assert!(told.iter().any(|problem| problem.ends_with(want)), "{want}: {told:#?}");
    }
}

#[test]
fn addresses_that_cannot_both_be_bound_are_reported() {
    let told = |listeners: &str, admin: &str| {
        let text = format!(
            "listeners: {listeners}\nadmin: {{address: '{admin}'}}\n\
             backends: [{{name: a, url: 'http://a'}}]\nroutes: [{{name: r, backend: a}}]\n"
        );
        config::parse("f", &text).map_or_else(|problems| problems.to_string(), |_| String::new())
    };
    for (listener, admin, clash) in [
        ("127.0.0.1:9000", "127.0.0.1:9000", true),
        ("127.0.0.1:9000", "0.0.0.0:9000", true),
        ("[::]:9000", "127.0.0.1:9000", true),
        ("127.0.0.1:9000", "127.0.0.2:9000", false),
        ("127.0.0.1:9000", "[::1]:9000", false),
        ("0.0.0.0:9000", "[::1]:9000", false),
        ("127.0.0.1:0", "127.0.0.1:0", false),
    ] {
        let got = told(&format!("[{{address: '{listener}'}}]"), admin);
        assert_eq!(got.contains("is taken by the admin listener"), clash, "{listener}: {got}");
        let got =
            told(&format!("[{{address: '{listener}'}}, {{address: '{admin}'}}]"), "127.0.0.1:1");
        assert_eq!(got.contains("is taken by another listener"), clash, "{listener}: {got}");
    }
}

#[test]
fn pools_that_select_by_address_are_warned_of() {
    let warnings = |pool: &str, routes: &str| {
        let text = format!(
            "auth: {{keys: keys.yaml, secret: 0123456789abcdef-secret}}\n\
             backends: [{{name: a, url: 'http://a'}}, {{name: b, url: 'http://b'}}]\n\
             pools: [{{name: p, backends: [a, b], {pool}}}]\nroutes: {routes}\n"
        );
        config::parse("f", &text).expect("valid").warnings()
    };
    let open = "[{name: r, pool: p, auth: off}]";
    let told = warnings("balance: session", open);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].starts_with("pools[0].key: `balance: session` with the key `caller` selects by the client's address on the route \"r\""),
        "{told:?}"
    );
    assert_eq!(warnings("balance: hash, key: caller", open).len(), 1);
    for (pool, routes) in [
        ("balance: session, key: 'header:x-session'", open),
        ("balance: peak_ewma", open),
        ("balance: session", "[{name: r, pool: p, auth: optional}]"),
        ("balance: session", "[{name: r, backend: a, auth: off}]"),
    ] {
        assert_eq!(warnings(pool, routes), [""; 0], "{pool}");
    }
}

#[test]
fn routes_without_requests_are_warned_of() {
    let warnings = |routes: &str| {
        let text = format!("backends: [{{name: a, url: 'http://a'}}]\nroutes: {routes}\n");
        config::parse("f", &text).expect("valid").warnings()
    };
    let told = warnings(
        "[{name: r, backend: a}, {name: s, backend: a, match: {models: [m]}}, {name: t, backend: a}]",
    );
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(
        told[0],
        "routes[1]: the route \"s\" gets no requests; \"r\" before it matches all of them"
    );
    for fine in [
        "[{name: s, backend: a, match: {models: [m]}}, {name: t, backend: a}]",
        "[{name: s, backend: a, match: {headers: {x: y}}}, {name: t, backend: a, match: {headers: {x: z}}}]",
        "[{name: s, backend: a, match: {path: /a}}, {name: t, backend: a, match: {path: /b}}]",
    ] {
        assert!(warnings(fine).is_empty(), "{fine}");
    }
    assert_eq!(
        warnings("[{name: s, backend: a, match: {path: /a}}, {name: t, backend: a, match: {path: /a, models: [m]}}]").len(),
        1
    );
}

#[test]
fn what_only_the_whole_can_tell() {
    let told = problems(
        "backends: [{name: vllm, url: 'http://u:p@h'}, {name: vllm, url: 'http://h'}]\nroutes: [{name: r, backend: vlm}, {name: r, backend: vllm}]\n",
    );
    assert!(
        told.iter().any(|l| l.contains("backends[0].url") && l.contains("api_key")),
        "{told:?}"
    );
    assert!(
        told.iter().any(|l| l.contains("backends[1].name") && l.contains("used twice")),
        "{told:?}"
    );
    assert!(
        told.iter()
            .any(|l| l.contains("routes[0].backend") && l.contains("did you mean \"vllm\"?")),
        "{told:?}"
    );
    assert!(
        problems(
            "backends: [{name: a, url: 'http://169.254.169.254'}]\nroutes: [{name: r, backend: a}]"
        )[0]
        .contains("metadata")
    );
}

#[test]
fn objectives_are_checked_with_their_places() {
    let with = |objectives: &str| GOOD.replace("${PATH}x", "k-1") + "objectives:\n" + objectives;
    let good = config::parse(
        "f",
        &with("  - {route: gold, ttft: {p95: 1s}, tpot: {p99: 100ms}, availability: 99.9}\n"),
    )
    .unwrap();
    let objectives = &good.objectives[0];
    assert_eq!((&*objectives.route, objectives.window.as_secs()), ("gold", 28 * 86_400));
    let ttft = objectives.ttft.unwrap();
    assert_eq!((ttft.percentile, ttft.max.as_secs()), (95, 1));
    for (entry, wanted) in [
        (
            "  - {route: gld, availability: 99}\n",
            "objectives[0].route: route \"gld\" does not exist",
        ),
        ("  - {route: gold}\n", "the entry needs ttft, tpot or availability"),
        ("  - {route: gold, ttft: {}}\n", "objectives[0].ttft: needs one percentile"),
        (
            "  - {route: gold, ttft: {p50: 1s, p95: 2s}}\n",
            "objectives[0].ttft: needs one percentile",
        ),
        ("  - {route: gold, tpot: {p95: 0s}}\n", "objectives[0].tpot: must be longer than 0s"),
        ("  - {route: gold, tpot: {p96: 1s}}\n", "objectives[0].tpot.p96: unknown key"),
        ("  - {route: gold, availability: 0.999}\n", "0.999 must be a percentage above 1"),
        ("  - {route: gold, availability: 100}\n", "100 must be a percentage"),
        ("  - {route: gold, availability: 99, window: 5m}\n", "must be from 1h to 90d"),
        (
            "  - {route: gold, availability: 99}\n  - {route: gold, ttft: {p95: 1s}}\n",
            "objectives[1].route: route \"gold\" has two entries",
        ),
    ] {
        let found = problems(&with(entry));
        assert!(found.len() == 1 && found[0].contains(wanted), "{entry}: {found:?}");
        assert!(found[0].starts_with("gateway.yaml:1"), "{found:?}");
    }
}

#[test]
fn secrets_come_from_outside_and_are_never_shown() {
    let told = problems(&GOOD.replace("${PATH}x", "${NO_SUCH_VARIABLE_HERE}"));
    assert!(told[0].contains("NO_SUCH_VARIABLE_HERE is not set"), "{told:?}");
    let s = config::parse("f", &GOOD.replace("${PATH}x", "sk-very-secret")).unwrap();
    assert_eq!(s.backends[1].api_key.as_ref().unwrap().reveal(), "sk-very-secret");
    assert!(!format!("{s:?}").contains("very-secret"));
    assert!(!serde_json::to_string(&s).unwrap().contains("very-secret"));
    let told = problems(&GOOD.replace("${PATH}x", "file:/no/such/file"));
    assert!(told[0].contains("cannot read the secret's file"), "{told:?}");
}

#[test]
fn uploads_need_files_and_a_valid_bucket_and_show_no_secret() {
    let with = |files: &str| format!("{GOOD}\nrecord_files: {{{files}}}\n");
    let upload = |fields: &str| with(&format!("path: /tmp, upload: {{{fields}}}"));
    let bucket = "url: 's3://records/a'";
    for (text, problem) in [
        (with(&format!("upload: {{{bucket}}}")), "set record_files.path"),
        (upload("url: 'https://records'"), "must begin with s3://"),
        (upload("url: 's3://id:hidden-key@records'"), "contains a credential"),
        (upload(&format!("{bucket}, endpoint: 'ftp://x'")), "endpoint"),
        (upload(&format!("{bucket}, endpoint: 'http://169.254.169.254'")), "metadata address"),
        (upload(&format!("{bucket}, region: 'eu/1'")), "letters, digits and hyphens"),
        (upload(&format!("{bucket}, secret_key: hidden-key")), "together with access_key"),
        (upload(&format!("{bucket}, timeout: 1h")), "from 1s to 10m"),
        (upload(&format!("{bucket}, max_waiting: 1KiB")), "at least 1MiB"),
    ] {
        let told = problems(&text);
        assert!(told.iter().any(|line| line.contains(problem)), "{problem}: {told:?}");
        assert!(!told.concat().contains("hidden-key"), "{told:?}");
    }
    let keys = "access_key: an-id, secret_key: hidden-key, session_token: hidden-token";
    let settings = config::parse("f", &upload(&format!("{bucket}, {keys}"))).unwrap();
    let shown = format!("{settings:?}{}", serde_json::to_string(&settings).unwrap());
    assert!(shown.contains("s3://records/a") && !shown.contains("hidden"), "{shown}");
}

#[test]
fn broken_yaml_has_a_place() {
    assert!(problems("backends: [\n  {name: a\n")[0].starts_with("gateway.yaml:"));
    assert!(problems("a: 1\na: 2\n").iter().any(|l| l.starts_with("gateway.yaml:")));
}

#[test]
fn the_example_is_valid_and_says_the_defaults() {
    let example = config::example();
    let s = config::parse("example", &example).unwrap_or_else(|e| panic!("{e}\n{example}"));
    let bare =
        config::parse("bare", "backends: [{name: vllm, url: 'http://127.0.0.1:8000'}]\nroutes: [{name: chat, backend: vllm}]").unwrap();
    assert_eq!(serde_json::to_value(&s).unwrap(), serde_json::to_value(&bare).unwrap());
}

/// Readers of YAML 1.1 take a bare `off` for false. Each sample means something.
#[test]
fn the_example_can_be_read_as_yaml_1_1_and_has_a_sample_for_each_setting() {
    for line in config::example().lines() {
        let value = line.split_once(": ").map_or("", |(_, value)| value);
        assert!(!["on", "off", "yes", "no", "y", "n"].contains(&value), "{line}");
        assert!(value != "...", "{line}");
    }
}

#[test]
fn the_schema_names_every_field_of_the_example() {
    let schema = config::json_schema().to_string();
    for name in
        ["listeners", "h2c", "api_key", "between_events", "kernel_timestamps", "upgrade_socket"]
    {
        assert!(schema.contains(name), "{name}");
    }
}

#[test]
fn flags_are_checked_like_a_file() {
    let s =
        config::from_flags("http://127.0.0.1:8000", "127.0.0.1:0", "127.0.0.1:0", Some(3)).unwrap();
    assert_eq!((s.workers, s.routes.len(), s.backends[0].port), (3, 1, 8000));
    let told =
        config::from_flags("127.0.0.1:8000", "x", "127.0.0.1:0", None).unwrap_err().to_string();
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(
        lines,
        [
            "command line: --listen: \"x\" is not an IP address with a port; write for example \"127.0.0.1:8080\" or \"0.0.0.0:8080\"",
            "command line: --upstream: \"127.0.0.1:8000\" has no scheme; write \"http://127.0.0.1:8000\"",
        ]
    );
}

/// A file that was written for an older version names its keys; each is answered with the one that
/// replaced it.
#[test]
fn old_keys_are_answered_with_the_new_ones() {
    let text = "backends: [{name: a, url: 'http://127.0.0.1:1', lacks: [tools], signals: {}}]\n\
                shields: [{name: s}]\n\
                rate_limits: [{name: l, of: tokens, amount: 1, every: 1m, at_end: error}]\n\
                routes: [{name: r, backend: a, shield: s, usage: inject, retries: {most: 1, always: 1}, candidate: {}}]\n";
    let problems = problems(text);
    for (path, key) in [
        ("backends[0].lacks", "unsupported"),
        ("backends[0].signals", "engine_metrics"),
        ("shields", "guardrails"),
        ("rate_limits[0].of", "unit"),
        ("rate_limits[0].every", "window"),
        ("rate_limits[0].at_end", "on_exhausted"),
        ("routes[0].shield", "guardrail"),
        ("routes[0].usage", "include_usage"),
        ("routes[0].retries.most", "max"),
        ("routes[0].retries.always", "min_per_second"),
        ("routes[0].candidate", "canary"),
    ] {
        let want = format!(" {path}: unknown key; it was renamed to {key:?}");
        assert!(problems.iter().any(|problem| problem.ends_with(&want)), "{want}: {problems:?}");
    }
}

proptest::proptest! {
    #[test]
    fn never_panics(text in "[a-z:{}\\[\\], \n\"'0-9#&*!|>-]{0,120}") {
        let _ = config::parse("f", &text);
    }
}

#[test]
fn a_route_has_no_say_over_what_is_before_it() {
    let text = GOOD
        .replace("${PATH}x", "k-1")
        .replace("timeouts: {connect: 1s}", "timeouts: {request_body: 1s}");
    let told = problems(&text);
    assert!(
        told.len() == 1 && told[0].contains("routes[0].timeouts.request_body: unknown key"),
        "{told:?}"
    );
}

/// Each error in a guardrail names its place and the remedy.
#[test]
fn wrong_guardrails_are_reported_with_their_places() {
    let guardrail = |members: &str| {
        let text = format!(
            "backends: [{{name: b, url: 'http://127.0.0.1:1'}}]\nroutes: [{{name: r, backend: b}}]\nguardrails:\n  - name: s\n    {members}\n"
        );
        match config::parse("g.yaml", &text) {
            Ok(_) => String::new(),
            Err(problems) => problems.to_string(),
        }
    };
    assert_eq!(guardrail("judges: [{name: j, backend: b, input: block}]"), "");
    for (members, told) in [
        ("hold_time: 0s", "g.yaml:5:16: guardrails[0].hold_time: must be from 10ms"),
        ("judge_window: 1MiB", "must be from 32B to 64KiB"),
        ("input_pii: mask", "\"mask\" is not one of: off, flag, redact, block"),
        ("restore: true", "unless something is redacted"),
        ("risk: {medium: 0.9, high: 0.2}", "0.2 is below medium, 0.9"),
        ("risk: {medium: 1.5}", "\"1.5\" is not a number from 0 to 1"),
        ("rules: [{name: x, regex: '(a'}]", "guardrails[0].rules[0].regex: \"(a\": unclosed group"),
        ("rules: [{name: x}]", "needs a regex or phrases"),
        ("topics: [{name: x}]", "words: needs at least one word"),
        ("honeytokens: [short]", "each must have 8 to 160 bytes"),
        ("judges: [{name: j, backend: x}]", "backend \"x\" does not exist; did you mean \"b\"?"),
        ("judges: [{name: j}]", "name an entry of backends"),
        ("judges: [{name: j, backend: b, deadline: 0s}]", "deadline: must be greater than 0s"),
        ("judges: [{name: j, backend: b, kind: guard-model}]", "model: is required for this kind"),
        ("judges: [{name: j, backend: b, kind: embeddings, model: m}]", "needs 1 to 64 sentences"),
        ("judges: [{name: j, kind: onnx, model_file: /no/such}]", "cannot open"),
        ("judges: [{name: j, backend: b}, {name: j, backend: b}]", "the name \"j\" is used twice"),
        ("filters: [{name: f}]", "\"use\" is missing"),
        ("toxicity: {hat: 0.5}", "did you mean \"hate\"?"),
    ] {
        let said = guardrail(members);
        assert!(said.contains(told), "{members}: {said:?}");
    }
}

#[test]
fn pools_and_what_routes_want_of_them_are_checked() {
    let backends =
        "backends: [{name: a, url: 'http://127.0.0.1:1'}, {name: h, url: 'http://127.0.0.1:2'}]\n";
    for (rest, want) in [
        (
            "pools: [{name: p, backends: [aa]}]\nroutes: [{name: r, pool: p}]",
            "pools[0].backends: backend \"aa\" does not exist; did you mean \"a\"?",
        ),
        ("pools: [{name: p, backends: [a, a]}]\nroutes: [{name: r, pool: p}]", "is listed twice"),
        (
            "pools: [{name: p, backends: [a], key: user}]\nroutes: [{name: r, pool: p}]",
            "is not a key",
        ),
        (
            "pools: [{name: p, backends: [a], ejection: {max_ttft_ratio: 0.5}}]\nroutes: [{name: r, pool: p}]",
            "max_ttft_ratio: 0.5 must be above 1",
        ),
        (
            "pools: [{name: p, backends: [a]}]\nroutes: [{name: r, pool: p, hedge: {}}]",
            "two backends or more",
        ),
        ("routes: [{name: r, backend: a, resume: on}]", "needs a second backend and retries"),
        (
            "pools: [{name: p, backends: [a]}]\nroutes: [{name: r, pool: p, offload: {}}]",
            "needs a fallback",
        ),
        (
            "pools: [{name: p, backends: [a]}]\nroutes: [{name: r, pool: p, backend: a}]",
            "cannot be combined with backend",
        ),
        (
            "pools: [{name: p, backends: [a]}]\nroutes: [{name: r, backend: a, retries: {}}]",
            "need a second backend",
        ),
        ("routes: [{name: r}]", "name a backend or a pool"),
        (
            "pools: [{name: p, backends: [a]}]\nroutes: [{name: r, pool: p, fallback: [p], offload: {findings: [judge.x]}}]",
            "routes[0].offload.findings: need a guardrail",
        ),
    ] {
        let told = config::parse("f", &format!("{backends}{rest}\n")).unwrap_err().to_string();
        assert!(told.contains(want), "{rest}: {told}");
    }
}

/// A file whose pool finds its backends in that way.
fn finding(discover: &str) -> String {
    format!(
        "backends: [{{name: like, url: 'https://llm.test:8443/base', weight: 3}}]\n\
         pools: [{{name: p, template: like, discover: {discover}}}]\nroutes: [{{name: r, pool: p}}]\n"
    )
}

#[test]
fn places_where_backends_are_found_are_read() {
    let source = |discover: &str| {
        config::parse("f", &finding(discover)).unwrap().pools[0].discovery.clone().unwrap().source
    };
    let hold = std::time::Duration::from_secs(30);
    let servers = vec!["10.0.0.1:53".parse().unwrap(), "[fd00::1]:5353".parse().unwrap()];
    let dns = |port, servers| config::Source::Dns { name: "llm.test".into(), port, servers, hold };
    assert_eq!(source("{dns: llm.test}"), dns(8443, Vec::new()));
    assert_eq!(
        source("{dns: llm.test, port: 80, servers: [10.0.0.1, '[fd00::1]:5353']}"),
        dns(80, servers)
    );
    assert_eq!(
        source("{srv: _llm._tcp.test.}"),
        config::Source::Srv { name: "_llm._tcp.test.".into(), servers: Vec::new(), hold }
    );
    let service = config::Source::Kubernetes {
        namespace: Some("m".into()),
        service: "vllm".into(),
        port: Some("http".into()),
    };
    assert_eq!(source("{kubernetes: vllm, namespace: m, port: http}"), service);
    for (discover, told) in [
        ("{}", "pools[0].discover: needs exactly one of"),
        ("{dns: a.test, srv: b.test}", "pools[0].discover: needs exactly one of"),
        ("{dns: 'a b'}", "pools[0].discover.dns: \"a b\" is not a host name"),
        ("{dns: 10.0.0.1}", "pools[0].discover.dns: \"10.0.0.1\" is not a host name"),
        ("{dns: a.test, port: http}", "pools[0].discover.port: \"http\" is not a port"),
        ("{dns: a.test, port: 0}", "is not a port"),
        (
            "{dns: a.test, servers: [ns.test]}",
            "pools[0].discover.servers: \"ns.test\" is not an IP address",
        ),
        ("{srv: a.test, port: 80}", "pools[0].discover.port: applies to dns and kubernetes only"),
        ("{dns: a.test, namespace: x}", "pools[0].discover.namespace: applies to kubernetes only"),
        (
            "{kubernetes: a, servers: [10.0.0.1]}",
            "pools[0].discover.servers: applies to dns and srv only",
        ),
    ] {
        let all = problems(&finding(discover));
        assert!(all.iter().any(|line| line.contains(told)), "{discover}: {all:?}");
    }
    let unlike = problems(&finding("{dns: a.test}").replace("template: like, ", ""));
    assert!(unlike[0].contains("pools[0].template: is required with discover"), "{unlike:?}");
}

#[test]
fn discovered_backends_have_the_template_and_are_in_every_use_of_the_pool() {
    let written = config::parse(
        "f",
        &finding("{dns: llm.test}").replace("pool: p}", "pool: p, mirror: {pool: p}}"),
    )
    .unwrap();
    let zoned = config::parse("f", &(finding("{dns: llm.test}") + "zone: 'z-${PATH}'\n")).unwrap();
    assert_eq!(zoned.zone, Some(format!("z-{}", std::env::var("PATH").unwrap())));
    let endpoint = |address: &str, port, weight| config::Endpoint {
        address: address.parse().unwrap(),
        port,
        weight,
        zone: None,
    };
    let at = |endpoints: &[config::Endpoint]| {
        written.with_discovered(&[("p".into(), endpoints.to_vec())].into())
    };
    let found = at(&[
        endpoint("10.0.0.2", 8000, 0),
        endpoint("10.0.0.1", 8000, 7),
        endpoint("10.0.0.1", 8000, 7),
        endpoint("169.254.169.254", 80, 0),
        endpoint("fe80::1", 80, 0),
        endpoint("febf::1", 80, 0),
        endpoint("::ffff:169.254.169.254", 80, 0),
        endpoint("169.254.170.2", 80, 0),
        endpoint("fd00:ec2::254", 80, 0),
        endpoint("0.0.0.0", 80, 0),
        endpoint("::", 80, 0),
        endpoint("224.0.0.1", 80, 0),
        endpoint("255.255.255.255", 80, 0),
        endpoint("10.0.0.3", 0, 0),
    ]);
    let route = &found.routes[0];
    let names: Vec<&str> = route.pools[0].backends.iter().map(|backend| &*backend.name).collect();
    assert_eq!(names, ["p/10.0.0.1-8000", "p/10.0.0.2-8000"]);
    assert_eq!(route.mirror.as_ref().unwrap().pool.backends.len(), 2);
    let of = |at: usize| route.pools[0].backends[at].clone();
    assert_eq!((of(0).weight, of(1).weight), (7, 3));
    assert_eq!(
        (of(0).host.as_str(), of(0).authority.as_str(), of(0).prefix.as_str()),
        ("10.0.0.1", "llm.test:8443", "/base")
    );
    assert_eq!(of(0).tls.as_ref().unwrap().server_name, "llm.test");
    assert!(found.backends.iter().enumerate().all(|(at, backend)| backend.index == at));
    // Indexes change with the other backends; the backend does not.
    let alone = at(&[endpoint("10.0.0.2", 8000, 0)]);
    assert!(
        alone.routes[0].pools[0].backends[0].is_same(&of(1))
            && alone.routes[0].pools[0].backends[0].index != of(1).index
    );
    let many: Vec<config::Endpoint> =
        (0..2000).map(|port| endpoint("10.0.0.1", port + 1, 0)).collect();
    assert_eq!(at(&many).routes[0].pools[0].backends.len(), config::MAX_DISCOVERED);
    assert_eq!(written.with_discovered(&config::Found::new()).routes[0].pools[0].backends.len(), 0);
}

/// Records go to SQLite or to PostgreSQL, whose password does not belong in the URL.
#[test]
fn a_record_store_is_a_folder_or_a_database() {
    let with = |store: &str| {
        format!(
            "backends: [{{name: a, url: 'http://a'}}]\nroutes: [{{name: r, backend: a}}]\nrecord_store: {{{store}}}\n"
        )
    };
    let url = "url: 'postgres://lens@db.example.com/records'";
    let settings = config::parse("f", &with(&format!("{url}, spill: {{path: spill}}"))).unwrap();
    let store = settings.record_store;
    let database = store.postgres.unwrap();
    assert!(database.url.tls && database.url.port == 5432 && database.password.is_none());
    assert_eq!((store.path, store.spill.unwrap().max_size), (None, 1 << 30));
    for (store, problem) in [
        (
            &*format!("path: records, {url}"),
            "3:36: record_store.url: cannot be combined with record_store.path",
        ),
        (
            "url: 'postgres://lens:hunter2@db/records'",
            "3:21: record_store.url: contains a password; write it as password: ${NAME} or password: file:PATH",
        ),
        (
            "url: 'postgres://lens@db/records?sslmode=require'",
            "3:21: record_store.url: has an sslmode that does not verify the server",
        ),
        (
            "url: 'postgres://lens@169.254.169.254/records'",
            "3:21: record_store.url: is a link-local or metadata address",
        ),
        (
            &format!("{url}, max_size: 1GiB"),
            "record_store.max_size: limits a folder of SQLite files",
        ),
        ("path: records, spill: {path: spill}", "record_store.spill: applies to PostgreSQL"),
        ("password: hunter2", "3:26: record_store.password: applies to PostgreSQL"),
        (
            &format!("{url}, spill: {{path: s, max_size: 1KiB, max_age: 1s}}"),
            "record_store.spill.max_size: must be at least 1MiB",
        ),
    ] {
        let told = problems(&with(store)).join("\n");
        assert!(told.contains(problem) && !told.contains("hunter2"), "{store}: {told}");
    }
}

const KEY: &str = "key: '00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff'";
const CHECKS: &str =
    "input_pii: flag, input_secrets: flag, output_pii: mask, output_secrets: block";

/// Settings of a route that stores contents.
fn with_contents(route: &str, guardrail: &str, more: &str) -> String {
    format!(
        "backends: [{{name: a, url: 'http://a'}}]\nguardrails: [{{name: g, {guardrail}}}]\n\
         routes: [{{name: r, backend: a, store_contents: redacted{route}}}]\n{more}\n"
    )
}

/// Stored texts are redacted, or the settings are wrong.
#[test]
fn contents_need_a_guardrail_that_checks_everything() {
    let good = format!("audit: {{file: a}}\ncontents: {{path: c, {KEY}}}");
    let text = with_contents(", guardrail: g", CHECKS, &good);
    let settings = config::parse("f", &text).unwrap();
    assert!(settings.routes[0].store_contents);
    assert_eq!((settings.contents.max_text, settings.contents.max_size), (64 << 10, 1 << 30));
    let json = serde_json::to_string(&settings).unwrap();
    assert!(!json.contains("00112233"), "{json}");
    let off = "input_pii: flag, output_pii: 'off'";
    for (route, guardrail, more, told) in [
        (
            "",
            CHECKS,
            &*good,
            "routes[0].store_contents: stores texts without what a guardrail finds",
        ),
        (
            ", guardrail: g",
            off,
            &good,
            "the guardrail \"g\" has `output_pii: off`; set it to flag, mask or block",
        ),
        (", guardrail: g", CHECKS, "", "routes[0].store_contents: needs a folder and a key"),
        (", guardrail: h", CHECKS, &good, "routes[0].guardrail: guardrail \"h\" does not exist"),
    ] {
        let found = problems(&with_contents(route, guardrail, more));
        assert!(found.len() == 1 && found[0].contains(told), "{found:?}");
    }
}

/// Stored texts are encrypted and their reads are audited, or the settings are wrong.
#[test]
fn contents_need_a_key_and_an_audit_log() {
    let with = |audit: &str, members: &str| {
        let more = format!("{audit}contents: {{path: c, {members}}}");
        with_contents(", guardrail: g", CHECKS, &more)
    };
    let audit = "audit: {file: a}\n";
    for (members, told) in [
        ("key: 0011", "contents.key: must be 64 hexadecimal digits"),
        ("max_text: 1KiB", "contents.key: is required with contents.path"),
        (&format!("{KEY}, previous_keys: 'x,y'"), "contents.previous_keys: must be keys of 64"),
        (&format!("{KEY}, keep: 10s"), "contents.keep: must be at least 1m"),
        (&format!("{KEY}, max_size: 1MiB"), "contents.max_size: must be at least 16MiB"),
        (&format!("{KEY}, max_text: 2MiB"), "contents.max_text: must be from 1KiB to 1MiB"),
    ] {
        let found = problems(&with(audit, members));
        assert!(found.len() == 1 && found[0].contains(told), "{found:?}");
        assert!(!found[0].contains("00112233") && !found[0].contains("x,y"), "{found:?}");
    }
    let found = problems(&with("", KEY));
    assert!(
        found.len() == 1 && found[0].contains("contents.path: needs an audit log"),
        "{found:?}"
    );
}

#[test]
fn tokens_of_the_admin_listener_are_checked_and_not_shown() {
    let text = |auth: &str| format!("{GOOD}admin: {{auth: {auth}}}\n");
    let one = |token: &str| text(&format!("{{tokens: [{{{token}}}]}}"));
    for (text, problem) in [
        (text("{tokens: []}"), "admin.auth.tokens: must have from 1 to 64 entries"),
        (text("{}"), "admin.auth.tokens: must have from 1 to 64 entries"),
        (one("name: a"), "admin.auth.tokens[0].token: is missing"),
        (one("token: a-secret-of-sixteen"), "admin.auth.tokens[0]: \"name\" is missing"),
        (one("name: a, token: a-secret-of-15c"), "token: must have at least 16 characters"),
        (one("name: a, token: '${NO_SUCH_VARIABLE}'"), "NO_SUCH_VARIABLE"),
        (one("name: 'a b', token: a-secret-of-sixteen"), "is not a name"),
        (
            one("name: a, token: a-secret-of-sixteen, role: admin"),
            "is not one of: viewer, operator",
        ),
        (
            text(
                "{tokens: [{name: a, token: a-secret-of-sixteen}, {name: a, token: another-secret-of-20}]}",
            ),
            "the name \"a\" is used twice",
        ),
        (
            text(
                "{tokens: [{name: a, token: a-secret-of-sixteen}, {name: b, token: a-secret-of-sixteen}]}",
            ),
            "admin.auth.tokens[1].token: is that of \"a\", too",
        ),
        (
            text("{session: 1s, tokens: [{name: a, token: a-secret-of-sixteen}]}"),
            "admin.auth.session: must be from 1m to 168h",
        ),
    ] {
        let told = problems(&text).join("\n");
        assert!(told.contains(problem) && !told.contains("a-secret"), "{text}: {told}");
    }
    let settings = config::parse("f", &one("name: a, token: a-secret-of-sixteen")).unwrap();
    let shown = format!("{settings:?} {}", serde_json::to_string(&settings).unwrap());
    assert!(shown.contains("\"role\":\"viewer\"") && !shown.contains("a-secret"), "{shown}");
}

#[test]
fn an_admin_listener_that_others_reach_needs_a_login() {
    let warns = |admin: &str| {
        let settings = config::parse("f", &format!("{GOOD}admin: {{{admin}}}\n")).unwrap();
        settings.warnings().iter().any(|warning| warning.starts_with("admin.address: "))
    };
    assert!(warns("address: '0.0.0.0:9090'") && warns("address: '[::]:9090'"));
    for fine in [
        "address: '127.0.0.1:9090'",
        "address: '[::1]:9090'",
        "address: '0.0.0.0:9090', allow: [10.0.0.0/8]",
        "address: '0.0.0.0:9090', auth: {tokens: [{name: a, token: a-secret-of-sixteen}]}",
    ] {
        assert!(!warns(fine), "{fine}");
    }
}
