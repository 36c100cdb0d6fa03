//! Settings of the store of records, and of files of records.

use crate::{Field, Kind, Section, field};

/// `record_store`
pub static RECORD_STORE: Section = Section {
    doc: "The store of finished requests, for `/api/records`, `/api/facets` and `/api/charts`: SQLite files in `path`, or the PostgreSQL database of `url` for many gateways. It has what `/api/requests` has, never a prompt or an answer.",
    fields: FIELDS,
};

const FIELDS: &[Field] = &[
    field(
        "path",
        Kind::Text,
        "",
        "Folder of SQLite files, which is created if it does not exist. Default: none. Only the user of the process can read it.",
    ),
    field(
        "url",
        Kind::Text,
        "",
        "PostgreSQL database, version 14 or newer, instead of `path`: `postgres://USER@HOST:PORT/DATABASE`. The connection uses TLS and verifies the server; `?sslmode=disable` is a connection without TLS. Default: none.",
    ),
    field(
        "password",
        Kind::Secret,
        "",
        "Password of the PostgreSQL user. Default: none, for servers that do not want one.",
    ),
    field(
        "ca",
        Kind::Text,
        "",
        "PEM file with the certificate authorities of the PostgreSQL server. Default: those of the system.",
    ),
    field(
        "keep",
        Kind::Duration,
        "7d",
        "How long records are kept, at least 1h. A file or a partition is removed when all of its records are older: up to a day later, and up to 6h later if this is below 4d. All gateways of a database should have the same value; the shortest one counts.",
    ),
    field(
        "max_size",
        Kind::Size,
        "0",
        "Maximum size of the folder, at least 64MiB. The oldest files are removed beyond it. 0 means no limit. A million records take about 0.4 GiB. Not for PostgreSQL.",
    ),
    field(
        "spill",
        Kind::Section(&SPILL),
        "",
        "Where records wait that PostgreSQL has not accepted yet. Default: in memory, at most 32,768.",
    ),
];

/// `record_store.spill`
pub static SPILL: Section = Section {
    doc: "A queue of records on the disk, which a crash of the gateway does not lose.",
    fields: &[
        field(
            "path",
            Kind::RequiredText,
            "/var/lib/llm-lens/spill",
            "Folder of the queue, which is created if it does not exist. No other gateway may use it.",
        ),
        field(
            "max_size",
            Kind::Size,
            "1GiB",
            "Maximum size of the folder, at least 1MiB. A record takes about 1 KiB.",
        ),
        field(
            "max_age",
            Kind::Duration,
            "",
            "Maximum age of a waiting record, at least 1m. Default: none.",
        ),
        field(
            "when_full",
            Kind::Word(&["drop_oldest", "drop_newest"]),
            "drop_oldest",
            "Which records are dropped, and counted, when the folder is full.",
        ),
    ],
};

/// `record_files`
pub static RECORD_FILES: Section = Section {
    doc: "Files of finished requests, for programs such as duckdb and polars: docs/observability.md. They have what `/api/requests` has, never a prompt or an answer.",
    fields: &[
        field(
            "path",
            Kind::Text,
            "",
            "Folder of the files, which is created if it does not exist. Default: none, nothing is written. Only the user of the process can read them.",
        ),
        field(
            "format",
            Kind::Word(&["jsonl", "csv", "msgpack", "protobuf", "arrow", "parquet"]),
            "jsonl",
            "Format of the files. Parquet is the smallest and the fastest to query; the others can be read while they are written.",
        ),
        field(
            "rotate_size",
            Kind::Size,
            "64MiB",
            "Size at which a file is complete, from 4KiB to 4GiB. For arrow and parquet it is the size of their rows before the conversion.",
        ),
        field(
            "rotate_interval",
            Kind::Duration,
            "1h",
            "Files are complete at the multiples of this time since midnight UTC, at least 1s. Without requests, half a minute later.",
        ),
        field(
            "keep",
            Kind::Duration,
            "",
            "Age at which files are removed, at least 1m. Default: they stay. With `upload`, uploaded files stay in the folder `uploaded` until this age; default: they are removed at once.",
        ),
        field(
            "upload",
            Kind::Section(&UPLOAD),
            "",
            "Bucket of an object store to which complete files are uploaded. Default: none.",
        ),
    ],
};

/// `record_files.upload`
pub static UPLOAD: Section = Section {
    doc: "Uploads complete files to a bucket of an object store with the API of S3, such as AWS S3, SeaweedFS, MinIO or Ceph. Files wait in the folder until the store has acknowledged them. No object is overwritten.",
    fields: &[
        field(
            "url",
            Kind::RequiredText,
            "s3://llm-lens-records/production",
            "Bucket, and what names of objects begin with. A file becomes `PATH/date=YYYY-MM-DD/NAME`.",
        ),
        field(
            "endpoint",
            Kind::Text,
            "",
            "URL of the store. Default: `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`, or else AWS in `region`.",
        ),
        field(
            "region",
            Kind::Text,
            "",
            "Region of the bucket. Default: `AWS_REGION` or `AWS_DEFAULT_REGION`, or else us-east-1.",
        ),
        field(
            "access_key",
            Kind::Secret,
            "",
            "Id of the access key. Can be `${NAME}` or `file:PATH`. Default: `AWS_ACCESS_KEY_ID`; without it, requests are not signed.",
        ),
        field(
            "secret_key",
            Kind::Secret,
            "",
            "Secret of the access key. Default: `AWS_SECRET_ACCESS_KEY`.",
        ),
        field(
            "session_token",
            Kind::Secret,
            "",
            "Token of temporary credentials. Default: `AWS_SESSION_TOKEN`.",
        ),
        field(
            "ca",
            Kind::Text,
            "",
            "PEM file with the certificate authorities of the store. Default: `AWS_CA_BUNDLE`, or else those of the system.",
        ),
        field(
            "timeout",
            Kind::Duration,
            "30s",
            "Time without progress after which an upload fails and is tried again, from 1s to 10m.",
        ),
        field(
            "max_waiting",
            Kind::Size,
            "10GiB",
            "Maximum bytes of files that wait, at least 1MiB. The oldest are removed beyond it, logged and counted.",
        ),
    ],
};
