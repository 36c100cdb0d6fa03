use super::*;

fn read(pairs: &[(&str, &str)]) -> (Option<Settings>, Vec<String>) {
    read_with(pairs, &FileSettings::default())
}

fn read_with(pairs: &[(&str, &str)], file: &FileSettings) -> (Option<Settings>, Vec<String>) {
    let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Settings::new(pairs.collect(), file)
}

fn valid(pairs: &[(&str, &str)]) -> Settings {
    let (settings, warnings) = read(pairs);
    assert_eq!(warnings, Vec::<String>::new());
    settings.expect("something is exported")
}

/// The batches of the tests: of traces, and with 1 of logs.
fn batches(more: usize) -> BatchSettings {
    BatchSettings {
        max_queued: 300 + more,
        max_batch: 40 + more,
        delay: Duration::from_millis(100 + more as u64),
        timeout: Duration::from_millis(200 + more as u64),
    }
}

const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");

#[test]
fn nothing_is_exported_unless_asked_for() {
    for pairs in [
        &[][..],
        &[("OTEL_SERVICE_NAME", "x")],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")],
        &[ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")],
        &[
            ENDPOINT,
            ("OTEL_METRICS_EXPORTER", "none"),
            ("OTEL_TRACES_SAMPLER", "always_off"),
            ("OTEL_LOGS_EXPORTER", "none"),
        ],
    ] {
        assert_eq!(read(pairs), (None, vec![]), "{pairs:?}");
    }
    let settings = valid(&[("OTEL_TRACES_EXPORTER", "otlp")]);
    assert_eq!((settings.metrics, settings.logs), (None, None));
    assert_eq!(settings.traces.unwrap().target.url, "http://localhost:4318/v1/traces");
}

#[test]
fn urls_follow_the_rules_of_signals_and_protocols() {
    let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    for (pairs, metrics, traces) in [
        (&[ENDPOINT][..], "http://collector:4318/v1/metrics", "http://collector:4318/v1/traces"),
        (
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c/base/")],
            "https://c/base/v1/metrics",
            "https://c/base/v1/traces",
        ),
        (
            &[ENDPOINT, ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://other:1/own")],
            "http://collector:4318/v1/metrics",
            "http://other:1/own",
        ),
        (&[ENDPOINT, grpc], "http://collector:4318", "http://collector:4318"),
        (
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"), grpc],
            "https://collector:4317",
            "https://collector:4317",
        ),
        (
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
                grpc,
                ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "true"),
            ],
            "https://collector:4317",
            "http://collector:4317",
        ),
        (
            &[
                ("OTEL_TRACES_EXPORTER", "otlp"),
                ("OTEL_METRICS_EXPORTER", "otlp"),
                ("OTEL_LOGS_EXPORTER", "otlp"),
                grpc,
            ],
            "http://localhost:4317",
            "http://localhost:4317",
        ),
    ] {
        let settings = valid(pairs);
        assert_eq!(settings.metrics.unwrap().target.url, metrics, "{pairs:?}");
        assert_eq!(settings.traces.unwrap().target.url, traces, "{pairs:?}");
        let logs = metrics.replace("metrics", "logs");
        assert_eq!(settings.logs.unwrap().target.url, logs, "{pairs:?}");
    }
}

#[test]
fn every_variable_has_an_effect() {
    let settings = valid(&[
        ENDPOINT,
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "Api-Key=a%3Db, x=1"),
        ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "tenant=two"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "none"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/cert.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key.pem"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "Delta"),
        (
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
            "base2_exponential_bucket_histogram",
        ),
        ("OTEL_METRIC_EXPORT_INTERVAL", "7000"),
        ("OTEL_METRIC_EXPORT_TIMEOUT", "6000"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "200"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "300"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "40"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=prod,service.name=old"),
        ("OTEL_SERVICE_NAME", "gateway"),
        ("OTEL_TRACES_SAMPLER", "traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ("OTEL_SEMCONV_STABILITY_OPT_IN", "gen_ai_latest_experimental"),
    ]);
    let (metrics, traces) = (settings.metrics.unwrap(), settings.traces.unwrap());
    assert_eq!((metrics.target.protocol, traces.target.protocol), (Protocol::Http, Protocol::Grpc));
    let headers = |headers: &[(&str, &str)]| {
        Headers(headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    };
    assert_eq!(traces.target.headers, headers(&[("api-key", "a=b"), ("x", "1")]));
    assert_eq!(metrics.target.headers, headers(&[("tenant", "two")]));
    assert_eq!((metrics.target.gzip, traces.target.gzip), (false, true));
    assert_eq!(traces.target.timeout, Duration::from_millis(1500));
    let tls = TlsFiles {
        ca: Some("/ca.pem".into()),
        client_certificate: Some("/cert.pem".into()),
        client_key: Some("/key.pem".into()),
    };
    assert_eq!(metrics.target.tls, tls);
    assert_eq!(metrics.temporality, Temporality::Delta);
    assert_eq!(metrics.aggregation, Aggregation::Exponential);
    assert_eq!(
        (metrics.interval, metrics.timeout),
        (Duration::from_secs(7), Duration::from_secs(6))
    );
    assert_eq!(traces.batches, batches(0));
    assert_eq!(traces.sampler, Sampler { share: 0.25, parent_based: false, slow: SLOW });
    assert_eq!(settings.conventions, Conventions::Latest);
    assert_eq!(settings.resource["service.name"], "gateway");
    assert_eq!(settings.resource["deployment.environment.name"], "prod");
}

#[test]
fn every_variable_of_logs_has_an_effect() {
    let settings = valid(&[
        ENDPOINT,
        ("OTEL_EXPORTER_OTLP_HEADERS", "tenant=one"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "https://logs/own"),
        ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "tenant=three"),
        ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "none"),
        ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "2500"),
        ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", "/logs.pem"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "101"),
        ("OTEL_BLRP_EXPORT_TIMEOUT", "201"),
        ("OTEL_BLRP_MAX_QUEUE_SIZE", "301"),
        ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "41"),
    ]);
    let target = Target {
        url: "https://logs/own".into(),
        protocol: Protocol::Http,
        headers: Headers(vec![("tenant".into(), "three".into())]),
        gzip: false,
        timeout: Duration::from_millis(2500),
        tls: TlsFiles { ca: Some("/logs.pem".into()), ..TlsFiles::default() },
    };
    assert_eq!(settings.logs, Some(LogsSettings { target, batches: batches(1) }));
}

#[test]
fn invalid_values_are_named_and_replaced_by_the_default() {
    for (variable, value) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "0"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"),
        ("OTEL_BLRP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "sideways"),
        ("OTEL_SDK_DISABLED", "yes"),
        ("OTEL_RESOURCE_ATTRIBUTES", "no-value"),
    ] {
        let (settings, warnings) = read(&[ENDPOINT, (variable, value)]);
        assert!(warnings.len() == 1 && warnings[0].starts_with(variable), "{warnings:?}");
        assert_eq!(settings, read(&[ENDPOINT]).0, "{variable}");
    }
    let (settings, warnings) = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector")]);
    assert_eq!((settings, warnings.len()), (None, 3), "one for each signal");
    let (settings, warnings) = read(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "zipkin")]);
    assert!(settings.unwrap().traces.is_none() && warnings.len() == 1, "{warnings:?}");
    let (settings, warnings) = read(&[ENDPOINT, ("OTEL_LOGS_EXPORTER", "console")]);
    assert!(settings.unwrap().logs.is_none() && warnings.len() == 1, "{warnings:?}");
}

#[test]
fn secrets_are_not_shown() {
    let secret = "s3cret";
    let headers = format!("authorization=Bearer {secret},broken{secret}");
    let (settings, warnings) = read(&[
        ENDPOINT,
        ("OTEL_EXPORTER_OTLP_HEADERS", &headers),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://user:s3cret@host/"),
    ]);
    let shown = format!("{settings:?} {warnings:?}");
    assert!(shown.contains("authorization") && !shown.contains(secret), "{shown}");
}

#[test]
fn the_file_overrides_variables_of_all_signals() {
    let file = FileSettings {
        endpoint: Some("http://file:1".into()),
        protocol: Some("http/protobuf".into()),
        headers: Some("a=file".into()),
        traces: true,
        metrics: false,
        logs: false,
        spill: Some(SpillSettings {
            path: "/spill".into(),
            max_size: 64 << 20,
            max_age: None,
            when_full: observatory::WhenFull::DropNewest,
        }),
        share: Some(0.5),
        slow: Some(Duration::from_secs(1)),
        resource: BTreeMap::from([("service.name".into(), "file".into())]),
        ..FileSettings::default()
    };
    let (settings, warnings) = read_with(
        &[
            ENDPOINT,
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://variable:2/own"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=variable"),
            ("OTEL_METRICS_EXPORTER", "otlp"),
            ("OTEL_LOGS_EXPORTER", "otlp"),
            ("OTEL_TRACES_SAMPLER", "always_off"),
            ("OTEL_SERVICE_NAME", "variable"),
        ],
        &file,
    );
    let settings = settings.unwrap();
    let traces = settings.traces.unwrap();
    assert_eq!((settings.metrics, settings.logs, warnings), (None, None, vec![]));
    assert_eq!(settings.spill, file.spill);
    assert_eq!(traces.target.url, "http://file:1/v1/traces");
    assert_eq!(traces.target.headers, Headers(vec![("a".into(), "file".into())]));
    let sampler = Sampler { share: 0.5, parent_based: true, slow: Duration::from_secs(1) };
    assert_eq!(traces.sampler, sampler);
    assert_eq!(settings.resource["service.name"], "file");
}
