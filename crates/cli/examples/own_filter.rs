//! A gateway with a filter of its own: it refuses prompts that shout, and ends answers that do.
//!
//! `cargo run --example own_filter -- gateway.yaml`

use std::collections::BTreeMap;

use filters::settings::Action;
use filters::{
    AnswerFacts, Category, Filter, Found, Hooks, Refused, Registry, Report, Subject, Watch,
};
use wire::Channel;

/// Finds texts of which too large a share is capital letters.
#[derive(Debug)]
struct Shouting {
    /// Percent of the letters.
    most: usize,
}

impl Shouting {
    fn new(with: &BTreeMap<String, String>) -> Result<Self, String> {
        let most = with.get("most").map_or("60", String::as_str);
        let most = most.parse().map_err(|_| format!("most must be a percentage, not {most:?}"))?;
        Ok(Shouting { most })
    }
}

/// Letters, and how many of them are capitals.
fn letters(text: &str) -> (usize, usize) {
    text.chars()
        .filter(|c| c.is_alphabetic())
        .fold((0, 0), |(all, capitals), c| (all + 1, capitals + usize::from(c.is_uppercase())))
}

impl Filter for Shouting {
    fn hooks(&self) -> Hooks {
        Hooks::LOOK | Hooks::WATCH
    }

    /// Prompts. What is found has a place, so that it can be redacted, and says what is to be done.
    fn look(&self, subject: &Subject) -> Report {
        let shouts = |text: &str| {
            let (all, capitals) = letters(text);
            all >= 20 && capitals * 100 > all * self.most
        };
        let loud = subject
            .texts()
            .enumerate()
            .filter(|(_, (voice, text))| voice.is_foreign() && shouts(text));
        let found = loud.map(|(at, (_, text))| Found {
            rule: "style.shouting".into(),
            kind: "SHOUTING".into(),
            category: Category::Policy,
            text: at,
            span: 0..text.len(),
            score: 1.0,
            action: Action::Block,
        });
        Report { found: found.collect(), scores: Vec::new() }
    }

    /// Answers: what is remembered of one lives in the watch.
    fn watch(&self, _: &AnswerFacts) -> Option<Box<dyn Watch>> {
        Some(Box::new(Listening { most: self.most, all: 0, capitals: 0 }))
    }
}

#[derive(Debug)]
struct Listening {
    most: usize,
    all: usize,
    capitals: usize,
}

impl Watch for Listening {
    fn text(&mut self, _choice: u32, channel: Channel, text: &str) -> Result<(), Refused> {
        if channel == Channel::Content {
            let (all, capitals) = letters(text);
            self.all += all;
            self.capitals += capitals;
        }
        if self.all >= 40 && self.capitals * 100 > self.all * self.most {
            let message = "The answer was shouting and was ended.".to_owned();
            return Err(Refused { status: 502, code: "answer_shouts", message });
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args_os().nth(1).ok_or("usage: own_filter SETTINGS")?;
    let settings = config::load(file.as_ref())?;
    let filters = Registry::standard().with("shouting", Shouting::new);
    let gateway = gateway::Gateway::bind(gateway::Options {
        settings,
        file: Some(file.into()),
        upgrade: false,
        filters,
    })?;
    println!("{}", gateway.summary());
    Ok(gateway.run()?)
}
