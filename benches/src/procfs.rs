//! CPU time and memory of other processes, from /proc.
//!
//! In: process ids.
//! Out: user and kernel time between two samples, and resident memory. The total is the scheduler's
//! own run time of every thread (nanoseconds); /proc/PID/stat is only used to split it, since its
//! ticks are 10 ms.
//! Never: includes the load client or the engine; reads other processes.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;

/// The processes that make up one proxy.
#[derive(Clone, Debug)]
pub struct Pids(pub Vec<u32>);

/// Total CPU time of a set of processes at one moment.
#[derive(Clone, Debug, Default)]
pub struct Cpu {
    threads: BTreeMap<u32, u64>,
    user_ticks: u64,
    kernel_ticks: u64,
}

/// CPU time spent between two moments, in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// In user space.
    pub user: f64,
    /// In the kernel, network softirq work in its own context included.
    pub kernel: f64,
}

impl Pids {
    /// Total CPU time so far.
    ///
    /// # Errors
    /// When a process has exited.
    pub fn cpu(&self) -> Result<Cpu> {
        let mut cpu = Cpu::default();
        for pid in &self.0 {
            let stat = Stat::of(*pid)?;
            cpu.user_ticks += stat.user;
            cpu.kernel_ticks += stat.kernel;
            for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                let name = task?.file_name();
                let Some(tid) = name.to_str().and_then(|name| name.parse().ok()) else {
                    continue;
                };
                // A thread may end between the listing and this read.
                let path = format!("/proc/{pid}/task/{tid}/schedstat");
                if let Ok(text) = fs::read_to_string(path) {
                    cpu.threads.insert(tid, first_number(&text));
                }
            }
        }
        Ok(cpu)
    }

    /// Resident memory in KiB, summed over the processes.
    ///
    /// # Errors
    /// When a process has exited.
    pub fn rss_kib(&self) -> Result<u64> {
        let mut sum = 0;
        for pid in &self.0 {
            // The roll-up is exact; the count in `status` may lag behind.
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
                .or_else(|_| fs::read_to_string(format!("/proc/{pid}/status")))
                .context("resident memory")?;
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("Rss:").or(line.strip_prefix("VmRSS:")))
                .context("no resident memory in /proc")?;
            sum += first_number(line);
        }
        Ok(sum)
    }
}

impl Cpu {
    /// CPU time between `self` and `later`.
    #[must_use]
    pub fn until(&self, later: &Self) -> Spent {
        let run: u64 = later
            .threads
            .iter()
            .map(|(tid, ns)| ns.saturating_sub(self.threads.get(tid).copied().unwrap_or(0)))
            .sum();
        let tick = 1e6 / ticks_per_second();
        let user = to_f64(later.user_ticks.saturating_sub(self.user_ticks));
        let kernel = to_f64(later.kernel_ticks.saturating_sub(self.kernel_ticks));
        let ticked = (user + kernel) * tick;
        let run = to_f64(run) / 1e3;
        // The time of threads that have ended is only in the ticks, as is all time on a kernel
        // without scheduler statistics.
        let total = if ticked > run + 3.0 * tick { ticked } else { run };
        let share = if ticked > 0.0 { user / (user + kernel) } else { 0.0 };
        Spent { user: total * share, kernel: total * (1.0 - share) }
    }
}

/// Children of a process.
///
/// # Errors
/// When /proc cannot be listed.
pub fn children(parent: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if Stat::of(pid).is_ok_and(|stat| stat.parent == parent) {
            found.push(pid);
        }
    }
    Ok(found)
}

struct Stat {
    parent: u32,
    user: u64,
    kernel: u64,
}

impl Stat {
    fn of(pid: u32) -> Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("process {pid} has gone"))?;
        Self::parse(&text).context("/proc/PID/stat")
    }

    /// The command may contain spaces and parentheses, so fields are counted from its end.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            user: fields.get(11)?.parse().ok()?,
            kernel: fields.get(12)?.parse().ok()?,
        })
    }
}

fn first_number(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

fn ticks_per_second() -> f64 {
    to_f64(rustix::param::clock_ticks_per_second().max(1))
}

fn to_f64(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_brackets_does_not_shift_the_fields() -> Result<()> {
        let text = "7 (a) b) S 3 0 0 0 0 0 0 0 0 0 41 42 0 0";
        let stat = Stat::parse(text).context("parse")?;
        assert_eq!((stat.parent, stat.user, stat.kernel), (3, 41, 42));
        Ok(())
    }

    #[test]
    fn the_split_keeps_the_total() {
        let before = Cpu::default();
        let after = Cpu {
            threads: BTreeMap::from([(1, 900_000_000), (2, 100_000_000)]),
            user_ticks: 25,
            kernel_ticks: 75,
        };
        let spent = before.until(&after);
        assert!((spent.user - 250_000.0).abs() < 1.0);
        assert!((spent.kernel - 750_000.0).abs() < 1.0);
    }

    #[test]
    fn this_process_has_memory_and_time() -> Result<()> {
        let pids = Pids(vec![std::process::id()]);
        assert!(pids.rss_kib()? > 0);
        assert!(!pids.cpu()?.threads.is_empty());
        Ok(())
    }
}
