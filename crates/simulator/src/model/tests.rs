//! The schedule in simulated time.

use std::collections::HashMap;

use super::*;

const MS: Duration = Duration::from_millis(1);

/// No jitter: 10 ms before, 1 ms a prompt token, 20 ms a token, 2 ms for each further answer.
fn profile() -> Profile {
    Profile {
        base: 10 * MS,
        prefill: MS,
        chunk: 100,
        decode: 20 * MS,
        slowdown: 2 * MS,
        jitter: 0.0,
        slots: 4,
        kv_tokens: 1_000,
        max_queue: 2,
        ..Profile::fast()
    }
}

/// Times of the tokens of each request, until the engine is idle.
fn run(model: &mut Model) -> HashMap<u64, Vec<At>> {
    let mut times: HashMap<u64, Vec<At>> = HashMap::new();
    while let Some(at) = model.next() {
        for made in model.advance(at) {
            assert_eq!(made.at, at);
            let tokens = times.entry(made.id).or_default();
            tokens.push(at);
            assert_eq!(tokens.len() as u64, made.tokens);
        }
    }
    assert_eq!(model.load(), Load::default());
    times
}

#[test]
fn a_request_alone_takes_its_prefill_and_its_decode() {
    for prompt in [1, 30, 250] {
        let mut model = Model::new(profile());
        let id = model.arrive(5 * MS, prompt, 3).unwrap();
        let times = &run(&mut model)[&id];
        let first = 15 * MS + MS * prompt as u32;
        assert_eq!(times, &[first, first + 20 * MS, first + 40 * MS], "{prompt}");
    }
}

#[test]
fn answers_of_a_batch_slow_each_other_down() {
    for (count, gap) in [(1, 20), (2, 22), (4, 26)] {
        let mut model = Model::new(profile());
        for _ in 0..count {
            model.arrive(At::ZERO, 10, 5).unwrap();
        }
        for times in run(&mut model).values() {
            assert_eq!(times[0], (10 + 10 * count) * MS, "prompts are read in one step");
            assert!(times.windows(2).all(|pair| pair[1] - pair[0] == gap * MS), "{times:?}");
        }
    }
}

#[test]
fn a_prompt_delays_the_answers_that_run() {
    let mut model = Model::new(profile());
    let first = model.arrive(At::ZERO, 1, 3).unwrap();
    // Ready at 25 ms, in the step that ends at 31 ms.
    model.arrive(15 * MS, 50, 1).unwrap();
    let times = run(&mut model);
    assert_eq!(times[&first], [11 * MS, 31 * MS, (31 + 50 + 20) * MS]);
}

#[test]
fn requests_queue_for_slots_and_for_the_cache() {
    // Two of 400 tokens fill the cache; four answers fill the slots.
    for (output, at_a_time) in [(390, 2), (10, 4)] {
        let mut model = Model::new(profile());
        (0..6).for_each(|n| {
            let accepted = model.arrive(At::ZERO, 10, output);
            assert_eq!(accepted.is_ok(), n < at_a_time + 2, "the queue has two: {n}");
        });
        model.advance(10 * MS);
        assert_eq!((model.load().running, model.load().waiting), (at_a_time, 2));
        let times = run(&mut model);
        assert_eq!(times.len(), at_a_time + 2);
        let ends = times[&0].last().unwrap();
        assert!(times[&(at_a_time as u64)][0] > *ends, "it began after one had ended");
    }
}

#[test]
fn a_request_that_never_fits_is_refused_and_a_full_queue_is_named() {
    let mut model = Model::new(Profile { slots: 1, max_queue: 0, ..profile() });
    assert_eq!(model.arrive(At::ZERO, 900, 101), Err(Refusal::TooLong));
    assert_eq!(model.arrive(At::ZERO, u64::MAX, 1), Err(Refusal::TooLong));
    let first = model.arrive(At::ZERO, 10, 1).unwrap();
    assert_eq!(model.arrive(At::ZERO, 10, 1), Err(Refusal::QueueFull));
    model.cancel(first);
    assert!(model.arrive(At::ZERO, 10, 1).is_ok());
}

#[test]
fn a_cancelled_answer_leaves_the_batch() {
    let mut model = Model::new(profile());
    let (stays, leaves) = (model.arrive(At::ZERO, 10, 4), model.arrive(At::ZERO, 10, 4));
    model.advance(10 * MS);
    model.cancel(leaves.unwrap());
    let times = &run(&mut model)[&stays.unwrap()];
    // The step that ran reads both prompts; the next ones have one answer.
    assert_eq!(times, &[30 * MS, 50 * MS, 70 * MS, 90 * MS]);
}

#[test]
fn a_late_driver_moves_the_schedule_and_bunches_no_tokens() {
    let mut model = Model::new(profile());
    model.arrive(At::ZERO, 10, 10).unwrap();
    model.advance(10 * MS);
    assert_eq!(model.advance(1_000 * MS).len(), 1, "not ten at once");
    assert_eq!(model.next(), Some(1_015 * MS));
}

/// Whatever arrives: each accepted request gets exactly its tokens, in order, and no bound is
/// exceeded.
#[test]
fn accepted_requests_get_their_tokens_within_the_bounds() {
    use rand::Rng;
    for seed in 0..200 {
        let mut random = SmallRng::seed_from_u64(seed);
        let profile = Profile {
            slots: random.random_range(1..6),
            kv_tokens: random.random_range(50..600),
            max_queue: random.random_range(0..5),
            chunk: random.random_range(1..200),
            jitter: 0.3,
            seed,
            ..profile()
        };
        let mut model = Model::new(profile.clone());
        let (mut wanted, mut got) = (HashMap::new(), HashMap::new());
        let mut now = At::ZERO;
        for _ in 0..60 {
            let (prompt, output) = (random.random_range(0..200), random.random_range(1..30));
            if let Ok(id) = model.arrive(now, prompt, output) {
                wanted.insert(id, output);
            }
            now += random.random_range(0..60) * MS;
            while let Some(at) = model.next().filter(|at| *at <= now) {
                for made in model.advance(at) {
                    let before = got.insert(made.id, made.tokens).unwrap_or(0);
                    assert_eq!(before + 1, made.tokens);
                }
                assert!(model.running.len() <= profile.slots && model.held() <= profile.kv_tokens);
                assert!(model.load().cache <= 1.0);
            }
        }
        for (id, times) in run_rest(&mut model) {
            got.insert(id, times);
        }
        assert_eq!(got, wanted, "seed {seed}");
    }
}

/// Tokens of the requests that are left.
fn run_rest(model: &mut Model) -> HashMap<u64, u64> {
    let mut got = HashMap::new();
    while let Some(at) = model.next() {
        got.extend(model.advance(at).into_iter().map(|made| (made.id, made.tokens)));
    }
    got
}
