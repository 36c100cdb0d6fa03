//! A gateway with a custom filter: it refuses prompts and ends answers that are mostly capitals.
//!
//! `cargo run --example own_filter -- gateway.yaml`

use std::collections::BTreeMap;

use filters::settings::Action;
use filters::{
    AnswerFacts, AnswerWatch, Category, Filter, FilterRefusal, Found, Hooks, Registry, Report,
    Subject,
};
use wire::Channel;

/// Finds texts in which too many letters are capitals.
#[derive(Debug)]
struct Shouting {
    /// Maximum percentage of capitals.
    max_percent: usize,
}

impl Shouting {
    fn new(with: &BTreeMap<String, String>) -> Result<Self, String> {
        let text = with.get("max_percent").map_or("60", String::as_str);
        let max_percent = text
            .parse()
            .map_err(|_| format!("max_percent: {text:?} is not a percentage (for example 60)"))?;
        Ok(Shouting { max_percent })
    }
}

/// Number of letters, and number of capitals among them.
fn letters(text: &str) -> (usize, usize) {
    text.chars()
        .filter(|c| c.is_alphabetic())
        .fold((0, 0), |(all, capitals), c| (all + 1, capitals + usize::from(c.is_uppercase())))
}

impl Filter for Shouting {
    fn hooks(&self) -> Hooks {
        Hooks::DETECT | Hooks::WATCH_ANSWER
    }

    /// Checks a prompt. A finding has a position, so that it can be redacted, and an action.
    fn detect(&self, subject: &Subject) -> Report {
        let shouts = |text: &str| {
            let (all, capitals) = letters(text);
            all >= 20 && capitals * 100 > all * self.max_percent
        };
        let loud = subject
            .texts()
            .enumerate()
            .filter(|(_, (voice, text))| voice.is_untrusted() && shouts(text));
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

    /// Checks an answer. The watch holds the state of one answer.
    fn watch(&self, _: &AnswerFacts) -> Option<Box<dyn AnswerWatch>> {
        Some(Box::new(ShoutingWatch { max_percent: self.max_percent, all: 0, capitals: 0 }))
    }
}

#[derive(Debug)]
struct ShoutingWatch {
    max_percent: usize,
    all: usize,
    capitals: usize,
}

impl AnswerWatch for ShoutingWatch {
    fn text(&mut self, _choice: u32, channel: Channel, text: &str) -> Result<(), FilterRefusal> {
        if channel == Channel::Content {
            let (all, capitals) = letters(text);
            self.all += all;
            self.capitals += capitals;
        }
        if self.all >= 40 && self.capitals * 100 > self.all * self.max_percent {
            let message = "The answer was ended because it is mostly capitals.".to_owned();
            return Err(FilterRefusal { status: 502, code: "answer_shouts", message });
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
    Ok(gateway.serve()?)
}
