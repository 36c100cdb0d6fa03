//! The memory that the process may use.
//!
//! - *In*: the control groups of the process, and the machine's memory, from the kernel's files.
//! - *Out*: the default of `limits.buffered_bytes`.
//! - *Never*: a start that fails because of it.

use std::path::Path;

/// Default without any of the files, in bytes.
const UNKNOWN: u64 = 1 << 30;
/// Bodies and answers get the memory divided by this.
const SHARE: u64 = 2;

/// The default of `limits.buffered_bytes`: half of the memory of the container or machine.
pub fn default_max() -> u64 {
    available(Path::new("/")).map_or(UNKNOWN, |bytes| bytes / SHARE)
}

/// The smallest limit of the process's control groups and the machine, in bytes.
fn available(root: &Path) -> Option<u64> {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let machine = read(&root.join("proc/meminfo")).and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
    });
    let groups = read(&root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(|line| {
        // `NUMBER:CONTROLLERS:PATH`; version 2 names no controllers.
        let mut parts = line.splitn(3, ':').skip(1);
        let (folder, file) = match parts.next()? {
            "" => ("sys/fs/cgroup", "memory.max"),
            names if names.split(',').any(|name| name == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let group = Path::new(parts.next()?.trim_start_matches('/'));
        // A group has at most the memory of the groups above it.
        group.ancestors().filter_map(|at| limit(&root.join(folder).join(at).join(file))).min()
    });
    limits.chain(machine).min()
}

/// The number in a file; `max` means none.
fn limit(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().expect("a temporary folder");
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
            std::fs::write(path, text).expect("writable");
        }
        available(root.path())
    }

    #[test]
    fn the_smallest_limit_holds() {
        let machine = ("proc/meminfo", "MemTotal:       4096 kB\nMemFree: 1 kB\n");
        assert_eq!(with(&[]), None);
        assert_eq!(with(&[machine]), Some(4 << 20));
        let second = ("proc/self/cgroup", "0::/pods/one\n");
        assert_eq!(
            with(&[machine, second, ("sys/fs/cgroup/pods/one/memory.max", "max\n")]),
            Some(4 << 20)
        );
        let above = ("sys/fs/cgroup/pods/memory.max", "2097152\n");
        assert_eq!(
            with(&[machine, second, above, ("sys/fs/cgroup/pods/one/memory.max", "3145728\n")]),
            Some(2 << 20)
        );
        // Inside of a container, the path may be that of the host.
        assert_eq!(
            with(&[machine, second, ("sys/fs/cgroup/memory.max", "1048576\n")]),
            Some(1 << 20)
        );
    }

    #[test]
    fn the_first_version_of_control_groups_is_read() {
        let files = [
            ("proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/a\n"),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1000\n"),
        ];
        assert_eq!(with(&files), Some(1000));
    }
}
