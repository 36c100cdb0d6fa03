//! Attempts with wrong tokens, by address.
//!
//! - *In*: addresses of clients, and which of their attempts failed.
//! - *Out*: the time that an address must wait. An address has [`BURST`] attempts, and gets one
//!   back every [`INTERVAL`].
//! - *Never*: more than [`MAX_ADDRESSES`] addresses. Beyond that, further ones share one entry.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use lens::Tick;
use parking_lot::Mutex;

/// Attempts that an address has at first.
const BURST: u64 = 20;
/// The time after which an address gets an attempt back. A scraper with an old token, at an
/// interval of 15 s, does not use up those of other programs on its host.
const INTERVAL: Duration = Duration::from_secs(5);
/// Maximum addresses with failed attempts.
const MAX_ADDRESSES: usize = 4096;
/// The entry of addresses that are not known, and of those beyond [`MAX_ADDRESSES`].
const OTHERS: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// For each address, when it has all attempts again.
#[derive(Debug, Default)]
pub(crate) struct Attempts(Mutex<HashMap<IpAddr, Tick>>);

impl Attempts {
    /// The time until the address may make an attempt; `None`: it may make one now.
    pub(crate) fn wait(&self, address: Option<IpAddr>, now: Tick) -> Option<Duration> {
        let all = self.0.lock();
        let recovered = all.get(&entry(&all, address))?;
        let owed = recovered.nanos_since(now);
        let wait = owed.saturating_sub((BURST - 1) * nanos(INTERVAL));
        (wait > 0).then(|| Duration::from_nanos(wait))
    }

    /// Record a failed attempt. Returns whether it was the last one that the address had.
    pub(crate) fn record_failure(&self, address: Option<IpAddr>, now: Tick) -> bool {
        let mut all = self.0.lock();
        if all.len() >= MAX_ADDRESSES {
            all.retain(|_, recovered| *recovered > now);
        }
        let entry = entry(&all, address);
        let recovered = all.entry(entry).or_insert(now);
        *recovered = Tick((*recovered).max(now).0.saturating_add(nanos(INTERVAL)));
        recovered.nanos_since(now) > (BURST - 1) * nanos(INTERVAL)
    }
}

/// The key of an address. A client has a whole /64 of IPv6 addresses.
fn entry(all: &HashMap<IpAddr, Tick>, address: Option<IpAddr>) -> IpAddr {
    let key = match address.map(|address| address.to_canonical()) {
        Some(IpAddr::V6(address)) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
        }
        Some(address) => address,
        None => OTHERS,
    };
    if all.len() >= MAX_ADDRESSES && !all.contains_key(&key) { OTHERS } else { key }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Tick {
        Tick::from_micros(seconds * 1_000_000)
    }

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    #[test]
    fn attempts_run_out_and_come_back_for_each_address() {
        let attempts = Attempts::default();
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        for number in 1..=BURST {
            assert_eq!(attempts.wait(one, at(7)), None);
            assert_eq!(attempts.record_failure(one, at(7)), number == BURST);
        }
        assert_eq!(attempts.wait(one, at(7)), Some(INTERVAL));
        assert_eq!(attempts.wait(other, at(7)), None);
        assert_eq!(attempts.wait(one, at(12)), None);
        assert!(attempts.record_failure(one, at(12)));
        assert_eq!(attempts.wait(one, at(13)), Some(Duration::from_secs(4)));
        assert_eq!(attempts.wait(one, at(7 + 5 * BURST)), None);
    }

    #[test]
    fn slow_failures_never_run_out() {
        let attempts = Attempts::default();
        for number in 0..1000 {
            let now = at(15 * number);
            assert_eq!(attempts.wait(address("::1"), now), None);
            attempts.record_failure(address("::1"), now);
        }
    }

    #[test]
    fn the_addresses_of_a_network_share_their_attempts() {
        let attempts = Attempts::default();
        for number in 0..BURST {
            attempts.record_failure(address(&format!("2001:db8::{number}")), at(0));
        }
        assert!(attempts.wait(address("2001:db8::ffff"), at(0)).is_some());
        assert_eq!(attempts.wait(address("2001:db8:0:1::"), at(0)), None);
    }

    #[test]
    fn addresses_are_bounded_and_the_others_are_limited_together() {
        let attempts = Attempts::default();
        let address = |number: u32| Some(IpAddr::V4(number.into()));
        for number in 0..MAX_ADDRESSES as u32 + 100 {
            attempts.record_failure(address(number), at(0));
        }
        assert_eq!(attempts.0.lock().len(), MAX_ADDRESSES + 1);
        assert!(attempts.wait(address(1 << 30), at(0)).is_some());
        assert_eq!(attempts.wait(address(0), at(0)), None);
        // Those that have all attempts again make room.
        attempts.record_failure(address(1 << 30), at(3600));
        assert_eq!(attempts.0.lock().len(), 1);
    }
}
