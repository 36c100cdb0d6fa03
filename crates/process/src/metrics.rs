//! Metrics of the process, by the names that Prometheus's client libraries use.
//!
//! - *In*: `/proc/self` and the resource limits.
//! - *Out*: samples. A value that the system does not provide is absent.
//! - *Never*: a wrong zero.

use std::fs;

use lens::observe::Samples;
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeValLike;

/// Clock ticks per second in `/proc`: a constant of Linux's interface.
const TICKS_PER_SECOND: f64 = 100.0;

/// Add the samples.
pub fn observe(samples: &mut Samples) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let cpu = getrusage(UsageWho::RUSAGE_SELF).ok().map(|usage| {
        (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6
    });
    for (name, value) in [
        ("process_cpu_seconds_total", cpu),
        ("process_max_fds", getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft as f64)),
        ("process_open_fds", open_fds()),
        ("process_resident_memory_bytes", memory(&status, "VmRSS:")),
        ("process_start_time_seconds", start_time()),
        ("process_virtual_memory_bytes", memory(&status, "VmSize:")),
    ] {
        if let Some(value) = value {
            samples.push(name, value);
        }
    }
}

/// Bytes of a field of `/proc/self/status`.
fn memory(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}

/// Open descriptors, without the one that lists them.
fn open_fds() -> Option<f64> {
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

/// Unix time at which the process started.
fn start_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime "))?;
    // Fields are counted behind the name, which may contain spaces; field 22 is the start.
    let ticks = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?;
    Some(boot.trim().parse::<f64>().ok()? + ticks.parse::<f64>().ok()? / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn values_are_those_of_this_process() {
        let mut samples = Samples::default();
        observe(&mut samples);
        let samples = samples.into_vec();
        let value = |name: &str| {
            let sample = samples.iter().find(|sample| sample.name == name);
            sample.map(|sample| sample.value).unwrap_or_else(|| panic!("{name} is missing"))
        };
        let (resident, all) =
            (value("process_resident_memory_bytes"), value("process_virtual_memory_bytes"));
        assert!(resident > 1e6 && resident < all, "{resident} of {all}");
        let (open, max) = (value("process_open_fds"), value("process_max_fds"));
        assert!((3.0..max).contains(&open), "{open} of {max}");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        let age = now - value("process_start_time_seconds");
        assert!((-2.0..86_400.0).contains(&age), "started {age} s ago");
        assert!(value("process_cpu_seconds_total") >= 0.0);
        let held = std::fs::File::open("/proc/self/status").expect("Linux");
        let more = open_fds().expect("Linux");
        drop(held);
        assert!(more > 3.0);
    }
}
