//! `llm-lens key`: making, listing and revoking API keys in the file or database that the gateway
//! watches.
//!
//! A key is printed once, when it is created. The file contains only its keyed hash.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
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
    let key = format!("{PREFIX}{}", hex(&rand::random::<[u8; 32]>()));
    let now = jiff::Timestamp::now();
    let new = Entry {
        id: args.id.clone().unwrap_or_else(|| format!("k_{}", hex(&rand::random::<[u8; 6]>()))),
        hash: Some(hex(&KeyHasher::new(secret.reveal()).hash(&key))),
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
        add_line(keys, &settings, &new)?;
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

fn add_line(keys: &Path, settings: &Settings, new: &Entry) -> Result<()> {
    edit_locked(keys, settings, |text| {
        let mut text = if text.trim().is_empty() {
            "# API keys of llm-lens gateway, written by llm-lens key.\nkeys:\n".to_owned()
        } else {
            text
        };
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&new.line());
        text.push('\n');
        Ok(text)
    })
}

fn list(config: &Path) -> Result<()> {
    let settings = config::load(config)?;
    let (keys, _) = key_file(&settings, config)?;
    let mut out = format!("{:<16} {:<24} {:<22} priority\n", "id", "owner", "expires");
    for key in config::load_keys(keys, &settings.rate_limits)?
        .into_iter()
        .filter(|key| key.expires != Some(0))
    {
        let expires = key
            .expires
            .and_then(|us| jiff::Timestamp::from_microsecond(i64::try_from(us).ok()?).ok());
        let expires = expires.map_or_else(|| "never".to_owned(), |at| format!("{at:.0}"));
        // Writing to a string does not fail.
        let _ = writeln!(out, "{:<16} {:<24} {expires:<22} {}", key.id, key.owner, key.priority);
    }
    print!("{out}");
    Ok(())
}

fn revoke(config: &Path, id: &str) -> Result<()> {
    let settings = config::load(config)?;
    let (keys, _) = key_file(&settings, config)?;
    if is_database(keys) {
        if !database::revoke(keys, id)? {
            bail!("{} has no key {id:?}, or it is revoked already", keys.display());
        }
    } else {
        revoke_line(keys, &settings, id)?;
    }
    eprintln!("revoked key {id}; a running gateway refuses it within a second");
    Ok(())
}

fn revoke_line(keys: &Path, settings: &Settings, id: &str) -> Result<()> {
    let wanted = format!("id: {}", serde_json::Value::from(id));
    edit_locked(keys, settings, |text| {
        let mut found = false;
        let lines = text.lines().map(|line| {
            if !line.contains(&wanted) || line.contains("revoked: true") {
                return line.to_owned();
            }
            found = true;
            line.replacen('{', "{revoked: true, ", 1)
        });
        let text = lines.collect::<Vec<_>>().join("\n") + "\n";
        if !found {
            bail!(
                "{} has no line written by llm-lens for key {id:?}, or the key is revoked already",
                keys.display()
            );
        }
        Ok(text)
    })
}

/// Edits the file atomically and under a lock. Invalid content is not written.
fn edit_locked(
    path: &Path,
    settings: &Settings,
    edit: impl FnOnce(String) -> Result<String>,
) -> Result<()> {
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
    let after = edit(before)?;
    config::parse_keys(&path.display().to_string(), &after, &settings.rate_limits)?;
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
