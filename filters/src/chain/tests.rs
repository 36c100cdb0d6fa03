use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt;
use lens::guardrail::FilterAccount;

use super::*;
use crate::BoxFuture;
use crate::host::{HostRequest, HostResponse, Job};
use crate::report::{Category, Found};
use crate::risk::Level;
use crate::settings::{Action, Class, RiskSettings};

/// A host in which time passes only when all tasks wait.
#[derive(Default)]
struct TestHost {
    now: Arc<AtomicU64>,
    pool_is_full: bool,
    offloaded: Mutex<usize>,
}

impl Host for TestHost {
    fn now(&self) -> Tick {
        Tick(self.now.load(Ordering::Relaxed))
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        let now = self.now.clone();
        let until = now.load(Ordering::Relaxed) + time.as_nanos() as u64;
        // Polled only when the work beside it is pending.
        Box::pin(async move {
            now.fetch_max(until, Ordering::Relaxed);
        })
    }

    fn send(&self, _: HostRequest) -> BoxFuture<'static, Result<HostResponse, Failure>> {
        Box::pin(async { Err(Failure::Unreachable) })
    }

    fn offload(&self, job: Job) -> Result<(), Failure> {
        if self.pool_is_full {
            return Err(Failure::Busy);
        }
        *self.offloaded.lock().unwrap() += 1;
        job();
        Ok(())
    }
}

/// A scripted filter.
#[derive(Debug)]
struct ScriptedFilter {
    hooks: Hooks,
    does: Does,
}

#[derive(Clone, Copy, Debug)]
enum Does {
    Find(Action),
    Score(f32),
    Panic,
    Hang,
    Fail(Failure),
    /// Completes at this millisecond, with a finding.
    Take(u64, Action),
}

impl ScriptedFilter {
    fn found(action: Action) -> Report {
        let (rule, kind, category) = ("r".into(), "KIND".into(), Category::Policy);
        Report::with_finding(Found {
            rule,
            kind,
            category,
            text: 0,
            span: 0..1,
            score: 0.2,
            action,
        })
    }
}

impl Filter for ScriptedFilter {
    fn hooks(&self) -> Hooks {
        self.hooks
    }

    fn detect(&self, _: &Subject) -> Report {
        match self.does {
            Does::Find(action) => ScriptedFilter::found(action),
            Does::Score(score) => {
                Report { found: Vec::new(), scores: vec![(Category::Injection, score)] }
            }
            _ => panic!("a filter that panics"),
        }
    }

    fn judge<'a>(
        &'a self,
        _: &'a Arc<Subject>,
        call: &'a Call<'a>,
    ) -> BoxFuture<'a, Result<Report, Failure>> {
        Box::pin(async move {
            match self.does {
                Does::Find(action) => Ok(ScriptedFilter::found(action)),
                Does::Score(_) => Ok(Report::default()),
                Does::Panic => panic!("a judge that panics"),
                Does::Hang => std::future::pending().await,
                Does::Fail(failure) => Err(failure),
                Does::Take(ms, action) => {
                    call.sleep(Duration::from_millis(ms) - Duration::from_nanos(call.now().0))
                        .await;
                    Ok(ScriptedFilter::found(action))
                }
            }
        })
    }
}

fn link(name: &str, hooks: Hooks, does: Does, on_failure: OnFailure) -> Link {
    let deadline = Duration::from_millis(50);
    let declared = FilterSettings {
        name: name.into(),
        class: Class::Guardrail,
        on_failure,
        deadline,
        mode: JudgeMode::Cut,
    };
    Link::new(declared, Arc::new(ScriptedFilter { hooks, does }))
}

const RISK: RiskSettings =
    RiskSettings { medium: 0.4, high: 0.8, on_medium: Action::Off, on_high: Action::Off };

fn chain(links: Vec<Link>) -> Chain {
    Chain::new(links, false, Duration::ZERO, RISK)
}

fn prompt(chain: &Chain, world: &TestHost, text: &str) -> Assessment {
    chain
        .prompt(&Arc::new(Subject::of_user(text)), world)
        .now_or_never()
        .expect("the future completes at once")
}

fn blocked() -> Verdict {
    Verdict::Block { kind: "KIND".into() }
}

#[test]
fn a_request_refused_by_detectors_makes_no_call() {
    let world = TestHost::default();
    let dear = || link("dear", Hooks::JUDGE_PROMPT, Does::Find(Action::Block), OnFailure::Closed);
    let refused = prompt(
        &chain(vec![
            link("cheap", Hooks::DETECT, Does::Find(Action::Block), OnFailure::Closed),
            dear(),
        ]),
        &world,
        "x",
    );
    assert_eq!((refused.verdict, refused.word, refused.accounts.len()), (blocked(), "block", 1));
    let flagged = prompt(
        &chain(vec![
            link("cheap", Hooks::DETECT, Does::Find(Action::Flag), OnFailure::Closed),
            dear(),
        ]),
        &world,
        "x",
    );
    assert_eq!(
        (flagged.verdict, flagged.word, flagged.accounts.len(), flagged.found.len()),
        (blocked(), "block", 2, 2)
    );
}

#[test]
fn most_severe_action_wins_and_the_first_block_is_reported() {
    let of = |actions: &[Action]| {
        let links = actions
            .iter()
            .map(|action| link("f", Hooks::DETECT, Does::Find(*action), OnFailure::Closed))
            .collect();
        let said = prompt(&chain(links), &TestHost::default(), "x");
        (said.verdict, said.word, said.found.len())
    };
    assert_eq!(of(&[]), (Verdict::Pass, "pass", 0));
    assert_eq!(of(&[Action::Off]), (Verdict::Pass, "pass", 0));
    assert_eq!(of(&[Action::Flag, Action::Mask, Action::Flag]), (Verdict::Mask, "redact", 3));
    assert_eq!(of(&[Action::Mask, Action::Block, Action::Mask]), (blocked(), "block", 3));
}

#[test]
fn a_failing_filter_has_the_result_of_its_failure_mode() {
    for (does, failure) in [
        (Does::Hang, Failure::Deadline),
        (Does::Fail(Failure::InvalidResponse), Failure::InvalidResponse),
        (Does::Fail(Failure::Unreachable), Failure::Unreachable),
        (Does::Panic, Failure::Panicked),
    ] {
        let closed = prompt(
            &chain(vec![link("judge", Hooks::JUDGE_PROMPT, does, OnFailure::Closed)]),
            &TestHost::default(),
            "x",
        );
        assert_eq!(closed.verdict, Verdict::Failed { filter: "judge".into(), failure }, "{does:?}");
        assert_eq!(
            (closed.word, closed.accounts[0].verdict.as_ref()),
            ("failed_closed", "failed_closed")
        );
        let open = prompt(
            &chain(vec![link("judge", Hooks::JUDGE_PROMPT, does, OnFailure::Open)]),
            &TestHost::default(),
            "x",
        );
        assert_eq!(
            (open.verdict, open.accounts[0].verdict.as_ref()),
            (Verdict::Pass, "failed_open")
        );
        assert_eq!(open.accounts[0].failure.as_deref(), Some(failure.name()));
    }
    let panicked = prompt(
        &chain(vec![link("look", Hooks::DETECT, Does::Panic, OnFailure::Closed)]),
        &TestHost::default(),
        "x",
    );
    assert_eq!(
        panicked.verdict,
        Verdict::Failed { filter: "look".into(), failure: Failure::Panicked }
    );
}

#[test]
fn judges_run_concurrently_and_the_slowest_is_critical() {
    let world = TestHost::default();
    let links = vec![
        link("quick", Hooks::JUDGE_PROMPT, Does::Take(10, Action::Flag), OnFailure::Closed),
        link("slow", Hooks::JUDGE_PROMPT, Does::Take(40, Action::Flag), OnFailure::Closed),
    ];
    let said = prompt(&chain(links), &world, "x");
    assert_eq!(said.judged, 40_000_000, "the maximum, not the sum");
    assert_eq!(
        said.accounts.iter().map(|a| (a.filter.as_ref(), a.critical)).collect::<Vec<_>>(),
        [("quick", false), ("slow", true)]
    );
    assert_eq!(said.found.len(), 2);
}

#[test]
fn common_deadline_bounds_all_judges_and_is_reported_as_such() {
    let of = |budget: u64| {
        let links = vec![link("judge", Hooks::JUDGE_PROMPT, Does::Hang, OnFailure::Open)];
        let said = prompt(
            &Chain::new(links, false, Duration::from_millis(budget), RISK),
            &TestHost::default(),
            "x",
        );
        (said.accounts[0].failure.clone().unwrap(), said.accounts[0].wall_us)
    };
    assert_eq!(of(20), ("judges_deadline".into(), 20_000));
    assert_eq!(of(0), ("deadline".into(), 50_000));
    assert_eq!(of(90), ("deadline".into(), 50_000));
}

#[test]
fn observe_mode_records_what_enforce_would_have_done() {
    let links = vec![
        link("a", Hooks::DETECT, Does::Find(Action::Block), OnFailure::Closed),
        link("b", Hooks::JUDGE_PROMPT, Does::Hang, OnFailure::Closed),
    ];
    let said = prompt(&Chain::new(links, true, Duration::ZERO, RISK), &TestHost::default(), "x");
    assert_eq!((said.verdict, said.word), (Verdict::Pass, "failed_closed"));
    assert_eq!(
        said.accounts.iter().map(|a| a.verdict.as_ref()).collect::<Vec<_>>(),
        ["block", "failed_closed"],
        "every judge is called"
    );
}

#[test]
fn risk_level_has_its_action() {
    let of = |score| {
        let risk = RiskSettings { on_medium: Action::Flag, on_high: Action::Block, ..RISK };
        let links = vec![link("classifier", Hooks::DETECT, Does::Score(score), OnFailure::Closed)];
        let said =
            prompt(&Chain::new(links, false, Duration::ZERO, risk), &TestHost::default(), "x");
        (said.level, said.word, said.verdict)
    };
    assert_eq!(of(0.2), (Level::Low, "pass", Verdict::Pass));
    assert_eq!(of(0.5), (Level::Medium, "flag", Verdict::Pass));
    assert_eq!(of(0.9), (Level::High, "block", Verdict::Block { kind: "HIGH_RISK".into() }));
}

#[test]
fn high_risk_can_mask_flagged_findings() {
    let of = |flags: Vec<Link>| {
        let risk = RiskSettings { on_high: Action::Mask, ..RISK };
        let links =
            [flags, vec![link("classifier", Hooks::DETECT, Does::Score(0.9), OnFailure::Closed)]]
                .concat();
        let said =
            prompt(&Chain::new(links, false, Duration::ZERO, risk), &TestHost::default(), "x");
        (said.verdict, said.found.iter().map(|(_, found)| found.action).collect::<Vec<_>>())
    };
    assert_eq!(
        of(vec![link("f", Hooks::DETECT, Does::Find(Action::Flag), OnFailure::Closed)]),
        (Verdict::Mask, vec![Action::Mask])
    );
    assert_eq!(of(Vec::new()), (Verdict::Pass, Vec::new()), "there is nothing to take out");
}

/// Refuses requests without a valid key.
#[derive(Debug)]
struct KeyFilter;

impl Filter for KeyFilter {
    fn hooks(&self) -> Hooks {
        Hooks::CHECK_HEAD
    }

    fn check_head(&self, head: &RequestHead<'_>) -> Result<(), FilterRefusal> {
        match head.field("X-Key") {
            Some(b"sesame") => Ok(()),
            _ => Err(FilterRefusal { status: 401, code: "no_key", message: "Bring a key.".into() }),
        }
    }
}

#[test]
fn first_refusal_of_a_head_is_returned() {
    let declared = |name: &str| FilterSettings {
        name: name.into(),
        class: Class::Traffic,
        on_failure: OnFailure::Closed,
        deadline: Duration::ZERO,
        mode: JudgeMode::Cut,
    };
    let chain = |observe| {
        Chain::new(
            vec![Link::new(declared("door"), Arc::new(KeyFilter))],
            observe,
            Duration::ZERO,
            RISK,
        )
    };
    let head = |fields| RequestHead { method: "POST", path: "/v1/chat/completions", fields };
    assert_eq!(chain(false).check_head(&head(&[("x-key", b"sesame")])), Ok(()));
    assert_eq!(
        chain(false).check_head(&head(&[("x-key", b"guess")])).map_err(|refused| refused.code),
        Err("no_key")
    );
    assert_eq!(chain(true).check_head(&head(&[])), Ok(()));
}

#[test]
fn long_prompts_are_checked_on_the_thread_pool() {
    let looks =
        || chain(vec![link("look", Hooks::DETECT, Does::Find(Action::Flag), OnFailure::Closed)]);
    let (world, long) = (TestHost::default(), "x".repeat(MAX_INLINE_BYTES + 1));
    prompt(&looks(), &world, "short");
    assert_eq!(*world.offloaded.lock().unwrap(), 0);
    assert_eq!(prompt(&looks(), &world, &long).found.len(), 1);
    assert_eq!(*world.offloaded.lock().unwrap(), 1);
    let full = TestHost { pool_is_full: true, ..TestHost::default() };
    assert_eq!(
        prompt(&looks(), &full, &long).verdict,
        Verdict::Failed { filter: "look".into(), failure: Failure::Busy }
    );
    let panics = chain(vec![link("look", Hooks::DETECT, Does::Panic, OnFailure::Closed)]);
    assert_eq!(
        prompt(&panics, &world, &long).verdict,
        Verdict::Failed { filter: "look".into(), failure: Failure::Panicked }
    );
}

#[test]
fn accounts_of_windows_add_up() {
    let account = |verdict: &'static str, wall_us| FilterAccount {
        filter: "f".into(),
        side: "output".into(),
        verdict: verdict.into(),
        failure: None,
        calls: 1,
        cpu_us: wall_us,
        queue_us: 0,
        remote_us: 0,
        wall_us,
        critical: false,
    };
    let mut all = vec![account("flag", 5)];
    merge_accounts(&mut all, vec![account("pass", 7)]);
    merge_accounts(&mut all, vec![account("block", 1)]);
    assert_eq!(
        (all.len(), all[0].calls, all[0].wall_us, all[0].verdict.as_ref()),
        (1, 3, 13, "block")
    );
}
