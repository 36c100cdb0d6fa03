//! Watches the client while a run lasts.
//!
//! - *In*: the start of the run.
//! - *Out*: the windows of a [`ClientBudget`], without what samples show.
//! - *Never*: a thread of its own. Its timer is late on the threads that send and read, as they
//!   are.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::threads::Threads;
use super::{ClientBudget, Limits, WINDOW, Window, clock_resolution, micros, p99};

/// Interval of the timer.
const INTERVAL: Duration = Duration::from_millis(5);
/// Timers before the load, for the idle lateness.
const IDLE_TIMERS: u32 = 15;

/// A running monitor. Dropping it ends it.
pub(crate) struct Monitor {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Vec<Window>>,
    budget: ClientBudget,
}

/// A window that is not over.
struct Open {
    from: Instant,
    threads: Option<Threads>,
    late_us: Vec<u64>,
}

impl Monitor {
    /// Measures the clock and an idle timer, which takes 30 ms, and begins to watch at `start`.
    pub(crate) async fn calibrate(limits: Limits) -> ClientBudget {
        let clock_resolution_ns = u64::try_from(clock_resolution().as_nanos()).unwrap_or(u64::MAX);
        let mut late: Vec<u64> = Vec::new();
        for _ in 0..IDLE_TIMERS {
            let due = Instant::now() + Duration::from_millis(1);
            tokio::time::sleep_until(due.into()).await;
            late.push(micros(due.elapsed()));
        }
        late.sort_unstable();
        let idle_timer_us = late[late.len() / 2];
        ClientBudget { clock_resolution_ns, idle_timer_us, limits, windows: Vec::new() }
    }

    /// Begins to watch.
    pub(crate) fn begin(start: Instant, budget: ClientBudget) -> Self {
        let (stop, stopped) = oneshot::channel();
        Monitor { stop, task: tokio::spawn(watch(start, stopped)), budget }
    }

    /// Ends the last window.
    pub(crate) async fn end(self) -> ClientBudget {
        drop(self.stop);
        let windows = self.task.await.unwrap_or_default();
        ClientBudget { windows, ..self.budget }
    }
}

async fn watch(start: Instant, mut stopped: oneshot::Receiver<()>) -> Vec<Window> {
    let mut windows = Vec::new();
    let mut before: Option<Open> = None;
    let mut open = Open { from: start, threads: Threads::read(), late_us: Vec::new() };
    loop {
        let due = Instant::now() + INTERVAL;
        tokio::select! {
            () = tokio::time::sleep_until(due.into()) => {}
            _ = &mut stopped => break,
        }
        open.late_us.push(micros(due.elapsed()));
        if open.from.elapsed() >= WINDOW {
            let (now, threads) = (Instant::now(), Threads::read());
            windows.push(open.close(start, now, threads.as_ref()));
            before = Some(std::mem::replace(
                &mut open,
                Open { from: now, threads, late_us: Vec::new() },
            ));
        }
    }
    // A rest that is too short for shares belongs to the window before it.
    if open.from.elapsed() < WINDOW / 2
        && let Some(mut last) = before
    {
        last.late_us.append(&mut open.late_us);
        windows.pop();
        open = last;
    }
    windows.push(open.close(start, Instant::now(), Threads::read().as_ref()));
    windows
}

impl Open {
    fn close(&self, start: Instant, now: Instant, threads: Option<&Threads>) -> Window {
        let length = now.duration_since(self.from).as_secs_f64().max(1e-9);
        let ran = threads.zip(self.threads.as_ref()).map(|(after, before)| after.since(before));
        let share = |time: Duration| time.as_secs_f64() / length;
        Window {
            start_us: micros(self.from.duration_since(start)),
            end_us: micros(now.duration_since(start)),
            timer_p99_us: p99(&mut self.late_us.clone()),
            cpu_share: ran.map(|ran| share(ran.busiest)),
            cpu_cores: ran.map(|ran| share(ran.cpu)),
            run_queue_share: ran.map(|ran| share(ran.waited)),
            ..Window::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A task that holds the only thread delays the events of all others: the timer shows it.
    #[tokio::test]
    async fn a_thread_that_is_held_breaks_the_budget() {
        let budget = Monitor::calibrate(Limits::default()).await;
        assert!(budget.clock_resolution_ns > 0);
        let start = Instant::now();
        let monitor = Monitor::begin(start, budget);
        tokio::time::sleep(Duration::from_millis(20)).await;
        std::thread::sleep(Duration::from_millis(300));
        tokio::time::sleep(Duration::from_millis(20)).await;
        let budget = monitor.end().await.complete(&[]);
        assert_eq!(budget.windows.len(), 1, "{budget:?}");
        assert!(budget.windows[0].timer_p99_us >= Some(200_000), "{budget:?}");
        assert!(budget.windows[0].broken.contains(&"timer"), "{budget:?}");
    }

    #[tokio::test]
    async fn windows_follow_each_other_and_a_short_rest_is_part_of_the_last() {
        let start = Instant::now();
        let monitor = Monitor::begin(start, ClientBudget::default());
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        let windows = monitor.end().await.windows;
        assert!(!windows.is_empty() && windows[0].start_us == 0, "{windows:?}");
        assert!(windows.windows(2).all(|pair| pair[0].end_us == pair[1].start_us), "{windows:?}");
        assert!(windows.last().expect("one").end_us >= 1_200_000, "{windows:?}");
        // Unless this machine pauses for long, there is one window.
        let length = |window: &Window| window.end_us - window.start_us;
        assert!(windows.iter().all(|window| length(window) >= 500_000), "{windows:?}");
    }
}
