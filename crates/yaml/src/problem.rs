//! Problems of a settings file, with their place and a fix.

use std::fmt;

/// One problem at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1; 0 for the whole file.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// Where in the document: `routes[2].timeouts.connect`.
    pub path: String,
    /// What is wrong, and how to fix it.
    pub message: String,
}

impl Problem {
    /// A problem without a place: that of the whole file.
    pub fn whole_file(message: String) -> Self {
        Problem { line: 0, column: 0, path: String::new(), message }
    }
}

/// All problems of one file, sorted by position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems {
    file: String,
    problems: Vec<Problem>,
}

impl Problems {
    /// The problems of a file, in the order of their places.
    pub fn new(file: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|p| (p.line, p.column));
        Problems { file: file.to_owned(), problems }
    }

    /// One problem of a file.
    pub fn one(file: &str, problem: Problem) -> Self {
        Problems::new(file, vec![problem])
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// The problems.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, p) in self.problems.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            f.write_str(&self.file)?;
            if p.line > 0 {
                write!(f, ":{}:{}", p.line, p.column)?;
            }
            if p.path.is_empty() {
                write!(f, ": {}", p.message)?;
            } else {
                write!(f, ": {}: {}", p.path, p.message)?;
            }
        }
        Ok(())
    }
}

/// The known name nearest to `written`, if it is near enough to be a typo.
pub fn nearest<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|k| (strsim::levenshtein(written, k), k))
        .filter(|(d, k)| *d <= 1 + k.len() / 4)
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// What to write instead of an unknown name.
pub fn hint(written: &str, known: &[&str]) -> String {
    match nearest(written, known.iter().copied()) {
        Some(near) => format!("did you mean {near:?}?"),
        None if known.is_empty() => "none is defined".into(),
        None => format!("known: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typos_get_a_suggestion_and_unrelated_names_do_not() {
        let known = ["address", "backend", "timeouts"];
        assert_eq!(nearest("adress", known.into_iter()), Some("address"));
        assert_eq!(nearest("timeout", known.into_iter()), Some("timeouts"));
        assert_eq!(nearest("colour", known.into_iter()), None);
        assert_eq!(hint("adress", &known), "did you mean \"address\"?");
        assert_eq!(hint("colour", &known), "known: address, backend, timeouts");
        assert_eq!(hint("colour", &[]), "none is defined");
    }
}
