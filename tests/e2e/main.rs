//! End-to-end tests: one binary, a module for each topic.

/// Definition by definition: what a known schedule must measure.
mod measure;
