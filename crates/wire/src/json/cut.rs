//! Documents of which a part is missing: cut at their end, or with only their end kept.

use super::Scan;

/// Bytes kept of the end of a document that is too large to be read.
const TAIL: usize = 16 << 10;

/// The end of a document of which the start was dropped.
#[derive(Debug, Default)]
pub(crate) struct Tail(Vec<u8>);

impl Tail {
    /// Append bytes; drop what is not needed any more.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let last = bytes.get(bytes.len().saturating_sub(TAIL)..).unwrap_or(bytes);
        if last.len() < bytes.len() {
            self.0.clear();
        }
        self.0.extend_from_slice(last);
        if self.0.len() > 2 * TAIL {
            self.0.drain(..self.0.len() - TAIL);
        }
    }

    /// The last bytes of the document: at least 16 KiB of a longer one.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Whether a document ends inside a value, as a truncated one does. Other malformed documents are
/// not cut.
pub fn is_cut(document: &[u8]) -> bool {
    let ends = ["unclosed bracket", "unterminated string"];
    Scan::new(document).skip().is_err_and(|error| ends.contains(&error.why))
}

/// The last members of an object of which only the end is known, as an object of their own;
/// `None`: no whole member of the object is in `tail`.
///
/// The text is read backwards. A quote delimits a string if the number of backslashes before it is
/// even.
pub fn last_members(tail: &[u8]) -> Option<Vec<u8>> {
    let tail = tail.trim_ascii_end().strip_suffix(b"}")?;
    let (mut depth, mut in_string, mut comma) = (1u32, false, None);
    for (at, byte) in tail.iter().enumerate().rev() {
        match byte {
            b'"' => {
                let before = tail.get(..at).unwrap_or_default();
                let backslashes = before.iter().rev().take_while(|byte| **byte == b'\\').count();
                in_string ^= backslashes % 2 == 0;
            }
            _ if in_string => {}
            b'}' | b']' => depth += 1,
            b'{' | b'[' if depth == 1 => break,
            b'{' | b'[' => depth -= 1,
            b',' if depth == 1 => comma = Some(at),
            _ => {}
        }
    }
    let members = tail.get(comma? + 1..)?;
    Some([b"{", members, b"}"].concat())
}

/// The value of the last member `name` in a document of which only the end is known, at any depth.
/// `quoted` is the name in its quotes.
///
/// Quotes inside of strings are escaped, so a quoted name with a colon behind it is a member.
pub(crate) fn last_value<'t>(tail: &'t [u8], quoted: &[u8]) -> Option<Scan<'t>> {
    memchr::memmem::rfind_iter(tail, quoted).find_map(|at| {
        let (before, rest) = tail.split_at_checked(at)?;
        let value = rest.get(quoted.len()..)?.trim_ascii_start().strip_prefix(b":")?;
        (before.last() != Some(&b'\\')).then(|| Scan::new(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_member_is_found_at_any_depth() {
        let tail = br#"x\"usage\":{"a":1},"usage" : {"in":7},"s":"usage","o":{"usage":{"in":8}}}}"#;
        let value = |tail| last_value(tail, b"\"usage\"").map(|mut v| v.verbatim().unwrap().raw());
        assert_eq!(value(&tail[..]), Some(&br#"{"in":8}"#[..]));
        assert_eq!(value(&tail[..55]), Some(&br#"{"in":7}"#[..]));
        assert_eq!(value(&tail[..20]), None);
    }

    #[test]
    fn a_tail_has_the_last_bytes() {
        let all: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        for piece in [1, 1000, 50_000] {
            let mut tail = Tail::default();
            all.chunks(piece).for_each(|piece| tail.push(piece));
            assert!(tail.bytes().len() >= TAIL && tail.bytes().len() <= 2 * TAIL);
            assert!(all.ends_with(tail.bytes()));
        }
    }

    #[test]
    fn documents_that_end_inside_a_value_are_cut() {
        let whole = b"{\"a\":[1,{\"b\":\"c\\\"}\"}],\"d\":null}";
        assert!((1..whole.len()).all(|at| is_cut(&whole[..at])));
        for other in [&whole[..], b"", b"{\"a\":}", b"[}", b"nonsense", b"{} "] {
            assert!(!is_cut(other), "{}", String::from_utf8_lossy(other));
        }
    }

    #[test]
    fn last_members_are_found_from_every_start() {
        let document = "{\"id\":7,\"text\":\"a \\\\\\\" , \\\"usage\\\": } ] {\",\"list\":[1,{\"x\":[2,3]}],\"usage\":{\"in\":4,\"s\":\"}\\\\\"}} \n";
        let usage = |members: &[u8]| {
            let members: serde_json::Value = serde_json::from_slice(members).expect("an object");
            members["usage"]["in"].as_u64()
        };
        let last = document.find(",\"usage\":{\"in\"").expect("the last member");
        for at in 0..document.len() {
            let members = last_members(&document.as_bytes()[at..]);
            assert_eq!(members.is_some(), at <= last, "from {at}: {members:?}");
            assert!(members.is_none_or(|members| usage(&members) == Some(4)), "from {at}");
        }
    }
}
