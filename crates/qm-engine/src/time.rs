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

/// A length of time in milliseconds for people's eyes: its two largest units, as `1h30min`, `12s`
/// or `250ms`.
#[must_use]
pub fn spoken(ms: u64) -> String {
    const UNITS: [(&str, u64); 4] = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("min", 60_000),
        ("s", 1_000),
    ];
    if ms < 1_000 {
        return format!("{ms}ms");
    }
    let first = UNITS.iter().position(|(_, each)| ms >= *each);
    let units = UNITS.iter().skip(first.unwrap_or(0)).take(2);
    let parts = units.scan(ms, |rest, (name, each)| {
        let count = *rest / each;
        *rest %= each;
        Some((count, name))
    });
    let parts = parts.filter(|(count, _)| *count > 0);
    parts
        .map(|(count, name)| format!("{count}{name}"))
        .collect()
}

/// The two clocks at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Node time: what every timer and age is computed from.
    pub at: Timestamp,
    /// Wall clock, microseconds since the Unix epoch; shown to people, decides nothing.
    pub wall_us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_spoken_in_their_two_largest_units() {
        for (ms, text) in [
            (0, "0ms"),
            (999, "999ms"),
            (1_999, "1s"),
            (60_000, "1min"),
            (126_500, "2min6s"),
            (5_400_000, "1h30min"),
            (86_400_000, "1d"),
            (90_000_000, "1d1h"),
            (86_460_000, "1d"),
        ] {
            assert_eq!(spoken(ms), text);
        }
    }
}
