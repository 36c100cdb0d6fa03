//! The command line as people and scripts use it.

use std::io::Read;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::raw::{Folder, free_address, settings_at};

fn run(args: &[&str]) -> Output {
    Command::new(kit::gateway::binary())
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The command fails at once, with a short error and without a panic.
fn fails_with(args: &[&str], wanted: &[&str]) {
    let begun = Instant::now();
    let output = run(args);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {told}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{args:?}: {:?}", begun.elapsed());
    for part in wanted {
        assert!(told.contains(part), "{args:?}: {part:?} is not in {told}");
    }
    assert!(!told.contains("panicked") && !told.contains("RUST_BACKTRACE"), "{told}");
}

#[test]
fn check_reports_every_problem_with_its_position() {
    let folder = Folder::new();
    let file = folder.file("bad.yaml", "listeners:\n  - adress: 127.0.0.1:80\nbackends:\n  - name: a\n    url: ftp://x\nroutes:\n  - name: r\n    backend: a\n    stall: 5 parsecs\nworkers: many\n");
    let name = file.display().to_string();
    let places = [":2:5: listeners[0].adress", ":9:12: routes[0].stall", ":10:10: workers"]
        .map(|p| format!("{name}{p}"));
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    fails_with(&["check", &name], &[&places[..], &["did you mean \"address\"?"]].concat());
    // A gateway reports the same problems.
    fails_with(&["gateway", "--config", &name], &places);
}

#[test]
fn check_rejects_files_that_are_not_settings() {
    let folder = Folder::new();
    let missing = folder.0.join("missing.yaml").display().to_string();
    fails_with(&["check", &missing], &[&missing]);
    fails_with(&["check", &folder.0.display().to_string()], &["cannot read the file"]);
    for (content, wanted) in [
        (&b"backends: [\n"[..], ":"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"", "backend"),
        (b"42", ""),
        (b"- a\n- b\n", ""),
        (b"a: 1\n---\nb: 2\n", "document"),
        (b"a: &x [*x]\n", ""),
        (b"a: 1\na: 2\n", ""),
    ] {
        let file = folder.file("odd.yaml", content).display().to_string();
        fails_with(&["check", &file], &[&file, wanted]);
    }
    // An alias bomb, and unlimited nesting.
    let bomb: String = (0..12)
        .map(|i| {
            format!(
                "a{i}: &a{i} [{}]\n",
                if i == 0 { "x".to_owned() } else { vec![format!("*a{}", i - 1); 10].join(",") }
            )
        })
        .collect();
    for (name, content) in [
        ("bomb.yaml", bomb),
        ("deep.yaml", "[".repeat(50_000)),
        ("deep-map.yaml", "{a: ".repeat(50_000)),
    ] {
        fails_with(&["check", &folder.file(name, content).display().to_string()], &[name]);
    }
}

#[test]
fn check_accepts_a_good_file() {
    let folder = Folder::new();
    let file = folder.file(
        "good.yaml",
        "backends: [{name: e, url: 'http://127.0.0.1:1'}]\nroutes: [{name: r, backend: e}]\n",
    );
    let output = run(&["check", &file.display().to_string()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(
        text(&output.stdout).contains("valid (1 route, 1 backend)") && output.stderr.is_empty(),
        "{output:?}"
    );
}

/// What keeps a gateway from starting beside the settings is found, too, and beside other problems.
#[test]
fn check_reads_the_files_that_the_settings_name() {
    let folder = Folder::new();
    let path = |name: &str| folder.0.join(name).display().to_string();
    for (name, text) in [
        ("cert.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ("ca.pem", ""),
        ("tokenizer.json", "{}"),
        ("keys.yaml", "keys: [{id: a, hash: x, owner: y}]\n"),
    ] {
        folder.file(name, text);
    }
    let (cert, ca, tokenizer, keys) =
        (path("cert.pem"), path("ca.pem"), path("tokenizer.json"), path("keys.yaml"));
    let missing = path("no/such");
    let settings = format!(
        "listeners: [{{address: '127.0.0.1:0', tls: {{cert: '{cert}', key: '{cert}', client_ca: '{ca}'}}}}]\n\
         backends: [{{name: e, url: 'https://127.0.0.1:1', tls: {{ca: '{ca}'}}}}]\n\
         audit: {{file: '{missing}/audit'}}\naccess_log: {{file: '{missing}/access'}}\n\
         usage_file: '{missing}/usage'\n\
         auth: {{keys: '{keys}', secret: sixteen-and-more}}\n\
         guardrails: [{{name: g, filters: [{{name: f, use: unknown-filter}}]}}]\n\
         routes: [{{name: r, backend: e, tokenizer: '{tokenizer}'}}]\n\
         record_store: {{path: '{cert}/records'}}\nrecord_files: {{path: '{cert}/files'}}\n"
    );
    let wanted = [
        &*cert,
        "client authorities",
        &tokenizer,
        "keys[0].hash",
        "unknown-filter",
        &format!("audit.file: cannot write {missing}/audit: "),
        &format!("access_log.file: cannot write {missing}/access: "),
        &format!("usage_file: cannot write {missing}/usage: "),
        &format!("record_store.path: cannot write {cert}/records: "),
        &format!("record_files.path: cannot write {cert}/files: "),
    ];
    let file = folder.file("gateway.yaml", &settings).display().to_string();
    fails_with(&["check", &file], &wanted);
    // Each has the place of its setting.
    let places = [
        "gateway.yaml:1:43: listeners[0].tls: ",
        "gateway.yaml:7:34: guardrails[0].filters[0]: guardrail g: filter f: no filter is registered",
        "gateway.yaml:8:43: routes[0].tokenizer: tokenizer ",
        "gateway.yaml:3:15: audit.file: cannot write ",
    ];
    fails_with(&["check", &file], &places);
    let file = folder.file("gateway.yaml", settings + "workers: many\n").display().to_string();
    fails_with(&["check", &file], &[&wanted[..], &["workers: \"many\""]].concat());
    // A route whose pool is unknown, too.
    let settings = format!(
        "backends: [{{name: e, url: 'http://127.0.0.1:1'}}]\n\
         routes: [{{name: r, backend: f, tokenizer: '{missing}'}}]\n"
    );
    let file = folder.file("gateway.yaml", &settings).display().to_string();
    let problems = ["backend \"f\"", "routes[0].tokenizer: cannot open "];
    fails_with(&["check", &file], &problems);
}

#[test]
fn check_names_files_that_are_not_what_the_settings_say() {
    let folder = Folder::new();
    let at = folder.0.display().to_string();
    let no_keys = folder.file("no-keys.json", "half a fi").display().to_string();
    let settings = format!(
        "backends: [{{name: e, url: 'http://127.0.0.1:1'}}]\nroutes: [{{name: r, backend: e}}]\n\
         auth:\n  jwt:\n  - {{issuer: 'https://a', audience: a, jwks: '{at}'}}\n  \
         - {{issuer: 'https://b', audience: a, jwks: '{no_keys}'}}\n\
         otlp: {{endpoint: 'https://127.0.0.1:1', ca: '{at}/none.pem', client_cert: '{at}', \
         client_key: '{at}/none.key'}}\n"
    );
    let file = folder.file("gateway.yaml", &settings).display().to_string();
    let wanted = [
        "gateway.yaml:5:46: auth.jwt[0].jwks: cannot open ",
        "is a directory",
        "gateway.yaml:6:46: auth.jwt[1].jwks: cannot use ",
        "not a JSON Web Key Set",
        "otlp.ca: cannot open ",
        "otlp.client_cert: cannot open ",
        "otlp.client_key: cannot open ",
    ];
    fails_with(&["check", &file], &wanted);
    // A gateway does not start with them, either.
    let settings = settings.replace(&at, "/none").split("otlp:").next().unwrap_or("").to_owned();
    let settings = settings.replace("jwks: '/none/no-keys.json'", &format!("jwks: '{no_keys}'"));
    let settings = settings.replace("jwks: '/none'", &format!("jwks: '{no_keys}'"));
    let file = folder.file("gateway.yaml", &settings).display().to_string();
    fails_with(&["gateway", "--config", &file], &["not a JSON Web Key Set"]);
}

#[test]
fn check_reads_certificates() {
    let folder = Folder::new();
    let junk = folder.file("junk.pem", "no certificate\n").display().to_string();
    let settings = format!(
        "backends: [{{name: e, url: 'http://127.0.0.1:1'}}]\nroutes: [{{name: r, backend: e}}]\n\
         record_store: {{url: 'postgres://u@localhost/d', ca: '{junk}'}}\n\
         otlp: {{endpoint: 'https://127.0.0.1:1', ca: '{junk}', client_cert: '{junk}', \
         client_key: '{junk}'}}\n"
    );
    let file = folder.file("gateway.yaml", &settings).display().to_string();
    let problem = |setting: &str| format!("{setting}: cannot use {junk}: contains no certificate");
    let wanted = ["record_store.ca", "otlp.ca", "otlp.client_cert"].map(problem);
    fails_with(&["check", &file], &wanted.each_ref().map(String::as_str));
}

#[test]
fn check_names_a_folder_that_is_not_fit_for_upgrades() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    for (mode, socket, named) in [
        (0o777, "upgrade.sock", "shutdown.upgrade_socket: other users"),
        (0o700, "missing/upgrade.sock", "shutdown.upgrade_socket: the folder of"),
        (0o700, "upgrade.sock", ""),
    ] {
        std::fs::set_permissions(&folder.0, PermissionsExt::from_mode(mode)).unwrap();
        let settings = format!(
            "backends: [{{name: e, url: 'http://127.0.0.1:1'}}]\nroutes: [{{name: r, backend: e}}]\n\
             shutdown: {{upgrade_socket: '{}'}}\n",
            folder.0.join(socket).display()
        );
        let file = folder.file("gateway.yaml", &settings).display().to_string();
        let output = run(&["check", &file]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let told = text(&output.stdout) + &text(&output.stderr);
        assert!(told.contains(named), "{told}");
        assert_eq!(told.contains("shutdown.upgrade_socket"), !named.is_empty(), "{told}");
    }
}

/// `key create` makes the file of keys from the settings, so they are valid without it.
#[test]
fn check_accepts_settings_whose_keys_file_does_not_exist_yet() {
    let folder = Folder::new();
    let keys = folder.0.join("keys.yaml").display().to_string();
    let settings = |keys: &str, routes: &str| {
        let text = format!(
            "backends: [{{name: e, url: 'http://127.0.0.1:1'}}]\nroutes: [{routes}]\n\
             auth: {{keys: '{keys}', secret: sixteen-and-more}}\nusage_file: '{keys}.usage'\n"
        );
        folder.file("gateway.yaml", text).display().to_string()
    };
    let route = "{name: r, backend: e}";
    let file = settings(&keys, route);
    let output = run(&["check", &file]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stderr).contains("note: auth.keys: "), "{output:?}");
    assert!(text(&output.stderr).contains("llm-lens key create"), "{output:?}");
    let left: Vec<_> = std::fs::read_dir(&folder.0).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "check left a file: {left:?}");
    assert!(run(&["key", "create", "--config", &file, "--owner", "x"]).status.success());
    let output = run(&["check", &file]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let lost = folder.0.join("no/such/keys.yaml").display().to_string();
    fails_with(&["check", &settings(&lost, route)], &[&lost]);
    // A route that gets no requests is worth a note.
    let file = settings(&keys, &format!("{route}, {{name: s, backend: e}}"));
    let output = run(&["check", &file]);
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stdout).contains("valid (2 routes, 1 backend)"), "{output:?}");
    assert!(text(&output.stderr).contains("note: routes[1]: the route \"s\""), "{output:?}");
}

#[test]
fn init_writes_what_check_accepts_and_overwrites_nothing() {
    let folder = Folder::new();
    let path = folder.0.join("gateway.yaml");
    let name = path.display().to_string();
    let output = run(&["init", &name]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(
        run(&["check", &name]).status.code(),
        Some(0),
        "{}",
        text(&run(&["check", &name]).stderr)
    );
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(written.lines().count() <= 25, "a file to start from is short: {written}");
    assert_eq!(text(&run(&["init"]).stdout), written, "without a file it is printed");
    let full = text(&run(&["init", "--full", "-"]).stdout);
    assert!(full.lines().filter(|l| l.trim_start().starts_with('#')).count() > 200, "{full}");
    std::fs::write(&path, "mine").unwrap();
    fails_with(&["init", &name], &[&name, "--force"]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    assert_eq!(run(&["init", "--force", &name]).status.code(), Some(0));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), written);
    // Longer than what replaces it.
    std::fs::write(&path, "x".repeat(1 << 20)).unwrap();
    assert_eq!(run(&["init", "--force", &name]).status.code(), Some(0));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), written);
    fails_with(
        &["init", &folder.0.join("no/such/folder.yaml").display().to_string()],
        &["no/such", "the folder does not exist"],
    );
    let inside = folder.0.join("gateway.yaml").display().to_string();
    for flags in [&["init"][..], &["init", "--force"]] {
        let folder = folder.0.display().to_string();
        fails_with(&[flags, &[&folder]].concat(), &["is a folder; name a file", &inside]);
    }
    fails_with(&["init", "/proc/x.yaml"], &["/proc/x.yaml: files cannot be created there"]);
}

#[test]
fn every_commented_line_of_init_is_a_field() {
    // Every setting in a comment must be valid when it is uncommented.
    let folder = Folder::new();
    let name = folder.0.join("gateway.yaml").display().to_string();
    run(&["init", "--full", &name]);
    let written = std::fs::read_to_string(&name).unwrap();
    let mut uncommented = String::new();
    let mut is_field = false;
    // After two lines about the file, each setting has one comment line, followed by the setting.
    for line in written.lines().skip(2).filter(|l| !l.trim().is_empty()) {
        match line.trim() {
            "-" | "# -" => uncommented.push_str(&line.replacen("# ", "", 1)),
            _ if !is_field => is_field = true,
            _ => {
                uncommented.push_str(&line.replacen("# ", "", 1));
                is_field = false;
            }
        }
        uncommented.push('\n');
    }
    std::fs::write(&name, uncommented).unwrap();
    let output = Command::new(kit::gateway::binary())
        .args(["check", &name])
        .env("VLLM_API_KEY", "k")
        .env("LLM_LENS_SECRET", "sixteen-and-more")
        .env("LLM_LENS_AUDIT_CHAIN_KEY", "sixteen-and-more")
        .env("LLM_LENS_CONTENTS_KEY", "7".repeat(64))
        .env("LLM_LENS_ADMIN_TOKEN", "sixteen-and-more")
        .env("LLM_LENS_DB_PASSWORD", "k")
        .env("OTLP_HEADERS", "a=b")
        .env("AWS_ACCESS_KEY_ID", "k")
        .env("AWS_SECRET_ACCESS_KEY", "k")
        .env("AWS_SESSION_TOKEN", "k")
        .output()
        .unwrap();
    let told = text(&output.stderr);
    // Permitted: missing files, TLS for a plain URL, both a backend and a pool, a second pool, two
    // stores of records, several sources of discovery, several percentiles.
    let may_be = [
        "cannot open",
        "cannot read ",
        "cannot write /var/",
        "the folder of /run/llm-lens/upgrade.sock does not exist",
        "needs an https:// url",
        "cannot be combined with backend",
        "cannot be combined with record_store.path",
        "pool \"cloud\" does not exist",
        "needs exactly one of dns, srv and kubernetes",
        "needs one percentile and its maximum",
    ];
    let wrong: Vec<&str> =
        told.lines().filter(|line| !may_be.iter().any(|known| line.contains(known))).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn schema_is_json() {
    let output = run(&["schema"]);
    assert_eq!(output.status.code(), Some(0));
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(schema["properties"]["backends"].is_object(), "{schema:#}");
}

#[test]
fn a_taken_address_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let url = "http://127.0.0.1:1";
    fails_with(
        &["gateway", "--upstream", url, "--listen", &address, "--admin", "127.0.0.1:0"],
        &[&address, "in use"],
    );
    fails_with(
        &["gateway", "--upstream", url, "--listen", "127.0.0.1:0", "--admin", &address],
        &[&address, "in use"],
    );
    let told = text(&run(&["gateway", "--upstream", url, "--listen", &address]).stderr);
    assert_eq!(told.matches("in use").count(), 1, "{told}");
    assert!(told.contains("another process uses it") && told.contains("--listen"), "{told}");
    fails_with(
        &["gateway", "--upstream", url, "--listen", "192.0.2.1:80", "--admin", "127.0.0.1:0"],
        &["192.0.2.1:80"],
    );
    fails_with(&["simulate", "--listen", &address], &[&address, "in use", "--listen", "port 0"]);
    // The same address for clients and admin.
    let both = free_address().to_string();
    fails_with(&["gateway", "--upstream", url, "--listen", &both, "--admin", &both], &[&both]);
    let folder = Folder::new();
    let file = folder
        .file("gateway.yaml", settings_at(taken.local_addr().unwrap(), free_address(), url, ""));
    fails_with(&["gateway", "--config", &file.display().to_string()], &[&address]);
}

#[test]
fn a_bad_certificate_is_named() {
    let folder = Folder::new();
    let (empty, garbage) = (
        folder.file("empty.pem", ""),
        folder.file("garbage.pem", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n"),
    );
    let shell = folder.file(
        "not-der.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    );
    for cert in [&empty, &garbage, &shell] {
        let text = format!(
            "listeners: [{{address: '127.0.0.1:0', tls: {{cert: '{0}', key: '{0}'}}}}]\nadmin: {{address: '127.0.0.1:0'}}\nbackends: [{{name: e, url: 'http://127.0.0.1:1'}}]\nroutes: [{{name: r, backend: e}}]\n",
            cert.display()
        );
        let file = folder.file("gateway.yaml", text);
        fails_with(
            &["gateway", "--config", &file.display().to_string()],
            &[&cert.display().to_string()],
        );
    }
    let text = "listeners:\n  - address: '127.0.0.1:0'\n    tls:\n      cert: /no/such/cert.pem\n      key: /no/such/key.pem\nbackends: [{name: e, url: 'http://127.0.0.1:1'}]\nroutes: [{name: r, backend: e}]\n";
    let file = folder.file("missing.yaml", text).display().to_string();
    fails_with(
        &["gateway", "--config", &file],
        &[&format!("{file}:4:"), &format!("{file}:5:"), "/no/such/cert.pem"],
    );
    // CA file of a backend.
    let text = format!(
        "backends: [{{name: e, url: 'https://127.0.0.1:1', tls: {{ca: '{}'}}}}]\nroutes: [{{name: r, backend: e}}]\nlisteners: [{{address: '127.0.0.1:0'}}]\nadmin: {{address: '127.0.0.1:0'}}\n",
        garbage.display()
    );
    let file = folder.file("ca.yaml", text).display().to_string();
    fails_with(&["gateway", "--config", &file], &["garbage.pem"]);
}

#[test]
fn help_and_version_work_and_wrong_arguments_are_reported() {
    for args in [
        &["--help"][..],
        &["gateway", "--help"],
        &["check", "--help"],
        &["init", "--help"],
        &["schema", "--help"],
        &["--version"],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(output.stdout.len() > 10 && output.stderr.is_empty(), "{args:?}");
    }
    let version = String::from_utf8(run(&["--version"]).stdout).expect("text");
    let number = version.strip_prefix("llm-lens ").unwrap_or_default();
    assert!(number.starts_with(|first: char| first.is_ascii_digit()), "{version:?}");
    for args in [
        &[][..],
        &["gateway"],
        &["gateway", "--config", "x", "--upstream", "y"],
        &["gateway", "--config", "x", "--listen", "y"],
        &["frobnicate"],
        &["--log", "loud", "schema"],
        &["key", "create", "--owner", "x", "--expires-in", "0s"],
        &["key", "create", "--owner", "x", "--expires-in", "999ms"],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output.stderr));
        assert!(
            text(&output.stderr).contains("Usage") || text(&output.stderr).contains("--help"),
            "{args:?}: {}",
            text(&output.stderr)
        );
    }
    fails_with(&["gateway", "--upstream", "not a url"], &["not a url", "http://"]);
    for (url, right) in [
        ("http://h/v1/chat/completions", "write \"http://h\""),
        ("engine:8000/v1", "write \"http://engine:8000/v1\""),
    ] {
        fails_with(&["gateway", "--upstream", url], &["--upstream", url, right]);
        let right = right.replace('"', "");
        fails_with(&["run", "--base-url", url, "--model", "m"], &[url, &right]);
    }
    fails_with(
        &["gateway", "--upstream", "http://127.0.0.1:1", "--listen", "nowhere"],
        &["nowhere"],
    );
}

#[test]
fn a_closed_pipe_is_no_error() {
    for args in [&["schema"][..], &["--help"]] {
        let mut child = Command::new(kit::gateway::binary())
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut told = String::new();
        child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
        let status = child.wait().unwrap();
        assert!(told.is_empty(), "{args:?}: {told}");
        assert_eq!(status.code(), Some(0), "{args:?}");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let full = || Stdio::from(std::fs::File::options().write(true).open("/dev/full").unwrap());
    let output = Command::new(kit::gateway::binary())
        .arg("schema")
        .stdout(full())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("No space"), "{}", text(&output.stderr));
}

/// Reports are written even if something else fails, and a run without a successful request fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_writes_its_reports_and_fails_without_success() {
    let engine = kit::Engine::start(|_| kit::sse::stream(3, 1)).await;
    let folder = Folder::new();
    let (good, lost, bad) =
        (folder.file("good.json", ""), folder.file("lost.json", ""), folder.file("bad.json", ""));
    let path = |p: &std::path::Path| p.display().to_string();
    let unreachable = format!("http://{}", free_address());
    let url = engine.url();
    let run_of = |url: &str, out: &std::path::Path, more: &[&str]| {
        let file = path(out);
        run(&[
            &["run", "--base-url", url, "--model", "m", "--requests", "5", "--json", &file],
            more,
        ]
        .concat())
    };
    let ok = tokio::task::block_in_place(|| run_of(&url, &good, &[]));
    assert!(ok.status.success(), "{}", text(&ok.stderr));
    // Answers before the load, and not after it.
    let number = AtomicUsize::new(0);
    let admin = kit::Engine::start(move |_| match number.fetch_add(1, Ordering::SeqCst) {
        0 => kit::sse::json(200, "{\"requests\":[]}"),
        _ => kit::sse::json(503, "{}"),
    })
    .await;
    let admin = admin.url();
    let joined = tokio::task::block_in_place(|| run_of(&url, &lost, &["--gateway-admin", &admin]));
    assert!(
        !joined.status.success() && text(&joined.stderr).contains("/api/requests"),
        "{}",
        text(&joined.stderr)
    );
    assert!(
        std::fs::metadata(&lost).unwrap().len() > 100
            && text(&joined.stdout).contains("5 requests in"),
        "the run is lost: {}",
        text(&joined.stdout)
    );
    let failed = tokio::task::block_in_place(|| run_of(&unreachable, &bad, &[]));
    assert!(!failed.status.success());
    let compare = |new: &std::path::Path| {
        tokio::task::block_in_place(|| run(&["compare", &path(&good), &path(new)]))
    };
    let judged = compare(&bad);
    assert!(
        !judged.status.success() && text(&judged.stdout).contains("failed requests: 100.0 %"),
        "{}",
        text(&judged.stdout)
    );
}
