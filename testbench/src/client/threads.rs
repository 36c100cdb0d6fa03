//! The scheduler's account of the threads of this process.
//!
//! - *In*: `/proc/self/task/*/schedstat`. `/proc/self/schedstat` has the first thread only.
//! - *Out*: what the threads ran and waited between two readings.
//! - *Never*: a zero for what is unknown. Kernels without the account give nothing.

use std::collections::HashMap;
use std::time::Duration;

/// Maximum threads that are read.
const MAX_THREADS: usize = 1024;

/// What each thread has run, and waited in the run queue, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Threads(HashMap<u32, (u64, u64)>);

/// What the threads did between two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Ran {
    /// CPU of all threads.
    pub(super) cpu: Duration,
    /// CPU of the busiest thread.
    pub(super) busiest: Duration,
    /// Wait in the run queue of the thread that waited longest.
    pub(super) waited: Duration,
}

impl Threads {
    /// Reads the account; `None` where the kernel has none.
    pub(super) fn read() -> Option<Self> {
        let entries = std::fs::read_dir("/proc/self/task").ok()?.flatten().take(MAX_THREADS);
        let threads = entries.filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            parse(&std::fs::read_to_string(entry.path().join("schedstat")).ok()?)
                .map(|times| (id, times))
        });
        let threads: HashMap<_, _> = threads.collect();
        // A process that runs has used CPU: zeros are a kernel that does not count.
        threads.values().any(|(cpu, _)| *cpu > 0).then_some(Threads(threads))
    }

    /// What the threads did since an earlier reading. A thread that is gone counts no more.
    pub(super) fn since(&self, earlier: &Threads) -> Ran {
        let mut ran = Ran::default();
        for (id, (cpu, wait)) in &self.0 {
            let (cpu_before, wait_before) = earlier.0.get(id).copied().unwrap_or_default();
            let cpu = Duration::from_nanos(cpu.saturating_sub(cpu_before));
            ran.cpu += cpu;
            ran.busiest = ran.busiest.max(cpu);
            ran.waited = ran.waited.max(Duration::from_nanos(wait.saturating_sub(wait_before)));
        }
        ran
    }
}

/// `RAN WAITED SLICES`, in nanoseconds.
fn parse(text: &str) -> Option<(u64, u64)> {
    let mut fields = text.split_whitespace().map(str::parse);
    Some((fields.next()?.ok()?, fields.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_of_threads_that_exist() {
        assert_eq!(parse("954561 68167 2\n"), Some((954_561, 68_167)));
        assert_eq!((parse(""), parse("1"), parse("a b c")), (None, None, None));
        let before = Threads(HashMap::from([(1, (100, 10)), (2, (1_000, 0))]));
        let after = Threads(HashMap::from([(1, (400, 50)), (3, (200, 90))]));
        let ns = Duration::from_nanos;
        assert_eq!(after.since(&before), Ran { cpu: ns(500), busiest: ns(300), waited: ns(90) });
    }

    #[test]
    fn a_thread_that_works_is_seen_though_it_is_not_the_first() {
        let Some(before) = Threads::read() else { return };
        // Tests run on threads of their own.
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        let ran = Threads::read().expect("as before").since(&before);
        assert!(ran.busiest + ran.waited >= Duration::from_millis(25), "{ran:?}");
        assert!(ran.cpu >= ran.busiest);
    }
}
