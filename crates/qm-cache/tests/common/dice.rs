//! How much the stress tests do, and what they draw.

/// Rounds a run: more with `QM_SLOW_TESTS`, one under Miri.
pub(crate) fn scale() -> u64 {
    if cfg!(miri) {
        1
    } else if std::env::var_os("QM_SLOW_TESTS").is_some() {
        20_000
    } else {
        200
    }
}

/// A small generator, so that a thread's run depends on its number only.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % n
    }
}
