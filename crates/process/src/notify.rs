//! Reports to the service manager: ready, reloading, stopping, alive (the protocol of sd_notify).
//!
//! - *In*: `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`, which systemd sets for a unit with
//!   `Type=notify` and `WatchdogSec=`.
//! - *Out*: a datagram for each report. Without `NOTIFY_SOCKET`, nothing.
//! - *Never*: a wait for the service manager, or an end of the gateway because it does not listen.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Reports to the service manager, if there is one.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// The service manager of the environment. An invalid `NOTIFY_SOCKET` is logged.
    pub fn from_env() -> Self {
        Notifier::new(|name| env::var_os(name))
    }

    fn new(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let address = variable("NOTIFY_SOCKET").filter(|address| !address.is_empty());
        let socket = address.and_then(|address| {
            connect(&address)
                .inspect_err(|error| {
                    tracing::warn!(%error, ?address, "the service manager gets no reports");
                })
                .ok()
        });
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        let is_for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().into());
        let timeout = number("WATCHDOG_USEC").filter(|micros| *micros > 0 && is_for_us);
        let watchdog = timeout.filter(|_| socket.is_some()).map(Duration::from_micros);
        Notifier { socket, watchdog }
    }

    /// The gateway serves. Also the end of a reload.
    pub fn ready(&self) {
        self.send("READY=1\nSTATUS=serving\n");
    }

    /// The settings are being read again. [`Notifier::ready`] follows.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}\n", now.as_micros()));
    }

    /// The last reload changed nothing because the files have problems; the log has them.
    pub fn reload_failed(&self) {
        self.send("READY=1\nSTATUS=serving with the previous settings: the last reload failed\n");
    }

    /// The gateway drains, and ends within this time, whatever the timeout of its unit.
    pub fn stopping(&self, within: Duration) {
        let micros = within.as_micros();
        self.send(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={micros}\nSTATUS=draining\n"));
    }

    /// Report that the calling task runs, three times in the timeout of the watchdog; never ends.
    pub async fn keep_alive(&self) {
        let Some(timeout) = self.watchdog else { return std::future::pending().await };
        let mut ticks = tokio::time::interval(timeout / 3);
        loop {
            ticks.tick().await;
            self.send("WATCHDOG=1\n");
        }
    }

    /// A report that is lost is not sent again: the next one replaces it.
    fn send(&self, report: &str) {
        if let Some(Err(error)) = self.socket.as_ref().map(|socket| socket.send(report.as_bytes()))
        {
            tracing::debug!(%error, report, "a report to the service manager is lost");
        }
    }
}

/// A path, or an abstract address that begins with `@`.
fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(address)?,
        _ => return Err(io::Error::other("NOTIFY_SOCKET must begin with / or @")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
        let pairs: Vec<(String, OsString)> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        move |wanted| pairs.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone())
    }

    fn received(manager: &UnixDatagram) -> String {
        manager.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        let mut buffer = [0; 512];
        let len = manager.recv(&mut buffer).expect("a report");
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    }

    #[test]
    fn reports_reach_a_manager_at_a_path_and_at_an_abstract_address() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("notify");
        let named = format!("@llm-lens-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&named.as_bytes()[1..]);
        for (manager, address) in [
            (UnixDatagram::bind(&path), path.to_str().expect("UTF-8")),
            (UnixDatagram::bind_addr(&abstract_address.expect("short")), named.as_str()),
        ] {
            let manager = manager.expect("a socket");
            let notifier = Notifier::new(environment(&[("NOTIFY_SOCKET", address)]));
            notifier.ready();
            assert_eq!(received(&manager), "READY=1\nSTATUS=serving\n");
            notifier.reloading();
            let report = received(&manager);
            let since = report.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("both fields");
            assert!(since.trim_end().parse::<u64>().expect("microseconds") > 0);
            notifier.reload_failed();
            assert!(received(&manager).starts_with("READY=1\nSTATUS=serving with the previous"));
            notifier.stopping(Duration::from_secs(90));
            assert_eq!(
                received(&manager),
                "STOPPING=1\nEXTEND_TIMEOUT_USEC=90000000\nSTATUS=draining\n"
            );
        }
    }

    #[tokio::test]
    async fn the_watchdog_is_fed_until_the_task_ends() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("a socket");
        let address = path.to_str().expect("UTF-8");
        let pid = std::process::id().to_string();
        let variables =
            [("NOTIFY_SOCKET", address), ("WATCHDOG_USEC", "30000"), ("WATCHDOG_PID", &pid)];
        let notifier = Notifier::new(environment(&variables));
        let read = tokio::task::spawn_blocking(move || [received(&manager), received(&manager)]);
        tokio::select! {
            () = notifier.keep_alive() => {}
            reports = read => assert_eq!(reports.expect("two"), ["WATCHDOG=1\n", "WATCHDOG=1\n"]),
        }
    }

    #[test]
    fn without_a_manager_nothing_is_sent() {
        for variables in [
            &[][..],
            &[("NOTIFY_SOCKET", "")],
            &[("NOTIFY_SOCKET", "relative")],
            &[("NOTIFY_SOCKET", "/nonexistent/notify"), ("WATCHDOG_USEC", "1000")],
        ] {
            let notifier = Notifier::new(environment(variables));
            assert!(notifier.socket.is_none() && notifier.watchdog.is_none(), "{variables:?}");
            notifier.ready();
        }
    }

    #[test]
    fn the_watchdog_of_another_process_is_not_fed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("notify");
        let _manager = UnixDatagram::bind(&path).expect("a socket");
        let address = path.to_str().expect("UTF-8");
        let watchdog = |pid: &str, micros: &str| {
            let variables =
                [("NOTIFY_SOCKET", address), ("WATCHDOG_PID", pid), ("WATCHDOG_USEC", micros)];
            Notifier::new(environment(&variables)).watchdog
        };
        let own = std::process::id().to_string();
        assert_eq!(watchdog(&own, "2000000"), Some(Duration::from_secs(2)));
        for (pid, micros) in [("1", "2000000"), (own.as_str(), "0"), (own.as_str(), "soon")] {
            assert_eq!(watchdog(pid, micros), None, "{pid} {micros}");
        }
    }
}
