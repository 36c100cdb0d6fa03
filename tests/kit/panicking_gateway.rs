//! The gateway with a filter that panics on request, which simulates a bug of the gateway.

use std::collections::BTreeMap;

use filters::{Filter, FilterRefusal, Hooks, Registry, RequestHead};

/// Panics on the field `x-test-panic`, where the filter chain does not catch panics.
#[derive(Debug)]
struct Panicking;

impl Filter for Panicking {
    fn hooks(&self) -> Hooks {
        Hooks::CHECK_HEAD
    }

    fn check_head(&self, head: &RequestHead<'_>) -> Result<(), FilterRefusal> {
        assert!(
            !head.fields.iter().any(|(name, _)| *name == "x-test-panic"),
            "a test asked for a panic"
        );
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args_os().nth(1).ok_or("usage: panicking-gateway SETTINGS")?;
    let settings = config::load(file.as_ref())?;
    let filters =
        Registry::standard().with("panicking", |_: &BTreeMap<String, String>| Ok(Panicking));
    let gateway = gateway::Gateway::bind(gateway::Options {
        settings,
        file: Some(file.into()),
        upgrade: false,
        filters,
    })?;
    println!("{}", gateway.summary());
    Ok(gateway.serve()?)
}
