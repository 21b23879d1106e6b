//! The walk that looks for damage while a store is used.

use std::sync::Arc;

use qm_store::{Fs, Scrub, SimFs, StoreError, StreamId};

use crate::common::*;

#[test]
fn a_round_meets_every_record_and_names_the_damaged_one() {
    let fs = Arc::new(SimFs::new());
    let (mut log, _) = open(&fs, small()).unwrap();
    for at in 1..=60 {
        let body = vec![at as u8; 300];
        log.commit(&[batch([put(at as u32 % 3, at, "head", body)])])
            .unwrap();
    }
    log.commit(&[batch([put(7, u64::MAX, "", "the last position")])])
        .unwrap();
    let mut scrub = Scrub::new(log.reader());
    // Whatever the steps are, a round is the same.
    for bytes_max in [1, 1000, 1 << 20] {
        let (mut records, mut bytes, mut steps) = (0, 0, 0);
        loop {
            let step = scrub.step(bytes_max).unwrap();
            assert!(step.damaged.is_empty());
            assert!(step.bytes <= 2 * bytes_max as u64 + 304, "{step:?}");
            (records, bytes, steps) = (records + step.records, bytes + step.bytes, steps + 1);
            if step.is_round_done {
                break;
            }
        }
        assert_eq!((records, bytes), (61, 60 * 304 + 17));
        assert!(steps >= 60 * 304 / (bytes_max + 304), "{steps}");
    }
    let hit = fs.list(&dir()).unwrap().iter().any(|name| {
        let path = dir().join(name);
        let content = fs.content(&path).unwrap();
        let at = content.windows(300).position(|part| part == [44; 300]);
        at.is_some_and(|at| fs.flip(&path, at as u64 + 9, 5))
    });
    assert!(hit);
    let raw = log.reader().raw(StreamId(44 % 3), 44).unwrap().unwrap();
    assert_eq!(raw.bytes.len(), 32 + 304);
    assert_eq!((&raw.head[..], raw.body_file), (&b"head"[..], None));
    assert_eq!(log.reader().raw(StreamId(44 % 3), 45).unwrap(), None);
    for _ in 0..2 {
        let mut damaged = Vec::new();
        let mut records = 0;
        loop {
            let step = scrub.step(2000).unwrap();
            damaged.extend(step.damaged);
            records += step.records;
            if step.is_round_done {
                break;
            }
        }
        assert_eq!(records, 60);
        let [StoreError::Damaged { record, .. }] = &damaged[..] else {
            panic!("{damaged:?}")
        };
        assert_eq!(*record, Some((StreamId(44 % 3), 44)));
    }
}

#[test]
fn a_walk_over_nothing_ends_at_once() {
    let (log, _) = open(&Arc::new(SimFs::new()), small()).unwrap();
    assert!(Scrub::new(log.reader()).step(1).unwrap().is_round_done);
}
