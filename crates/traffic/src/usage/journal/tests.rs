use proptest::prelude::*;

use super::*;

fn row(day: &str, key: &str) -> UsageRow {
    UsageRow { time: day.into(), owner: "team \"a\"".into(), key: key.into(), model: "m".into() }
}

fn used(requests: u64) -> Totals {
    Totals { requests, output_tokens: 7 * requests, ..Totals::default() }
}

/// Read bytes as a file; returns the damaged lines.
fn read(journal: &mut UsageJournal, file: &[u8]) -> usize {
    file.split_inclusive(|byte| *byte == b'\n').filter(|line| journal.read(line).is_err()).count()
}

fn read_new(file: &[u8]) -> (BTreeMap<UsageRow, Totals>, usize) {
    let mut journal = UsageJournal::new("reader");
    let damaged = read(&mut journal, file);
    (journal.rows().collect(), damaged)
}

/// A snapshot of two rows, and three additions to one of them by two writers.
fn example() -> Vec<u8> {
    let mut one = UsageJournal::new("1");
    let lines =
        one.additions(&[(row("2026-02-01", "k1"), used(10)), (row("2026-02-01", "k2"), used(20))]);
    read(&mut one, &lines.unwrap());
    let mut file = Vec::new();
    one.write_snapshot("s1", &mut file).unwrap();
    let mut two = UsageJournal::new("2");
    assert_eq!(read(&mut two, &file), 0);
    for (writer, more) in [(&mut one, 1), (&mut two, 2)] {
        let lines = writer.additions(&[(row("2026-02-01", "k1"), used(more))]).unwrap();
        read(writer, &lines);
        file.extend(lines);
    }
    file.extend(one.additions(&[(row("2026-02-02", "k1"), used(4))]).unwrap());
    file
}

fn sums(k1: u64, k2: u64, next_day: u64) -> BTreeMap<UsageRow, Totals> {
    [
        (row("2026-02-01", "k1"), used(k1)),
        (row("2026-02-01", "k2"), used(k2)),
        (row("2026-02-02", "k1"), used(next_day)),
    ]
    .into()
}

#[test]
fn sums_are_those_of_the_snapshot_and_of_each_addition_once() {
    let file = example();
    assert_eq!(read_new(&file), (sums(13, 20, 4), 0));
    // A doubled file, also with a damaged header in either half.
    let twice = [&*file, &*file].concat();
    assert_eq!(read_new(&twice), (sums(13, 20, 4), 0));
    for at in [20, file.len() + 20] {
        let mut damaged = twice.clone();
        damaged[at] ^= 1;
        assert_eq!(read_new(&damaged), (sums(13, 20, 4), 1), "{at}");
    }
    // A snapshot includes the additions before it, wherever they are read again.
    let mut journal = UsageJournal::new("3");
    read(&mut journal, &file);
    let mut short = Vec::new();
    journal.write_snapshot("s2", &mut short).unwrap();
    let additions: Vec<u8> =
        file.split_inclusive(|b| *b == b'\n').skip(3).flatten().copied().collect();
    short.extend(&additions);
    assert_eq!(read_new(&short), (sums(13, 20, 4), 0));
}

#[test]
fn additions_of_other_writers_are_returned_once() {
    let mut journal = UsageJournal::new("1");
    let returned = |journal: &mut UsageJournal, file: &[u8]| -> Vec<(UsageRow, Totals)> {
        let lines = file.split_inclusive(|byte| *byte == b'\n');
        lines.filter_map(|line| journal.read(line).unwrap()).collect()
    };
    let file = example();
    assert_eq!(returned(&mut journal, &file), [(row("2026-02-01", "k1"), used(2))]);
    assert_eq!(returned(&mut journal, &file), []);
}

#[test]
fn old_files_are_read_and_their_rows_count_once() {
    let line = |key: &str, requests: i64| {
        format!(
            "{{\"time\":\"2026-02-01\",\"owner\":\"a\",\"key\":\"{key}\",\"requests\":{requests},\"input_tokens\":1,\"cached_tokens\":0,\"output_tokens\":2,\"reasoning_tokens\":0,\"cost_pico\":5}}\n"
        )
    };
    let old = [line("k1", 3), line("k2", 4)].concat();
    let doubled = format!("{old}{old}");
    let mut journal = UsageJournal::new("1");
    assert_eq!(read(&mut journal, doubled.as_bytes()), 0);
    let requests = |journal: &UsageJournal| -> Vec<u64> {
        journal.rows().map(|(_, totals)| totals.requests).collect()
    };
    assert!(journal.has_old_format());
    assert_eq!(requests(&journal), [3, 4]);
    // One bad byte, a negative number, NULs and a line cut in half lose no other line.
    for bad in ["\u{fffd}\n", &line("k3", -1), "\0\0\0\n", &line("k3", 1)[..40]] {
        let mut file = format!("{}{}{bad}", line("k1", 3), line("k2", 4)).into_bytes();
        if let Some(at) = file.iter().position(|byte| *byte == 0xef) {
            file.splice(at..at + 3, [0xff]);
        }
        let mut journal = UsageJournal::new("1");
        assert_eq!((read(&mut journal, &file), requests(&journal)), (1, vec![3, 4]), "{bad:?}");
    }
    // Behind a header, the old format is no longer accepted.
    let mut file = example();
    file.extend(line("k1", 9).as_bytes());
    assert_eq!(read_new(&file), (sums(13, 20, 4), 1));
}

#[test]
fn days_that_are_too_old_and_writers_that_are_too_many_expire() {
    let mut journal = UsageJournal::new("0");
    for writer in 0..100 {
        let other = UsageJournal::new(&format!("{writer:03}"));
        let day = if writer == 0 { "2026-01-01" } else { "2026-06-01" };
        read(&mut journal, &other.additions(&[(row(day, "k"), used(1))]).unwrap());
    }
    let now: jiff::Timestamp = "2026-06-02T00:00:00Z".parse().unwrap();
    journal.expire(now.as_microsecond() as u64);
    assert_eq!(journal.rows().collect::<Vec<_>>(), [(row("2026-06-01", "k"), used(99))]);
    assert_eq!(journal.numbers.len(), MAX_WRITERS);
    assert!(journal.numbers.contains_key("099"));
}

/// Whatever happens to one byte, only the lines that it touches are lost, and they are counted.
#[test]
fn damage_at_every_byte_affects_only_its_lines() {
    let file = example();
    let lines: Vec<&[u8]> = file.split_inclusive(|byte| *byte == b'\n').collect();
    let without = |lost: &[usize]| {
        let kept = lines.iter().enumerate().filter(|(at, _)| !lost.contains(at));
        read_new(&kept.flat_map(|(_, line)| line.iter().copied()).collect::<Vec<u8>>()).0
    };
    let line_of = |at: usize| file[..at].iter().filter(|byte| **byte == b'\n').count();
    for at in 0..file.len() {
        for bad in [0x00, 0xff, b'\n', file[at] ^ 1, file[at] ^ 0x20] {
            if bad == file[at] {
                continue;
            }
            let mut damaged = file.clone();
            damaged[at] = bad;
            let (rows, count) = read_new(&damaged);
            let touched = if file[at] == b'\n' {
                vec![line_of(at), line_of(at) + 1]
            } else {
                vec![line_of(at)]
            };
            assert!(count >= 1, "{at} {bad}");
            assert_eq!(rows, without(&touched), "{at} {bad}");
        }
        // Cut here.
        let whole = line_of(at);
        let lost: Vec<usize> = (whole..lines.len()).collect();
        let (rows, count) = read_new(&file[..at]);
        // A cut that removes only the line feed loses nothing.
        if file[at] != b'\n' {
            assert_eq!(rows, without(&lost), "cut at {at}");
            assert_eq!(count, usize::from(at > 0 && file[at - 1] != b'\n'), "cut at {at}");
        }
    }
}

proptest! {
    /// Random bytes, anywhere, never add usage and never panic.
    #[test]
    fn inserted_bytes_add_nothing(
        at in 0usize..2000,
        bytes in prop::collection::vec(any::<u8>(), 1..40),
    ) {
        let mut file = example();
        let at = at % file.len();
        file.splice(at..at, bytes);
        let (rows, _) = read_new(&file);
        let whole = sums(13, 20, 4);
        for (row, totals) in rows {
            prop_assert!(totals.requests <= whole[&row].requests);
        }
    }
}
