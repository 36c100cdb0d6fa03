//! The command line: parses arguments and runs the command.

mod aggregate;
mod args;
mod audit;
mod demo;
mod export;
mod gate;
mod key;
mod load;
mod logger;
mod packaging;
mod probe;
mod shield;
mod simulate;
mod statistics;
mod verify;

use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use args::{Args, AuditCommand, Command, GatewayArgs, ShieldCommand};

/// jemalloc returns freed memory of streams to the system within seconds, on its own thread;
/// `.cargo/config.toml` sets the decay. glibc's allocator does not.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // A signal to a gateway may arrive before the arguments are parsed.
    gateway::hold_signals();
    let args = Args::parse();
    if !matches!(args.command, Command::Gateway(_)) {
        gateway::release_signals();
    }
    let lines = logger::install(args.log, args.log_format, gateway::current_request::id);
    let ended = dispatch(args.command);
    drop(lines);
    match ended {
        Ok(code) => code,
        // The reader of our output closed the pipe.
        Err(e) if is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "llm-lens: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Gateway(args) if args.dry_run => return dry_run(&args),
        Command::Gateway(args) => gateway(args)?,
        Command::Check { file } => return check_file(&file),
        Command::Init { file, full, force } => init(&file, full, force)?,
        Command::Schema => write_stdout(&format!("{:#}\n", config::json_schema()))?,
        Command::Probe(args) => return probe::probe_gateway(&args),
        Command::Run(args) => return load::run_load_test(*args),
        Command::Compare { base, new, percent } => return load::compare(&base, &new, percent),
        Command::Gate(args) => return Ok(gate::judge_reports(&args)),
        Command::Export(args) => return export::export(&args),
        Command::Stats(args) => return statistics::print_stats(&args),
        Command::Aggregate(args) => self::aggregate::run_aggregator(args)?,
        Command::Shield(ShieldCommand::Scan { file }) => return shield::scan(&file),
        Command::Shield(ShieldCommand::Eval { folder, languages, code }) => {
            return shield::eval(&folder, languages, code.as_deref());
        }
        Command::Shield(ShieldCommand::Train { folder, out }) => shield::train(&folder, &out)?,
        Command::Key(command) => key::run_key_command(&command)?,
        Command::Audit(AuditCommand::Verify(args)) => return audit::verify_log(&args),
        Command::Simulate(args) => simulate::simulate(&args)?,
        Command::VerifyClient(args) => return verify::verify_client(&args),
        Command::Demo(args) => demo::run_demo(&args)?,
        Command::Completions { shell } => write_stdout(&packaging::completions(shell))?,
        Command::Man { folder } => packaging::write_man_pages(&folder)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks a settings file, or standard input, and prints all problems.
fn check_file(file: &Path) -> Result<ExitCode> {
    let (name, text) = match is_standard(file) {
        true => ("standard input".to_owned(), read_standard()?),
        false => (file.display().to_string(), config::read_settings(file)?),
    };
    check(&name, &text)
}

/// Checks what a gateway would be started with.
fn dry_run(args: &GatewayArgs) -> Result<ExitCode> {
    if let Some(file) = &args.config {
        return check_file(file);
    }
    let settings = from_flags(args)?;
    let checked = gateway::check(&settings, &filters());
    if let Some((path, problem)) = checked.problems.first() {
        anyhow::bail!("{path}: {problem}");
    }
    write_stdout("the arguments are valid\n")?;
    Ok(ExitCode::SUCCESS)
}

/// Settings of a gateway without a file.
fn from_flags(args: &GatewayArgs) -> Result<config::Settings> {
    let upstream = args.upstream.as_deref();
    let upstream = upstream.expect("invariant: clap requires one of --upstream and --config");
    Ok(config::from_flags(upstream, &args.listen, &args.admin, args.workers)?)
}

/// Checks the text of a settings file, and prints all its problems.
fn check(name: &str, text: &str) -> Result<ExitCode> {
    let (settings, problems) = config::examine(name, text);
    let checked = settings.as_ref().map(|s| gateway::check(s, &filters())).unwrap_or_default();
    let mut err = std::io::stderr().lock();
    for note in &checked.notes {
        writeln!(err, "{name}: note: {note}")?;
    }
    if !problems.is_empty() {
        writeln!(err, "{problems}")?;
    }
    for (path, problem) in &checked.problems {
        writeln!(err, "{}", config::problem_at(name, text, path, problem))?;
    }
    let Some(settings) = settings.filter(|_| problems.is_empty() && checked.problems.is_empty())
    else {
        return Ok(ExitCode::FAILURE);
    };
    write_stdout(&format!(
        "{name}: valid ({}, {})\n",
        count(settings.routes.len(), "route"),
        count(settings.backends.len(), "backend")
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// `1 route`, `2 routes`.
fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

fn gateway(args: GatewayArgs) -> Result<()> {
    let settings = match &args.config {
        Some(file) => config::load(file)?,
        None => from_flags(&args)?,
    };
    let gateway = gateway::Gateway::bind(gateway::Options {
        settings,
        file: args.config,
        upgrade: args.upgrade,
        filters: filters(),
    })?;
    // Serve even if standard output is closed.
    let _ = write_stdout(&format!("{}\n", gateway.summary()));
    gateway.serve().context("the gateway ended")
}

/// The filters that settings may name. A build with more of them registers them here:
/// `docs/write-a-filter.md`.
fn filters() -> filters::Registry {
    filters::Registry::standard()
}

fn init(file: &Path, full: bool, force: bool) -> Result<()> {
    let text = if full { config::example() } else { config::STARTER.to_owned() };
    if is_standard(file) {
        return write_stdout(&text);
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(force).create_new(!force);
    let shown = file.display();
    if file.is_dir() {
        let inside = file.join("gateway.yaml");
        anyhow::bail!("{shown} is a folder; name a file, for example {}", inside.display());
    }
    let has_folder = file.parent().is_none_or(|f| f.as_os_str().is_empty() || f.is_dir());
    let mut out = options.open(file).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => anyhow::anyhow!("{shown} exists; --force replaces it"),
        ErrorKind::NotFound if !has_folder => {
            anyhow::anyhow!("cannot create {shown}: the folder does not exist; create it first")
        }
        ErrorKind::NotFound => {
            anyhow::anyhow!("cannot create {shown}: files cannot be created there; choose another")
        }
        _ => anyhow::anyhow!("cannot create {shown}: {error}"),
    })?;
    out.write_all(text.as_bytes())?;
    write_stdout(&format!(
        "wrote {}; start with: llm-lens gateway --config {}\n",
        file.display(),
        file.display()
    ))
}

/// `-` stands for standard input or output.
fn is_standard(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// Standard input, up to the size of a settings file.
fn read_standard() -> Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(config::MAX_FILE)
        .read_to_string(&mut text)
        .context("cannot read standard input")?;
    Ok(text)
}

/// Runtime of the load generator. Two workers, so that it leaves cores to the server under test.
fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

fn write_stdout(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|e| {
        e.downcast_ref::<std::io::Error>()
            .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
