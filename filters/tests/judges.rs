//! Remote judges: the request of each kind, its reading of good answers, and that bad ones are
//! failures and never panics.

mod host;

#[path = "judges/analyzer.rs"]
mod analyzer;
#[path = "judges/classify.rs"]
mod classify;
#[path = "judges/embeddings.rs"]
mod embeddings;
#[path = "judges/failures.rs"]
mod failures;
#[path = "judges/guard_model.rs"]
mod guard_model;
#[path = "judges/local.rs"]
mod local;
#[path = "judges/moderation.rs"]
mod moderation;
#[path = "judges/webhook.rs"]
mod webhook;
