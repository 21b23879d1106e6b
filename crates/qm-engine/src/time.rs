//! Time as a number that is handed in.

use core::ops::Add;

/// Microseconds of the node's own time: monotonic while it runs and carried over restarts by the
/// driver, so that a wall clock that is wrong or steps ages nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// A time so far away that it never comes.
    pub const NEVER: Self = Self(u64::MAX);

    /// Milliseconds since the start of node time.
    #[must_use]
    pub const fn as_ms(self) -> u64 {
        self.0 / 1_000
    }

    /// This time and `ms` milliseconds; saturates at [`Timestamp::NEVER`].
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1_000)))
    }

    /// Milliseconds from `earlier` to here, 0 when it is later.
    #[must_use]
    pub const fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) / 1_000
    }
}

impl Add<core::time::Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: core::time::Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)),
        )
    }
}

/// The two clocks at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Node time: what every timer and age is computed from.
    pub at: Timestamp,
    /// Wall clock, microseconds since the Unix epoch; shown to people, decides nothing.
    pub wall_us: u64,
}
