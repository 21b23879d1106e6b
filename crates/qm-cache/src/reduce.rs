//! Remainders without a division.

/// The remainder of tickets by a fixed number of slots.
///
/// `ceil(2^80 / n)` times `t`, shifted right by 80, is exactly `t / n` while `t < 2^48` and
/// `n < 2^32` (Granlund and Montgomery, *Division by invariant integers using multiplication*,
/// 1994: the error `t · n / 2^80` stays below `1 / n`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Modulus {
    slots: u64,
    magic: u128,
}

impl Modulus {
    /// # Panics
    /// Unless `0 < slots < 2^32`.
    pub(crate) const fn new(slots: u64) -> Self {
        assert!(
            slots > 0 && slots < 1 << 32,
            "a ring has 1 to 2^32 - 1 slots"
        );
        Self {
            slots,
            magic: (1_u128 << 80).div_ceil(slots as u128),
        }
    }

    pub(crate) const fn slots(self) -> u64 {
        self.slots
    }

    /// `ticket mod slots`, for a ticket below 2^48.
    #[inline]
    pub(crate) const fn of(self, ticket: u64) -> u64 {
        let quotient = ((ticket as u128 * self.magic) >> 80) as u64;
        ticket - quotient * self.slots
    }
}

#[cfg(test)]
mod tests {
    use super::Modulus;

    #[test]
    fn agrees_with_division() {
        let slots = [
            1,
            2,
            3,
            7,
            64,
            100,
            10_000,
            65_535,
            1_000_003,
            (1 << 31) - 1,
            (1 << 32) - 1,
        ];
        for n in slots {
            let modulus = Modulus::new(n);
            let high = (1_u64 << 48) - 1;
            let near_multiples = (0..1000_u64).flat_map(|k| {
                let multiple = high / n / 1000 * k * n;
                [multiple.saturating_sub(1), multiple, multiple + 1]
            });
            for t in near_multiples.chain(high - 1000..=high) {
                assert_eq!(modulus.of(t), t % n, "{t} mod {n}");
            }
        }
    }
}
