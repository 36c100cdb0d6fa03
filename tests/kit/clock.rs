//! A wall clock that steps, for one process: by Debian's libfaketime. The monotonic clock goes on
//! as it is.

use std::path::PathBuf;
use std::process::Command;

use crate::gateway::folder;

/// How far a process is from the time.
pub struct SteppingClock {
    file: PathBuf,
}

impl SteppingClock {
    /// A clock that goes right.
    pub fn right() -> Self {
        let clock = SteppingClock { file: folder().join("clock") };
        clock.step_to(0);
        clock
    }

    /// Have a process go by it.
    pub fn govern(&self, command: &mut Command) {
        command.env("LD_PRELOAD", library()).env("FAKETIME_TIMESTAMP_FILE", &self.file);
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }

    /// Step, to so many seconds before or after the time.
    pub fn step_to(&self, seconds: i64) {
        let next = self.file.with_extension("next");
        std::fs::write(&next, format!("{seconds:+}s\n")).expect("the folder is writable");
        std::fs::rename(next, &self.file).expect("the folder is writable");
    }
}

/// Where Debian puts it, on whatever architecture.
fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").expect("a Debian-like system");
    let mut paths =
        folders.flatten().map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    paths.find(|path| path.exists()).expect("libfaketime is there: `make test` installs it")
}
