//! SipHash-1-3 of Aumasson and Bernstein: the keyed function behind tags (W-TAG-1) and links
//! (W-STR-2).
//!
//! Here and not from a crate, because a tag is made and checked for every message: what is hashed
//! first is at hand as words, and a hasher that takes bytes in pieces has to look each time what
//! the piece before left over. Tests hold it against such a crate.

/// The two words of which 16 bytes consist.
pub(crate) const fn words_of(bytes: [u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, low @ ..] = bytes;
    [
        u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        u64::from_le_bytes(low),
    ]
}

/// 64 bits over the words, then the bytes.
#[inline]
pub(crate) fn sip_64<const N: usize>(key: [u8; 16], words: [u64; N], bytes: &[u8]) -> u64 {
    let mut state = State::new(key);
    state.take(words, bytes);
    state.v2 ^= 0xff;
    state.finish()
}

/// 128 bits over the words, in the order in which they are written.
#[inline]
pub(crate) fn sip_128<const N: usize>(key: [u8; 16], words: [u64; N]) -> [u8; 16] {
    let mut state = State::new(key);
    state.v1 ^= 0xee;
    state.take(words, &[]);
    state.v2 ^= 0xee;
    let low = state.finish();
    state.v1 ^= 0xdd;
    let high = state.finish();
    (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
}

struct State {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl State {
    #[inline]
    const fn new(key: [u8; 16]) -> Self {
        let [low, high] = words_of(key);
        Self {
            v0: low ^ 0x736f_6d65_7073_6575,
            v1: high ^ 0x646f_7261_6e64_6f6d,
            v2: low ^ 0x6c79_6765_6e65_7261,
            v3: high ^ 0x7465_6462_7974_6573,
        }
    }

    /// All that is hashed, and the last word: what bytes are left and the length modulo 256.
    #[inline]
    fn take<const N: usize>(&mut self, words: [u64; N], bytes: &[u8]) {
        for word in words {
            self.word(word);
        }
        let (whole, rest) = bytes.as_chunks();
        for word in whole {
            self.word(u64::from_le_bytes(*word));
        }
        let [length, ..] = N.wrapping_mul(8).wrapping_add(bytes.len()).to_le_bytes();
        let mut last = [0, 0, 0, 0, 0, 0, 0, length];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        self.word(u64::from_le_bytes(last));
    }

    #[inline]
    const fn word(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.v0 ^= word;
    }

    #[inline]
    const fn finish(&mut self) -> u64 {
        self.round();
        self.round();
        self.round();
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }

    #[inline]
    const fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use core::hash::Hasher;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use siphasher::sip::SipHasher13;
    use siphasher::sip128;
    use siphasher::sip128::Hasher128;

    use super::*;

    #[test]
    fn values_that_others_published() {
        let key: [u8; 16] = core::array::from_fn(|at| at.to_le_bytes()[0]);
        assert_eq!(
            sip_64(key, [], b"").to_le_bytes(),
            *b"\xdc\xc4\x0f\x05\x58\x01\xac\xab"
        );
        // What CPython makes of this text with PYTHONHASHSEED=0.
        let text = b"hello world, something";
        assert_eq!(sip_64([0; 16], [], text), 0x1402_fbb4_fdc6_73ff);
    }

    proptest! {
        #[test]
        fn it_is_what_a_crate_makes_of_the_same_bytes(
            key: [u8; 16],
            words: [u64; 3],
            bytes in vec(any::<u8>(), 0..600),
        ) {
            let mut all: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let mut wide = sip128::SipHasher13::new_with_key(&key);
            wide.write(&all);
            prop_assert_eq!(sip_128(key, words), wide.finish128().as_bytes());
            all.extend(&bytes);
            let expected = SipHasher13::new_with_key(&key).hash(&all);
            prop_assert_eq!(sip_64(key, words, &bytes), expected);
            let bytes_alone = SipHasher13::new_with_key(&key).hash(&bytes);
            prop_assert_eq!(sip_64(key, [], &bytes), bytes_alone);
        }
    }
}
