//! Names of files: when the file was created and closed.
//!
//! - *In*: names of a folder.
//! - *Out*: `CREATED-CLOSED-RANDOM.contents`, or `CREATED-open-RANDOM.contents`: milliseconds since
//!   the epoch in 13 digits, and eight hexadecimal digits.
//! - *Never*: a name of another form, which belongs to another program.

use std::fmt;

const SUFFIX: &str = ".contents";

/// A name of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileName {
    /// When it was created, in Unix milliseconds.
    pub(crate) created_ms: u64,
    /// When it was closed; `None`: it is open, or its process ended without closing it.
    pub(crate) closed_ms: Option<u64>,
    pub(crate) random: u32,
}

impl FileName {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(SUFFIX)?.split('-');
        let ms = |text: &str| {
            let is_ms = text.len() == 13 && text.bytes().all(|byte| byte.is_ascii_digit());
            is_ms.then(|| text.parse().ok()).flatten()
        };
        let created_ms = ms(parts.next()?)?;
        let closed_ms = match parts.next()? {
            "open" => None,
            text => Some(ms(text)?),
        };
        let random = parts.next()?;
        let random = (random.len() == 8).then(|| u32::from_str_radix(random, 16).ok()).flatten()?;
        let found = FileName { created_ms, closed_ms, random };
        // Also excludes signs and capital letters.
        (found.to_string() == name).then_some(found)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:013}-", self.created_ms)?;
        match self.closed_ms {
            Some(closed) => write!(f, "{closed:013}-")?,
            None => f.write_str("open-")?,
        }
        write!(f, "{:08x}{SUFFIX}", self.random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written_and_others_are_not_read() {
        let open = FileName { created_ms: 1_790_000_000_000, closed_ms: None, random: 0xab };
        let closed = FileName { closed_ms: Some(1_790_000_000_001), ..open };
        for name in [open, closed] {
            assert_eq!(FileName::parse(&name.to_string()), Some(name));
        }
        assert_eq!(open.to_string(), "1790000000000-open-000000ab.contents");
        for other in [
            "1790000000000-open-000000ab",
            "1790000000000-open-000000AB.contents",
            "1790000000000-open-+00000ab.contents",
            "1790000000000-open-000000ab-x.contents",
            "1790000000000-000000ab.contents",
            "179-open-000000ab.contents",
            "notes.txt",
        ] {
            assert_eq!(FileName::parse(other), None, "{other}");
        }
    }
}
