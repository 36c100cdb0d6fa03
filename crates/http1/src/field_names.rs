//! Sets of field names.
//!
//! - *In*: names that are known when the program is compiled.
//! - *Out*: whether a field of a message has one of them.
//! - *Never*: a value of a field.

/// A set of field names, compared without regard to case.
#[derive(Clone, Copy, Debug)]
pub struct FieldNames {
    names: &'static [&'static str],
    /// The lengths that occur, one bit each: most fields of a message have another length than all
    /// names of a set.
    lengths: u64,
}

impl FieldNames {
    /// The set of `names`.
    ///
    /// # Panics
    /// A name has 64 bytes or more.
    #[allow(clippy::indexing_slicing, reason = "iterators cannot be used in a constant")]
    pub const fn new(names: &'static [&'static str]) -> Self {
        let (mut lengths, mut at) = (0, 0);
        while at < names.len() {
            assert!(names[at].len() < 64, "the length of a name has no bit");
            lengths |= 1 << names[at].len();
            at += 1;
        }
        FieldNames { names, lengths }
    }

    /// Whether a field of this name is in the set.
    #[inline]
    pub fn contains(&self, name: &str) -> bool {
        name.len() < 64
            && self.lengths >> name.len() & 1 == 1
            && self.names.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    /// The names.
    pub fn iter(&self) -> impl Iterator<Item = &'static str> {
        self.names.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case() {
        const NAMES: FieldNames = FieldNames::new(&["te", "host", "x-request-id"]);
        for (name, is_in) in [
            ("TE", true),
            ("Host", true),
            ("hosu", false),
            ("x-request-id", true),
            ("x-request-ie", false),
            ("", false),
        ] {
            assert_eq!(NAMES.contains(name), is_in, "{name}");
        }
        // Lengths without a bit of their own.
        for length in 60..200 {
            assert!(!NAMES.contains(&"x".repeat(length)), "{length}");
        }
        assert_eq!(NAMES.iter().count(), 3);
    }
}
