//! The edge or the cloud?
//!
//! - *In*: what a request asks, what both are thought to take for it, whether they are there.
//! - *Out*: which, and why.
//! - *Never*: a change of mind at each breath: who was passed over is taken again only when he is better by a margin.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::Serialize;

use crate::predict::{Predicted, Question};
use crate::settings::{Complexity, Objective};

/// How much better the edge must be than what made requests leave it.
const MARGIN: f64 = 0.8;
/// One in so many requests goes to a cloud of which nothing is known yet.
const EXPLORE: u64 = 8;

/// One in so many goes to the one that seems worse.
const EXPLORE_AGAIN: u64 = 32;

/// What a tier offers for a request.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Outlook {
    /// Somebody is well there and can serve it.
    pub is_there: bool,
    /// Requests wait for a place there.
    pub is_saturated: bool,
    /// What the one who would be best takes; `None`: not known.
    pub predicted: Option<Predicted>,
    /// Cents for the request.
    pub cost: f64,
}

/// Why a tier was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Offloaded {
    /// It stays: nothing speaks against the edge.
    Stays,
    /// It stays: the edge meets the objective.
    ObjectiveMet,
    /// It stays: the edge is better.
    EdgeBetter,
    /// Nobody at the edge can.
    Outage,
    /// The edge has a queue.
    Saturated,
    /// The prompt is too long for the edge.
    PromptTokens,
    /// The request asks for too much.
    OutputTokens,
    /// The request offers tools.
    Tools,
    /// The client asked for it.
    Asked,
    /// Something was found in the prompt that is for the cloud.
    Found,
    /// The edge would miss the objective, and the cloud would not, or by less.
    ObjectiveMissed,
    /// The cloud is better.
    CloudBetter,
    /// To learn what the cloud is like.
    Explores,
    /// It stays, although the cloud seems better: to learn whether the edge still is what it was.
    ExploresEdge,
    /// Nobody in the cloud can.
    CloudOutage,
}

impl Offloaded {
    /// All of them.
    pub const ALL: [Offloaded; 15] = [
        Offloaded::Stays,
        Offloaded::ObjectiveMet,
        Offloaded::EdgeBetter,
        Offloaded::Outage,
        Offloaded::Saturated,
        Offloaded::PromptTokens,
        Offloaded::OutputTokens,
        Offloaded::Tools,
        Offloaded::Asked,
        Offloaded::Found,
        Offloaded::ObjectiveMissed,
        Offloaded::CloudBetter,
        Offloaded::Explores,
        Offloaded::ExploresEdge,
        Offloaded::CloudOutage,
    ];

    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            Offloaded::Stays => "stays",
            Offloaded::ObjectiveMet => "objective_met",
            Offloaded::EdgeBetter => "edge_better",
            Offloaded::Outage => "outage",
            Offloaded::Saturated => "saturated",
            Offloaded::PromptTokens => "prompt_tokens",
            Offloaded::OutputTokens => "output_tokens",
            Offloaded::Tools => "tools",
            Offloaded::Asked => "asked",
            Offloaded::Found => "found",
            Offloaded::ObjectiveMissed => "objective_missed",
            Offloaded::CloudBetter => "cloud_better",
            Offloaded::Explores => "explores",
            Offloaded::ExploresEdge => "explores_edge",
            Offloaded::CloudOutage => "cloud_outage",
        }
    }

    /// Whether the request goes to the cloud.
    pub fn leaves(self) -> bool {
        !matches!(
            self,
            Offloaded::Stays | Offloaded::ObjectiveMet | Offloaded::EdgeBetter | Offloaded::ExploresEdge | Offloaded::CloudOutage
        )
    }
}

/// What a request is like, besides its size.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nature {
    /// It offers tools.
    pub tools: bool,
    /// The client asked for the cloud.
    pub asks: bool,
    /// Whoever looked at the prompt found something that is for the cloud.
    pub found: bool,
}

/// The policy of a route.
#[derive(Debug)]
pub struct Offload {
    objective: Objective,
    complexity: Complexity,
    /// The last request that either could have served left.
    away: AtomicBool,
    unknown: AtomicU64,
    weighed: AtomicU64,
}

impl Offload {
    /// A policy.
    pub fn new(objective: Objective, complexity: Complexity) -> Self {
        Offload { objective, complexity, away: AtomicBool::new(false), unknown: AtomicU64::new(0), weighed: AtomicU64::new(0) }
    }

    /// Decide, and remember where it went.
    pub fn decide(&self, question: &Question, nature: Nature, edge: &Outlook, cloud: &Outlook) -> Offloaded {
        let decided = self.explain(question, nature, edge, cloud);
        if matches!(decided, Offloaded::Explores) {
            // One in so many.
            return if self.unknown.fetch_add(1, Ordering::Relaxed).is_multiple_of(EXPLORE) { decided } else { Offloaded::Stays };
        }
        let weighed = [Offloaded::ObjectiveMet, Offloaded::EdgeBetter, Offloaded::ObjectiveMissed, Offloaded::CloudBetter];
        if !weighed.contains(&decided) {
            return decided;
        }
        self.away.store(decided.leaves(), Ordering::Relaxed);
        // Of who is never asked nothing is learnt, neither that he has become better.
        let explores = self.weighed.fetch_add(1, Ordering::Relaxed) % EXPLORE_AGAIN == EXPLORE_AGAIN - 1;
        match decided {
            Offloaded::ObjectiveMissed | Offloaded::CloudBetter if explores => Offloaded::ExploresEdge,
            Offloaded::EdgeBetter if explores => Offloaded::Explores,
            decided => decided,
        }
    }

    /// What would be decided now.
    pub fn explain(&self, question: &Question, nature: Nature, edge: &Outlook, cloud: &Outlook) -> Offloaded {
        if !cloud.is_there {
            return Offloaded::CloudOutage;
        }
        if !edge.is_there {
            return Offloaded::Outage;
        }
        if let Some(too_much) = self.too_much(question, nature) {
            return too_much;
        }
        if edge.is_saturated && !cloud.is_saturated {
            return Offloaded::Saturated;
        }
        let Some(at_edge) = &edge.predicted else { return Offloaded::Stays };
        let margin = if self.away.load(Ordering::Relaxed) { MARGIN } else { 1.0 };
        if let Some(misses) = self.misses(question, at_edge) {
            if misses <= margin {
                return Offloaded::ObjectiveMet;
            }
            let better = cloud.predicted.as_ref().and_then(|cloud| self.misses(question, cloud)).is_none_or(|cloud| cloud < misses);
            return if better { Offloaded::ObjectiveMissed } else { Offloaded::EdgeBetter };
        }
        let Some(in_cloud) = &cloud.predicted else { return Offloaded::Explores };
        let (edge, cloud) = (self.weight(at_edge, edge.cost), self.weight(in_cloud, cloud.cost));
        if edge <= cloud * margin { Offloaded::EdgeBetter } else { Offloaded::CloudBetter }
    }

    fn too_much(&self, question: &Question, nature: Nature) -> Option<Offloaded> {
        let Complexity { prompt_tokens, output_tokens, tools } = self.complexity;
        let over = |tokens: u64, most: u64| most > 0 && tokens > most;
        match () {
            () if nature.asks => Some(Offloaded::Asked),
            () if nature.found => Some(Offloaded::Found),
            () if over(question.prompt, prompt_tokens) => Some(Offloaded::PromptTokens),
            () if over(question.output, output_tokens) => Some(Offloaded::OutputTokens),
            () if tools && nature.tools => Some(Offloaded::Tools),
            () => None,
        }
    }

    /// How far a prediction is from the objective: up to 1 it is met. `None`: there is no objective.
    fn misses(&self, question: &Question, predicted: &Predicted) -> Option<f64> {
        let part = |seconds: f64, objective: std::time::Duration| (!objective.is_zero()).then(|| seconds / objective.as_secs_f64());
        let first = part(predicted.ttft, self.objective.ttft);
        let last = predicted.completion(question).and_then(|seconds| part(seconds, self.objective.completion));
        first.into_iter().chain(last).max_by(f64::total_cmp)
    }

    fn weight(&self, predicted: &Predicted, cents: f64) -> f64 {
        let Objective { weigh_ttft, weigh_tpot, weigh_cost, .. } = self.objective;
        weigh_ttft * predicted.ttft + weigh_tpot * predicted.tpot.unwrap_or(0.0) * 100.0 + weigh_cost * cents
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn outlook(ttft: f64) -> Outlook {
        Outlook { is_there: true, is_saturated: false, predicted: Some(Predicted { ttft, tpot: Some(0.02) }), cost: 0.0 }
    }

    fn away() -> Outlook {
        Outlook { is_there: false, ..outlook(0.0) }
    }

    const SMALL: Question = Question { prompt: 100, output: 100 };

    #[test]
    fn what_is_there_comes_first_and_what_is_too_much_second() {
        let offload = Offload::new(Objective::default(), Complexity { prompt_tokens: 1000, output_tokens: 500, tools: true });
        let decide = |question: Question, nature, edge: &Outlook, cloud: &Outlook| offload.decide(&question, nature, edge, cloud);
        let plain = Nature::default();
        assert_eq!(decide(SMALL, plain, &outlook(0.1), &away()), Offloaded::CloudOutage);
        assert_eq!(decide(SMALL, plain, &away(), &outlook(9.0)), Offloaded::Outage);
        assert_eq!(decide(Question { prompt: 1001, output: 1 }, plain, &outlook(0.1), &outlook(1.0)), Offloaded::PromptTokens);
        assert_eq!(decide(Question { prompt: 1, output: 501 }, plain, &outlook(0.1), &outlook(1.0)), Offloaded::OutputTokens);
        assert_eq!(decide(SMALL, Nature { tools: true, ..Nature::default() }, &outlook(0.1), &outlook(1.0)), Offloaded::Tools);
        assert_eq!(decide(SMALL, Nature { asks: true, ..Nature::default() }, &outlook(0.1), &outlook(1.0)), Offloaded::Asked);
        assert_eq!(decide(SMALL, Nature { found: true, ..Nature::default() }, &outlook(0.1), &outlook(1.0)), Offloaded::Found);
        assert_eq!(decide(SMALL, plain, &Outlook { is_saturated: true, ..outlook(0.1) }, &outlook(1.0)), Offloaded::Saturated);
        assert_eq!(decide(SMALL, plain, &Outlook { predicted: None, ..outlook(0.0) }, &outlook(1.0)), Offloaded::Stays);
    }

    #[test]
    fn an_objective_that_is_met_keeps_requests_and_a_margin_brings_them_back() {
        let objective = Objective { ttft: Duration::from_millis(500), ..Objective::default() };
        let offload = Offload::new(objective, Complexity::default());
        let decide = |edge: f64, cloud: f64| offload.decide(&SMALL, Nature::default(), &outlook(edge), &outlook(cloud));
        assert_eq!(decide(0.4, 0.1), Offloaded::ObjectiveMet);
        assert_eq!(decide(0.6, 0.3), Offloaded::ObjectiveMissed);
        assert_eq!(decide(0.45, 0.3), Offloaded::ObjectiveMissed, "by too little to come back");
        assert_eq!(decide(0.39, 0.3), Offloaded::ObjectiveMet);
        assert_eq!(decide(0.45, 0.3), Offloaded::ObjectiveMet, "it stays where it is");
        assert_eq!(decide(0.6, 0.9), Offloaded::EdgeBetter, "both miss, the edge by less");
        let slow = Objective { completion: Duration::from_secs(1), ..Objective::default() };
        let offload = Offload::new(slow, Complexity::default());
        assert_eq!(offload.decide(&SMALL, Nature::default(), &outlook(0.1), &outlook(0.2)), Offloaded::EdgeBetter, "2.1 s against 2.2 s");
    }

    #[test]
    fn an_edge_that_was_slow_is_tried_again_now_and_then() {
        let objective = Objective { ttft: Duration::from_millis(500), ..Objective::default() };
        let offload = Offload::new(objective, Complexity::default());
        let decide = || offload.decide(&SMALL, Nature::default(), &outlook(5.0), &outlook(0.3));
        let tried = (0..320).filter(|_| decide() == Offloaded::ExploresEdge).count();
        assert_eq!(tried, 10);
    }

    #[test]
    fn without_an_objective_the_weights_decide_and_a_stranger_is_tried() {
        let offload = Offload::new(Objective { weigh_cost: 0.1, ..Objective::default() }, Complexity::default());
        let cheap = Outlook { cost: 0.0, ..outlook(0.3) };
        let dear = Outlook { cost: 3.0, ..outlook(0.1) };
        assert_eq!(offload.decide(&SMALL, Nature::default(), &cheap, &dear), Offloaded::EdgeBetter);
        assert_eq!(offload.decide(&SMALL, Nature::default(), &cheap, &Outlook { cost: 0.5, ..dear }), Offloaded::CloudBetter);
        let stranger = Outlook { predicted: None, ..outlook(0.0) };
        let tried = (0..80).filter(|_| offload.decide(&SMALL, Nature::default(), &cheap, &stranger).leaves()).count();
        assert_eq!(tried, 10);
    }
}
