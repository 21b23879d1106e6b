//! The page on delivery against the tests: every test that it names is there, and every row of a
//! table of what is shown names one.

use std::collections::BTreeSet;
use std::fs;

use anyhow::Context;

use crate::repo;

const PAGE: &str = "docs/delivery.md";
/// A word with so many underscores is the name of a test; settings and commands have fewer.
const UNDERSCORES_MIN: usize = 4;

/// What is wrong with the page.
pub(crate) fn check() -> anyhow::Result<Vec<String>> {
    let page = fs::read_to_string(PAGE).with_context(|| format!("reading {PAGE}"))?;
    let mut missing = named(&page);
    if missing.is_empty() {
        return Ok(vec![format!("{PAGE} names no test")]);
    }
    for path in repo::files()? {
        if path.ends_with(".rs") {
            let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
            missing.retain(|name| !text.contains(&format!("fn {name}(")));
        }
    }
    let complain = |name| format!("{PAGE}: there is no test {name}");
    let rows = unshown(&page).into_iter();
    let rows = rows.map(|row| format!("{PAGE}: no test shows `{row}`"));
    Ok(missing.into_iter().map(complain).chain(rows).collect())
}

/// The first cells of rows whose last one, by its heading, says what shows them, and names nothing.
fn unshown(page: &str) -> Vec<&str> {
    let mut unshown = Vec::new();
    let mut heading = None;
    for line in page.lines() {
        let Some(row) = line.strip_prefix('|') else {
            heading = None;
            continue;
        };
        let row = row.trim_end().trim_end_matches('|');
        let last = row.rsplit('|').next().unwrap_or_default();
        let is_shown = *heading.get_or_insert_with(|| last.contains("shown"));
        let names = ["`", "---", "the same", "shown"];
        if is_shown && !names.iter().any(|name| last.contains(name)) {
            unshown.push(row.split('|').next().unwrap_or_default().trim());
        }
    }
    unshown
}

/// The tests that a page names.
fn named(page: &str) -> BTreeSet<String> {
    let quoted = page
        .lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2));
    let is_test = |word: &&str| {
        word.matches('_').count() >= UNDERSCORES_MIN
            && word
                .bytes()
                .all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
    };
    quoted.filter(is_test).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_without_a_test_is_named() {
        let page = "\
| what | shown by |
|---|---|
| lost | `a_b_c_d_e` |
| late | the same |
| gone | – |

| what | else |
|---|---|
| any | – |
";
        assert_eq!(unshown(page), ["gone"]);
    }

    #[test]
    fn names_of_tests_are_told_from_settings() {
        let page = "| `a_gap_is_filled_from_the_leaf` | `session.ack_wait`, `a b_c_d_e_f` |";
        let names: Vec<_> = named(page).into_iter().collect();
        assert_eq!(names, ["a_gap_is_filled_from_the_leaf"]);
    }
}
