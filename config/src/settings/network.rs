//! Networks of addresses.

use std::fmt::{self, Display};
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// The addresses that share a prefix, written as `10.0.0.0/8`. An address alone is one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// Length of the prefix.
    bits: u8,
}

impl Network {
    /// Whether an address is in the network. IPv4 addresses in IPv6 form count as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differ = network.to_bits() ^ address.to_bits();
                differ.leading_zeros() >= u32::from(self.bits)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differ = network.to_bits() ^ address.to_bits();
                differ.leading_zeros() >= u32::from(self.bits)
            }
            _ => false,
        }
    }
}

/// Whether lists of networks admit an address: `allow` has it or is empty, and `deny` does not have
/// it.
pub(super) fn admits(allow: &[Network], deny: &[Network], address: IpAddr) -> bool {
    let is_in = |networks: &[Network]| networks.iter().any(|one| one.contains(address));
    !is_in(deny) && (allow.is_empty() || is_in(allow))
}

impl FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= most).ok_or(())?,
            None => most,
        };
        Ok(Network { address, bits })
    }
}

impl Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_the_addresses_of_its_prefix() {
        let contains = |network: &str, address: &str| {
            network.parse::<Network>().expect("a network").contains(address.parse().expect("an IP"))
        };
        assert!(contains("10.0.0.0/8", "10.255.1.2"));
        assert!(!contains("10.0.0.0/8", "11.0.0.0"));
        assert!(contains("192.168.1.7", "192.168.1.7") && !contains("192.168.1.7", "192.168.1.6"));
        assert!(contains("0.0.0.0/0", "1.2.3.4") && !contains("0.0.0.0/0", "::1"));
        assert!(contains("2001:db8::/33", "2001:db8:7fff::1"));
        assert!(!contains("2001:db8::/33", "2001:db8:8000::1"));
        assert!(contains("127.0.0.0/8", "::ffff:127.0.0.1"), "a socket of both families");
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for bad in ["", "a", "10.0.0.0/33", "10.0.0.0/", "/8", "10.0.0/8", "::/129", "1.2.3.4/-1"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }
}
