//! A disk in memory that fails or crashes at a given step, and forgets what was not synced.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use spill::{Disk, Listed};

/// What happens at the given step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operation fails once. A write may have been done in part, and what a failed sync did
    /// not write is lost at the end of the machine.
    Fail,
    /// It fails, and so do all later operations: the process is gone.
    Crash,
}

/// What survives a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survives {
    /// Everything that was written: the process was killed.
    Written,
    /// What was synced: the machine lost power.
    Synced,
    /// What was synced, and a part of the rest.
    SyncedAndSome,
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Cut(u64),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    content: Vec<u8>,
    synced: Vec<u8>,
    /// Changes since the last sync that may still reach the disk.
    changes: Vec<Change>,
}

type Names = BTreeMap<String, usize>;

#[derive(Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    names: Names,
    synced_names: Names,
    /// The names after each change since the last sync of the folder.
    versions: Vec<Names>,
    steps: usize,
    fault: Option<(usize, Fault)>,
    crashed: bool,
    /// Name of each step, for messages.
    trace: Vec<&'static str>,
}

/// The disk. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct FakeDisk(Arc<Mutex<State>>);

impl FakeDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("not poisoned")
    }

    /// Fails or crashes at a step, counted from now.
    pub fn set_fault(&self, step: usize, fault: Fault) {
        let mut state = self.state();
        state.steps = 0;
        state.trace.clear();
        state.fault = Some((step, fault));
    }

    /// The steps so far.
    pub fn steps(&self) -> usize {
        self.state().steps
    }

    /// The operation of a step.
    pub fn step_name(&self, step: usize) -> &'static str {
        self.state().trace.get(step).copied().unwrap_or("no step")
    }

    /// Whether the fault was a crash that happened.
    pub fn has_crashed(&self) -> bool {
        self.state().crashed
    }

    /// The disk after a restart.
    pub fn restart(&self, survives: Survives, seed: u64) -> FakeDisk {
        let state = self.state();
        let mut random = SmallRng::seed_from_u64(seed);
        let names = match survives {
            Survives::Written => state.names.clone(),
            Survives::Synced => state.synced_names.clone(),
            Survives::SyncedAndSome => {
                let versions = state.versions.len();
                let version = random.random_range(0..=versions);
                let version = version.checked_sub(1).and_then(|index| state.versions.get(index));
                version.unwrap_or(&state.synced_names).clone()
            }
        };
        let content = |inode: &Inode, random: &mut SmallRng| match survives {
            Survives::Written => inode.content.clone(),
            Survives::Synced => inode.synced.clone(),
            Survives::SyncedAndSome => inode.some_changes(random),
        };
        let inodes = state.inodes.iter().map(|inode| {
            let content = content(inode, &mut random);
            Inode { synced: content.clone(), content, changes: Vec::new() }
        });
        let inodes = inodes.collect();
        FakeDisk(Arc::new(Mutex::new(State {
            inodes,
            synced_names: names.clone(),
            names,
            ..State::default()
        })))
    }

    /// Does `act` as a step, unless the fault prevents it. `partly` is what a failed step does.
    fn step<T>(
        &self,
        name: &'static str,
        act: impl FnOnce(&mut State) -> io::Result<T>,
        partly: impl FnOnce(&mut State),
    ) -> io::Result<T> {
        let mut state = self.state();
        if state.crashed {
            return Err(io::Error::other("crashed"));
        }
        let step = state.steps;
        state.steps += 1;
        state.trace.push(name);
        match state.fault {
            Some((at, fault)) if at == step => {
                partly(&mut state);
                state.crashed = fault == Fault::Crash;
                Err(io::Error::other("the disk fails"))
            }
            _ => act(&mut state),
        }
    }
}

impl Inode {
    fn change(&mut self, change: Change) {
        apply(&mut self.content, &change);
        self.changes.push(change);
    }

    /// Each change may be missing or cut.
    fn some_changes(&self, random: &mut SmallRng) -> Vec<u8> {
        let mut content = self.synced.clone();
        for change in &self.changes {
            match (random.random_range(0..4), change) {
                (0, _) => {}
                (1, Change::Write(offset, bytes)) => {
                    let part = bytes.get(..random.random_range(0..=bytes.len()));
                    let part = part.unwrap_or_default().to_vec();
                    apply(&mut content, &Change::Write(*offset, part));
                }
                _ => apply(&mut content, change),
            }
        }
        content
    }
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(offset, bytes) => {
            let start = *offset as usize;
            let end = start + bytes.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            if let Some(place) = content.get_mut(start..end) {
                place.copy_from_slice(bytes);
            }
        }
        Change::Cut(len) => content.resize(*len as usize, 0),
    }
}

impl State {
    fn rename(&mut self, change: impl FnOnce(&mut Names)) {
        change(&mut self.names);
        self.versions.push(self.names.clone());
    }

    fn inode(&mut self, file: usize) -> &mut Inode {
        self.inodes.get_mut(file).expect("an open file")
    }
}

fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for FakeDisk {
    type File = usize;

    fn create_folder(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _: &Path) -> io::Result<Option<usize>> {
        Ok(Some(usize::MAX))
    }

    fn list(&self, _: &Path) -> io::Result<Vec<Listed>> {
        let state = self.state();
        let listed = |(name, file): (&String, &usize)| Listed {
            name: name.clone(),
            len: state.inodes.get(*file).map_or(0, |inode| inode.content.len() as u64),
            modified: 0,
        };
        Ok(state.names.iter().map(listed).collect())
    }

    fn create(&self, path: &Path) -> io::Result<usize> {
        let act = |state: &mut State| {
            let name = name(path);
            if let Some(file) = state.names.get(&name).copied() {
                state.inode(file).change(Change::Cut(0));
                return Ok(file);
            }
            state.inodes.push(Inode::default());
            let file = state.inodes.len() - 1;
            state.rename(|names| _ = names.insert(name, file));
            Ok(file)
        };
        self.step("create", act, |_| {})
    }

    fn open(&self, path: &Path) -> io::Result<usize> {
        let state = self.state();
        if state.crashed {
            return Err(io::Error::other("crashed"));
        }
        state.names.get(&name(path)).copied().ok_or_else(missing)
    }

    fn read_at(&self, file: &usize, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.state();
        let content = &state.inode(*file).content;
        let rest = content.get(offset as usize..).unwrap_or_default();
        // Short reads are usual.
        let count = rest.len().min(buffer.len()).min(40_000);
        for (to, from) in buffer.iter_mut().zip(rest).take(count) {
            *to = *from;
        }
        Ok(count)
    }

    fn write_at(&self, file: &usize, bytes: &[u8], offset: u64) -> io::Result<()> {
        let write = |part: &[u8]| Change::Write(offset, part.to_vec());
        let half = bytes.get(..bytes.len() / 2).unwrap_or_default();
        let act = |state: &mut State| {
            state.inode(*file).change(write(bytes));
            Ok(())
        };
        self.step("write", act, |state| state.inode(*file).change(write(half)))
    }

    fn set_len(&self, file: &usize, len: u64) -> io::Result<()> {
        let act = |state: &mut State| {
            state.inode(*file).change(Change::Cut(len));
            Ok(())
        };
        self.step("set_len", act, |_| {})
    }

    fn sync(&self, file: &usize) -> io::Result<()> {
        let act = |state: &mut State| {
            let inode = state.inode(*file);
            // A sync after a failed one succeeds, and does not write what the failed one lost.
            let changes = std::mem::take(&mut inode.changes);
            changes.iter().for_each(|change| apply(&mut inode.synced, change));
            Ok(())
        };
        self.step("sync", act, |state| state.inode(*file).changes.clear())
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        let act = |state: &mut State| {
            state.synced_names = state.names.clone();
            state.versions.clear();
            Ok(())
        };
        self.step("sync_folder", act, |_| {})
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let act = |state: &mut State| {
            let file = state.names.get(&name(from)).copied().ok_or_else(missing)?;
            state.rename(|names| {
                names.remove(&name(from));
                names.insert(name(to), file);
            });
            Ok(())
        };
        self.step("rename", act, |_| {})
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let act = |state: &mut State| {
            state.names.get(&name(path)).ok_or_else(missing)?;
            state.rename(|names| _ = names.remove(&name(path)));
            Ok(())
        };
        self.step("remove", act, |_| {})
    }
}
