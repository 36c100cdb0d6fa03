//! Cost of requests.

use super::settings::{Price, Unit};
use crate::Pattern;

/// Tokens that a request has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenUsage {
    /// Prompt tokens, including cached ones.
    pub input: u64,
    /// Of these, from a cache.
    pub cached: u64,
    /// Generated tokens, including reasoning.
    pub output: u64,
    /// Of these, reasoning.
    pub reasoning: u64,
}

impl TokenUsage {
    /// Cost in pico-dollars; zero without a price.
    pub fn cost(&self, price: Option<&Price>) -> u64 {
        let Some(price) = price else { return 0 };
        let (cached, reasoning) = (self.cached.min(self.input), self.reasoning.min(self.output));
        let parts = [
            (self.input - cached, price.input),
            (cached, price.cached_input),
            (self.output - reasoning, price.output),
            (reasoning, price.reasoning),
        ];
        parts
            .iter()
            .fold(0, |sum, (tokens, price)| sum.saturating_add(tokens.saturating_mul(*price)))
    }

    /// Usage in a limit's unit.
    pub(super) fn in_units(&self, unit: Unit, price: Option<&Price>) -> u64 {
        match unit {
            Unit::Requests | Unit::Streams => 1,
            Unit::InputTokens => self.input,
            Unit::OutputTokens => self.output,
            Unit::TotalTokens => self.input.saturating_add(self.output),
            Unit::Cost => self.cost(price),
        }
    }
}

/// The price of a model: the first entry that names it.
pub(super) fn find<'p>(prices: &'p [Price], model: &str) -> Option<&'p Price> {
    prices.iter().find(|price| price.models.is_empty() || Pattern::allow(&price.models, model))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_token_has_its_price() {
        let price =
            Price { models: vec![], input: 100, cached_input: 10, output: 1000, reasoning: 2000 };
        let used = TokenUsage { input: 10, cached: 4, output: 5, reasoning: 2 };
        assert_eq!(used.cost(Some(&price)), 6 * 100 + 4 * 10 + 3 * 1000 + 2 * 2000);
        assert_eq!(used.cost(None), 0);
        // Inconsistent usage of an engine must not lower the cost.
        assert_eq!(
            TokenUsage { input: 1, cached: 9, output: 0, reasoning: 9 }.cost(Some(&price)),
            10
        );
    }
}
