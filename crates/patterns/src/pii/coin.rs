//! Addresses of crypto-currencies, their checksums verified.
//!
//! - *In*: nothing; a table and its checks.
//! - *Out*: Bitcoin (base58check, bech32 and bech32m), Ethereum.
//! - *Never*: a base58 run with a wrong checksum.

use crate::pattern::Pattern;
use crate::table::pii;
use sha2::{Digest, Sha256};

/// The table.
pub(crate) const PATTERNS: &[Pattern] = &[
    pii(
        "pii.bitcoin",
        "CRYPTO",
        r"[13][1-9A-HJ-NP-Za-km-z]{25,34}",
        35,
        Some(base58check),
        0.95,
        None,
    ),
    pii(
        "pii.bitcoin_segwit",
        "CRYPTO",
        r"(?:bc1[02-9ac-hj-np-z]{11,87}|BC1[02-9AC-HJ-NP-Z]{11,87})",
        90,
        Some(bech32),
        0.95,
        None,
    ),
    pii("pii.ethereum", "CRYPTO", r"0x[0-9A-Fa-f]{40}", 42, Some(ethereum), 0.8, None),
];

const BASE58: &[u8] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
const BECH32: &[u8] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";

/// 25 bytes: the version, 20 bytes of hash, and the first four bytes of the double SHA-256 of
/// these.
fn base58check(text: &str) -> bool {
    let mut bytes = [0u8; 25];
    for b in text.bytes() {
        let Some(value) = BASE58.iter().position(|c| *c == b) else { return false };
        let mut carry = value as u32;
        for byte in bytes.iter_mut().rev() {
            carry += u32::from(*byte) * 58;
            *byte = (carry & 0xff) as u8;
            carry >>= 8;
        }
        if carry > 0 {
            return false;
        }
    }
    let (body, sum) = bytes.split_at(21);
    Sha256::digest(Sha256::digest(body)).starts_with(sum)
}

/// BIP 173 and 350 with the human-readable part `bc`.
fn bech32(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let Some(data) = lower.strip_prefix("bc1") else { return false };
    let human = [3u32, 3, 0, 2, 3];
    let values = data.bytes().map(|b| BECH32.iter().position(|c| *c == b).unwrap_or(0) as u32);
    let sum = human.into_iter().chain(values).fold(1u32, polymod);
    sum == 1 || sum == 0x2bc8_30a3
}

fn polymod(sum: u32, value: u32) -> u32 {
    const GENERATOR: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
    let top = sum >> 25;
    let shifted = ((sum & 0x01ff_ffff) << 5) ^ value;
    GENERATOR.iter().enumerate().filter(|(i, _)| top >> i & 1 == 1).fold(shifted, |s, (_, g)| s ^ g)
}

/// Twenty bytes that vary: more than eight hex digits differ from the one before. The mixed-case
/// checksum is not checked, because it needs Keccak.
fn ethereum(text: &str) -> bool {
    let hex = text.as_bytes().get(2..).unwrap_or_default();
    hex.windows(2).filter(|w| w.first() != w.last()).count() > 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_address_ever_and_the_one_of_bip_173() {
        assert!(base58check("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"));
        assert!(!base58check("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb"));
        assert!(bech32("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"));
        assert!(!bech32("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t5"));
    }
}
