//! Bounds on the size of prompts.

use crate::filter::{Filter, Hooks};
use crate::report::{Category, Found, Report};
use crate::settings::{Action, SizeBounds};
use crate::subject::Subject;

/// Bytes per token: the average of current tokenizers for English text.
const BYTES_PER_TOKEN: u64 = 4;

/// Reports requests that exceed a bound.
#[derive(Debug)]
pub struct LimitSizes(SizeBounds);

impl LimitSizes {
    /// `None`, when there is no bound.
    pub fn new(sizes: SizeBounds) -> Option<Self> {
        (sizes.action != Action::Off && sizes.is_bounded()).then_some(LimitSizes(sizes))
    }
}

impl Filter for LimitSizes {
    fn hooks(&self) -> Hooks {
        Hooks::DETECT
    }

    fn detect(&self, subject: &Subject) -> Report {
        let (most, is) = (self.0, subject.sizes());
        let tokens = (subject.bytes() as u64).div_ceil(BYTES_PER_TOKEN);
        let over = [
            ("size.tokens", "TOO_MANY_TOKENS", tokens, most.tokens),
            ("size.messages", "TOO_MANY_MESSAGES", is.messages, most.messages),
            ("size.tools", "TOO_MANY_TOOLS", is.tools, most.tools),
            ("size.nesting", "NESTED_TOO_DEEP", is.nesting, most.nesting),
            (
                "size.output_tokens",
                "TOO_MANY_OUTPUT_TOKENS",
                is.output_tokens.unwrap_or(0),
                most.output_tokens,
            ),
        ];
        let over = over.into_iter().filter(|(.., is, most)| *most > 0 && is > most);
        let found = over.map(|(rule, kind, ..)| Found {
            rule: rule.into(),
            kind: kind.into(),
            category: Category::Size,
            text: 0,
            span: 0..0,
            score: 1.0,
            action: self.0.action,
        });
        Report { found: found.collect(), scores: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::{Side, Sizes as Is};

    #[test]
    fn only_exceeded_bounds_are_reported() {
        let most = SizeBounds {
            action: Action::Block,
            tokens: 3,
            messages: 2,
            tools: 0,
            nesting: 5,
            output_tokens: 100,
        };
        let filter = LimitSizes::new(most).unwrap();
        let rules = |is: Is, text: &str| {
            let mut builder = Subject::build(Side::Input, is, 0);
            builder.text(
                crate::TextSource::Prompt(wire::request::PromptRole::User),
                crate::Place::default(),
                text,
            );
            filter
                .detect(&builder.done())
                .found
                .iter()
                .map(|found| found.rule.to_string())
                .collect::<Vec<_>>()
        };
        let fits = Is { messages: 2, tools: 99, nesting: 5, output_tokens: Some(100) };
        assert!(rules(fits, "twelve bytes").is_empty());
        assert_eq!(rules(fits, "thirteen here"), ["size.tokens"]);
        let over = Is { messages: 3, tools: 0, nesting: 6, output_tokens: Some(101) };
        assert_eq!(rules(over, ""), ["size.messages", "size.nesting", "size.output_tokens"]);
        assert!(
            LimitSizes::new(SizeBounds { action: Action::Block, ..SizeBounds::default() })
                .is_none()
        );
    }
}
