//! Buckets of object stores as source and target of an export.
//!
//! - *In*: `s3://BUCKET/PATH`; the variables `AWS_*` of the environment.
//! - *Out*: rows of the objects whose names state a format; objects of the exported files.
//! - *Never*: an object that is overwritten; more than one downloaded object on the disk.

use std::fs::File;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use base_url::BucketUrl;
use files::{FileSource, Progress, Row, Source, SourceError};
use lens::RecordFormat;
use objects::{Bucket, BucketOptions, Listed, Stored};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

/// The URL of a bucket, if a path is meant as one.
///
/// # Errors
/// It is not valid.
pub(super) fn url(path: &Path) -> Result<Option<BucketUrl>> {
    let Some(text) = path.to_str().filter(|text| BucketUrl::is_scheme_of(text)) else {
        return Ok(None);
    };
    let url = text.parse::<BucketUrl>();
    url.map(Some).map_err(|why| anyhow::anyhow!("the URL of the bucket {why}"))
}

fn bucket(url: &BucketUrl) -> Result<Bucket> {
    let variable = |name: &str| std::env::var(name).ok();
    Ok(Bucket::new(BucketOptions::from_variables(url, variable, wall_us)?)?)
}

fn wall_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// Creates objects from the files of a folder: below the path of `url`, or of its name if it names
/// a file.
///
/// # Errors
/// A file cannot be read or uploaded, or another object has its name.
pub(super) fn upload(folder: &Path, url: &BucketUrl, is_folder: bool) -> Result<()> {
    let mut bucket = bucket(url)?;
    let mut names: Vec<_> = std::fs::read_dir(folder)?.flatten().map(|it| it.file_name()).collect();
    names.sort();
    for name in names {
        let key = match is_folder {
            true => format!("{}{}", url.prefix(), name.to_string_lossy()),
            false => url.path.clone(),
        };
        let place = format!("s3://{}/{key}", url.bucket);
        let file = File::open(folder.join(&name))?;
        match bucket.put_new(&key, file, &|| false).with_context(|| place.clone())? {
            Stored::Now(_) | Stored::Before => {}
            Stored::Other => bail!("{place} exists; remove it or name another target"),
        }
    }
    Ok(())
}

/// The records of the objects below a path.
pub(super) struct BucketSource {
    bucket: Bucket,
    name: String,
    /// Objects that follow, the last one first.
    left: Vec<String>,
    all: u64,
    done: u64,
    /// Where the open object is.
    folder: TempDir,
    open: Option<Open>,
}

struct Open {
    key: String,
    source: FileSource,
    rows: u64,
}

/// The place of a row.
#[derive(Debug, Serialize, Deserialize)]
struct Place {
    /// Name of the object; `None`: all objects are read.
    object: Option<String>,
    /// Rows of it that are read.
    rows: u64,
}

impl BucketSource {
    /// The records of the object of this name, or of all objects below it, from `place`.
    pub(super) fn open(url: &BucketUrl, place: Option<&str>) -> Result<Self, SourceError> {
        let failed = |why: String| SourceError(format!("{url}: {why}"));
        let mut bucket = bucket(url).map_err(|error| failed(format!("{error:#}")))?;
        let keys = list(&mut bucket, url).map_err(|error| failed(error.to_string()))?;
        if keys.is_empty() {
            let ends = RecordFormat::WORDS.map(|(_, format)| format.extension()).join(", .");
            return Err(failed(format!("there are no objects of records; known: .{ends}")));
        }
        let folder = tempfile::tempdir().map_err(|error| failed(error.to_string()))?;
        let (all, left) = (keys.len() as u64, keys.into_iter().rev().collect());
        let name = url.bucket.clone();
        let mut source = BucketSource { bucket, name, left, all, done: 0, folder, open: None };
        if let Some(place) = place {
            source.skip_to(place)?;
        }
        Ok(source)
    }

    fn skip_to(&mut self, place: &str) -> Result<(), SourceError> {
        let place: Place = serde_json::from_str(place)
            .map_err(|_| SourceError(format!("{place:?} is not a place in a bucket")))?;
        let Some(object) = place.object else {
            self.done = self.all;
            self.left.clear();
            return Ok(());
        };
        let gone = |why| SourceError(format!("s3://{}/{object} {why}; begin again", self.name));
        let at = self.left.iter().rposition(|key| *key == object);
        let at = at.ok_or_else(|| gone("is gone, so the export cannot continue"))?;
        let short = gone("has fewer records than before");
        self.left.truncate(at + 1);
        self.done = self.all - self.left.len() as u64;
        for _ in 0..place.rows {
            if self.next_row()?.is_none() {
                return Err(short);
            }
        }
        Ok(())
    }

    fn failed(&self, key: &str, why: impl std::fmt::Display) -> SourceError {
        SourceError(format!("s3://{}/{key}: {why}", self.name))
    }

    fn download(&mut self, key: String) -> Result<Open, SourceError> {
        let end = RecordFormat::from_path(Path::new(&key)).unwrap_or_default().extension();
        let path = self.folder.path().join(format!("object.{end}"));
        let mut file = File::create(&path).map_err(|error| self.failed(&key, error))?;
        self.bucket.get(&key, &mut file).map_err(|error| self.failed(&key, error))?;
        let source = FileSource::open(&path, None).map_err(|error| self.failed(&key, error))?;
        Ok(Open { key, source, rows: 0 })
    }
}

/// The names of objects of records, in order.
fn list(bucket: &mut Bucket, url: &BucketUrl) -> Result<Vec<String>, objects::ObjectError> {
    let is_records = |key: &str| RecordFormat::from_path(Path::new(key)).is_some();
    let is_object = is_records(&url.path);
    let prefix = if is_object { url.path.clone() } else { url.prefix() };
    let (mut keys, mut from) = (Vec::new(), None);
    loop {
        let (page, next) = bucket.list(&prefix, from.as_deref())?;
        let names = page.into_iter().map(|Listed { key, .. }| key);
        keys.extend(names.filter(|key| if is_object { *key == url.path } else { is_records(key) }));
        from = next;
        if from.is_none() {
            keys.sort();
            return Ok(keys);
        }
    }
}

impl Source for BucketSource {
    fn next_row(&mut self) -> Result<Option<Row>, SourceError> {
        loop {
            let Some(open) = &mut self.open else {
                let Some(key) = self.left.pop() else { return Ok(None) };
                self.open = Some(self.download(key)?);
                continue;
            };
            match open.source.next_row() {
                Ok(Some(row)) => {
                    open.rows += 1;
                    return Ok(Some(row));
                }
                Ok(None) => {
                    self.open = None;
                    self.done += 1;
                }
                Err(error) => {
                    let key = open.key.clone();
                    return Err(self.failed(&key, error));
                }
            }
        }
    }

    fn place(&self) -> Option<String> {
        let place = match (&self.open, self.left.last()) {
            (Some(open), _) => Place { object: Some(open.key.clone()), rows: open.rows },
            (None, next) => Place { object: next.cloned(), rows: 0 },
        };
        serde_json::to_string(&place).ok()
    }

    fn progress(&self) -> Progress {
        Progress { done: self.done, all: Some(self.all), unit: "objects", written: 0 }
    }
}
