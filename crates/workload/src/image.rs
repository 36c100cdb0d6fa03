//! Generated images for prompts: noise, as PNG.
//!
//! - *In*: a size, and the state of a random number generator.
//! - *Out*: a grey picture that no cache has seen, as a data URL.
//! - *Never*: compression: noise does not compress, and the time would be the client's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::RngCore;
use rand::rngs::SmallRng;

/// Maximum width and height, in pixels.
pub(crate) const MAX_SIDE: u32 = 2_048;
/// Maximum bytes of a stored block of deflate.
const MAX_STORED: usize = 65_535;

/// A picture of noise, in base64.
pub(crate) fn noise(width: u32, height: u32, random: &mut SmallRng) -> String {
    let mut rows = vec![0_u8; (width as usize + 1) * height as usize];
    random.fill_bytes(&mut rows);
    // The first byte of a row is its filter: none.
    rows.chunks_mut(width as usize + 1).for_each(|row| row[0] = 0);
    STANDARD.encode(png(width, height, &rows))
}

fn png(width: u32, height: u32, rows: &[u8]) -> Vec<u8> {
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut head = [width.to_be_bytes(), height.to_be_bytes()].concat();
    // 8 bits of grey, and the only methods there are, not interlaced.
    head.extend([8, 0, 0, 0, 0]);
    chunk(&mut out, b"IHDR", &head);
    chunk(&mut out, b"IDAT", &stored(rows));
    chunk(&mut out, b"IEND", &[]);
    out
}

fn chunk(out: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    let named = [kind.as_slice(), data].concat();
    out.extend((data.len() as u32).to_be_bytes());
    out.extend(&named);
    out.extend(crc32fast::hash(&named).to_be_bytes());
}

/// The bytes as a zlib stream of stored blocks.
fn stored(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x78, 0x01];
    let blocks = bytes.chunks(MAX_STORED);
    let last = blocks.len().saturating_sub(1);
    for (at, block) in blocks.enumerate() {
        let length = block.len() as u16;
        out.push(u8::from(at == last));
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend(block);
    }
    out.extend(adler32(bytes).to_be_bytes());
    out
}

fn adler32(bytes: &[u8]) -> u32 {
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in bytes {
        a = (a + u32::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    b << 16 | a
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn the_picture_is_a_png_of_its_size_and_of_its_seed() {
        assert_eq!(adler32(b"Wikipedia"), 0x11E6_0398);
        let made = |seed| noise(300, 250, &mut SmallRng::seed_from_u64(seed));
        let png = STANDARD.decode(made(1)).unwrap();
        assert!(png.starts_with(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\x01\x2c\0\0\0\xfa\x08"));
        assert!(png.ends_with(&[0xae, 0x42, 0x60, 0x82]));
        // 300 * 250 and a filter for each row, in two stored blocks.
        assert_eq!(png.len(), 8 + 25 + 12 + 12 + (2 + 2 * 5 + 75_250 + 4));
        assert_eq!(made(1), made(1));
        assert_ne!(made(1), made(2));
    }
}
