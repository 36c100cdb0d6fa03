//! Machine text: no kind of finding is in more than one line in a thousand of ten thousand lines of
//! logs, which a seeded generator writes.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeMap;

use shield::scan::Scanner;
use shield::stream::{Automata, Channel, Edges, Options, Piece};

const LINES: usize = 10_000;
/// What logs are made of, and what no default of a guardrail looks for.
const NETWORK: [&str; 3] = ["URL", "IP_ADDRESS", "MAC_ADDRESS"];

struct Generator(u64);

impl Generator {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % n
    }

    /// A number of so many digits.
    fn digits(&mut self, n: u32) -> u64 {
        10u64.pow(n - 1) + self.below(9 * 10u64.pow(n - 1))
    }

    fn hex(&mut self, n: usize) -> String {
        (0..n).map(|_| char::from(b"0123456789abcdef"[self.below(16) as usize])).collect()
    }

    /// As Kubernetes names pods and nanoid names everything.
    fn word(&mut self, n: usize) -> String {
        let letters = b"bcdfghjklmnpqrstvwxz2456789";
        (0..n).map(|_| char::from(letters[self.below(27) as usize])).collect()
    }

    fn upper(&mut self, n: usize) -> String {
        let letters = b"ABCDEFGHJKLMNPQRSTUVWXYZ0123456789";
        (0..n).map(|_| char::from(letters[self.below(34) as usize])).collect()
    }

    fn uuid(&mut self) -> String {
        format!(
            "{}-{}-4{}-a{}-{}",
            self.hex(8),
            self.hex(4),
            self.hex(3),
            self.hex(3),
            self.hex(12)
        )
    }

    fn clock(&mut self) -> String {
        format!("{:02}:{:02}:{:02}", self.below(24), self.below(60), self.below(60))
    }

    fn day(&mut self) -> String {
        format!("20{:02}-{:02}-{:02}", 10 + self.below(17), 1 + self.below(12), 1 + self.below(28))
    }

    fn version(&mut self) -> String {
        format!("{}.{}.{}", self.below(30), self.below(120), self.below(4000))
    }

    fn choose(&mut self, from: &[&str]) -> String {
        from[self.below(from.len() as u64) as usize].to_owned()
    }

    fn numbers(&mut self, count: usize, most: u64) -> String {
        (0..count).map(|_| self.below(most).to_string()).collect::<Vec<_>>().join(" ")
    }

    #[expect(clippy::too_many_lines, reason = "one format a line")]
    fn line(&mut self) -> String {
        let (day, clock) = (self.day(), self.clock());
        let method = self.choose(&["GET", "POST", "PUT", "DELETE"]);
        let level = self.choose(&["INFO", "WARN", "ERROR", "DEBUG", "TRACE"]);
        match self.below(48) {
            0 => format!(
                "{day} {clock},{} {level} dfs.DataNode: Receiving block blk_-{} src: /10.251.42.84:{}",
                self.below(1000),
                self.digits(19),
                self.digits(5)
            ),
            1 => format!(
                "081109 203615 {} {level} dfs.DataNode$PacketResponder: Received block blk_{} of size {} from /10.1.2.3",
                self.digits(3),
                self.digits(19),
                self.digits(8)
            ),
            2 => format!(
                "ts={} level={level} dur={}ms pid={}",
                self.digits(13),
                self.digits(4),
                self.digits(5)
            ),
            3 => format!(
                "ts={}.{} caller=main.go:{} msg=\"compacted\" ulid={}",
                self.digits(10),
                self.digits(6),
                self.digits(3),
                self.upper(26)
            ),
            4 => format!(
                "{{\"time\":{},\"id\":\"{}\",\"seq\":{},\"bytes\":{}}}",
                self.digits(19),
                self.uuid(),
                self.digits(9),
                self.digits(6)
            ),
            5 => format!(
                "00:00:02.114 {} {} 7f{} {level} heartbeat",
                self.digits(5),
                self.digits(5),
                self.hex(10)
            ),
            6 => self.numbers(6, 200),
            7 => self.numbers(12, 256),
            8 => self.numbers(8, 100_000),
            9 => format!(
                "127.0.0.1 - - [{clock} +0000] \"{method} /api/v{}/items/{} HTTP/1.1\" 200 {} {}",
                self.below(4),
                self.digits(12),
                self.digits(4),
                self.digits(3)
            ),
            10 => format!(
                "{method} /orders/{} 200 {} {}ms",
                self.digits(16),
                self.digits(4),
                self.digits(2)
            ),
            11 => format!("commit {} (tag: v{})", self.hex(40), self.version()),
            12 => format!(
                "{day} {clock}.{} {} {} {level} ActivityManager: Displayed in {}",
                self.digits(3),
                self.digits(4),
                self.digits(4),
                self.digits(6)
            ),
            13 => format!(
                "pod/{}-{}-{} restarted {} times, uid {}",
                self.choose(&["web", "api"]),
                self.word(10),
                self.word(5),
                self.below(9),
                self.uuid()
            ),
            14 => format!(
                "checkpoint complete: wrote {} buffers ({}.{}%); {} WAL file(s) added; write={}.{} s; lsn={}/{}",
                self.digits(5),
                self.below(100),
                self.below(10),
                self.below(9),
                self.digits(3),
                self.digits(3),
                self.upper(2),
                self.upper(8)
            ),
            15 => format!(
                "[{}] page allocation failure: order:{}, mode:0x{}",
                self.digits(7),
                self.below(9),
                self.hex(8)
            ),
            16 => format!(
                "sshd[{}]: Failed none for invalid user from 10.0.0.1 port {} ssh2",
                self.digits(5),
                self.digits(5)
            ),
            17 => format!(
                "kernel: [{}.{}] usb 1-{}: new device number {}",
                self.digits(6),
                self.digits(6),
                self.below(9),
                self.below(99)
            ),
            18 => format!(
                "trace_id={} span_id={} parent={}",
                self.hex(32),
                self.hex(16),
                self.digits(18)
            ),
            19 => format!("traceparent: 00-{}-{}-01", self.hex(32), self.hex(16)),
            20 => format!("X-Request-Id: {}", self.uuid()),
            21 => format!(
                "offset={} partition={} lag={} group=billing",
                self.digits(11),
                self.below(64),
                self.digits(7)
            ),
            22 => format!("sha256:{} size: {} MB", self.hex(64), self.digits(3)),
            23 => format!("integrity sha512-{}", self.hex(86)),
            24 => format!(
                "Fetched {} kB in {}s ({} kB/s)",
                self.digits(5),
                self.digits(2),
                self.digits(4)
            ),
            25 => format!(
                "lat={}.{} lon={}.{} alt={}",
                self.below(90),
                self.digits(6),
                self.below(180),
                self.digits(6),
                self.digits(4)
            ),
            26 => format!(
                "serde v{} -> v{}, libc 0.2.{}",
                self.version(),
                self.version(),
                self.digits(3)
            ),
            27 => format!(
                "gc {} @{}.{}s {}%: 0.01{}+{}.{}+0.00{} ms clock",
                self.digits(3),
                self.digits(3),
                self.digits(3),
                self.below(9),
                self.digits(1),
                self.digits(1),
                self.digits(2),
                self.digits(1)
            ),
            28 => format!(
                "at Object.<anonymous> (/srv/app/index.js:{}:{})",
                self.digits(3),
                self.digits(2)
            ),
            29 => format!(
                "    at com.example.Foo.bar(Foo.java:{}) ~[app-{}.jar:{}]",
                self.digits(3),
                self.version(),
                self.version()
            ),
            30 => format!(
                "mem: total {} used {} free {} cached {}",
                self.digits(8),
                self.digits(7),
                self.digits(7),
                self.digits(7)
            ),
            31 => format!("cpu  {}", self.numbers(10, 10_000_000)),
            32 => format!(
                "{:02}{:02}{:02} {clock} {} [Note] InnoDB: {} log sequence number {}",
                self.below(30),
                1 + self.below(12),
                1 + self.below(28),
                self.digits(5),
                self.digits(2),
                self.digits(12)
            ),
            33 => format!(
                "order {} shipped, tracking 1Z{}{}",
                self.digits(10),
                self.digits(9),
                self.digits(7)
            ),
            34 => format!(
                "user_id={} account={} session={}",
                self.digits(9),
                self.digits(11),
                self.uuid()
            ),
            35 => format!(
                "invoice {}/{}/{} total {}.{}",
                2000 + self.below(30),
                self.digits(4),
                self.digits(2),
                self.digits(6),
                self.digits(2)
            ),
            36 => format!("ean {} sku {} qty {}", self.digits(13), self.upper(9), self.below(99)),
            37 => format!(
                "{},{},{},{}.{},{}",
                self.digits(10),
                self.digits(4),
                day,
                self.digits(2),
                self.digits(2),
                self.digits(12)
            ),
            38 => format!(
                "{}\t{}\t{}\t{}",
                self.digits(6),
                self.digits(9),
                self.digits(10),
                self.digits(11)
            ),
            39 => format!(
                "INSERT INTO t VALUES ({}, {}, '{day} {clock}', {});",
                self.digits(5),
                self.digits(12),
                self.digits(10)
            ),
            40 => format!(
                "0x{} 0x{} 0x{} rip 0x{}",
                self.hex(16),
                self.hex(16),
                self.hex(8),
                self.hex(12)
            ),
            41 => (0..16).map(|_| self.hex(2)).collect::<Vec<_>>().join(" "),
            42 => format!(
                "{}: {} {}",
                self.hex(8),
                (0..8).map(|_| self.hex(4)).collect::<Vec<_>>().join(" "),
                self.word(6)
            ),
            43 => format!("image: registry.local/app:{}@sha256:{}", self.version(), self.hex(64)),
            44 => format!(
                "build #{} passed in {}m {}s (revision {})",
                self.digits(5),
                self.below(60),
                self.below(60),
                self.digits(7)
            ),
            45 => format!(
                "key={} value_size={} ttl={} cas={}",
                self.word(12),
                self.digits(5),
                self.digits(5),
                self.digits(16)
            ),
            46 => format!(
                "call stack depth {} at {} contact point {} cell {} ring buffer {}",
                self.below(99),
                self.digits(8),
                self.digits(4),
                self.digits(5),
                self.digits(6)
            ),
            _ => format!(
                "{day}T{clock}.{}Z {level} request completed status={} bytes={} upstream_ms={} token_count={}",
                self.digits(6),
                200 + self.below(300),
                self.digits(7),
                self.digits(4),
                self.digits(5)
            ),
        }
    }
}

fn lines() -> Vec<String> {
    let mut generator = Generator(0x00c0_ffee_1234_5678);
    (0..LINES).map(|_| generator.line()).collect()
}

fn check(name: &str, kinds: &BTreeMap<String, (usize, String)>) {
    for (kind, (count, example)) in kinds {
        println!("{name}: {kind} {count}: {example}");
    }
    for (kind, (count, example)) in kinds {
        assert!(*count * 1000 <= LINES, "{name}: {kind} in {count} lines, for example {example}");
    }
}

fn note(kinds: &mut BTreeMap<String, (usize, String)>, kind: &str, line: &str) {
    if !NETWORK.contains(&kind) {
        kinds.entry(kind.to_owned()).or_insert_with(|| (0, line.to_owned())).0 += 1;
    }
}

#[test]
fn no_kind_is_in_more_than_one_line_in_a_thousand() {
    let scanner = Scanner::new(&shield::rules());
    let mut kinds = BTreeMap::new();
    for line in lines() {
        let mut found = Vec::new();
        scanner.find(&line, &mut found);
        found.dedup_by(|a, b| a.kind == b.kind);
        found.iter().for_each(|f| note(&mut kinds, &f.kind, &line));
    }
    check("lines", &kinds);
}

/// All lines as one text, in which the lines before one are its context.
#[test]
fn no_kind_is_in_more_than_one_line_in_a_thousand_of_a_stream() {
    let options = Options { edges: Edges::tables(), ..Options::default() };
    let automata = Automata::new(&shield::rules(), options).unwrap();
    let (mut kinds, mut channel) = (BTreeMap::new(), Channel::new());
    let mut take = |piece: Piece<'_>| {
        if let Piece::Mask { finding, text, .. } = piece {
            note(&mut kinds, &finding.kind, text);
        }
    };
    for line in lines() {
        channel.push(&automata, &line, &mut take);
        channel.push(&automata, "\n", &mut take);
    }
    channel.finish(&automata, &mut take);
    check("stream", &kinds);
}
