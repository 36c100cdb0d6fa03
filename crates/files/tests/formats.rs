//! Every format keeps every field, and refuses what is damaged.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use files::{COLUMNS, Column, Kind, MAX_ROW, Row};
use lens::{Record, RecordFormat};
use observatory::RecordKey;
use proptest::prelude::*;
use serde_json::Value;
use support::{FORMATS, bare, formats, full, numbered, read, write};

/// Whether two values are equal. Fractions of JSON may differ in the last bits.
fn is_close(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| is_close(a, b)))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_close(a, b))
        }
        (Value::Number(a), Value::Number(b)) if a.is_f64() => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap_or(f64::NAN));
            (a - b).abs() <= a.abs() * 4.0 * f64::EPSILON
        }
        _ => a == b,
    }
}

#[track_caller]
fn assert_same(format: RecordFormat, got: &[Row], want: &[Row]) {
    assert_eq!(got.len(), want.len(), "{format:?}");
    for (got, want) in got.iter().zip(want) {
        let is_text = matches!(format, RecordFormat::Jsonl | RecordFormat::Csv);
        let json = |row: &Row| serde_json::to_value(row).unwrap();
        let same = if is_text { is_close(&json(want), &json(got)) } else { got == want };
        assert!(same, "{format:?}\n got {got:#?}\nwant {want:#?}");
    }
}

#[test]
fn every_format_keeps_every_field() {
    let rows = [full(), bare(), numbered(u64::MAX / 1000), full()];
    let folder = tempfile::tempdir().unwrap();
    for format in formats() {
        let path = write(folder.path(), &rows, format);
        assert_same(format, &read(&path).unwrap(), &rows);
    }
}

/// More rows than a batch of columns.
#[test]
fn many_rows_keep_their_order() {
    let rows: Vec<Row> = (0..3000).map(numbered).collect();
    let folder = tempfile::tempdir().unwrap();
    for format in formats() {
        assert_same(format, &read(&write(folder.path(), &rows, format)).unwrap(), &rows);
    }
}

#[test]
fn not_a_number_is_absent() {
    let nan =
        Record { cost: Some(f64::NAN), tpot_us: Some(f64::INFINITY), ..(*bare().record).clone() };
    let rows = [Row { key: None, record: Arc::new(nan) }];
    let folder = tempfile::tempdir().unwrap();
    for format in formats().filter(|format| *format != RecordFormat::Msgpack) {
        assert_same(format, &read(&write(folder.path(), &rows, format)).unwrap(), &[bare()]);
    }
}

fn assert_columns(columns: &[Column], value: &Value, path: &str) {
    let object = value.as_object().unwrap_or_else(|| panic!("{path} is a part"));
    let mut names: Vec<&str> = columns.iter().map(|column| column.name).collect();
    let mut has: Vec<&str> = object.keys().map(String::as_str).collect();
    names.sort_unstable();
    has.sort_unstable();
    assert_eq!(names, has, "columns and fields of {path:?}");
    for column in columns {
        let (inside, value) = (format!("{path}.{}", column.name), &object[column.name]);
        match column.kind {
            // The last mark of the record has one time only.
            Kind::Struct(group) if column.name != "last_token" => {
                assert_columns(group.columns, value, &inside);
            }
            Kind::List(group) => assert_columns(group.columns, &value[0], &inside),
            Kind::Counts => assert!(value.is_object(), "{inside}"),
            Kind::Texts => assert!(value[0].is_string(), "{inside}"),
            Kind::Text | Kind::Time => assert!(value.is_string(), "{inside}"),
            Kind::Unsigned => assert!(value.is_u64(), "{inside}"),
            Kind::Signed => assert!(value.is_i64(), "{inside}"),
            Kind::Float => assert!(value.is_f64(), "{inside}"),
            Kind::Flag => assert!(value.is_boolean(), "{inside}"),
            Kind::Struct(_) => {}
        }
    }
}

#[test]
fn the_table_of_columns_has_every_field_with_its_type() {
    assert_columns(COLUMNS, &serde_json::to_value(full()).unwrap(), "");
}

fn data(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

#[test]
fn the_protobuf_schema_is_up_to_date() {
    let path = data("schema/record.proto");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, files::protobuf_schema()).unwrap();
    }
    let shown = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        shown == files::protobuf_schema(),
        "schema/record.proto is not up to date: run `UPDATE_DOCS=1 cargo test -p llm-lens-files`"
    );
}

#[test]
fn the_page_of_columns_is_up_to_date() {
    let (begin, end) = ("<!-- columns -->\n", "<!-- end of the columns -->");
    let path = data("../../docs/record-columns.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(begin).unwrap();
    let (shown, after) = rest.split_once(end).unwrap();
    let want = format!("\n{}\n", files::markdown());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        return fs::write(&path, format!("{before}{begin}{want}{end}{after}")).unwrap();
    }
    assert!(
        shown == want,
        "docs/record-columns.md is not up to date: run `UPDATE_DOCS=1 cargo test -p llm-lens-files`"
    );
}

/// The files of the first version, which are never written again: numbers of fields must not
/// change.
#[test]
fn files_of_the_first_version_are_read() {
    let json = fs::read_to_string(data("tests/data/v1.jsonl")).unwrap();
    let want: Vec<Row> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(want.len(), 2);
    for end in ["pb", "csv", "msgpack", "arrow", "parquet"] {
        let path = data("tests/data/v1").with_extension(end);
        let format = RecordFormat::from_path(&path).unwrap();
        if files::is_supported(format).is_ok() {
            let got = read(&path).unwrap();
            let json = |rows: &[Row]| serde_json::to_value(rows).unwrap();
            assert!(is_close(&json(&want), &json(&got)), "{end}: {got:#?}");
        }
    }
}

/// A build without the feature `arrow` says so.
#[test]
fn formats_of_another_build_name_their_feature() {
    let all = FORMATS.into_iter().filter(|format| files::is_supported(*format).is_err());
    for format in all {
        let error = files::is_supported(format).unwrap_err();
        assert!(error.contains("this build has no feature `arrow`"), "{error}");
        let path = data("tests/data/v1").with_extension(format.extension());
        assert!(read(&path).unwrap_err().to_string().contains("feature `arrow`"));
    }
}

/// Cuts a file at each byte: rows before the cut are read, and the cut is an error or the end of
/// the file.
#[test]
fn files_that_end_early_keep_their_first_rows() {
    let rows = [numbered(1), full(), numbered(2)];
    let folder = tempfile::tempdir().unwrap();
    for format in formats().filter(|format| !format.is_columnar()) {
        let whole = fs::read(write(folder.path(), &rows, format)).unwrap();
        let cut = folder.path().join("cut").with_extension(format.extension());
        for length in (0..whole.len()).step_by(7) {
            fs::write(&cut, &whole[..length]).unwrap();
            let Ok(mut reader) = files::open(&cut, format) else { continue };
            let mut found = 0;
            while let Ok(Some(row)) = reader.read() {
                assert_same(format, &[row], &rows[found..=found]);
                found += 1;
            }
            assert!(reader.position() <= length as u64);
        }
    }
}

#[test]
fn errors_name_the_place_and_the_problem() {
    let folder = tempfile::tempdir().unwrap();
    let good = String::from_utf8(
        fs::read(write(folder.path(), &[numbered(1)], RecordFormat::Csv)).unwrap(),
    )
    .unwrap();
    let json = serde_json::to_string(&numbered(1)).unwrap();
    let long = "x".repeat(MAX_ROW + 10);
    let header = good.lines().next().unwrap().to_owned();
    for (end, bytes, known) in [
        ("jsonl", format!("{json}\n{{\"id\": 1}}\n"), "line 2: "),
        ("jsonl", format!("{json}\n{json}}}\n"), "line 2: trailing characters at character"),
        ("jsonl", format!("{{\"id\":\"{long}\"}}\n"), "line 1: longer than 4 MiB"),
        ("csv", format!("{good}a,b\n"), "line 3: 2 fields, but the header has 65"),
        ("csv", good.replace("id-1", "id\"1\""), "line 2: field 5: a quote inside of it"),
        (
            "csv",
            good.replace(",false,", ",maybe,"),
            "line 2: column retry_denied: \"maybe\" is not true or false",
        ),
        ("csv", good.replace("1970-01-01T00", "1970"), "column started_at: "),
        ("csv", format!("{good}\"open\n"), "line 3: a quote is not closed"),
        ("csv", "a,b\n1,2\n".into(), "line 1: the header has no column \"id\""),
        ("csv", format!("{header},id\n"), "the header has the column \"id\" twice"),
        ("msgpack", "\u{1}\u{2}".into(), "byte 0: "),
        ("msgpack", "\u{0}".into(), "byte 0: "),
    ] {
        let path = folder.path().join("bad").with_extension(end);
        fs::write(&path, bytes).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains(known), "{end}: {error}");
    }
}

/// Lengths that a file states and does not have.
#[test]
fn hostile_lengths_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let nested = [vec![0x81, 0xa1, b'x'], vec![0x91; 100_000]].concat();
    let cases: [(&str, Vec<u8>, &str); 9] = [
        ("msgpack", vec![0xdf, 0xff, 0xff, 0xff, 0xff], "byte 0: "),
        ("msgpack", vec![0x81, 0xa2, b'i', b'd', 0xdb, 0xff, 0xff, 0xff, 0xff, b'x'], "byte 0: "),
        ("msgpack", vec![0x81, 0xa1, b'x', 0xc6, 0xff, 0xff, 0xff, 0xff, b'x'], "byte 0: "),
        ("msgpack", nested, "byte 0: "),
        ("pb", vec![0xff; 10], "the length is malformed"),
        ("pb", vec![0xff, 0xff, 0xff, 0xff, 0x7f, 1], "longer than 4 MiB"),
        ("pb", vec![0x80, 0x80, 0x80, 0x01, 1], "ends inside of a message"),
        ("pb", vec![3, 5 << 3 | 2, 100, b'x'], "field 5 is malformed"),
        ("pb", vec![2, 5 << 3, 1], "field id has the wrong wire type"),
    ];
    for (end, bytes, known) in cases {
        let path = folder.path().join("bad").with_extension(end);
        fs::write(&path, bytes).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains(known), "{end}: {error}");
    }
}

/// Bytes of a file of columns that were changed give other rows or an error, and never a panic.
#[cfg(feature = "arrow")]
#[test]
fn damaged_files_of_columns_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for format in [RecordFormat::Arrow, RecordFormat::Parquet] {
        let whole = fs::read(write(folder.path(), &[full(), bare()], format)).unwrap();
        let path = folder.path().join("bad").with_extension(format.extension());
        for cut in [0, 4, 100, whole.len() / 2, whole.len() - 1] {
            fs::write(&path, &whole[..cut]).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("not a complete"), "{format:?} {cut}: {error}");
        }
        let mut changed = 0;
        for at in (0..whole.len()).step_by(97) {
            let mut bytes = whole.clone();
            bytes[at] = !bytes[at];
            fs::write(&path, &bytes).unwrap();
            changed += u32::from(read(&path).is_err());
        }
        assert!(changed > 0, "{format:?}: no change is noticed");
    }
}

/// A Parquet file with another type of a column is refused by name.
#[cfg(feature = "arrow")]
#[test]
fn columns_of_another_type_are_refused() {
    use arrow_array::{ArrayRef, RecordBatch, StringArray};
    let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    let columns = [("id", text.clone()), ("started_at", text.clone()), ("ledger_us", text)];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.parquet");
    let file = fs::File::create(&path).unwrap();
    let mut out = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    out.write(&batch).unwrap();
    out.close().unwrap();
    let error = read(&path).unwrap_err().to_string();
    assert!(error.contains("the column \"started_at\" has the type Utf8"), "{error}");
}

/// Columns that this version does not know are left out, as fields of JSON are.
#[test]
fn fields_of_newer_versions_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let json = serde_json::to_string(&numbered(1)).unwrap().replacen('{', "{\"new\":[{}],", 1);
    let csv = String::from_utf8(
        fs::read(write(folder.path(), &[numbered(1)], RecordFormat::Csv)).unwrap(),
    );
    let csv = csv.unwrap().replace("instance,", "new,instance,").replace("gw-1,", "\"a\nb\",gw-1,");
    let mut pb = fs::read(write(folder.path(), &[numbered(1)], RecordFormat::Protobuf)).unwrap();
    let mut message = pb.as_slice();
    let length = lens::varint::take(&mut message).unwrap();
    let mut more = Vec::new();
    lens::varint::put(&mut more, length + 5);
    more.extend([0xf2, 0x7f, 2, b'x', b'y']);
    pb = [&more, message].concat();
    for (end, bytes) in [("jsonl", json.into_bytes()), ("csv", csv.into_bytes()), ("pb", pb)] {
        let path = folder.path().join("new").with_extension(end);
        fs::write(&path, bytes).unwrap();
        assert_eq!(read(&path).unwrap(), [numbered(1)], "{end}");
    }
}

prop_compose! {
    fn any_row()(
        (id, owner, reasons) in (any::<String>(), any::<Option<String>>(), any::<Vec<String>>()),
        (bytes, total) in any::<(u64, u64)>(),
        cost in proptest::option::of(-1e300..1e300f64),
        (status, stream) in any::<(Option<u16>, bool)>(),
        key in any::<Option<(String, u64, u64)>>(),
    ) -> Row {
        let record = Record {
            id,
            owner: owner.map(Into::into),
            finish_reasons: reasons,
            bytes_to_client: bytes,
            total_us: total,
            cost,
            http_status: status,
            stream,
            ..(*bare().record).clone()
        };
        let key = key.map(|(instance, epoch, sequence)| {
            RecordKey { instance: instance.into(), epoch, sequence }
        });
        Row { key, record: Arc::new(record) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_rows_come_back(rows in proptest::collection::vec(any_row(), 1..4)) {
        let folder = tempfile::tempdir().unwrap();
        for format in formats() {
            assert_same(format, &read(&write(folder.path(), &rows, format)).unwrap(), &rows);
        }
    }

    #[test]
    fn any_bytes_are_rows_or_an_error(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        at in 0usize..2000,
    ) {
        let folder = tempfile::tempdir().unwrap();
        for format in formats().filter(|format| !format.is_columnar()) {
            let mut whole = fs::read(write(folder.path(), &[full()], format)).unwrap();
            let at = at % whole.len();
            whole.splice(at..(at + bytes.len() / 2).min(whole.len()), bytes.iter().copied());
            let path = folder.path().join("any").with_extension(format.extension());
            fs::write(&path, &whole).unwrap();
            let _ = read(&path);
        }
    }
}
