//! Durations and sizes as people write them.

use qm_wire::INFINITE_MS;

/// Units of time with their milliseconds; the first spelling of each length is the printed one.
const TIMES: &[(&str, u64)] = &[
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("min", 60_000),
    ("s", 1_000),
    ("ms", 1),
    ("w", 604_800_000),
    ("m", 60_000),
    ("sec", 1_000),
];

/// Units of size with their bytes; the first of each length is the printed one.
const SIZES: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
];

/// Milliseconds of `30s`, `200ms`, `4d` or `1h30min`; [`INFINITE_MS`] for `infinite`.
pub(crate) fn parse_duration(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!("`{text}` is no duration: write a number and a unit (ms, s, min, h, d), as in 30s")
    };
    let trimmed = text.trim();
    if trimmed == "infinite" {
        return Ok(INFINITE_MS);
    }
    if trimmed == "0" {
        return Ok(0);
    }
    let mut sum = 0_u64;
    let mut rest = trimmed;
    while !rest.is_empty() {
        let (value, unit, tail) = number_and_unit(rest).ok_or_else(wrong)?;
        let (_, each) = TIMES
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(wrong)?;
        let part = value.checked_mul(*each).ok_or_else(wrong)?;
        sum = sum.checked_add(part).ok_or_else(wrong)?;
        rest = tail;
    }
    if trimmed.is_empty() {
        Err(wrong())
    } else {
        Ok(sum)
    }
}

/// Bytes of `4MiB`, `1.5 GiB` without the point: whole numbers only; a bare number is bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "`{text}` is no size: write a number and a unit (B, KiB, MiB, GiB, TiB), as in 4MiB"
        )
    };
    let trimmed = text.trim();
    if let Ok(bytes) = trimmed.parse() {
        return Ok(bytes);
    }
    let (value, unit, rest) = number_and_unit(trimmed).ok_or_else(wrong)?;
    let (_, each) = SIZES
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(wrong)?;
    if rest.is_empty() {
        value.checked_mul(*each).ok_or_else(wrong)
    } else {
        Err(wrong())
    }
}

/// A duration that [`parse_duration`] reads back as the same.
pub(crate) fn show_duration(ms: u64) -> String {
    if ms == INFINITE_MS {
        return "infinite".to_owned();
    }
    show(ms, TIMES.get(..5).unwrap_or_default())
}

/// A size that [`parse_size`] reads back as the same.
pub(crate) fn show_size(bytes: u64) -> String {
    show(bytes, SIZES.get(..5).unwrap_or_default())
}

/// A size for people's eyes: three digits at least, rounded down.
pub(crate) fn about_size(bytes: u64) -> String {
    let unit = SIZES.iter().take(4).find(|(_, each)| bytes >= *each);
    let Some((name, each)) = unit else {
        return format!("{bytes} B");
    };
    let (whole, tenth) = (bytes / each, bytes % each * 10 / each);
    if whole >= 100 {
        format!("{whole} {name}")
    } else {
        format!("{whole}.{tenth} {name}")
    }
}

/// A duration for people's eyes: its two largest units.
pub(crate) fn about_duration(ms: u64) -> String {
    if ms == INFINITE_MS {
        return "infinite".to_owned();
    }
    qm_engine::spoken(ms)
}

fn show(value: u64, units: &[(&str, u64)]) -> String {
    let fits = |each: u64| value > 0 && value.is_multiple_of(each);
    let unit = units.iter().find(|(_, each)| fits(*each));
    let unit = unit.or_else(|| units.last());
    unit.map_or_else(String::new, |(name, each)| {
        format!("{}{name}", value / each)
    })
}

/// The number and unit that `text` begins with, and what follows.
fn number_and_unit(text: &str) -> Option<(u64, &str, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (value, rest) = text.split_at(digits);
    let rest = rest.trim_start();
    let letters = rest
        .find(|c: char| !c.is_ascii_alphabetic())
        .unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(letters);
    Some((value.parse().ok()?, unit, rest.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, ms) in [
            ("0", 0),
            ("200ms", 200),
            ("30s", 30_000),
            ("30min", 1_800_000),
            ("30m", 1_800_000),
            ("1h30min", 5_400_000),
            ("1h 30 min", 5_400_000),
            ("4d", 345_600_000),
            ("1w", 604_800_000),
            (" 5 s ", 5_000),
            ("infinite", INFINITE_MS),
        ] {
            assert_eq!(parse_duration(text), Ok(ms), "{text}");
        }
        for wrong in [
            "",
            "30",
            "s",
            "30x",
            "1.5h",
            "-1s",
            "s30",
            "99999999999999999999s",
            "30000000000000w",
            "1h-2s",
        ] {
            assert!(
                parse_duration(wrong).unwrap_err().contains("as in 30s"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("4194304", 4 << 20),
            ("4MiB", 4 << 20),
            ("4 MiB", 4 << 20),
            ("1GB", 1_000_000_000),
            ("7B", 7),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "4M", "MiB", "4MiB1KiB", "-1", "99999999999TiB"] {
            assert!(
                parse_size(wrong).unwrap_err().contains("as in 4MiB"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn what_is_shown_is_read_back() {
        for ms in [
            0,
            1,
            999,
            1_000,
            1_500,
            60_000,
            90_000,
            86_400_000,
            INFINITE_MS,
        ] {
            assert_eq!(parse_duration(&show_duration(ms)), Ok(ms));
        }
        for bytes in [0, 1, 1_000, 1_024, 1 << 20, (1 << 20) + 1, 64 << 30] {
            assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
        }
        assert_eq!(show_duration(1_800_000), "30min");
        assert_eq!(show_size(4 << 20), "4MiB");
    }

    #[test]
    fn people_see_round_numbers() {
        for (ms, text) in [
            (0, "0ms"),
            (250, "250ms"),
            (1_999, "1s"),
            (61_000, "1min1s"),
            (3_600_000, "1h"),
            (3_605_000, "1h"),
            (90_061_000, "1d1h"),
        ] {
            assert_eq!(about_duration(ms), text);
        }
        for (bytes, text) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_536, "1.5 KiB"),
            (300 << 20, "300 MiB"),
        ] {
            assert_eq!(about_size(bytes), text);
        }
    }
}
