//! Checks what makes a start fail besides the settings themselves: files that they name.
//!
//! - *In*: settings, which may lack what has a problem.
//! - *Out*: [`Checked`]: all problems, and notes on what is valid but worth knowing.
//! - *Never*: a change of a file, or a connection.

use std::path::Path;

use config::Settings;
use filters::Registry;
use plan::BuildError;
use process::hand_over;

use crate::tls::{Certificate, certificates, verifier};

/// Result of [`check`].
#[derive(Debug, Default)]
pub struct Checked {
    /// Each keeps a gateway from starting: the path of its setting, or an empty one, and what is
    /// wrong.
    pub problems: Vec<(String, String)>,
    /// Each permits a start.
    pub notes: Vec<String>,
}

/// Checks the files that the settings name, and the features that they need. Files that cannot be
/// opened are problems of the settings, and not reported again.
pub fn check(settings: &Settings, filters: &Registry) -> Checked {
    let problems = [log_problems(settings), folder_problems(settings), store_problems(settings)];
    let mut checked = Checked { problems: problems.concat(), notes: settings.warnings() };
    checked.notes.extend(upgrade_note(settings));
    let keys = settings.auth.as_ref().and_then(|auth| auth.keys.as_ref());
    let new_keys = keys.map(|(file, _)| file).filter(|file| is_new(file));
    let (problems, warnings) = plan::check(settings, filters);
    checked.notes.extend(warnings);
    for (path, problem) in problems {
        match (&problem, new_keys) {
            (BuildError::Keys(_), Some(file)) => checked.notes.push(format!(
                "auth.keys: {} does not exist yet; `llm-lens key create` creates it, and a gateway \
                 needs it to start",
                file.display()
            )),
            _ => checked.problems.push((path, problem.to_string())),
        }
    }
    for (at, listener) in settings.listeners.iter().enumerate() {
        let Some(tls) = &listener.tls else { continue };
        let mut wrong = |setting: &str, error: String| {
            checked.problems.push((format!("listeners[{at}].tls{setting}"), error));
        };
        if [&tls.cert, &tls.key].into_iter().all(|file| can_be_read(file)) {
            Certificate::load(tls).err().into_iter().for_each(|e| wrong("", e.to_string()));
        }
        if tls.client_ca.as_deref().is_some_and(can_be_read) {
            verifier(tls).err().into_iter().for_each(|e| wrong(".client_ca", e.to_string()));
        }
    }
    checked
}

/// An upgrade needs a folder that only this user can change. A start does not.
fn upgrade_note(settings: &Settings) -> Option<String> {
    let socket = settings.shutdown.upgrade_socket.as_deref()?;
    let problem = if !folder(socket).is_dir() {
        format!("the folder of {} does not exist, so", socket.display())
    } else if hand_over::is_in_shared_folder(socket) {
        format!("other users may write to the folder of {}, so", socket.display())
    } else {
        return None;
    };
    Some(format!(
        "shutdown.upgrade_socket: {problem} `--upgrade` will be refused; use a private folder"
    ))
}

/// Files that cannot be written, by their setting.
fn log_problems(settings: &Settings) -> Vec<(String, String)> {
    let audit = settings.audit.file.as_deref();
    // A device has no head.
    let is_device = |file: &Path| file.exists() && !file.is_file();
    let head = audit.filter(|file| writable(file).is_ok() && !is_device(file));
    let head = head.map(audit_log::head_path);
    let files = [
        ("audit.file", audit),
        ("audit.file", head.as_deref()),
        ("access_log.file", settings.access_log.file.as_deref()),
        ("usage_file", settings.usage_file.as_deref()),
    ];
    let problem = |(setting, file): (&str, Option<&Path>)| {
        let error = writable(file?).err()?;
        Some((setting.to_owned(), format!("cannot write {}: {error}", file?.display())))
    };
    files.into_iter().filter_map(problem).collect()
}

/// Folders that cannot be written, by their setting.
fn folder_problems(settings: &Settings) -> Vec<(String, String)> {
    let store = &settings.record_store;
    let folders = [
        ("record_store.path", store.path.as_deref()),
        ("record_files.path", settings.record_files.path.as_deref()),
        ("contents.path", settings.contents.path.as_deref()),
        ("record_store.spill.path", store.spill.as_ref().map(|spill| &*spill.path)),
        ("otlp.spill.path", settings.otlp.spill.as_ref().map(|spill| &*spill.path)),
    ];
    let problem = |(setting, folder): (&str, Option<&Path>)| {
        let path = folder?;
        let error = tempfile::tempfile_in(existing(path)).err()?;
        Some((setting.to_owned(), format!("cannot write {}: {error}", path.display())))
    };
    folders.into_iter().filter_map(problem).collect()
}

/// Files of certificates that contain none.
fn certificate_problems(settings: &Settings) -> Vec<(String, String)> {
    let database = settings.record_store.postgres.as_ref();
    let upload = settings.record_files.upload.as_ref();
    let files = [
        ("record_store.ca", database.and_then(|database| database.ca.as_deref())),
        ("record_files.upload.ca", upload.and_then(|upload| upload.ca.as_deref())),
        ("otlp.ca", settings.otlp.ca.as_deref().map(Path::new)),
        ("otlp.client_cert", settings.otlp.client_cert.as_deref().map(Path::new)),
    ];
    let problem = |(setting, file): (&str, Option<&Path>)| {
        let file = file.filter(|file| can_be_read(file))?;
        let error = certificates(file).err()?;
        Some((setting.to_owned(), format!("cannot use {}: {error}", file.display())))
    };
    files.into_iter().filter_map(problem).collect()
}

/// What the stores of records need and do not have.
fn store_problems(settings: &Settings) -> Vec<(String, String)> {
    let mut problems = Vec::new();
    let database = settings.record_store.postgres.as_ref();
    if database.is_some() && !cfg!(feature = "postgres") {
        let problem = "this build has no feature `postgres`".to_owned();
        problems.push(("record_store.url".to_owned(), problem));
    }
    if let Some(ca) = database.and_then(|database| database.ca.as_deref())
        && let Err(error) = std::fs::File::open(ca)
    {
        let problem = format!("cannot read {}: {error}", ca.display());
        problems.push(("record_store.ca".to_owned(), problem));
    }
    problems.extend(certificate_problems(settings));
    if settings.record_files.path.is_some()
        && let Err(missing) = files::is_supported(settings.record_files.format)
    {
        problems.push(("record_files.format".to_owned(), missing));
    }
    problems
}

/// The folder, or the nearest one above it that exists.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."))
}

/// Whether a file can be created there, and does not exist.
fn is_new(file: &Path) -> bool {
    !file.exists() && folder(file).is_dir()
}

fn can_be_read(file: &Path) -> bool {
    std::fs::File::open(file).is_ok()
}

/// Tests that a file can be written, or created if it does not exist.
fn writable(file: &Path) -> std::io::Result<()> {
    if file.exists() {
        return std::fs::OpenOptions::new().append(true).open(file).map(drop);
    }
    // Has no name, so that nothing is left of it.
    tempfile::tempfile_in(folder(file)).map(drop)
}

fn folder(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
