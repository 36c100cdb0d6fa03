//! Hands listening sockets to a successor, over a Unix socket.
//!
//! The successor listens on the socket and waits. The predecessor connects, sends its listeners,
//! and goes on serving until the successor reports that it serves; only then it drains. If the
//! successor ends instead, nothing has changed.
//!
//! - *In*: the table of sockets, or the path at which they are offered.
//! - *Out*: the sockets; the moment at which the successor serves.
//! - *Never*: a socket sent to, or taken from, another user's process; a path in a folder that
//!   other users may write to.
//!
//! ```text
//! predecessor -> successor   llm-lens-upgrade 1\n NAME\n ... \n   + one descriptor for each name
//! successor -> predecessor   serving\n
//! ```

use std::ffi::OsString;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, getsockopt, recvmsg, sendmsg,
};
use nix::unistd::{close, geteuid};

/// First line of the message, with the version of the protocol.
const GREETING: &str = "llm-lens-upgrade 1\n";
/// The successor's report.
const SERVING: &[u8] = b"serving\n";
/// How long a successor waits for its predecessor.
const WAIT_FOR_PREDECESSOR: Duration = Duration::from_secs(10);
/// How long a gateway tries to reach a successor that it was told to hand over to.
const WAIT_FOR_SUCCESSOR: Duration = Duration::from_secs(5);
/// How long a successor may take to serve after it has the listeners.
const WAIT_UNTIL_SERVING: Duration = Duration::from_secs(60);
/// Interval between attempts.
const RETRY: Duration = Duration::from_millis(50);
/// Maximum number of sockets, and bytes of their names.
const MAX_SOCKETS: usize = 64;
const MAX_NAMES: usize = 8 << 10;

/// Name of the socket in the folder for run-time files.
const SOCKET: &str = "llm-lens-upgrade.sock";

/// A named listening socket.
pub type NamedSocket = (String, RawFd);

/// The path of the socket: the configured one, or one in the folder for run-time files that the
/// service manager (`$RUNTIME_DIRECTORY`) or the login (`$XDG_RUNTIME_DIR`) provides.
pub fn socket_path(configured: Option<&Path>) -> io::Result<PathBuf> {
    match configured {
        Some(path) => Ok(path.to_owned()),
        None => default_path(|name| std::env::var_os(name)),
    }
}

/// The path without a configured one; `variable` reads the environment. A folder that all users
/// share, such as `/tmp`, is never the default.
fn default_path(variable: impl Fn(&str) -> Option<OsString>) -> io::Result<PathBuf> {
    let folder = ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"]
        .iter()
        .find_map(|name| variable(name).filter(|folder| !folder.is_empty()));
    folder.map(|folder| PathBuf::from(folder).join(SOCKET)).ok_or_else(|| {
        io::Error::other(
            "neither RUNTIME_DIRECTORY nor XDG_RUNTIME_DIR is set; set shutdown.upgrade_socket",
        )
    })
}

/// The gateway that handed its listeners over, and still serves.
#[derive(Debug)]
pub struct Predecessor(UnixStream);

impl Predecessor {
    /// Report that this gateway serves. The predecessor drains.
    pub fn report_serving(mut self) {
        if let Err(error) = self.0.write_all(SERVING) {
            tracing::warn!(%error, "the predecessor ended before this gateway served");
        }
    }
}

/// Wait for a predecessor, and take its sockets.
pub fn take(path: &Path) -> io::Result<(Vec<NamedSocket>, Predecessor)> {
    must_be_private(path)?;
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::other("it exists and is no socket")),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    // The folder is private, so that no other user could connect before this.
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    let taken = accept(&listener);
    let _ = std::fs::remove_file(path);
    taken
}

fn accept(listener: &UnixListener) -> io::Result<(Vec<NamedSocket>, Predecessor)> {
    let until = Instant::now() + WAIT_FOR_PREDECESSOR;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(WAIT_FOR_SUCCESSOR))?;
                must_be_same_user(&stream)?;
                let sockets = receive(&stream)?;
                return Ok((sockets, Predecessor(stream)));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < until => {
                std::thread::sleep(RETRY);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(io::Error::new(ErrorKind::TimedOut, "no gateway connected"));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Send the sockets to a successor, and wait until it serves. Errors name the path.
pub fn offer(path: &Path, names: &[String], fds: &[RawFd]) -> io::Result<()> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("upgrade socket {}: {error}", path.display()))
    };
    offer_at(path, names, fds).map_err(named)
}

fn offer_at(path: &Path, names: &[String], fds: &[RawFd]) -> io::Result<()> {
    must_be_private(path)?;
    let until = Instant::now() + WAIT_FOR_SUCCESSOR;
    let mut stream = loop {
        match UnixStream::connect(path) {
            Ok(stream) => break stream,
            Err(error) if Instant::now() >= until => return Err(error),
            Err(_) => std::thread::sleep(RETRY),
        }
    };
    must_be_same_user(&stream)?;
    send(&stream, names, fds)?;
    stream.set_read_timeout(Some(WAIT_UNTIL_SERVING))?;
    let mut report = [0; SERVING.len()];
    match stream.read_exact(&mut report) {
        Ok(()) if report == SERVING => Ok(()),
        Ok(()) => Err(io::Error::other("its report cannot be understood")),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            Err(io::Error::other("it ended before it served"))
        }
        Err(error) => Err(error),
    }
}

fn send(stream: &UnixStream, names: &[String], fds: &[RawFd]) -> io::Result<()> {
    let message = format!("{GREETING}{}\n\n", names.join("\n"));
    let sent = sendmsg::<()>(
        stream.as_raw_fd(),
        &[IoSlice::new(message.as_bytes())],
        &[ControlMessage::ScmRights(fds)],
        MsgFlags::empty(),
        None,
    )?;
    let mut stream = stream;
    stream.write_all(message.as_bytes().get(sent..).unwrap_or_default())
}

fn receive(stream: &UnixStream) -> io::Result<Vec<NamedSocket>> {
    let mut fds = Vec::new();
    let names = receive_names(stream, &mut fds);
    match names {
        Ok(names) if names.len() == fds.len() => Ok(names.into_iter().zip(fds).collect()),
        names => {
            for fd in fds {
                let _ = close(fd);
            }
            Err(names.err().unwrap_or_else(malformed))
        }
    }
}

/// Read the message, and put the descriptors that came with it into `fds`.
fn receive_names(stream: &UnixStream, fds: &mut Vec<RawFd>) -> io::Result<Vec<String>> {
    let mut control = nix::cmsg_space!([RawFd; MAX_SOCKETS]);
    let mut message = Vec::new();
    while !message.ends_with(b"\n\n") {
        let mut part = [0; 1024];
        let mut slices = [IoSliceMut::new(&mut part)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let read = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
        for part in read.cmsgs()? {
            if let ControlMessageOwned::ScmRights(received) = part {
                fds.extend(received);
            }
        }
        let len = read.bytes;
        message.extend_from_slice(part.get(..len).unwrap_or_default());
        if len == 0 || message.len() > MAX_NAMES {
            return Err(malformed());
        }
    }
    let text = std::str::from_utf8(&message).map_err(|_| malformed())?;
    let names = text.strip_prefix(GREETING).ok_or_else(malformed)?;
    Ok(names.lines().filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

fn malformed() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "its message cannot be understood")
}

/// The other process must run as the same user.
fn must_be_same_user(stream: &UnixStream) -> io::Result<()> {
    match getsockopt(stream, PeerCredentials)?.uid() == geteuid().as_raw() {
        true => Ok(()),
        false => {
            Err(io::Error::new(ErrorKind::PermissionDenied, "another user's process is there"))
        }
    }
}

/// Whether users besides the owner may write to the folder of the socket, so that an upgrade is
/// refused. A folder that does not exist yet is not shared.
pub fn is_in_shared_folder(path: &Path) -> bool {
    folder_of(path).is_ok_and(|folder| is_shared(&folder))
}

fn folder_of(path: &Path) -> io::Result<std::fs::Metadata> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    std::fs::metadata(folder.unwrap_or(Path::new(".")))
}

fn is_shared(folder: &std::fs::Metadata) -> bool {
    folder.mode() & 0o022 != 0
}

/// No other user may be able to put a socket there.
fn must_be_private(path: &Path) -> io::Result<()> {
    let meta = folder_of(path)?;
    let is_ours = meta.uid() == geteuid().as_raw() || meta.uid() == 0;
    match is_ours && !is_shared(&meta) {
        true => Ok(()),
        false => Err(io::Error::new(
            ErrorKind::PermissionDenied,
            "other users may write to its folder; use a private one",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use nix::sys::socket::{SockaddrIn, getsockname};

    use super::*;

    fn folder(mode: u32) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(mode)).expect("ours");
        folder
    }

    #[test]
    fn sockets_pass_to_a_successor_that_serves() {
        let folder = folder(0o700);
        let path = folder.path().join("upgrade.sock");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let successor = std::thread::spawn({
            let path = path.clone();
            move || {
                let (sockets, predecessor) = take(&path).expect("a predecessor");
                predecessor.report_serving();
                sockets
            }
        });
        let names = [address.to_string()];
        offer(&path, &names, &[listener.as_raw_fd()]).expect("a successor");
        let sockets = successor.join().expect("no panic");
        let (name, fd) = sockets.into_iter().next().expect("one socket");
        let passed = getsockname::<SockaddrIn>(fd).expect("a socket");
        assert_eq!((name, passed.to_string()), (names[0].clone(), address.to_string()));
        assert!(!path.exists());
    }

    #[test]
    fn a_successor_that_ends_changes_nothing() {
        let folder = folder(0o700);
        let path = folder.path().join("upgrade.sock");
        let successor = std::thread::spawn({
            let path = path.clone();
            move || drop(take(&path))
        });
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let error = offer(&path, &["a".into()], &[listener.as_raw_fd()]).expect_err("it ended");
        assert!(error.to_string().contains("before it served"), "{error}");
        successor.join().expect("no panic");
    }

    #[test]
    fn only_its_user_may_connect_while_a_successor_waits() {
        let folder = folder(0o755);
        let path = folder.path().join("upgrade.sock");
        let successor = std::thread::spawn({
            let path = path.clone();
            move || drop(take(&path))
        });
        let mode = || std::fs::metadata(&path).map(|meta| meta.mode() & 0o777);
        let until = Instant::now() + WAIT_FOR_PREDECESSOR / 2;
        // The socket has other permissions for a moment, in which nothing waits.
        while !mode().is_ok_and(|mode| mode == 0o600) {
            assert!(Instant::now() < until, "{:o}", mode().expect("a socket"));
            std::thread::yield_now();
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        offer(&path, &["a".into()], &[listener.as_raw_fd()]).expect_err("it ended");
        successor.join().expect("no panic");
    }

    #[test]
    fn there_is_no_default_path_without_a_private_folder() {
        let path = |set: &'static [(&str, &str)]| {
            default_path(move |name| {
                set.iter().find(|(known, _)| *known == name).map(|(_, folder)| folder.into())
            })
        };
        for none in [&[][..], &[("XDG_RUNTIME_DIR", "")], &[("TMPDIR", "/tmp"), ("HOME", "/root")]]
        {
            let error = path(none).expect_err("no folder").to_string();
            assert!(error.contains("set shutdown.upgrade_socket"), "{error}");
        }
        let login = Path::new("/run/user/7").join(SOCKET);
        assert_eq!(path(&[("XDG_RUNTIME_DIR", "/run/user/7")]).expect("a folder"), login);
        let service = Path::new("/run/lens").join(SOCKET);
        let both = &[("XDG_RUNTIME_DIR", "/run/user/7"), ("RUNTIME_DIRECTORY", "/run/lens")];
        assert_eq!(path(both).expect("a folder"), service);
    }

    #[test]
    fn errors_name_the_socket() {
        let path = Path::new("/nonexistent/upgrade.sock");
        let error = offer(path, &["a".into()], &[]).expect_err("no folder");
        assert!(error.to_string().contains("/nonexistent/upgrade.sock"), "{error}");
    }

    #[test]
    fn malformed_messages_are_errors() {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        for (message, fds) in [
            ("a b c\n\n", vec![]),
            ("\n\n", vec![]),
            ("llm-lens-upgrade 1\na\nb\n\n", vec![socket.as_raw_fd()]),
            ("llm-lens-upgrade 1\n\n", vec![socket.as_raw_fd()]),
            ("llm-lens-upgrade 2\na\n\n", vec![socket.as_raw_fd()]),
            ("\u{0}\n\n", vec![]),
        ] {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            let rights = [ControlMessage::ScmRights(&fds)];
            let rights = if fds.is_empty() { &[][..] } else { &rights };
            let slices = [IoSlice::new(message.as_bytes())];
            sendmsg::<()>(theirs.as_raw_fd(), &slices, rights, MsgFlags::empty(), None)
                .expect("open");
            drop(theirs);
            assert!(receive(&ours).is_err(), "{message:?}");
        }
    }

    #[test]
    fn folders_of_others_are_refused() {
        let path = |folder: &tempfile::TempDir| folder.path().join("upgrade.sock");
        for mode in [0o777, 0o1777, 0o770] {
            let folder = folder(mode);
            assert!(must_be_private(&path(&folder)).is_err(), "{mode:o}");
        }
        assert!(must_be_private(&path(&folder(0o755))).is_ok());
    }
}
