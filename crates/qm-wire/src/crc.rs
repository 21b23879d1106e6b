//! CRC32C (Castagnoli), the checksum of frames (W-FRM-5): by the processor's own instruction where
//! the standard library can tell that it has one, else by a table.

/// The checksum of `bytes` behind what `before` is the checksum of; 0 is that of nothing.
#[inline]
pub(crate) fn crc32c(before: u32, bytes: &[u8]) -> u32 {
    #[cfg(feature = "std")]
    return crc32c::crc32c_append(before, bytes);
    #[cfg(not(feature = "std"))]
    return by_table(before, bytes);
}

/// The polynomial `1edc6f41`, its bits reversed.
#[cfg(any(test, not(feature = "std")))]
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// What each value of a byte changes.
#[cfg(any(test, not(feature = "std")))]
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut rest: &mut [u32] = &mut table;
    let mut byte = 0_u32;
    while let Some((entry, others)) = rest.split_first_mut() {
        let (mut value, mut bit) = (byte, 0_u32);
        while bit < 8 {
            value = (value >> 1) ^ (POLYNOMIAL & (value & 1).wrapping_neg());
            bit = bit.wrapping_add(1);
        }
        *entry = value;
        byte = byte.wrapping_add(1);
        rest = others;
    }
    table
};

#[cfg(any(test, not(feature = "std")))]
fn by_table(before: u32, bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        let [low, ..] = crc.to_le_bytes();
        let change = TABLE.get(usize::from(low ^ byte)).copied();
        (crc >> 8) ^ change.unwrap_or_default()
    };
    !bytes.iter().fold(!before, step)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The check value of RFC 3720's polynomial, and the examples of its appendix B.4.
    #[test]
    fn the_published_values() {
        for (bytes, expected) in [
            (&b"123456789"[..], 0xe306_9283),
            (&[0; 32], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (b"", 0),
        ] {
            assert_eq!(by_table(0, bytes), expected);
            assert_eq!(crc32c(0, bytes), expected);
        }
    }

    proptest! {
        #[test]
        fn the_table_and_the_instruction_agree(before: u32, bytes: Vec<u8>, cut in 0..100_usize) {
            prop_assert_eq!(by_table(before, &bytes), crc32c(before, &bytes));
            let (head, tail) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(by_table(by_table(before, head), tail), by_table(before, &bytes));
        }
    }
}
