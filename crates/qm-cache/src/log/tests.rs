//! Where counters come round, and threads that stood still.

use super::*;
use crate::key::Words;

/// Different keys for each bucket and filter that are wanted.
fn hash(bucket: u64) -> u64 {
    bucket | bucket.wrapping_mul(0x9e37_79b9_7f4a_7c15) << 32
}

fn log(window: usize, next_ticket: u64) -> Log<u64> {
    let log = Log::new(window, 1000, None);
    log.tail.0.store(next_ticket, Ordering::Relaxed);
    log
}

fn insert(log: &Log<u64>, key: u64, bucket: u64, tick: u64) -> bool {
    let place = log.place(hash(bucket));
    let head = log.head(place);
    if log.scan_from(head, Words([key]), place).found != Found::Absent {
        return false;
    }
    match log.insert(Words([key]), place, tick, true, head, &mut Single) {
        Ok(linked) => log.settle(&linked, true),
        Err(Found::Absent) => {} // tickets have run out
        Err(found) => panic!("nobody else is here, but {found:?}"),
    }
    true
}

fn holds(log: &Log<u64>, key: u64, bucket: u64) -> bool {
    let place = log.place(hash(bucket));
    log.scan(Words([key]), place).found == Found::Committed
}

/// A word of the index holds 40 bits of a ticket: nothing is forgotten, nothing found twice and
/// nothing wasted when they come round.
#[test]
fn tickets_in_the_index_come_round() {
    for round in [1, 2, 200] {
        for (window, buckets) in [(64_usize, 1), (100, 7), (1000, 1000)] {
            let log = log(window, (round << 40) - 500);
            let window = window as u64;
            for n in 0..3 * window + 1000 {
                assert!(insert(&log, n, n % buckets, 0), "key {n} is new");
                assert!(!insert(&log, n, n % buckets, 0), "key {n} is known");
                let oldest = (n + 1).saturating_sub(window);
                assert!(holds(&log, oldest, oldest % buckets), "key {oldest} of {n}");
                if let Some(gone) = oldest.checked_sub(1) {
                    assert!(!holds(&log, gone, gone % buckets), "key {gone} of {n}");
                }
            }
            assert_eq!(log.stats(0).wasted, 0, "window {window}, round {round}");
        }
    }
}

/// A bucket nobody used during 2^40 insertions, and one nobody used at all.
#[test]
fn a_word_older_than_the_round_is_no_obstacle() {
    let log = log(64, 10);
    assert!(insert(&log, 1, 5, 0));
    for distance in [
        1 << 39,
        (1 << 39) + 1,
        1 << 40,
        (1 << 40) + 3,
        (1 << 47) + 9,
    ] {
        log.tail.0.store(10 + distance, Ordering::Relaxed);
        for bucket in [5, 6] {
            let key = distance * 8 + bucket;
            assert!(insert(&log, key, bucket, 0), "{distance}");
            assert!(holds(&log, key, bucket), "{distance}");
            assert!(!holds(&log, 1, bucket), "{distance}");
        }
        assert!(log.stats(0).wasted <= 1, "{distance}: {:?}", log.stats(0));
    }
}

/// When tickets have run out everything is new: nothing is lost, and nothing wraps.
#[test]
fn tickets_run_out() {
    let log = log(64, TICKET_MAX - 70);
    for n in 0..70 {
        assert!(insert(&log, n, n, 0));
    }
    for n in 0..1000 {
        assert!(insert(&log, 1000 + n, n, 0), "new");
        assert!(!holds(&log, 1000 + n, n), "and not remembered");
    }
    assert!(holds(&log, 69, 69), "what was, stays");
    let _near = log.touch_ahead(16);
    assert_eq!(log.purge(5000), 0);
}

/// A thread stood still for longer than the interval between reading the clock and drawing its
/// ticket. Its entry looks old among young ones, which must not be forgotten for that.
#[test]
fn an_entry_with_an_old_tick_takes_no_young_ones_along() {
    for late in 0..256 {
        let log = log(256, 1);
        log.leave_mark(0, 2000, log.boundary());
        for n in 0..256 {
            let tick = if n == late { 500 } else { 2000 };
            assert!(insert(&log, n, n, tick));
        }
        log.leave_mark(2000, 2100, log.boundary());
        assert_eq!(log.purge(2100), 0, "nothing but entry {late} looks old");
        assert!((0..256).all(|n| holds(&log, n, n)), "{late}");
    }
}

/// Marks are few: one that was overwritten or never left is not mistaken for another.
#[test]
fn marks_of_other_ticks_say_nothing() {
    let log = log(64, 1);
    log.leave_mark(0, 10, log.boundary());
    for n in 0..64 {
        assert!(insert(&log, n, n, 10));
    }
    // The thread that was to leave the marks of 11 to 1900 has been stopped.
    log.leave_mark(1900, 2500, log.boundary());
    assert_eq!(log.purge(1011 + SPARE_MARKS), 0, "no mark: kept");
    // One that reads the clock, stands still, and purges when its marks are long gone.
    assert_eq!(log.purge(1005), 0);
    assert_eq!(log.purge(1901 + 1000), 64, "the mark of tick 1901 is there");
}

/// Somebody draws tickets for a batch, the clock moves, and he returns those he did not need. Who
/// draws them later is young.
#[test]
fn no_later_draw_goes_below_a_mark() {
    for spent in 1..16 {
        let log = log(256, 1);
        let mut run = log.empty_run();
        run.expect_more(16);
        for n in 0..spent {
            let place = log.place(hash(n));
            let head = log.head(place);
            match log.insert(Words([n]), place, 0, true, head, &mut run) {
                Ok(linked) => log.settle(&linked, true),
                other => panic!("{other:?}"),
            }
        }
        log.leave_mark(0, 10, log.boundary());
        log.return_run(&run);
        for n in 100..110 {
            assert!(insert(&log, n, n, 900));
        }
        log.leave_mark(10, 1010, log.boundary());
        assert!(log.purge(1010) <= 16);
        assert!((0..spent).all(|n| !holds(&log, n, n)), "these are due");
        assert!((100..110).all(|n| holds(&log, n, n)), "{spent}: not these");
    }
}

/// Many evictions in one tick, of entries that were inserted in one tick: each that is due counts,
/// and the age told is that of the last.
#[test]
fn each_eviction_is_noted_though_the_clock_stands_still() {
    // With a slot for each entry, and with spare ones.
    for window in [64, 10] {
        let log = log(window, 1);
        let window = window as u64;
        let mut next = 0;
        let mut fill = |ticks: [u64; 2]| {
            let (first, [one, other]) = (next, ticks);
            next += window;
            (first..next).for_each(|n| {
                let tick = if n < first + window / 2 { one } else { other };
                assert!(insert(&log, n, n, tick));
            });
            let tick = other;
            let stats = log.stats(tick);
            (stats.evicted_due, stats.last_evicted_age_ticks)
        };
        assert_eq!(fill([0, 0]), (0, None), "window {window}: room for all");
        assert_eq!(fill([0, 3]), (0, Some(3)), "window {window}: all young");
        assert_eq!(fill([5, 5]), (0, Some(2)), "window {window}: of two ticks");
        assert_eq!(fill([7, 7]), (0, Some(2)), "window {window}: all young");
        let due = window;
        assert_eq!(
            fill([2000, 2000]),
            (due, Some(1993)),
            "window {window}: all due"
        );
        assert_eq!(
            fill([2000, 2000]),
            (due, Some(0)),
            "window {window}: all young"
        );
        let due = 2 * window;
        assert_eq!(
            fill([9000, 9000]),
            (due, Some(7000)),
            "window {window}: all due"
        );
    }
}
