//! `llm-lens key`: making, listing and revoking API keys in the file or database that the gateway
//! watches.
//!
//! A key is printed once, when it is created. The file contains only its keyed hash.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use config::{Secret, Settings};
use traffic::KeyHasher;
use traffic::keys::{Entry, is_database};

use crate::args::{KeyCommand, NewKeyArgs};

/// Prefix of every key, by which secret scanners can recognize it.
const PREFIX: &str = "llk_";

pub(crate) fn run_key_command(command: &KeyCommand) -> Result<()> {
    match command {
        KeyCommand::Create(args) => create(args),
        KeyCommand::List { config } => list(config),
        KeyCommand::Revoke { config, id } => revoke(config, id),
    }
}

fn create(args: &NewKeyArgs) -> Result<()> {
    let settings = config::load(&args.config)?;
    let (keys, secret) = key_file(&settings, &args.config)?;
    let key = format!("{PREFIX}{}", hex::encode(rand::random::<[u8; 32]>()));
    let now = jiff::Timestamp::now();
    let new = Entry {
        id: args
            .id
            .clone()
            .unwrap_or_else(|| format!("k_{}", hex::encode(rand::random::<[u8; 6]>()))),
        hash: Some(hex::encode(KeyHasher::new(secret.reveal()).hash(&key))),
        owner: args.owner.clone(),
        created: Some(format!("{now:.0}")),
        expires: args
            .expires_in
            .map(|span| format!("{:.0}", now.saturating_add(span).unwrap_or(jiff::Timestamp::MAX))),
        routes: args.routes.clone(),
        models: args.models.clone(),
        priority: args.priority,
        limits: args.limits.iter().cloned().collect(),
        ..Entry::default()
    };
    for route in args.routes.iter().filter(|route| !route.ends_with('*')) {
        if !settings.routes.iter().any(|known| *known.name == **route) {
            bail!("{} has no route {route:?}; known: {}", args.config.display(), names(&settings));
        }
    }
    if is_database(keys) {
        database::add(keys, &new, &settings.rate_limits)?;
    } else {
        edit_locked(keys, |name, text| {
            Ok(config::add_key(name, text, &new, &settings.rate_limits)?)
        })?;
    }
    eprintln!(
        "created key {} for owner {} in {}; it is shown only once:",
        new.id,
        new.owner,
        keys.display()
    );
    println!("{key}");
    Ok(())
}

fn list(config: &Path) -> Result<()> {
    let settings = config::load(config)?;
    let (keys, _) = key_file(&settings, config)?;
    let entries = config::load_key_entries(keys, &settings.rate_limits)?;
    print!("{}", table(entries.iter().filter(|entry| !entry.revoked)));
    Ok(())
}

/// One line for each key, below the names of the columns.
fn table<'e>(entries: impl Iterator<Item = &'e Entry>) -> String {
    let names = ["id", "owner", "created", "expires", "priority", "routes", "models", "limits"];
    let all = |texts: &[String]| match texts {
        [] => "all".to_owned(),
        texts => texts.join(","),
    };
    let row = |entry: &Entry| {
        let limits = entry.limits.iter().map(|(name, amount)| format!("{name}={amount}"));
        let limits = limits.collect::<Vec<_>>().join(",");
        [
            entry.id.clone(),
            entry.owner.clone(),
            entry.created.clone().unwrap_or_else(|| "-".into()),
            entry.expires.clone().unwrap_or_else(|| "never".into()),
            entry.priority.to_string(),
            all(&entry.routes),
            all(&entry.models),
            if limits.is_empty() { "-".into() } else { limits },
        ]
    };
    let rows: Vec<_> = std::iter::once(names.map(str::to_owned)).chain(entries.map(row)).collect();
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let longest = rows.iter().map(|row| row[at].chars().count()).max();
            // Writing to a string does not fail.
            let _ = write!(line, "{cell:<width$}  ", width = longest.unwrap_or_default());
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn revoke(config: &Path, id: &str) -> Result<()> {
    let settings = config::load(config)?;
    let (keys, _) = key_file(&settings, config)?;
    let missing = || anyhow!("{} has no key {id:?}, or it is revoked already", keys.display());
    if is_database(keys) {
        if !database::revoke(keys, id)? {
            return Err(missing());
        }
    } else {
        edit_locked(keys, |name, text| {
            config::revoke_key(name, text, id, &settings.rate_limits)?.ok_or_else(missing)
        })?;
    }
    eprintln!("revoked key {id}; a running gateway refuses it within a second");
    Ok(())
}

/// Edits the file atomically and under a lock. `edit` gets its name and its text.
fn edit_locked(path: &Path, edit: impl FnOnce(&str, &str) -> Result<String>) -> Result<()> {
    let owner_only = |path: &Path| {
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
    };
    let beside = |suffix: &str| {
        path.with_extension(format!(
            "{}{suffix}",
            path.extension().unwrap_or_default().to_string_lossy()
        ))
    };
    let lock = owner_only(&beside(".lock"))
        .with_context(|| format!("cannot write beside {}", path.display()))?;
    lock.lock().context("cannot lock the key file")?;
    let before = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let after = edit(&path.display().to_string(), &before)?;
    // Follow a symlink and keep owner and mode, so that the gateway can still read the file.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let known = fs::metadata(path).ok();
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // The lock is held, so an existing file was left by a process that was killed.
    let _ = fs::remove_file(folder.join(format!("{name}.new")));
    let mut fresh = tempfile::Builder::new()
        .prefix(&*name)
        .suffix(".new")
        .rand_bytes(0)
        .tempfile_in(folder)
        .with_context(|| format!("cannot write beside {}", path.display()))?;
    fresh
        .write_all(after.as_bytes())
        .and_then(|()| fresh.as_file().sync_all())
        .with_context(|| format!("cannot write {}", path.display()))?;
    if let Some(known) = known {
        fresh.as_file().set_permissions(known.permissions())?;
        let whose = (Some(known.uid()), Some(known.gid()));
        std::os::unix::fs::fchown(fresh.as_file(), whose.0, whose.1)
            .with_context(|| format!("cannot keep the owner of {}", path.display()))?;
    }
    fresh.persist(path).with_context(|| format!("cannot replace {}", path.display()))?;
    Ok(())
}

/// Keys in an SQLite database.
#[cfg(feature = "sqlite")]
mod database {
    use std::path::Path;

    use anyhow::{Context, Result};
    use traffic::keys::{Database, Entry};
    use traffic::settings::Limit;

    pub(super) fn add(path: &Path, new: &Entry, limits: &[Limit]) -> Result<()> {
        open(path)?.add(new, limits).with_context(|| path.display().to_string())
    }

    /// Revoke a key; `false` if it does not exist or is revoked already.
    pub(super) fn revoke(path: &Path, id: &str) -> Result<bool> {
        open(path)?.revoke(id).with_context(|| path.display().to_string())
    }

    fn open(path: &Path) -> Result<Database> {
        Database::open(path).with_context(|| format!("cannot open {}", path.display()))
    }
}

#[cfg(not(feature = "sqlite"))]
mod database {
    use std::path::Path;

    use anyhow::{Result, bail};
    use traffic::keys::Entry;
    use traffic::settings::Limit;

    pub(super) fn add(path: &Path, _: &Entry, _: &[Limit]) -> Result<()> {
        bail!(
            "{} is an SQLite database; this build was made without the feature `sqlite`",
            path.display()
        )
    }

    pub(super) fn revoke(path: &Path, _: &str) -> Result<bool> {
        bail!(
            "{} is an SQLite database; this build was made without the feature `sqlite`",
            path.display()
        )
    }
}

fn key_file<'s>(settings: &'s Settings, config: &Path) -> Result<&'s (PathBuf, Secret)> {
    let keys = settings.auth.as_ref().and_then(|auth| auth.keys.as_ref());
    keys.with_context(|| format!("{} has no auth.keys", config.display()))
}

fn names(settings: &Settings) -> String {
    settings.routes.iter().map(|route| &*route.name).collect::<Vec<_>>().join(", ")
}
