//! The ways to choose, a file for those that have more to say than a line.

mod affinity;
pub(crate) mod least;
pub(crate) mod prefix;

use lens::Tick;

use crate::member::Member;
use crate::pool::{Choice, Pool, Reason, Wish};
use crate::settings::Balance;

/// Who was not asked for long is taken for so much of what is usual.
const HOPE: f64 = 0.5;
/// How often two at random are looked for before all are gone through.
const DRAWS: usize = 8;
/// How much busier than the mean a backend may be that a request has a liking for (Mirrokni, Thorup and Zadimoghaddam, 2016).
const BUSY: f64 = 1.25;

/// A pool as a request sees it now.
#[derive(Clone, Copy)]
pub(crate) struct Deck<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) wish: &'a Wish<'a>,
    pub(crate) now: Tick,
    /// Who is near, where only these are asked; empty: all.
    pub(crate) near: &'a [bool],
    /// Also those that are not well.
    pub(crate) everybody: bool,
}

impl<'a> Deck<'a> {
    /// The backend at a place, if it may be asked.
    pub(crate) fn at(&self, at: usize) -> Option<&'a Member> {
        let member = self.pool.members().get(at)?;
        if !self.near.get(at).copied().unwrap_or(true) {
            return None;
        }
        let may = match self.everybody {
            // Who rests is asked by those who have been nowhere yet, and by nobody else.
            true => !self.wish.is_another() || !member.health.rests(self.now),
            false => member.health.may_be_asked(self.now),
        };
        (may && !self.wish.tried.contains(&at) && !self.wish.unfit.contains(&at)).then_some(&**member)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (usize, &'a Member)> + '_ {
        (0..self.pool.members().len()).filter_map(|at| Some((at, self.at(at)?)))
    }

    /// A backend's time to first token as it seems now. What was measured long ago says little: then it is taken for somewhat better than what is usual in the pool, so that who was
    /// slow once is asked again, and who answers nobody any more is not taken for the fastest.
    pub(crate) fn ttft(&self, member: &Member) -> Option<f64> {
        let mean = member.ttft.mean()?;
        let sure = member.ttft.certainty(self.pool.forget(), self.now);
        Some(mean * sure + self.pool.usual_ttft().unwrap_or(mean) * HOPE * (1.0 - sure))
    }

    /// Failures and refusals of late. Each counts as a request of the mean size that waits there: who fails at once has nobody waiting, and would be taken for the idlest.
    pub(crate) fn faults(&self, member: &Member) -> f64 {
        member.faults.count(self.pool.forget(), self.now)
    }

    pub(crate) fn strength(&self, member: &Member) -> f64 {
        member.strength(self.pool.slow_start(), self.now)
    }

    /// The tokens in flight that each unit of strength would have if all were equally busy, this request among them.
    fn fair(&self) -> f64 {
        let busy = |member: &Member| member.tokens() as f64 + self.faults(member) * self.pool.size();
        let sum = |(tokens, strength), (_, member): (usize, &Member)| (tokens + busy(member), strength + self.strength(member));
        let (tokens, strength) = self.all().fold((0.0, 0.0), sum);
        (tokens + self.wish.tokens as f64) / f64::max(strength, f64::MIN_POSITIVE)
    }

    /// Tells which backends are not much busier than the others: by so many requests of the mean size beyond their share.
    pub(crate) fn leisure(&self, slack: f64) -> impl Fn(&Member) -> bool + '_ {
        let (fair, size) = (self.fair(), self.pool.size());
        let spare = slack * size;
        move |member| {
            let faults = self.faults(member);
            let busy = member.tokens() as f64 + self.wish.tokens as f64 + faults * size;
            // A request alone is never too much.
            member.tokens() == 0 && faults < 1.0 || busy <= BUSY * fair * self.strength(member) + spare
        }
    }
}

/// Choose by the pool's rule.
pub(crate) fn choose(deck: &Deck<'_>) -> Option<Choice> {
    let balanced = |at| Choice { at, reason: Reason::Balanced };
    match &deck.pool.settings.balance {
        Balance::RoundRobin => round_robin(deck).map(balanced),
        Balance::Weighted => weighted(deck).map(balanced),
        Balance::LeastRequests => least::by(deck, |member| member.requests() as f64 + deck.faults(member)).map(balanced),
        Balance::LeastTokens => least::by(deck, |member| member.tokens() as f64 + deck.faults(member) * deck.pool.size()).map(balanced),
        Balance::PeakEwma => least::of_two(deck).map(balanced),
        Balance::Prefix => prefix::choose(deck),
        Balance::Session(_) => affinity::choose(deck, true),
        Balance::Hash(_) => affinity::choose(deck, false),
    }
}

fn round_robin(deck: &Deck<'_>) -> Option<usize> {
    let all = deck.pool.members().len();
    let first = deck.pool.turn();
    (0..all)
        .map(|step| (first.wrapping_add(step)) % all)
        .find(|at| {
            // Who starts slowly is passed over now and then.
            deck.at(*at).is_some_and(|member| {
                let share = member.share(deck.pool.slow_start(), deck.now);
                share >= 1.0 || deck.pool.random.share() < share
            })
        })
        .or_else(|| deck.all().next().map(|(at, _)| at))
}

fn weighted(deck: &Deck<'_>) -> Option<usize> {
    let total: f64 = deck.all().map(|(_, member)| deck.strength(member)).sum();
    let mut draw = deck.pool.random.share() * total;
    let drawn = deck.all().find(|(_, member)| {
        draw -= deck.strength(member);
        draw < 0.0
    });
    drawn.or_else(|| deck.all().last()).map(|(at, _)| at)
}
