//! Whole numbers on the command line, refused in words.

use std::ops::RangeInclusive;

/// Reads a whole number of this range; up to `u64::MAX` stands for no upper end.
pub(super) fn whole<T: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        let number = number.and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| match (*range.start(), *range.end()) {
            (0, u64::MAX) => "write a whole number".to_owned(),
            (1, u64::MAX) => "write a whole number above 0".to_owned(),
            (first, last) => format!("write a whole number from {first} to {last}"),
        })
    }
}
