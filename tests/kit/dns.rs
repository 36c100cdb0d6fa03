//! A scripted name server, over UDP on a free port.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// A name server.
pub struct NameServer {
    /// Where it listens.
    pub address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    answering: JoinHandle<()>,
}

#[derive(Default)]
struct Zone {
    records: HashMap<(Name, RecordType), Vec<Record>>,
    /// Names that exist without records.
    empty: HashSet<Name>,
    asked: HashMap<Name, usize>,
    fails: bool,
}

impl NameServer {
    /// Starts a name server without records.
    pub async fn start() -> NameServer {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let address = socket.local_addr().expect("bound");
        let zone = Arc::<Mutex<Zone>>::default();
        let known = zone.clone();
        let answering = tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
                let Ok(question) = Message::from_vec(&buffer[..len]) else { continue };
                let answer = known.lock().expect("no test panicked in here").answer(question);
                let _ = socket.send_to(&answer.to_vec().expect("it can be written"), from).await;
            }
        });
        NameServer { address, zone, answering }
    }

    /// Sets the addresses of a name, with a TTL in seconds.
    pub fn addresses(&self, name: &str, seconds: u32, addresses: &[Ipv4Addr]) {
        let name = fully(name);
        let records = addresses
            .iter()
            .map(|address| Record::from_rdata(name.clone(), seconds, RData::A(A(*address))))
            .collect();
        self.zone
            .lock()
            .expect("no test panicked in here")
            .records
            .insert((name, RecordType::A), records);
    }

    /// Sets the servers of a service: priority, weight, port and name of each, with a TTL in
    /// seconds.
    pub fn service(&self, name: &str, seconds: u32, servers: &[(u16, u16, u16, &str)]) {
        let name = fully(name);
        let server = |(priority, weight, port, target): &(u16, u16, u16, &str)| {
            Record::from_rdata(
                name.clone(),
                seconds,
                RData::SRV(SRV::new(*priority, *weight, *port, fully(target))),
            )
        };
        let records = servers.iter().map(server).collect();
        self.zone
            .lock()
            .expect("no test panicked in here")
            .records
            .insert((name, RecordType::SRV), records);
    }

    /// Makes a name exist: without records, queries are answered with NOERROR instead of NXDOMAIN.
    pub fn exists(&self, name: &str) {
        self.zone.lock().expect("no test panicked in here").empty.insert(fully(name));
    }

    /// Whether queries for A records are answered with SERVFAIL. Queries for AAAA records are
    /// answered as usual.
    pub fn fails(&self, fails: bool) {
        self.zone.lock().expect("no test panicked in here").fails = fails;
    }

    /// Number of queries for a name.
    pub fn asked(&self, name: &str) -> usize {
        self.zone
            .lock()
            .expect("no test panicked in here")
            .asked
            .get(&fully(name))
            .copied()
            .unwrap_or(0)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

impl Zone {
    fn answer(&mut self, question: Message) -> Message {
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        for query in &question.queries {
            let name = query.name().to_lowercase();
            *self.asked.entry(name.clone()).or_default() += 1;
            let fails = self.fails && query.query_type() == RecordType::A;
            let records = self.records.get(&(name.clone(), query.query_type())).filter(|_| !fails);
            answer.add_answers(records.into_iter().flatten().cloned());
            let is_there = self.empty.contains(&name)
                || self
                    .records
                    .iter()
                    .any(|((known, _), records)| *known == name && !records.is_empty());
            answer.metadata.response_code = match (fails, is_there) {
                (true, _) => ResponseCode::ServFail,
                (false, true) => ResponseCode::NoError,
                (false, false) => ResponseCode::NXDomain,
            };
        }
        answer.add_queries(question.queries);
        answer
    }
}

fn fully(name: &str) -> Name {
    let mut name = Name::from_ascii(name).expect("a name").to_lowercase();
    name.set_fqdn(true);
    name
}
