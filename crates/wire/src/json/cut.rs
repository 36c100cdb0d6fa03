//! Documents of which a part is missing: cut at their end, or with only their end kept.

use super::Scan;

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

#[cfg(test)]
mod tests {
    use super::*;

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
