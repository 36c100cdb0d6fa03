//! A store for tests: in this process, on loopback, with faults on demand.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::sign::hash;

/// What the store does with one request instead of serving it.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Answers with this status, these lines of its head, and this body.
    Answer(u16, &'static str, &'static str),
    /// Closes the connection without serving.
    Close,
    /// Serves, and closes the connection without an answer.
    ServeAndClose,
    /// Serves, and sends half of the answer.
    ServeAndCut,
    /// Reads nothing more and does not answer.
    Stall,
}

#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: BTreeMap<String, String>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, (Vec<u8>, Option<String>)>,
    faults: VecDeque<Fault>,
    seen: Vec<Seen>,
    overwritten: usize,
    keeps_no_metadata: bool,
    stalled: Vec<TcpStream>,
}

/// The store. Its thread ends with the process.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
}

impl Store {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let store = Store { port, state: Arc::default() };
        let seen = store.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let store = seen.clone();
                std::thread::spawn(move || while store.serve(&socket).is_some() {});
            }
        });
        store
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn fail(&self, faults: &[Fault]) {
        self.lock().faults.extend(faults.iter().cloned());
    }

    /// An object that another program has created.
    pub(crate) fn put(&self, key: &str, content: &[u8]) {
        self.lock().objects.insert(key.into(), (content.into(), None));
    }

    pub(crate) fn keep_no_metadata(&self) {
        self.lock().keeps_no_metadata = true;
    }

    pub(crate) fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.lock();
        state.objects.iter().map(|(key, (content, _))| (key.clone(), content.clone())).collect()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.lock().seen.clone()
    }

    pub(crate) fn overwritten(&self) -> usize {
        self.lock().overwritten
    }

    fn serve(&self, socket: &TcpStream) -> Option<()> {
        let mut input = BufReader::new(socket);
        let mut line = String::new();
        input.read_line(&mut line).ok()?;
        let mut words = line.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            input.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let seen = Seen { method, target, headers };
        let fault = {
            let mut state = self.lock();
            state.seen.push(seen.clone());
            state.faults.pop_front()
        };
        if matches!(fault, Some(Fault::Stall)) {
            self.lock().stalled.push(socket.try_clone().unwrap());
            return None;
        }
        let length = seen.headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        input.read_exact(&mut body).ok()?;
        let answer = match &fault {
            Some(Fault::Answer(status, lines, body)) => answer(*status, lines, body.as_bytes()),
            Some(Fault::Close) => return None,
            _ => self.answer(&seen, &body),
        };
        match fault {
            Some(Fault::ServeAndClose) => None,
            Some(Fault::ServeAndCut) => {
                let mut socket = socket;
                socket.write_all(&answer[..answer.len() / 2]).ok()?;
                None
            }
            _ => {
                let mut socket = socket;
                socket.write_all(&answer).ok()
            }
        }
    }

    fn answer(&self, seen: &Seen, body: &[u8]) -> Vec<u8> {
        let mut state = self.lock();
        let (path, query) = seen.target.split_once('?').unwrap_or((&seen.target, ""));
        let Some(key) = path.strip_prefix("/records") else {
            return answer(404, "", b"<Error><Code>NoSuchBucket</Code></Error>");
        };
        let key = key.trim_start_matches('/').replace("%3D", "=");
        let header = |name: &str| seen.headers.get(name).cloned();
        if header("x-amz-content-sha256") != Some(hash(body)) {
            return answer(400, "", b"<Error><Code>XAmzContentSHA256Mismatch</Code></Error>");
        }
        match (&*seen.method, key.is_empty()) {
            ("GET", true) => answer(200, "", list(&state, query).as_bytes()),
            ("PUT", false) => {
                if state.objects.contains_key(&key) {
                    if header("if-none-match").as_deref() == Some("*") {
                        let body = b"<Error><Code>PreconditionFailed</Code></Error>";
                        return answer(412, "", body);
                    }
                    state.overwritten += 1;
                }
                let known = header("x-amz-meta-sha256").filter(|_| !state.keeps_no_metadata);
                state.objects.insert(key, (body.to_vec(), known));
                answer(200, "etag: \"x\"\r\n", b"")
            }
            (method, false) => match state.objects.get(&key) {
                None => answer(404, "", b"<Error><Code>NoSuchKey</Code></Error>"),
                Some((content, known)) => {
                    let line = known.as_ref().map(|hash| format!("x-amz-meta-sha256: {hash}\r\n"));
                    let mut all = answer(200, &line.unwrap_or_default(), content);
                    if method == "HEAD" {
                        all.truncate(all.len() - content.len());
                    }
                    all
                }
            },
            _ => answer(405, "", b""),
        }
    }
}

/// Two objects for each page.
fn list(state: &State, query: &str) -> String {
    let value = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(known, _)| *known == name).map(|(_, value)| value.replace("%2F", "/"))
    };
    let (prefix, from) = (value("prefix").unwrap_or_default(), value("continuation-token"));
    let mut keys = state.objects.keys().filter(|key| key.starts_with(&prefix));
    let rest: Vec<_> =
        keys.by_ref().filter(|key| from.as_ref().is_none_or(|from| *key >= from)).collect();
    let mut out = String::from("<ListBucketResult>");
    for key in rest.iter().take(2) {
        let size = state.objects[*key].0.len();
        out += &format!("<Contents><Key>{key}</Key><Size>{size}</Size></Contents>");
    }
    if let Some(next) = rest.get(2) {
        out += "<IsTruncated>true</IsTruncated>";
        out += &format!("<NextContinuationToken>{next}</NextContinuationToken>");
    }
    out + "</ListBucketResult>"
}

fn answer(status: u16, lines: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n{lines}\r\n");
    [head.as_bytes(), body].concat()
}
