//! The operating system's randomness, drawn anew for each use and kept nowhere.

use qm_engine::Entropy;

use crate::clock;

/// Randomness of the operating system, with the time of the draw in its first eight bytes.
///
/// Two copies of a running machine may share the state of the system's generator until that is
/// seeded again, and would draw the same incarnations and salts. They do not draw in the same
/// nanosecond. To bytes that nobody can predict, the time adds and takes away nothing.
#[derive(Debug)]
pub(crate) struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&mut self, bytes: &mut [u8]) {
        // It answered when the node started; from then on it cannot fail (getrandom(2)).
        getrandom::fill(bytes).expect("invariant: the system gives random bytes once it did");
        mix_in(bytes, clock::elapsed().as_nanos());
    }
}

fn mix_in(bytes: &mut [u8], nanoseconds: u128) {
    let [low @ .., _, _, _, _, _, _, _, _] = nanoseconds.to_le_bytes();
    for (byte, time) in bytes.iter_mut().zip(low) {
        *byte ^= time;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two copies of one machine with one state of the generator.
    #[test]
    fn the_same_randomness_at_two_times_is_not_the_same() {
        let drawn = |nanoseconds| {
            let mut bytes = [0x5a; 16];
            mix_in(&mut bytes, nanoseconds);
            bytes
        };
        assert_ne!(drawn(1_000_000_007), drawn(1_000_000_008));
        assert_ne!(drawn(1), drawn(1 << 63));
        assert_eq!(drawn(1)[8..], drawn(2)[8..]);
    }

    #[test]
    fn no_two_draws_are_the_same() {
        let numbers: Vec<u64> = (0..1_000).map(|_| SystemEntropy.next_u64()).collect();
        let mut different = numbers.clone();
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), numbers.len());
    }
}
