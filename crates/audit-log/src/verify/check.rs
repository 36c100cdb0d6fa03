//! Checks one line after the other.
//!
//! - *In*: the lines of all files in order.
//! - *Out*: a report.
//! - *Never*: a second problem for the same broken line, if the line after it shows that the line
//!   itself was changed and not its hash.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::{FileReport, Report, VerifyOptions};
use crate::chain::{Digest, Head, Link, Unchained};
use crate::key::{ChainKey, KeyId, hash};
use crate::lines::Lines;

/// Maximum bytes of the time of a line; a longer one is not a time.
const MAX_TIME: usize = 40;

/// A line in a file.
type Place = (PathBuf, u64);

/// The line before.
struct Last {
    sequence: u64,
    /// Its hash as it states it, and as computed.
    hashes: [Digest; 2],
}

/// Lines that are not of the chain, one after the other.
#[derive(Default)]
struct Run {
    sha: Sha256,
    bytes: u64,
    lines: u64,
    first: Option<Place>,
    /// Whether the last of them has no line feed.
    is_cut: bool,
}

/// A head that must be in the log.
struct Wanted {
    chain: Digest,
    source: String,
    is_found: bool,
}

pub(super) struct Checker<'o> {
    options: &'o VerifyOptions,
    report: Report,
    wanted: Vec<Wanted>,
    last: Option<Last>,
    run: Run,
    /// Lines that no given key verifies, by the key that they need.
    unverified: BTreeMap<Option<KeyId>, (u64, Place)>,
    path: PathBuf,
    line: u64,
}

impl<'o> Checker<'o> {
    /// `heads` are the heads in head files, with the logs that they belong to.
    pub(super) fn new(
        options: &'o VerifyOptions,
        heads: Vec<(PathBuf, Head)>,
        report: Report,
    ) -> Self {
        let given = options.head.map(|chain| (chain, "of --head".to_owned()));
        let heads = heads.into_iter().filter(|(_, head)| head.sequence > 0).map(|(path, head)| {
            let path = crate::head_path(&path);
            (head.chain, format!("of line {} in {}", head.sequence, path.display()))
        });
        let wanted = given.into_iter().chain(heads);
        let wanted =
            wanted.map(|(chain, source)| Wanted { chain, source, is_found: false }).collect();
        Checker {
            options,
            report,
            wanted,
            last: None,
            run: Run::default(),
            unverified: BTreeMap::new(),
            path: PathBuf::new(),
            line: 0,
        }
    }

    /// Checks the lines of a file that follows the files before.
    pub(super) fn check_file(&mut self, path: PathBuf, file: impl Read) -> io::Result<()> {
        self.report.files.push(FileReport { path: path.clone(), ..FileReport::default() });
        (self.path, self.line) = (path, 0);
        let mut lines = Lines::new(file);
        loop {
            let sha = &mut self.run.sha;
            let Some(line) = lines.next(|piece| sha.update(piece))? else { return Ok(()) };
            self.line += 1;
            match line.text.and_then(Link::parse) {
                Some(link) => {
                    self.check_link(&link);
                    if !line.is_ended {
                        self.problem("the line has no line feed: the end of the file was cut");
                    }
                }
                None => {
                    self.run.sha.update(line.text.unwrap_or_default());
                    self.run.sha.update(if line.is_ended { "\n" } else { "" });
                    self.run.bytes += line.bytes;
                    self.run.lines += 1;
                    self.run.is_cut = !line.is_ended;
                    let place = (self.path.clone(), self.line);
                    self.run.first.get_or_insert(place);
                }
            }
        }
    }

    /// The report, after all files.
    pub(super) fn finish(mut self) -> Report {
        self.end_run(None);
        let unverified = std::mem::take(&mut self.unverified);
        for (key_id, (count, (path, line))) in unverified {
            let what = match key_id {
                Some(id) => format!("{count} lines from here on need the key with the id {id}"),
                None => format!(
                    "{count} lines from here on have no key: any program that can write the file \
                     could have made them"
                ),
            };
            self.report.problem(Some(&path), Some(line), what);
        }
        for Wanted { chain, source, is_found } in &self.wanted {
            if !is_found {
                let what = format!(
                    "head {chain} ({source}) is not in the log: lines at the end were removed or \
                     changed"
                );
                self.report.problem(None, None, what);
            }
        }
        self.report.head =
            self.last.map(|Last { sequence, hashes: [chain, _] }| Head { sequence, chain });
        if self.report.head.is_none() {
            let what = "no line of a chain was found, so that nothing was verified";
            self.report.problem(None, None, what.to_owned());
        }
        self.report
    }

    fn problem(&mut self, what: impl Into<String>) {
        self.report.problem(Some(&self.path), Some(self.line), what.into());
    }

    fn check_link(&mut self, link: &Link<'_>) {
        self.end_run(Some(link));
        self.count(link);
        let sequence = link.members.sequence;
        let key = match self.key(link) {
            Ok(key) => key,
            Err(key_id) => {
                let place = || (self.path.clone(), self.line);
                self.unverified.entry(key_id).or_insert_with(|| (0, place())).0 += 1;
                self.check_number(sequence);
                self.set_last(link, link.members.chain);
                return;
            }
        };
        let hash_after = |previous: &Digest| hash(key, previous, link.text);
        let is_after = |previous: &Digest| hash_after(previous) == link.members.chain;
        let zero = Digest::default();
        let Some(Last { sequence: last, hashes }) = &self.last else {
            self.check_first(link, is_after);
            self.set_last(link, link.members.chain);
            return;
        };
        let stated = link.members.previous;
        let is_next =
            stated.is_none_or(|previous| hashes.contains(&previous)) && hashes.iter().any(is_after);
        if is_next {
            self.accept(link);
            self.set_last(link, link.members.chain);
        } else if sequence == last + 1 {
            let computed = hash_after(&hashes[0]);
            self.problem(format!("line {sequence} of the chain was changed: its hash differs"));
            self.set_last(link, computed);
        } else if sequence > *last {
            self.check_number(sequence);
            let is_whole = stated.is_some_and(|previous| is_after(&previous));
            if stated.is_some() && !is_whole {
                self.problem(format!("line {sequence} of the chain was changed: its hash differs"));
            } else if is_whole {
                self.accept(link);
            }
            self.set_last(link, link.members.chain);
        } else if sequence == 1 && is_after(&zero) {
            let what = format!("a new chain begins after line {last} of another");
            self.problem(what);
            self.accept(link);
            self.set_last(link, link.members.chain);
        } else {
            self.check_number(sequence);
        }
    }

    /// Checks the first line of the chain in these files.
    fn check_first(&mut self, link: &Link<'_>, is_after: impl Fn(&Digest) -> bool) {
        let sequence = link.members.sequence;
        let zero = Digest::default();
        let previous = if sequence == 1 { Some(zero) } else { link.members.previous };
        match previous {
            None => self.problem(format!(
                "line {sequence} of the chain cannot be verified: the lines before it are not in \
                 these files"
            )),
            Some(previous) if is_after(&previous) => self.accept(link),
            Some(_) => {
                self.problem(format!("line {sequence} of the chain was changed: its hash differs"));
            }
        }
        if sequence > 1 {
            let what = format!("begins at line {sequence}: earlier files were not given");
            self.report.note(Some(&self.path), None, what);
        }
    }

    /// Reports a number that does not follow the last one.
    fn check_number(&mut self, sequence: u64) {
        let Some(last) = self.last.as_ref().map(|last| last.sequence) else { return };
        if sequence <= last {
            self.problem(format!(
                "line {sequence} of the chain comes after line {last}: it was repeated, moved or \
                 inserted"
            ));
        } else if sequence == last + 2 {
            self.problem(format!("line {} of the chain is missing before this line", last + 1));
        } else if sequence > last + 1 {
            self.problem(format!(
                "lines {} to {} of the chain are missing before this line",
                last + 1,
                sequence - 1
            ));
        }
    }

    /// The key of a line; an error names the key that is missing.
    fn key(&self, link: &Link<'_>) -> Result<Option<&'o ChainKey>, Option<KeyId>> {
        let keys = &self.options.keys;
        match link.members.key_id {
            None if keys.is_empty() => Ok(None),
            None => Err(None),
            Some(id) => keys.iter().find(|key| key.id() == id).map(Some).ok_or(Some(id)),
        }
    }

    fn set_last(&mut self, link: &Link<'_>, computed: Digest) {
        let hashes = [link.members.chain, computed];
        self.last = Some(Last { sequence: link.members.sequence, hashes });
    }

    /// The line is as it was written.
    fn accept(&mut self, link: &Link<'_>) {
        for wanted in &mut self.wanted {
            wanted.is_found |= wanted.chain == link.members.chain;
        }
    }

    fn count(&mut self, link: &Link<'_>) {
        let Some(file) = self.report.files.last_mut() else { return };
        file.lines += 1;
        let at = link.members.at.as_ref().filter(|at| at.len() <= MAX_TIME).cloned();
        let line = (link.members.sequence, at);
        file.first.get_or_insert_with(|| line.clone());
        file.last = Some(line);
    }

    /// Reports the lines before `link` that are not of the chain. `None`: the end of the log.
    fn end_run(&mut self, link: Option<&Link<'_>>) {
        let Run { sha, bytes, lines, first, is_cut } = std::mem::take(&mut self.run);
        let stated = link.and_then(|link| link.members.unchained.as_ref());
        let Some((path, line)) = first else {
            let is_first = self.last.is_none() && link.is_some_and(|l| l.members.sequence > 1);
            if let (Some(Unchained { bytes, .. }), false) = (stated, is_first) {
                self.problem(format!(
                    "{bytes} bytes before this line, which it names as cut or without a chain, \
                     were removed"
                ));
            }
            return;
        };
        let run = Unchained { bytes, sha256: Digest(sha.finalize().into()) };
        let place = (Some(Path::new(&path)), Some(line));
        let size = match lines {
            1 => format!("a line of {bytes} bytes is"),
            _ => format!("{lines} lines of {bytes} bytes are"),
        };
        if stated == Some(&run) {
            let what = format!(
                "{size} not of the chain, as the next line of the chain states: cut by a crash, or \
                 written without a chain"
            );
            self.report.note(place.0, place.1, what);
        } else if link.is_none() && is_cut && lines == 1 {
            let what =
                format!("{size} cut: by a crash, or because the end of the file was removed");
            self.report.problem(place.0, place.1, what);
        } else {
            let what =
                format!("{size} not of the chain: changed, inserted, or written without one");
            self.report.problem(place.0, place.1, what);
        }
    }
}
