//! `SipHash`-1-3 over 64-bit words, with the key handed in.

use std::hash::{BuildHasher, Hasher};

use crate::key::Source;

/// Builds [`SipHasher13`]s from a 128-bit key.
///
/// Keys of the tables come from remote peers. With a secret random key nobody can choose keys that
/// fall into one chain (Aumasson and Bernstein, *`SipHash`: a fast short-input PRF*, 2012). The key
/// is an argument, so that a run can be repeated.
#[derive(Clone, Copy)]
pub struct KeyedSipHasher {
    key: [u64; 2],
}

impl KeyedSipHasher {
    /// A builder with this secret key.
    #[must_use]
    pub const fn new(key: [u64; 2]) -> Self {
        Self { key }
    }
}

impl std::fmt::Debug for KeyedSipHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key is a secret.
        f.write_str("KeyedSipHasher")
    }
}

impl BuildHasher for KeyedSipHasher {
    type Hasher = SipHasher13;

    #[inline]
    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new(self.key)
    }
}

/// `SipHash` with one round per word and three at the end.
///
/// Feeding whole words with [`Hasher::write_u64`] gives what feeding their little-endian bytes
/// gives, without going through bytes.
#[derive(Clone)]
pub struct SipHasher13 {
    state: [u64; 4],
    /// Bytes that do not fill a word yet, lowest first.
    rest: u64,
    /// Bytes fed so far.
    fed: usize,
}

impl std::fmt::Debug for SipHasher13 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SipHasher13")
    }
}

impl SipHasher13 {
    #[inline]
    const fn new(key: [u64; 2]) -> Self {
        Self {
            state: [
                key[0] ^ 0x736f_6d65_7073_6575,
                key[1] ^ 0x646f_7261_6e64_6f6d,
                key[0] ^ 0x6c79_6765_6e65_7261,
                key[1] ^ 0x7465_6462_7974_6573,
            ],
            rest: 0,
            fed: 0,
        }
    }

    #[inline]
    const fn round(&mut self) {
        let [mut v0, mut v1, mut v2, mut v3] = self.state;
        v0 = v0.wrapping_add(v1);
        v2 = v2.wrapping_add(v3);
        v1 = v1.rotate_left(13) ^ v0;
        v3 = v3.rotate_left(16) ^ v2;
        v0 = v0.rotate_left(32);
        v2 = v2.wrapping_add(v1);
        v0 = v0.wrapping_add(v3);
        v1 = v1.rotate_left(17) ^ v2;
        v3 = v3.rotate_left(21) ^ v0;
        v2 = v2.rotate_left(32);
        self.state = [v0, v1, v2, v3];
    }

    #[inline]
    const fn absorb(&mut self, word: u64) {
        self.state[3] ^= word;
        self.round();
        self.state[0] ^= word;
    }
}

impl Hasher for SipHasher13 {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let (chunks, rest) = bytes.as_chunks::<8>();
        for chunk in chunks {
            self.write_u64(u64::from_le_bytes(*chunk));
        }
        for &byte in rest {
            let at = self.fed % 8;
            self.rest |= u64::from(byte) << (8 * at);
            self.fed = self.fed.wrapping_add(1);
            if at == 7 {
                self.absorb(self.rest);
                self.rest = 0;
            }
        }
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        let at = self.fed % 8;
        self.fed = self.fed.wrapping_add(8);
        if at == 0 {
            self.absorb(word);
        } else {
            self.absorb(self.rest | word << (8 * at));
            self.rest = word >> (64 - 8 * at);
        }
    }

    #[inline]
    fn finish(&self) -> u64 {
        let mut end = self.clone();
        end.absorb((end.fed as u64) << 56 | end.rest);
        end.state[2] ^= 0xff;
        end.round();
        end.round();
        end.round();
        end.state[0] ^ end.state[1] ^ end.state[2] ^ end.state[3]
    }
}

/// The hash of the first `count` words of a key.
#[inline(always)]
pub(crate) fn hash_words<S: BuildHasher>(builder: &S, key: impl Source, count: usize) -> u64 {
    let mut hasher = builder.build_hasher();
    for at in 0..count {
        hasher.write_u64(key.word(at));
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> u64 {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let mut hasher = KeyedSipHasher::new(key).build_hasher();
        hasher.write(bytes);
        hasher.finish()
    }

    /// Vectors of SipHash-1-3 for the key 00..0f and the messages "", 00, 00 01, …
    #[test]
    fn agrees_with_published_vectors() {
        let vectors: [u64; 3] = [
            u64::from_le_bytes([0xdc, 0xc4, 0x0f, 0x05, 0x58, 0x01, 0xac, 0xab]),
            u64::from_le_bytes([0x93, 0xca, 0x57, 0x7d, 0xf3, 0x9b, 0xf4, 0xc9]),
            u64::from_le_bytes([0x4d, 0xd4, 0xc7, 0x4d, 0x02, 0x9b, 0xcb, 0x82]),
        ];
        for (len, want) in vectors.iter().enumerate() {
            let bytes: Vec<u8> = (0..u8::try_from(len).unwrap()).collect();
            assert_eq!(of(&bytes), *want, "message of {len} bytes");
        }
    }

    #[test]
    fn words_and_their_bytes_hash_alike_at_every_offset() {
        for offset in 0..9 {
            let key = [3, 4];
            let (mut by_word, mut by_byte) = (
                KeyedSipHasher::new(key).build_hasher(),
                KeyedSipHasher::new(key).build_hasher(),
            );
            by_word.write(&[7; 9][..offset]);
            by_byte.write(&[7; 9][..offset]);
            for word in [0x0102_0304_0506_0708_u64, u64::MAX, 0] {
                by_word.write_u64(word);
                by_byte.write(&word.to_le_bytes());
            }
            assert_eq!(by_word.finish(), by_byte.finish(), "offset {offset}");
        }
    }

    /// The standard library's default hasher is SipHash-1-3 with a zero key.
    #[test]
    fn agrees_with_the_standard_library() {
        let mut bytes = Vec::new();
        for len in 0..64_u8 {
            let mut ours = KeyedSipHasher::new([0, 0]).build_hasher();
            ours.write(&bytes);
            let mut std13 = std::collections::hash_map::DefaultHasher::new();
            std13.write(&bytes);
            assert_eq!(ours.finish(), std13.finish(), "{len} bytes");
            bytes.push(len.wrapping_mul(37));
        }
    }
}
