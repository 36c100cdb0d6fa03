//! Filters by name: built-in ones, and those compiled into a build of the gateway.
//!
//! - *In*: constructors; `llm-lens` registers its own, a fork or a wrapper adds more before it
//!   starts.
//! - *Out*: a filter for each entry of `guardrails[].filters`.
//! - *Never*: a filter that is silently left out. An unknown name is an error that lists the known
//!   ones.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::detect::StopLoops;
use crate::filter::Filter;
use crate::settings::RegisteredFilter;

/// Makes a filter from its settings, or explains what is wrong with them.
type Make = dyn Fn(&BTreeMap<String, String>) -> Result<Arc<dyn Filter>, String> + Send + Sync;

/// Constructors by name.
#[derive(Clone, Default)]
pub struct Registry {
    known: BTreeMap<String, Arc<Make>>,
}

/// Why the filter of an entry cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownFilter {
    /// Nothing is registered under that name.
    #[error("filter {name}: no filter is registered as {kind:?}; registered: {known}")]
    Unknown {
        /// The entry.
        name: Arc<str>,
        /// The filter that it uses.
        kind: String,
        /// The registered filters.
        known: String,
    },
    /// Its settings are wrong.
    #[error("filter {name}: {why}")]
    Settings {
        /// The entry.
        name: Arc<str>,
        /// The filter's error.
        why: String,
    },
}

impl Registry {
    /// The filters that every build has: `stop-loops`.
    pub fn standard() -> Self {
        Registry::default().with("stop-loops", StopLoops::new)
    }

    /// Register a filter; a later one of the same name takes its place.
    #[must_use]
    pub fn with<F: Filter + 'static>(
        mut self,
        name: &str,
        make: impl Fn(&BTreeMap<String, String>) -> Result<F, String> + Send + Sync + 'static,
    ) -> Self {
        self.known.insert(
            name.to_owned(),
            Arc::new(move |with| Ok(Arc::new(make(with)?) as Arc<dyn Filter>)),
        );
        self
    }

    /// Make the filter of an entry.
    ///
    /// # Errors
    /// [`UnknownFilter`].
    pub fn make(&self, named: &RegisteredFilter) -> Result<Arc<dyn Filter>, UnknownFilter> {
        let name = named.declared.name.clone();
        match self.known.get(&named.kind) {
            Some(make) => make(&named.with).map_err(|why| UnknownFilter::Settings { name, why }),
            None => {
                let known = if self.known.is_empty() {
                    "none".to_owned()
                } else {
                    self.known.keys().cloned().collect::<Vec<_>>().join(", ")
                };
                Err(UnknownFilter::Unknown { name, kind: named.kind.clone(), known })
            }
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.known.keys()).finish()
    }
}
