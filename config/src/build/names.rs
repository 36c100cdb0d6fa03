//! Names of list entries, and the fields that refer to them.

use std::collections::HashSet;
use std::sync::Arc;

use super::Builder;
use crate::tree::Table;
use yaml::hint;

impl Builder {
    pub(super) fn unique_names(&mut self, tables: &[Table]) {
        let mut seen = HashSet::new();
        for table in tables {
            if let Some(name) = table.text("name") {
                if !seen.insert(name) {
                    self.wrong(table, "name", format!("the name {name:?} is used twice"));
                }
                if name.is_empty()
                    || name.len() > 64
                    || !name.bytes().all(|b| {
                        b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/')
                    })
                {
                    self.wrong(
                        table,
                        "name",
                        format!("{name:?} is not a name; use up to 64 letters, digits, \"-\", \"_\", \".\" and \"/\""),
                    );
                }
            }
        }
    }

    /// Note whether a list has entries without a readable name.
    pub(super) fn note_unnamed(&mut self, root: &Table, list: &'static str) {
        let unnamed = root.list(list).iter().any(|entry| entry.text("name").is_none());
        if unnamed || root.is_explained(list) {
            self.faulty.insert((list, String::new()));
        }
    }

    /// The list entry that a field names; an unknown name is a problem.
    pub(super) fn named<'l, T>(
        &mut self,
        table: &Table,
        field: &str,
        known: &'l [Arc<T>],
        name: impl Fn(&T) -> &str,
    ) -> Option<&'l Arc<T>> {
        let wanted = table.text(field)?;
        let found = known.iter().find(|one| name(one) == wanted);
        if found.is_none() {
            let names: Vec<&str> = known.iter().map(|one| name(one)).collect();
            self.unknown(table, field, wanted, &names);
        }
        found
    }

    /// Report a name that does not exist, unless an entry with a problem may have it.
    pub(super) fn unknown(&mut self, table: &Table, field: &str, written: &str, known: &[&str]) {
        let (list, noun) = match field {
            "backend" | "backends" | "template" => ("backends", "backend "),
            "pool" | "fallback" => ("pools", "pool "),
            "guardrail" => ("guardrails", "guardrail "),
            "route" | "routes" => ("routes", "route "),
            _ => ("", ""),
        };
        if !self.is_faulty(list, written) && !self.is_faulty(list, "") {
            let mut names = known.to_vec();
            for (_, name) in self.faulty.iter().filter(|(of, _)| *of == list) {
                if !names.contains(&name.as_str()) {
                    names.push(name);
                }
            }
            let hint = hint(written, &names);
            self.wrong(table, field, format!("{noun}{written:?} does not exist; {hint}"));
        }
    }

    /// Whether the entry of a list has a problem.
    pub(super) fn is_faulty(&self, list: &'static str, name: &str) -> bool {
        self.faulty.contains(&(list, name.to_owned()))
    }
}
