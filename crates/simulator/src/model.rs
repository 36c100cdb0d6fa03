//! The schedule of an engine with continuous batching.
//!
//! The engine works in steps. A step reads up to `chunk` tokens of prompts and makes one token of
//! each answer whose prompt is read. Its time grows with both, so prompts delay running answers,
//! and answers slow each other down. A request takes room for its prompt and its whole answer when
//! it begins to run, so no answer is evicted.
//!
//! - *In*: a [`Profile`], arrivals, cancellations, and the time since the start.
//! - *Out*: which request has how many tokens, and when.
//! - *Never*: a clock or I/O: the same calls give the same schedule.

use std::collections::VecDeque;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::Profile;

/// Time since the start of the engine.
pub type At = Duration;

/// Maximum time that the schedule makes up for when it is driven late: later steps move.
const MAX_LAG: Duration = Duration::from_millis(5);

/// Why a request is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Prompt and answer are larger than the cache.
    TooLong,
    /// The queue is full.
    QueueFull,
}

/// Tokens of an answer at the end of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// The request.
    pub id: u64,
    /// Its tokens so far.
    pub tokens: u64,
    /// When the step ended, by the schedule.
    pub at: At,
}

/// Load of the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Requests that run.
    pub running: usize,
    /// Requests that do not run yet.
    pub waiting: usize,
    /// Share of the cache that tokens fill, 0 to 1.
    pub cache: f64,
}

struct Job {
    id: u64,
    /// When it can be scheduled.
    ready: At,
    prompt: u64,
    /// Prompt tokens that no step has read.
    unread: u64,
    output: u64,
    made: u64,
}

impl Job {
    fn room(&self) -> u64 {
        self.prompt + self.output
    }
}

/// An engine.
pub struct Model {
    profile: Profile,
    random: SmallRng,
    next_id: u64,
    /// By when they are ready.
    waiting: VecDeque<Job>,
    running: Vec<Job>,
    /// When the running step ends.
    step_ends: Option<At>,
}

impl Model {
    /// An idle engine.
    pub fn new(profile: Profile) -> Self {
        let random = SmallRng::seed_from_u64(profile.seed);
        let (waiting, running) = (VecDeque::new(), Vec::new());
        Model { profile, random, next_id: 0, waiting, running, step_ends: None }
    }

    /// Accept a request of so many tokens, at least one of output. Returns its id.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn arrive(&mut self, now: At, prompt: u64, output: u64) -> Result<u64, Refusal> {
        let output = output.max(1);
        if prompt.saturating_add(output) > self.profile.kv_tokens {
            return Err(Refusal::TooLong);
        }
        let fitting = self.fitting(prompt + output);
        if fitting <= self.waiting.len() && self.waiting.len() - fitting >= self.profile.max_queue {
            return Err(Refusal::QueueFull);
        }
        let id = self.next_id;
        self.next_id += 1;
        let ready = now + self.profile.vary(self.profile.base, &mut self.random);
        let unread = prompt.max(1);
        let at = self.waiting.partition_point(|job| job.ready <= ready);
        self.waiting.insert(at, Job { id, ready, prompt, unread, output, made: 0 });
        Ok(id)
    }

    /// The client of a request is gone.
    pub fn cancel(&mut self, id: u64) {
        self.waiting.retain(|job| job.id != id);
        self.running.retain(|job| job.id != id);
    }

    /// When something happens next.
    pub fn next(&self) -> Option<At> {
        self.step_ends.or_else(|| self.waiting.front().map(|job| job.ready))
    }

    /// What has happened until now. To be called at [`next`](Self::next), or soon after.
    pub fn advance(&mut self, now: At) -> Vec<Made> {
        let mut made = Vec::new();
        while let Some(at) = self.next().filter(|at| *at <= now) {
            if self.step_ends.take().is_some() {
                self.end_step(at, &mut made);
            }
            self.begin_step(at.max(now.saturating_sub(MAX_LAG)));
        }
        made
    }

    /// The present load.
    pub fn load(&self) -> Load {
        let tokens: u64 =
            self.running.iter().map(|job| job.prompt - job.unread.min(job.prompt) + job.made).sum();
        Load {
            running: self.running.len(),
            waiting: self.waiting.len(),
            cache: tokens as f64 / self.profile.kv_tokens as f64,
        }
    }

    /// Room of the requests that run.
    fn held(&self) -> u64 {
        self.running.iter().map(Job::room).sum()
    }

    /// How many of the waiting requests and of one more fit beside those that run.
    fn fitting(&self, one_more: u64) -> usize {
        let mut slots = self.profile.slots - self.running.len();
        let mut room = self.profile.kv_tokens - self.held();
        let fits = |need: u64| {
            let fits = slots > 0 && need <= room;
            if fits {
                slots -= 1;
                room -= need;
            }
            fits
        };
        let needs = self.waiting.iter().map(Job::room).chain([one_more]);
        needs.map(fits).take_while(|fits| *fits).count()
    }

    fn begin_step(&mut self, now: At) {
        let mut room = self.profile.kv_tokens - self.held();
        while let Some(job) = self.waiting.front() {
            let fits = self.running.len() < self.profile.slots && job.room() <= room;
            if job.ready > now || !fits {
                break;
            }
            room -= job.room();
            self.running.extend(self.waiting.pop_front());
        }
        if self.running.is_empty() {
            return;
        }
        let decoding = self.running.iter().filter(|job| job.unread == 0).count();
        let mut budget = self.profile.chunk;
        for job in &mut self.running {
            // Of a prompt that is read, the step makes a token.
            let read = job.unread.min(budget);
            job.unread -= read;
            budget -= read;
        }
        let read = u32::try_from(self.profile.chunk - budget).unwrap_or(u32::MAX);
        let mut time = self.profile.prefill.saturating_mul(read);
        if decoding > 0 {
            let others = u32::try_from(decoding - 1).unwrap_or(u32::MAX);
            time += self.profile.decode + self.profile.slowdown.saturating_mul(others);
        }
        let time = self.profile.vary(time, &mut self.random);
        self.step_ends = Some(now + time + self.profile.stall(&mut self.random));
    }

    fn end_step(&mut self, at: At, made: &mut Vec<Made>) {
        self.running.retain_mut(|job| {
            if job.unread > 0 {
                return true;
            }
            job.made += 1;
            made.push(Made { id: job.id, tokens: job.made, at });
            job.made < job.output
        });
    }
}

#[cfg(test)]
mod tests;
