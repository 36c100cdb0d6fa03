//! Exports convert, filter, and continue after an interruption without a record twice.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use files::{
    Export, ExportError, FileSource, Progress, Row, RowWriter, Source, SourceError, Target,
};
use lens::RecordFormat;
use serde_json::json;
use support::{convert, formats, full, numbered, read, write};

/// A source that fails after some rows, as if the process were killed: nothing is written after it.
struct Failing {
    source: FileSource,
    left: u64,
}

impl Source for Failing {
    fn next_row(&mut self) -> Result<Option<Row>, SourceError> {
        self.left = self.left.checked_sub(1).ok_or_else(|| SourceError("killed".into()))?;
        self.source.next_row()
    }

    fn place(&self) -> Option<String> {
        self.source.place()
    }

    fn progress(&self) -> Progress {
        self.source.progress()
    }
}

struct Job<'j> {
    from: &'j Path,
    to: &'j Path,
    format: RecordFormat,
    conditions: &'j [&'j str],
    split: Option<u64>,
    resume: bool,
}

impl Job<'_> {
    fn copy(&self, rows: u64) -> Result<u64, ExportError> {
        let target = match self.split {
            Some(split) => Target::Folder(self.to.to_owned(), split),
            None => Target::File(self.to.to_owned()),
        };
        let export = Export {
            source: self.from.display().to_string(),
            conditions: self.conditions.iter().map(|it| (*it).to_owned()).collect(),
            format: self.format,
            target,
            resume: self.resume,
            checkpoint: 300,
        };
        let open = |place: Option<&str>| {
            let source = FileSource::open(self.from, place)?;
            Ok(Box::new(Failing { source, left: rows }) as Box<dyn Source>)
        };
        export.copy(0, open, &mut |_| ())
    }
}

/// The rows of all files of a folder, or of a file.
fn rows(path: &Path) -> Vec<Row> {
    let mut source = FileSource::open(path, None).unwrap();
    std::iter::from_fn(|| source.next_row().unwrap()).collect()
}

/// A folder with several formats: 5,000 records in two files.
fn source(folder: &Path) -> PathBuf {
    let from = folder.join("from");
    fs::create_dir(&from).unwrap();
    for (name, format, numbers) in [
        ("1.msgpack", RecordFormat::Msgpack, 0..3_000),
        ("2.pb", RecordFormat::Protobuf, 3_000..5_000),
    ] {
        let written = write(&from, &numbers.map(numbered).collect::<Vec<_>>(), format);
        fs::rename(written, from.join(name)).unwrap();
    }
    fs::write(from.join("3.jsonl.partial"), "{").unwrap();
    from
}

#[test]
fn formats_are_converted_from_one_to_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let want = [full(), numbered(1)];
    let mut from = write(folder.path(), &want, RecordFormat::Msgpack);
    for (number, format) in formats().chain([RecordFormat::Protobuf]).enumerate() {
        let to = folder.path().join(format!("{number}.{}", format.extension()));
        assert_eq!(convert(&from, &to, format).unwrap(), 2);
        from = to;
    }
    // Fractions went through JSON.
    let got = read(&from).unwrap();
    assert_eq!(got[1], want[1]);
    let mut first = (*got[0].record).clone();
    for (got, want) in [
        (&mut first.cost, want[0].record.cost),
        (&mut first.tpot_us, want[0].record.tpot_us),
        (&mut first.routing.predicted_tpot_us, want[0].record.routing.predicted_tpot_us),
    ] {
        let (has, want) = (got.unwrap(), want.unwrap());
        assert!((has - want).abs() <= want * f64::EPSILON);
        *got = Some(want);
    }
    assert_eq!(first, *want[0].record);
}

#[test]
fn interrupted_exports_continue_without_a_record_twice() {
    let folder = tempfile::tempdir().unwrap();
    let from = source(folder.path());
    let formats: Vec<RecordFormat> = formats().collect();
    for (number, (format, split)) in [
        (RecordFormat::Csv, None),
        (formats[formats.len() - 1], None),
        (RecordFormat::Protobuf, Some(700)),
        (formats[formats.len() - 1], Some(1_500)),
    ]
    .into_iter()
    .enumerate()
    {
        let end = if split.is_some() { "folder" } else { format.extension() };
        let to = folder.path().join(format!("to-{number}.{end}"));
        let job = Job { from: &from, to: &to, format, conditions: &[], split, resume: false };
        assert!(job.copy(2_500).unwrap_err().to_string().contains("killed"));
        let error = job.copy(u64::MAX).unwrap_err().to_string();
        assert!(error.contains("--resume"), "{error}");
        let resumed = Job { resume: true, ..job };
        let other = Job { conditions: &["outcome=ok"], ..resumed };
        let error = other.copy(u64::MAX).unwrap_err().to_string();
        assert!(error.contains("resume it with the same arguments"), "{error}");
        assert!(resumed.copy(2_000).is_err(), "interrupted again");
        assert_eq!(resumed.copy(u64::MAX).unwrap(), 5_000);
        let found: Vec<u64> =
            rows(&to).iter().filter_map(|row| Some(row.key.as_ref()?.sequence)).collect();
        assert_eq!(found.len(), 5_000, "{format:?} {split:?}");
        assert!(found.iter().copied().eq(0..5_000), "{format:?} {split:?}");
        let left: Vec<_> = fs::read_dir(if split.is_some() { &to } else { folder.path() })
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("to-") || split.is_some())
            .filter(|name| [".resume", ".partial", ".tmp"].iter().any(|end| name.ends_with(end)))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// The process was killed after the last row: before, during and after the completion of the file.
#[test]
fn export_that_was_killed_at_its_end_is_completed_once() {
    let folder = tempfile::tempdir().unwrap();
    let from = write(folder.path(), &(0..9).map(numbered).collect::<Vec<_>>(), RecordFormat::Jsonl);
    for format in formats() {
        let to = folder.path().join("to").with_extension(format.extension());
        let end = format.extension();
        let (partial, state) = (
            to.with_extension(format!("{end}.partial")),
            to.with_extension(format!("{end}.resume")),
        );
        let job = Job { from: &from, to: &to, format, conditions: &[], split: None, resume: false };
        // Nine rows and the end: the state of a checkpoint is kept by a folder in the way.
        fs::create_dir(&to).unwrap();
        let blocked = job.copy(u64::MAX).unwrap_err().to_string();
        assert!(blocked.contains("exists"), "{blocked}");
        fs::remove_dir(&to).unwrap();
        assert_eq!(job.copy(u64::MAX).unwrap(), 9);
        let done = json!({
            "version": 1, "source": from.display().to_string(), "conditions": [], "format": format.name(), "is_folder": false,
            "now_us": 0, "place": "{\"file\":null,\"rows\":0}", "files": 0, "size": 0, "rows": 9, "records": 9, "is_done": true
        });
        let resumed = Job { resume: true, ..job };
        // After the completion; with rows of columns that are left.
        fs::write(&state, done.to_string()).unwrap();
        fs::write(&partial, "left").unwrap();
        assert_eq!(resumed.copy(u64::MAX).unwrap(), 9);
        assert!(!partial.exists() && !state.exists());
        assert_eq!(read(&to).unwrap().len(), 9);
        // Before it.
        let rows = if format.is_columnar() { RecordFormat::Msgpack } else { format };
        let source = folder.path().join("rows");
        fs::create_dir(&source).unwrap();
        fs::rename(write(&source, &(0..9).map(numbered).collect::<Vec<_>>(), rows), &partial)
            .unwrap();
        fs::remove_dir_all(source).unwrap();
        fs::remove_file(&to).unwrap();
        let mut before = done.clone();
        before["size"] = fs::metadata(&partial).unwrap().len().into();
        fs::write(&state, before.to_string()).unwrap();
        assert_eq!(resumed.copy(u64::MAX).unwrap(), 9);
        assert!(!partial.exists() && !state.exists());
        assert_eq!(read(&to).unwrap().len(), 9);
    }
}

#[test]
fn complete_export_is_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let from = write(folder.path(), &[numbered(1), numbered(2)], RecordFormat::Jsonl);
    let to = folder.path().join("to.csv");
    let format = RecordFormat::Csv;
    let job = Job { from: &from, to: &to, format, conditions: &[], split: None, resume: false };
    assert!(job.copy(1).is_err());
    // There was no checkpoint yet.
    fs::remove_file(folder.path().join("to.csv.partial")).unwrap();
    assert_eq!(job.copy(u64::MAX).unwrap(), 2);
    let error = job.copy(u64::MAX).unwrap_err().to_string();
    assert!(error.contains("to.csv exists; remove it"), "{error}");
}

#[test]
fn filters_select_records() {
    let folder = tempfile::tempdir().unwrap();
    let from = write(folder.path(), &(0..9).map(numbered).collect::<Vec<_>>(), RecordFormat::Jsonl);
    let to = folder.path().join("to.pb");
    let conditions = ["outcome=ok", "slower_than=3ms"];
    let format = RecordFormat::Protobuf;
    let job =
        Job { from: &from, to: &to, format, conditions: &conditions, split: None, resume: false };
    assert_eq!(job.copy(u64::MAX).unwrap(), 4);
    let ids: Vec<String> = read(&to).unwrap().iter().map(|row| row.record.id.clone()).collect();
    assert_eq!(ids, ["id-4", "id-5", "id-7", "id-8"]);
    let wrong =
        Job { conditions: &["rout=x"], resume: false, to: &folder.path().join("x.pb"), ..job };
    assert!(wrong.copy(1).unwrap_err().to_string().contains("known: from, to, route"));
}

#[test]
fn streams_are_read_and_written() {
    let json: String =
        (0..3).map(|n| serde_json::to_string(&numbered(n)).unwrap() + "\n").collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.csv");
    let file: Box<dyn std::io::Write> = Box::new(fs::File::create(&path).unwrap());
    let export = |resume, out| Export {
        source: "-".into(),
        conditions: Vec::new(),
        format: RecordFormat::Csv,
        target: Target::Stream(RowWriter::new(out, RecordFormat::Csv).unwrap()),
        resume,
        checkpoint: 300,
    };
    let input = std::io::Cursor::new(json + "{");
    let open = |_: Option<&str>| {
        Ok(Box::new(FileSource::stream("standard input", input)) as Box<dyn Source>)
    };
    let error = export(false, file).copy(0, open, &mut |_| ()).unwrap_err().to_string();
    assert!(error.starts_with("standard input: line 4: "), "{error}");
    let none: Box<dyn std::io::Write> = Box::new(std::io::sink());
    let open = |_: Option<&str>| Err(SourceError("not opened".into()));
    let error = export(true, none).copy(0, open, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("cannot be resumed"), "{error}");
    for format in [RecordFormat::Arrow, RecordFormat::Parquet] {
        assert!(RowWriter::new(Vec::new(), format).is_err(), "{format:?}");
    }
}

#[test]
fn sources_that_are_no_files_of_records_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("a.txt");
    fs::write(&text, "x").unwrap();
    for (path, known) in [
        (folder.path().to_owned(), "no files of records in it"),
        (text, "the end of the name states no format; known: .jsonl, .csv"),
        (folder.path().join("away"), "No such file"),
    ] {
        let error = FileSource::open(&path, None).err().expect("refused").to_string();
        assert!(error.contains(known) && error.contains(&path.display().to_string()), "{error}");
    }
    let path = write(folder.path(), &[numbered(1)], RecordFormat::Jsonl);
    for (place, known) in [
        ("x", "is not a place"),
        (r#"{"file":"b.jsonl","rows":1}"#, "b.jsonl is gone"),
        (r#"{"file":"all.jsonl","rows":2}"#, "has only 1 records now"),
    ] {
        let error = FileSource::open(&path, Some(place)).err().expect("refused").to_string();
        assert!(error.contains(known), "{error}");
    }
}
