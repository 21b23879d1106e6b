//! Acknowledgements to machines that were cloned with their identity, as the article on cloning
//! describes it, row by row: what MSMQ's cache does, and what this one does with the same traffic.

use std::collections::HashMap;

use qm_cache::{AckRouteCache, Learned, RouteConfig, RouteStats};

use super::MINUTE_MS;

/// Of the image that both machines were made from.
const QM_ID: u128 = 0x1234;
const IMAGE: &str = "10.0.0.1:1801";
const CLONE: &str = "10.0.0.2:1801";

const LIFETIME_MS: u64 = 10 * MINUTE_MS;
const CONFLICT: Learned = Learned::Alternative { first_seen: true };

fn cache() -> AckRouteCache<u128, &'static str> {
    AckRouteCache::new(RouteConfig::default(), [0x0123, 0x4567])
}

/// MSMQ's cache: a row is the first address its QMId came from, lives on with every message from
/// that QMId, whoever sends it, and gives way to another address only when its time is over.
#[derive(Default)]
struct OneRow(HashMap<u128, (&'static str, u64)>);

impl OneRow {
    /// Where the acknowledgement of a message goes.
    fn route(&mut self, id: u128, sender: &'static str, now_ms: u64) -> &'static str {
        let row = self.0.entry(id).or_insert((sender, now_ms));
        if now_ms - row.1 > LIFETIME_MS {
            row.0 = sender;
        }
        row.1 = now_ms;
        row.0
    }
}

#[test]
fn machines_are_told_apart_by_their_id_not_their_address() {
    let cache = cache();
    // Behind one address, one after the other: DHCP, or a network address translator.
    assert_eq!(cache.learn(1, IMAGE, 0), Learned::New);
    assert_eq!(cache.learn(2, IMAGE, 1), Learned::New);
    assert_eq!(cache.stats().rows, 2);
    assert_eq!(cache.stats().conflicts, 0);
}

#[test]
fn an_acknowledgement_goes_where_its_machine_was_seen() {
    let cache = cache();
    cache.learn(1, IMAGE, 0);
    cache.learn(2, CLONE, 0);
    assert_eq!(cache.candidates(&1, 1), [IMAGE]);
    assert_eq!(cache.candidates(&2, 1), [CLONE]);
    assert_eq!(cache.candidates(&3, 1), [""; 0], "never seen");
}

#[test]
fn a_row_has_a_lifetime_and_is_refreshed_and_purged() {
    let cache = cache();
    cache.learn(QM_ID, IMAGE, 0);
    // A tick is a 64th of the lifetime at most.
    let nearly_ms = LIFETIME_MS * 62 / 64;
    assert_eq!(cache.learn(QM_ID, IMAGE, nearly_ms), Learned::Refreshed);
    assert_eq!(cache.purge(2 * nearly_ms), 0, "seen since");
    assert_eq!(cache.candidates(&QM_ID, 2 * nearly_ms), [IMAGE]);
    assert_eq!(cache.purge(nearly_ms + LIFETIME_MS * 66 / 64), 1);
    assert_eq!(cache.stats().rows, 0);
}

/// The acknowledgement of the clone's message goes to the machine in the row, which discards it:
/// the clone sends again, and hears nothing again. Here both are tried, and who discards it is
/// dropped.
#[test]
fn the_acknowledgement_of_a_clone_reaches_it() {
    let mut msmq = OneRow::default();
    assert_eq!(msmq.route(QM_ID, IMAGE, 0), IMAGE);
    assert_eq!(msmq.route(QM_ID, CLONE, 1000), IMAGE, "the wrong machine");

    let cache = cache();
    assert_eq!(cache.learn(QM_ID, IMAGE, 0), Learned::New);
    assert_eq!(cache.learn(QM_ID, CLONE, 1000), CONFLICT, "reported");
    assert_eq!(cache.candidates(&QM_ID, 1000), [CLONE, IMAGE]);
    // The image's machine sends as well: its acknowledgement goes to it first, then to the clone.
    cache.learn(QM_ID, IMAGE, 2000);
    assert_eq!(cache.candidates(&QM_ID, 2000), [IMAGE, CLONE]);
    // The image's machine is told of a message it did not send, and says so.
    assert!(cache.failed(&QM_ID, &IMAGE));
    assert_eq!(cache.candidates(&QM_ID, 2000), [CLONE]);
}

/// Who sends rarely finds the other's row expired: nothing shows, in either cache, but for the time
/// that both rows live.
#[test]
fn rare_traffic_hides_a_clone() {
    let mut msmq = OneRow::default();
    let cache = cache();
    for turn in 0..6 {
        let now_ms = turn * 2 * LIFETIME_MS;
        let sender = if turn % 2 == 0 { IMAGE } else { CLONE };
        assert_eq!(msmq.route(QM_ID, sender, now_ms), sender);
        assert_eq!(cache.learn(QM_ID, sender, now_ms), Learned::New);
        assert_eq!(cache.candidates(&QM_ID, now_ms), [sender]);
    }
    assert_eq!(cache.stats().conflicts, 0);
}

/// With busy traffic one waits until the other's row expires, which it does when both have been
/// silent: then who comes first has the row, and the other waits in turn.
#[test]
fn busy_machines_do_not_wait_in_turn_for_a_row_to_expire() {
    let mut msmq = OneRow::default();
    let cache = cache();
    let mut reached = [0; 2];
    for (shift, [first, second]) in [[IMAGE, CLONE], [CLONE, IMAGE]].into_iter().enumerate() {
        let start_ms = shift as u64 * 5 * LIFETIME_MS;
        // Two messages a minute for forty minutes, four lifetimes.
        for minute in 0..40 {
            for (at, sender) in [first, second].into_iter().enumerate() {
                let now_ms = start_ms + minute * MINUTE_MS + at as u64;
                let acknowledged = msmq.route(QM_ID, sender, now_ms) == sender;
                assert_eq!(acknowledged, at == 0, "{sender} at {now_ms}");
                cache.learn(QM_ID, sender, now_ms);
                reached[at] += usize::from(cache.candidates(&QM_ID, now_ms)[0] == sender);
            }
        }
    }
    assert_eq!(reached, [80, 80], "each by its own message");
    let RouteStats {
        learned, conflicts, ..
    } = cache.stats();
    assert_eq!((learned, conflicts), (2, 2), "found out each time they met");
}

/// The cure in a workgroup, and what an identity made after the image is for.
#[test]
fn a_machine_with_a_new_id_has_a_row_of_its_own() {
    const NEW_ID: u128 = 0x5678;
    let mut msmq = OneRow::default();
    let cache = cache();
    for (id, sender) in [(QM_ID, IMAGE), (NEW_ID, CLONE)] {
        assert_eq!(msmq.route(id, sender, 0), sender);
        assert_eq!(cache.learn(id, sender, 0), Learned::New);
        assert_eq!(cache.candidates(&id, 0), [sender]);
    }
    assert_eq!(cache.stats().conflicts, 0);
}
