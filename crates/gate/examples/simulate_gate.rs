//! Prints the table of docs/gate.md: how often the gate errs, on simulated load tests.
//!
//! `cargo run -p llm-lens-gate --example simulate_gate -- 1000`

#[path = "../tests/support/mod.rs"]
mod support;

use gate::{Decision, Verdict, judge, judge_pairs};
use support::{Test, options};

fn main() {
    let trials: u64 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(200);
    println!("{trials} simulated comparisons in each cell, ttft.p95=+5%, shares in percent\n");
    println!(
        "| load test | equal: regression | equal: invalid | +10 %: regression | +10 %: invalid |"
    );
    println!("|---|---|---|---|---|");
    let quiet = Test::RECOMMENDED;
    for seconds in [100.0, 200.0, 400.0, 800.0] {
        let test = Test { seconds, ..quiet };
        let requests = test.rate * seconds;
        row(&format!("{requests} requests in {seconds} s"), trials, &one_baseline(test));
    }
    let bursty = Test { load: 0.2, memory: 5.0, ..quiet };
    row("8000 requests, load shared for 5 s", trials, &one_baseline(bursty));
    let noisy = Test { drift: 0.03, ..quiet };
    row("8000 requests, runs differ by 3 %", trials, &one_baseline(noisy));
    row("the same, ten baselines", trials, &baselines(noisy, 10));
    let block = Test { seconds: 10.0, ..noisy };
    row("the same, 40 interleaved pairs of 10 s", trials, &interleaved(block, 40));
}

fn row(name: &str, trials: u64, judged: &dyn Fn(f64, u64) -> Decision) {
    let mut cells = Vec::new();
    for factor in [1.0, 1.1] {
        let verdicts: Vec<Verdict> = (0..trials).map(|seed| judged(factor, seed).verdict).collect();
        for wanted in [Verdict::Regression, Verdict::Invalid] {
            let count = verdicts.iter().filter(|verdict| **verdict == wanted).count();
            cells.push(format!("{:.1}", 100.0 * count as f64 / trials as f64));
        }
    }
    println!("| {name} | {} |", cells.join(" | "));
}

fn one_baseline(test: Test) -> impl Fn(f64, u64) -> Decision {
    baselines(test, 1)
}

fn baselines(test: Test, count: u64) -> impl Fn(f64, u64) -> Decision {
    move |factor, seed| {
        let seed = seed * (count + 1);
        let base: Vec<_> = (0..count).map(|n| test.simulate(1.0, seed + n)).collect();
        judge(&base, &test.simulate(factor, seed + count), &options())
    }
}

fn interleaved(test: Test, count: usize) -> impl Fn(f64, u64) -> Decision {
    move |factor, seed| judge_pairs(&test.pairs(count, factor, seed), &options())
}
