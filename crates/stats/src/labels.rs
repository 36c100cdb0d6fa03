//! The labels of a series, how series are grouped, and which of them a query selects.
//!
//! - *In*: records, the names of declared models, queries.
//! - *Out*: labels from closed sets, as in metrics.
//! - *Never*: a model that only a client names: it becomes [`OTHER`], as in metrics.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use lens::Record;
use lens::record::Outcome;
use wire::Dialect;

/// The label value of everything without a value of its own.
pub const OTHER: &str = "other";
static SHARED_OTHER: LazyLock<Arc<str>> = LazyLock::new(|| OTHER.into());

fn other() -> Arc<str> {
    SHARED_OTHER.clone()
}

/// The labels of a series. Empty: the request had none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels {
    /// The route.
    pub route: Arc<str>,
    /// The backend that answered, or was called last.
    pub backend: Arc<str>,
    /// `gen_ai.operation.name`; empty for requests other than inference.
    pub operation: Cow<'static, str>,
    /// The requested model, if a backend declares it; else [`OTHER`].
    pub model: Arc<str>,
    /// The owner of the caller's key: callers are grouped by it. Empty without authentication.
    pub owner: Arc<str>,
}

/// A label by which series are grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dimension {
    /// [`Labels::route`].
    Route,
    /// [`Labels::backend`].
    Backend,
    /// [`Labels::operation`].
    Operation,
    /// [`Labels::model`].
    Model,
    /// [`Labels::owner`].
    Owner,
}

impl Dimension {
    /// All dimensions.
    pub const ALL: [Dimension; 5] = [
        Dimension::Route,
        Dimension::Backend,
        Dimension::Operation,
        Dimension::Model,
        Dimension::Owner,
    ];

    /// The name in queries and answers.
    pub fn name(self) -> &'static str {
        match self {
            Dimension::Route => "route",
            Dimension::Backend => "backend",
            Dimension::Operation => "operation",
            Dimension::Model => "model",
            Dimension::Owner => "owner",
        }
    }

    /// The dimension with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dimension| dimension.name() == name)
    }

    /// The dimensions of a list such as `route,backend`.
    ///
    /// # Errors
    /// The word that is not a dimension, and the known ones.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        let one = |word: &str| {
            Self::from_name(word).ok_or_else(|| {
                let known = Self::ALL.map(Dimension::name).join(", ");
                format!("must be a list of {known}, not {word:?}")
            })
        };
        text.split(',').map(str::trim).map(one).collect()
    }
}

impl Labels {
    /// The labels of a record. `models` are those that backends declare.
    pub fn of_record(record: &Record, models: &HashSet<Arc<str>>) -> Self {
        let dialect = record.dialect.as_deref().and_then(Dialect::from_name);
        let model = record.model_requested.as_deref();
        let model = model.map(|model| models.get(model).cloned().unwrap_or_else(other));
        Labels {
            route: record.route.clone(),
            backend: record.backend.clone().unwrap_or_default(),
            operation: Cow::Borrowed(dialect.map_or("", Dialect::operation)),
            model: model.unwrap_or_default(),
            owner: record.owner.clone().unwrap_or_default(),
        }
    }

    /// The value of a label.
    pub fn get(&self, dimension: Dimension) -> &str {
        match dimension {
            Dimension::Route => &self.route,
            Dimension::Backend => &self.backend,
            Dimension::Operation => &self.operation,
            Dimension::Model => &self.model,
            Dimension::Owner => &self.owner,
        }
    }

    /// The labels without an owner of their own.
    pub(crate) fn without_owner(&self) -> Self {
        Labels { owner: other(), ..self.clone() }
    }

    /// Whether an owner has the series for itself.
    pub(crate) fn has_owner(&self) -> bool {
        !self.owner.is_empty() && &*self.owner != OTHER
    }

    /// The labels that series without a place of their own share.
    pub(crate) fn folded(&self) -> Self {
        Labels {
            route: self.route.clone(),
            operation: self.operation.clone(),
            backend: other(),
            model: other(),
            owner: other(),
        }
    }
}

/// Which series, or which requests, a query selects. Without a value, a label does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The wanted values.
    pub labels: Vec<(Dimension, String)>,
    /// Only requests that ended in this way.
    pub outcome: Option<Outcome>,
}

impl Filter {
    /// Whether a series is selected.
    pub fn selects(&self, labels: &Labels) -> bool {
        self.labels.iter().all(|(dimension, wanted)| labels.get(*dimension) == wanted)
    }

    /// Whether requests with these labels that ended so are selected.
    pub fn selects_requests(&self, labels: &Labels, outcome: Outcome) -> bool {
        self.outcome.is_none_or(|wanted| wanted == outcome) && self.selects(labels)
    }
}
