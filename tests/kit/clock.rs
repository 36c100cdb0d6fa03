//! A wall clock that steps, for one process, by Debian's libfaketime. The monotonic clock is not
//! affected.

use std::path::PathBuf;
use std::process::Command;

use crate::gateway::folder;

/// A wall clock with an offset to the real time.
pub struct SteppingClock {
    file: PathBuf,
}

impl SteppingClock {
    /// A clock without an offset.
    pub fn without_offset() -> Self {
        let clock = SteppingClock { file: folder().join("clock") };
        clock.step_to(0);
        clock
    }

    /// Makes a process use this clock.
    pub fn apply_to(&self, command: &mut Command) {
        command.env("LD_PRELOAD", library()).env("FAKETIME_TIMESTAMP_FILE", &self.file);
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }

    /// Sets the offset in seconds; a negative one is in the past.
    pub fn step_to(&self, seconds: i64) {
        let next = self.file.with_extension("next");
        std::fs::write(&next, format!("{seconds:+}s\n")).expect("the folder is writable");
        std::fs::rename(next, &self.file).expect("the folder is writable");
    }
}

/// The path of libfaketime on Debian, on any architecture.
fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").expect("a Debian-like system");
    let mut paths =
        folders.flatten().map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    paths.find(|path| path.exists()).expect("libfaketime is there: `make test` installs it")
}
