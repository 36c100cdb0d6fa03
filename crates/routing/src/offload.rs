//! Decision between edge and cloud.
//!
//! - *In*: the request, the predictions of both tiers, their availability.
//! - *Out*: the tier, and the reason.
//! - *Never*: flapping, and a cloud that is as good as the edge. The choice switches only when the
//!   other tier is better by a margin. Requests stay in the cloud only as long as a request from
//!   the edge would go there.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::Serialize;

use crate::predict::{Predicted, RequestSize};
use crate::settings::{Complexity, Objective};

/// Hysteresis: a tier must be this much better to win requests from the other one.
const MARGIN: f64 = 0.8;
/// Requests in a row that would not have left the edge, after which they return to it: a tie must
/// not stay in the cloud, which costs money. More than [`EXPLORE_AGAIN`], so that the edge was
/// measured meanwhile.
const RETURN_AFTER: u64 = 40;
/// One in this many requests explores a cloud without measurements.
const EXPLORE_EVERY: u64 = 8;

/// One in this many requests explores the tier that is predicted to be worse.
const EXPLORE_AGAIN: u64 = 32;

/// What a tier offers for a request.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TierOffer {
    /// A healthy backend can serve it.
    pub is_available: bool,
    /// Every healthy backend has a queue.
    pub is_saturated: bool,
    /// Prediction of its best backend; `None`: unknown.
    pub predicted: Option<Predicted>,
    /// Cost of the request in cents.
    pub cost: f64,
}

/// The decision and its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Offloaded {
    /// Edge: no reason to leave it.
    Default,
    /// Edge: it is predicted to meet the objective.
    ObjectiveMet,
    /// Edge: it is better.
    EdgeBetter,
    /// Cloud: no backend of the edge can serve it.
    EdgeOutage,
    /// Cloud: the edge has a queue.
    Saturated,
    /// Cloud: the prompt is too long for the edge.
    PromptTokens,
    /// Cloud: too many output tokens for the edge.
    OutputTokens,
    /// Cloud: the request offers tools.
    Tools,
    /// Cloud: the request has the configured header.
    Header,
    /// Cloud: the prompt has one of the configured findings.
    Findings,
    /// Cloud: the edge is predicted to miss the objective, and the cloud meets it or misses it by
    /// less.
    ObjectiveMissed,
    /// Cloud: it is better.
    CloudBetter,
    /// Cloud: to measure it.
    ExploreCloud,
    /// Edge, although the cloud is predicted to be better: to measure whether it still is.
    ExploreEdge,
    /// Edge: no backend of the cloud can serve it.
    CloudOutage,
}

impl Offloaded {
    /// All decisions.
    pub const ALL: [Offloaded; 15] = [
        Offloaded::Default,
        Offloaded::ObjectiveMet,
        Offloaded::EdgeBetter,
        Offloaded::EdgeOutage,
        Offloaded::Saturated,
        Offloaded::PromptTokens,
        Offloaded::OutputTokens,
        Offloaded::Tools,
        Offloaded::Header,
        Offloaded::Findings,
        Offloaded::ObjectiveMissed,
        Offloaded::CloudBetter,
        Offloaded::ExploreCloud,
        Offloaded::ExploreEdge,
        Offloaded::CloudOutage,
    ];

    /// Name in records, headers and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Offloaded::Default => "default",
            Offloaded::ObjectiveMet => "objective_met",
            Offloaded::EdgeBetter => "edge_better",
            Offloaded::EdgeOutage => "edge_outage",
            Offloaded::Saturated => "saturated",
            Offloaded::PromptTokens => "prompt_tokens",
            Offloaded::OutputTokens => "output_tokens",
            Offloaded::Tools => "tools",
            Offloaded::Header => "header",
            Offloaded::Findings => "findings",
            Offloaded::ObjectiveMissed => "objective_missed",
            Offloaded::CloudBetter => "cloud_better",
            Offloaded::ExploreCloud => "explore_cloud",
            Offloaded::ExploreEdge => "explore_edge",
            Offloaded::CloudOutage => "cloud_outage",
        }
    }

    /// Whether the request goes to the cloud.
    pub fn leaves(self) -> bool {
        !matches!(
            self,
            Offloaded::Default
                | Offloaded::ObjectiveMet
                | Offloaded::EdgeBetter
                | Offloaded::ExploreEdge
                | Offloaded::CloudOutage
        )
    }
}

/// Properties of a request besides its size.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestTraits {
    /// It offers tools.
    pub tools: bool,
    /// It has the header of `offload.header`.
    pub has_header: bool,
    /// Its prompt has one of the findings of `offload.findings`.
    pub found: bool,
}

/// The policy of a route.
#[derive(Debug)]
pub struct Offload {
    objective: Objective,
    complexity: Complexity,
    /// Whether the last request that either tier could serve went to the cloud.
    away: AtomicBool,
    /// Requests in a row that went to the cloud, but would not have left the edge.
    undecided: AtomicU64,
    unknown: AtomicU64,
    weighed: AtomicU64,
}

impl Offload {
    /// A policy.
    pub fn new(objective: Objective, complexity: Complexity) -> Self {
        Offload {
            objective,
            complexity,
            away: AtomicBool::new(false),
            undecided: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            weighed: AtomicU64::new(0),
        }
    }

    /// Decide, and remember the tier for the hysteresis.
    pub fn decide(
        &self,
        question: &RequestSize,
        traits: RequestTraits,
        edge: &TierOffer,
        cloud: &TierOffer,
    ) -> Offloaded {
        let decided = self.explain(question, traits, edge, cloud);
        if matches!(decided, Offloaded::ExploreCloud) {
            // Only one in `EXPLORE_EVERY` requests explores.
            return if self.unknown.fetch_add(1, Ordering::Relaxed).is_multiple_of(EXPLORE_EVERY) {
                decided
            } else {
                Offloaded::Default
            };
        }
        let weighed = [
            Offloaded::ObjectiveMet,
            Offloaded::EdgeBetter,
            Offloaded::ObjectiveMissed,
            Offloaded::CloudBetter,
        ];
        if !weighed.contains(&decided) {
            return decided;
        }
        let decided = self.returning(decided, question, edge, cloud);
        self.away.store(decided.leaves(), Ordering::Relaxed);
        // Explore occasionally, or a recovered tier is never noticed.
        let explores =
            self.weighed.fetch_add(1, Ordering::Relaxed) % EXPLORE_AGAIN == EXPLORE_AGAIN - 1;
        match decided {
            Offloaded::ObjectiveMissed | Offloaded::CloudBetter if explores => {
                Offloaded::ExploreEdge
            }
            Offloaded::EdgeBetter if explores => Offloaded::ExploreCloud,
            decided => decided,
        }
    }

    /// The decision that would be made now.
    pub fn explain(
        &self,
        question: &RequestSize,
        traits: RequestTraits,
        edge: &TierOffer,
        cloud: &TierOffer,
    ) -> Offloaded {
        if !cloud.is_available {
            return Offloaded::CloudOutage;
        }
        if !edge.is_available {
            return Offloaded::EdgeOutage;
        }
        if let Some(too_much) = self.too_much(question, traits) {
            return too_much;
        }
        if edge.is_saturated && !cloud.is_saturated {
            return Offloaded::Saturated;
        }
        self.weigh(question, edge, cloud, self.away.load(Ordering::Relaxed))
    }

    /// A decision for the cloud, or the one that holds at the edge if that has been for the edge
    /// often enough.
    fn returning(
        &self,
        decided: Offloaded,
        question: &RequestSize,
        edge: &TierOffer,
        cloud: &TierOffer,
    ) -> Offloaded {
        let from_edge = self.weigh(question, edge, cloud, false);
        if !decided.leaves() || from_edge.leaves() {
            self.undecided.store(0, Ordering::Relaxed);
            return decided;
        }
        if self.undecided.fetch_add(1, Ordering::Relaxed) + 1 < RETURN_AFTER {
            return decided;
        }
        self.undecided.store(0, Ordering::Relaxed);
        from_edge
    }

    /// Decide by predictions. `away`: requests go to the cloud at present.
    fn weigh(
        &self,
        question: &RequestSize,
        edge: &TierOffer,
        cloud: &TierOffer,
        away: bool,
    ) -> Offloaded {
        let Some(at_edge) = &edge.predicted else { return Offloaded::Default };
        // Whether the cloud has the lower cost, by the margin in favor of the present tier.
        let is_cloud_better = |edge: f64, cloud: f64| {
            if away { edge > cloud * MARGIN } else { cloud < edge * MARGIN }
        };
        if let Some(misses) = self.misses(question, at_edge) {
            let in_cloud = cloud.predicted.as_ref().and_then(|cloud| self.misses(question, cloud));
            let stays = if away { misses <= MARGIN } else { misses <= 1.0 };
            // An edge that meets the objective has won already if it is not worse.
            if stays || misses <= 1.0 && in_cloud.is_some_and(|cloud| misses <= cloud) {
                return Offloaded::ObjectiveMet;
            }
            return if in_cloud.is_none_or(|cloud| is_cloud_better(misses, cloud)) {
                Offloaded::ObjectiveMissed
            } else {
                Offloaded::EdgeBetter
            };
        }
        let Some(in_cloud) = &cloud.predicted else { return Offloaded::ExploreCloud };
        let (edge, cloud) = (self.weight(at_edge, edge.cost), self.weight(in_cloud, cloud.cost));
        if is_cloud_better(edge, cloud) { Offloaded::CloudBetter } else { Offloaded::EdgeBetter }
    }

    fn too_much(&self, question: &RequestSize, traits: RequestTraits) -> Option<Offloaded> {
        let Complexity { prompt_tokens, output_tokens, tools } = self.complexity;
        let over = |tokens: u64, most: u64| most > 0 && tokens > most;
        match () {
            () if traits.has_header => Some(Offloaded::Header),
            () if traits.found => Some(Offloaded::Findings),
            () if over(question.prompt, prompt_tokens) => Some(Offloaded::PromptTokens),
            () if over(question.output, output_tokens) => Some(Offloaded::OutputTokens),
            () if tools && traits.tools => Some(Offloaded::Tools),
            () => None,
        }
    }

    /// Ratio of a prediction to the objective; up to 1 meets it. `None`: there is no objective.
    fn misses(&self, question: &RequestSize, predicted: &Predicted) -> Option<f64> {
        let part = |seconds: f64, objective: std::time::Duration| {
            (!objective.is_zero()).then(|| seconds / objective.as_secs_f64())
        };
        let first = part(predicted.ttft, self.objective.ttft);
        let last = predicted
            .completion(question)
            .and_then(|seconds| part(seconds, self.objective.completion));
        first.into_iter().chain(last).max_by(f64::total_cmp)
    }

    fn weight(&self, predicted: &Predicted, cents: f64) -> f64 {
        let Objective { ttft_weight, tpot_weight, cost_weight, .. } = self.objective;
        ttft_weight * predicted.ttft
            + tpot_weight * predicted.tpot.unwrap_or(0.0) * 100.0
            + cost_weight * cents
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn tier_offer(ttft: f64) -> TierOffer {
        TierOffer {
            is_available: true,
            is_saturated: false,
            predicted: Some(Predicted { ttft, tpot: Some(0.02) }),
            cost: 0.0,
        }
    }

    fn away() -> TierOffer {
        TierOffer { is_available: false, ..tier_offer(0.0) }
    }

    const SMALL: RequestSize = RequestSize { prompt: 100, output: 100 };

    #[test]
    #[expect(clippy::too_many_lines, reason = "a row for each rule of the table")]
    fn availability_is_decided_before_complexity() {
        let offload = Offload::new(
            Objective::default(),
            Complexity { prompt_tokens: 1000, output_tokens: 500, tools: true },
        );
        let decide = |question: RequestSize, traits, edge: &TierOffer, cloud: &TierOffer| {
            offload.decide(&question, traits, edge, cloud)
        };
        let plain = RequestTraits::default();
        assert_eq!(decide(SMALL, plain, &tier_offer(0.1), &away()), Offloaded::CloudOutage);
        assert_eq!(decide(SMALL, plain, &away(), &tier_offer(9.0)), Offloaded::EdgeOutage);
        assert_eq!(
            decide(
                RequestSize { prompt: 1001, output: 1 },
                plain,
                &tier_offer(0.1),
                &tier_offer(1.0)
            ),
            Offloaded::PromptTokens
        );
        assert_eq!(
            decide(
                RequestSize { prompt: 1, output: 501 },
                plain,
                &tier_offer(0.1),
                &tier_offer(1.0)
            ),
            Offloaded::OutputTokens
        );
        assert_eq!(
            decide(
                SMALL,
                RequestTraits { tools: true, ..RequestTraits::default() },
                &tier_offer(0.1),
                &tier_offer(1.0)
            ),
            Offloaded::Tools
        );
        assert_eq!(
            decide(
                SMALL,
                RequestTraits { has_header: true, ..RequestTraits::default() },
                &tier_offer(0.1),
                &tier_offer(1.0)
            ),
            Offloaded::Header
        );
        assert_eq!(
            decide(
                SMALL,
                RequestTraits { found: true, ..RequestTraits::default() },
                &tier_offer(0.1),
                &tier_offer(1.0)
            ),
            Offloaded::Findings
        );
        assert_eq!(
            decide(
                SMALL,
                plain,
                &TierOffer { is_saturated: true, ..tier_offer(0.1) },
                &tier_offer(1.0)
            ),
            Offloaded::Saturated
        );
        assert_eq!(
            decide(
                SMALL,
                plain,
                &TierOffer { predicted: None, ..tier_offer(0.0) },
                &tier_offer(1.0)
            ),
            Offloaded::Default
        );
    }

    #[test]
    fn met_objective_stays_at_edge_and_hysteresis_delays_return() {
        let objective = Objective { ttft: Duration::from_millis(500), ..Objective::default() };
        let offload = Offload::new(objective, Complexity::default());
        let decide = |edge: f64, cloud: f64| {
            offload.decide(&SMALL, RequestTraits::default(), &tier_offer(edge), &tier_offer(cloud))
        };
        assert_eq!(decide(0.4, 0.1), Offloaded::ObjectiveMet);
        assert_eq!(decide(0.6, 0.3), Offloaded::ObjectiveMissed);
        assert_eq!(decide(0.45, 0.3), Offloaded::ObjectiveMissed, "too close to switch back");
        assert_eq!(decide(0.39, 0.3), Offloaded::ObjectiveMet);
        assert_eq!(decide(0.45, 0.3), Offloaded::ObjectiveMet, "stays at the edge");
        assert_eq!(decide(0.6, 0.9), Offloaded::EdgeBetter, "both miss, the edge by less");
        assert_eq!(decide(0.6, 0.55), Offloaded::EdgeBetter, "both miss, about equally");
        assert_eq!(decide(0.51, 0.49), Offloaded::EdgeBetter, "too close to leave");
        let slow = Objective { completion: Duration::from_secs(1), ..Objective::default() };
        let offload = Offload::new(slow, Complexity::default());
        assert_eq!(
            offload.decide(&SMALL, RequestTraits::default(), &tier_offer(0.1), &tier_offer(0.2)),
            Offloaded::EdgeBetter,
            "2.1 s against 2.2 s"
        );
    }

    #[test]
    fn a_tier_must_be_better_by_the_margin_in_both_directions() {
        for objective in [
            Objective::default(),
            Objective { ttft: Duration::from_millis(100), ..Objective::default() },
        ] {
            let offload = Offload::new(objective, Complexity::default());
            let leaves = |edge: f64, cloud: f64| {
                let (edge, cloud) = (tier_offer(edge), tier_offer(cloud));
                offload.explain(&SMALL, RequestTraits::default(), &edge, &cloud).leaves()
            };
            let decide = |edge: f64, cloud: f64| {
                let (edge, cloud) = (tier_offer(edge), tier_offer(cloud));
                offload.decide(&SMALL, RequestTraits::default(), &edge, &cloud);
            };
            assert!(!leaves(0.12, 0.12) && !leaves(0.12, 0.1) && leaves(0.12, 0.09));
            decide(0.12, 0.09);
            assert!(leaves(0.12, 0.12) && leaves(0.12, 0.14) && !leaves(0.12, 0.16));
        }
    }

    #[test]
    fn a_tie_goes_to_the_edge_and_does_not_stay_in_the_cloud() {
        let offload = Offload::new(Objective::default(), Complexity::default());
        // Noise of a tenth around equal times.
        let random = crate::random::Random::new(3);
        let noisy = || tier_offer(0.12 * (0.9 + 0.2 * random.share()));
        let cloud = |requests: usize| {
            (0..requests)
                .filter(|_| {
                    let (edge, cloud) = (noisy(), noisy());
                    let traits = RequestTraits::default();
                    let decided = offload.decide(&SMALL, traits, &edge, &cloud);
                    decided.leaves() && decided != Offloaded::ExploreCloud
                })
                .count()
        };
        assert_eq!(cloud(1000), 0);
        // The edge has one slow phase. When it is over, requests return.
        let (slow, fast) = (tier_offer(0.3), tier_offer(0.12));
        let decided = offload.decide(&SMALL, RequestTraits::default(), &slow, &fast);
        assert_eq!(decided, Offloaded::CloudBetter);
        assert!((1..RETURN_AFTER as usize).contains(&cloud(1000)));
        assert_eq!(cloud(1000), 0);
    }

    #[test]
    fn slow_edge_is_explored_occasionally() {
        let objective = Objective { ttft: Duration::from_millis(500), ..Objective::default() };
        let offload = Offload::new(objective, Complexity::default());
        let decide =
            || offload.decide(&SMALL, RequestTraits::default(), &tier_offer(5.0), &tier_offer(0.3));
        let tried = (0..320).filter(|_| decide() == Offloaded::ExploreEdge).count();
        assert_eq!(tried, 10);
    }

    #[test]
    fn without_objective_weights_decide_and_unmeasured_cloud_is_explored() {
        let offload = Offload::new(
            Objective { cost_weight: 0.1, ..Objective::default() },
            Complexity::default(),
        );
        let cheap = TierOffer { cost: 0.0, ..tier_offer(0.3) };
        let dear = TierOffer { cost: 3.0, ..tier_offer(0.1) };
        assert_eq!(
            offload.decide(&SMALL, RequestTraits::default(), &cheap, &dear),
            Offloaded::EdgeBetter
        );
        assert_eq!(
            offload.decide(
                &SMALL,
                RequestTraits::default(),
                &cheap,
                &TierOffer { cost: 0.5, ..dear }
            ),
            Offloaded::CloudBetter
        );
        let stranger = TierOffer { predicted: None, ..tier_offer(0.0) };
        let tried = (0..80)
            .filter(|_| {
                offload.decide(&SMALL, RequestTraits::default(), &cheap, &stranger).leaves()
            })
            .count();
        assert_eq!(tried, 10);
    }
}
