//! Errors, damage, a full disk, strangers in the directory.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use qm_store::{
    Applied, Batch, Fault, Fs, Log, LogOptions, RecoveryNote, SimFs, StoreError, StreamId,
};

use crate::common::*;
use crate::crash::scale;

fn segment_files(fs: &SimFs) -> Vec<PathBuf> {
    let names = fs.list(&dir()).unwrap();
    names
        .iter()
        .filter(|name| name.ends_with(".seg"))
        .map(|name| dir().join(name))
        .collect()
}

/// Segments that hold something.
fn used_files(fs: &SimFs) -> Vec<PathBuf> {
    let used = |path: &PathBuf| fs.content(path).unwrap().starts_with(b"qmstore\0");
    segment_files(fs).into_iter().filter(used).collect()
}

/// A log with a few live records over several segments, closed in order or not.
fn filled(clean: bool) -> (Arc<SimFs>, Model) {
    let fs = Arc::new(SimFs::new());
    let mut model = Model::default();
    let (mut log, _) = open(&fs, small()).unwrap();
    for at in 1..60u64 {
        let mut ops = vec![put(0, at, format!("head {at}"), vec![at as u8; 600])];
        if at > 20 {
            ops.push(remove(0, at - 20, at - 20));
        }
        ops.push(set([at as u8 % 4], at.to_le_bytes()));
        let batch = batch(ops);
        assert_eq!(
            log.commit(std::slice::from_ref(&batch)).unwrap(),
            [Applied::Done]
        );
        model.apply(&batch);
    }
    if clean {
        log.close();
    }
    (fs, model)
}

#[test]
fn a_commit_of_many_batches_is_one_write_and_one_flush() {
    let fs = Arc::new(SimFs::new());
    let (mut log, _) = open(
        &fs,
        LogOptions {
            segment_bytes: 1 << 20,
            ..small()
        },
    )
    .unwrap();
    log.commit(&[batch([put(0, 1, "", "first in its segment")])])
        .unwrap();
    while log.tidy(true).unwrap() {}
    let (writes, syncs) = (fs.writes(), fs.syncs());
    let group: Vec<Batch> = (2..300)
        .map(|at| batch([put(0, at, "h", "body")]))
        .collect();
    assert!(
        log.commit(&group)
            .unwrap()
            .iter()
            .all(|answer| *answer == Applied::Done)
    );
    assert_eq!((fs.writes() - writes, fs.syncs() - syncs), (1, 1));
}

#[test]
fn after_an_error_everything_fails_until_it_is_opened_again() {
    let (fs, mut model) = filled(true);
    let (mut log, _) = open(&fs, small()).unwrap();
    let reader = log.reader();
    let one = batch([put(1, 1, "", "unknown fate")]);
    while log.tidy(true).unwrap() {}
    // The write succeeds, the flush does not.
    fs.inject(Fault::FailAt(fs.operations() + 1));
    assert!(matches!(
        log.commit(std::slice::from_ref(&one)),
        Err(StoreError::Failed { .. })
    ));
    fs.heal();
    let error = log.commit(&[]).unwrap_err();
    assert!(error.to_string().contains("reopen"), "{error}");
    assert!(matches!(
        reader.read(StreamId(0), 0, 1, 1),
        Err(StoreError::Failed { .. })
    ));
    assert!(matches!(log.tidy(true), Err(StoreError::Failed { .. })));
    drop(log);
    let (log, recovered) = open(&fs, small()).unwrap();
    let found = Model::read(&log.reader(), 2, recovered.state);
    if found != model {
        model.apply(&one);
    }
    assert_eq!(found, model);
}

/// After a failed flush Linux forgets the pages but still shows them: what recovery then tells
/// must hold through a power cut.
#[test]
fn what_recovery_tells_after_any_failed_operation_holds_through_a_power_cut() {
    let batches: Vec<Batch> = (1..40u64)
        .map(|at| {
            let mut ops = vec![
                put(0, at, "head", vec![at as u8; 900]),
                set("at", [at as u8]),
            ];
            ops.push(remove(0, at.saturating_sub(6), at.saturating_sub(6)));
            batch(ops)
        })
        .collect();
    // Half of them, an orderly restart, the rest.
    let run_with = |fs: &Arc<SimFs>, options: &LogOptions| -> Option<()> {
        for half in batches.chunks(20) {
            let (mut log, _) = open(fs, options.clone()).ok()?;
            for batch in half {
                log.commit(std::slice::from_ref(batch)).ok()?;
                log.tidy(false).ok()?;
            }
            log.close();
        }
        Some(())
    };
    let run = |fs: &Arc<SimFs>| run_with(fs, &small());
    let whole = Arc::new(SimFs::new());
    run(&whole).unwrap();
    // Nothing relies on hints and pages, and nobody is told when they cannot be written.
    let bare = Arc::new(SimFs::new());
    let without = LogOptions {
        hints: false,
        index_bytes_max: 1 << 20,
        ..small()
    };
    run_with(&bare, &without).unwrap();
    let caches = usize::try_from(whole.operations() - bare.operations()).unwrap();
    let mut unnoticed = 0;
    for failing in 0..whole.operations() {
        let fs = Arc::new(SimFs::new());
        fs.inject(Fault::FailAt(failing));
        // Closing tells nobody: what fails there is made good when it is opened again.
        unnoticed += usize::from(run(&fs).is_some());
        fs.heal();
        let tell = |fs: &Arc<SimFs>| {
            let (log, recovered) = open(fs, small()).unwrap();
            Model::read(&log.reader(), 1, recovered.state)
        };
        let told = tell(&fs);
        for seed in 0..4 {
            let fs = Arc::new(fs.as_ref().clone());
            fs.crash(seed * 1000 + failing);
            assert_eq!(tell(&fs), told, "operation {failing}, crash {seed}");
        }
    }
    assert!(
        unnoticed <= 4 + caches,
        "the write and the flush of two closings and {caches} of caches, not {unnoticed}"
    );
}

#[test]
fn a_drive_that_lies_is_noticed_by_the_crash_comparison() {
    let mut lost = false;
    for seed in 0..20 {
        let fs = Arc::new(SimFs::new());
        let (mut log, _) = open(&fs, small()).unwrap();
        log.commit(&[batch([put(0, 1, "", "true")])]).unwrap();
        fs.inject(Fault::LyingSync);
        log.commit(&[batch([put(0, 2, "", "believed")])]).unwrap();
        drop(log);
        fs.crash(seed);
        let (log, _) = open(&fs, small()).unwrap();
        let found = all(&log.reader(), 0);
        assert!(!found.is_empty());
        lost |= found.len() == 1;
    }
    assert!(lost);
}

#[test]
fn one_process_at_a_time() {
    let fs = Arc::new(SimFs::new());
    let (log, _) = open(&fs, small()).unwrap();
    let error = open(&fs, small()).unwrap_err();
    assert!(
        matches!(&error, StoreError::Locked { path } if path.ends_with("lock")),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("another process holds /data/lock"),
        "{error}"
    );
    log.close();
    open(&fs, small()).unwrap();
}

#[test]
fn a_newer_format_is_named() {
    let (fs, _) = filled(true);
    let path = &used_files(&fs)[0];
    let file = fs.open(path, false).unwrap();
    for at in [0, 4096] {
        let mut header = [0; 64];
        file.read_at(&mut header, at).unwrap();
        header[8..12].copy_from_slice(&4u32.to_le_bytes());
        let crc = crc32c::crc32c(&header[..60]);
        header[60..].copy_from_slice(&crc.to_le_bytes());
        file.write_at(&header, at).unwrap();
    }
    let error = open(&fs, small()).unwrap_err();
    let expected = matches!(
        &error,
        StoreError::NewerFormat {
            found: 4,
            supported: 3,
            ..
        }
    );
    assert!(expected, "{error}");
}

#[test]
fn segments_of_another_store_are_turned_away() {
    let (fs, _) = filled(true);
    let other = Arc::new(SimFs::new());
    let (mut log, _) = open_at(&other, &dir(), small(), 99).unwrap();
    log.commit(&[batch([put(0, 1, "", "foreign")])]).unwrap();
    log.close();
    let foreign = other.content(&used_files(&other)[0]).unwrap();
    let own = fs.content(&used_files(&fs)[0]).unwrap();
    for (content, why) in [(foreign, "another store"), (own, "of its number")] {
        let fs = Arc::new(fs.as_ref().clone());
        fs.open(&dir().join("00000900.seg"), true)
            .unwrap()
            .write_at(&content, 0)
            .unwrap();
        let error = open(&fs, small()).unwrap_err();
        assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn preallocated_segments_are_zeros() {
    let fs = Arc::new(SimFs::new());
    open(&fs, small()).unwrap();
    for path in segment_files(&fs) {
        assert_eq!(fs.content(&path).unwrap(), vec![0; 20 * 1024]);
    }
    assert_eq!(
        segment_files(&fs).len(),
        3,
        "one to write and a reserve of two"
    );
}

/// Every bit that was durable matters: flipping it is noticed at the latest when it is read,
/// and nothing wrong is ever served.
#[test]
fn no_flipped_bit_goes_unnoticed() {
    let (fs, model) = filled(true);
    let mut random = Random(5);
    let (mut refused, mut noted, mut unread, mut harmless) = (0, 0, 0, 0);
    for path in segment_files(&fs) {
        for _ in 0..scale(150) {
            let fs = Arc::new(fs.as_ref().clone());
            let offset = match random.below(4) {
                0 => random.below(64) + 4096 * random.below(2),
                1 => 8192 + random.below(32),
                _ => 12288 + random.below(8192),
            };
            assert!(fs.flip(&path, offset, random.below(8) as u8));
            let (log, recovered) = match open(&fs, small()) {
                Ok(opened) => opened,
                Err(error) => {
                    assert!(
                        matches!(error, StoreError::Damaged { .. }),
                        "{error} at {offset} of {}",
                        path.display()
                    );
                    refused += 1;
                    continue;
                }
            };
            let mut found = BTreeMap::new();
            let mut errors = 0;
            let mut from = 0;
            loop {
                match log.reader().read(StreamId(0), from, 10, 4000) {
                    Ok(page) => {
                        let Some(last) = page.last() else { break };
                        from = last.position + 1;
                        found.extend(page.into_iter().map(|r| (r.position, (r.head, r.body))));
                    }
                    Err(StoreError::Damaged {
                        record: Some((_, position)),
                        ..
                    }) => {
                        errors += 1;
                        from = position + 1;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            let expected = &model.streams[&0];
            assert!(
                found
                    .iter()
                    .all(|(at, record)| expected.get(at) == Some(record))
            );
            if errors > 0 {
                assert!(!recovered.notes.is_empty());
                unread += 1;
            } else if found == *expected && recovered.state == model.state {
                // Padding, an unused byte, or one of two copies.
                if recovered.notes.is_empty() {
                    harmless += 1;
                } else {
                    noted += 1;
                }
            } else {
                assert!(
                    !recovered.notes.is_empty(),
                    "{offset} of {}",
                    path.display()
                );
                noted += 1;
            }
        }
    }
    assert!(refused > 0 && noted > 0 && unread > 0 && harmless > 0);
}

#[test]
fn a_damaged_message_is_named_and_can_be_removed() {
    let (fs, model) = filled(true);
    let (log, _) = open(&fs, small()).unwrap();
    log.close();
    // The first live record's body, wherever it is.
    let target = model.streams[&0].first_key_value().unwrap();
    let (path, offset) = segment_files(&fs)
        .into_iter()
        .find_map(|path| {
            let content = fs.content(&path).unwrap();
            let at = content
                .windows(600)
                .position(|window| window == target.1.1)?;
            Some((path, at as u64 + 300))
        })
        .unwrap();
    assert!(fs.flip(&path, offset, 3));
    let (mut log, recovered) = open(&fs, small()).unwrap();
    let named = recovered.notes.iter().any(
        |note| matches!(note, RecoveryNote::DamagedRecord { position, .. } if position == target.0),
    );
    assert!(named, "{:?}", recovered.notes);
    assert!(!recovered.clean);
    let error = log.reader().read(StreamId(0), 0, 5, 10_000).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("segment") && text.contains("offset"),
        "{text}"
    );
    log.commit(&[batch([remove(0, *target.0, *target.0)])])
        .unwrap();
    assert_eq!(all(&log.reader(), 0).len(), model.streams[&0].len() - 1);
}

#[test]
fn salvage_opens_what_strict_opening_refuses() {
    let (fs, model) = filled(true);
    let path = used_files(&fs).remove(0);
    // The header of the first record in it.
    assert!(fs.flip(&path, 12288 + 32 + 9, 0));
    // Its hint says what it held.
    let (log, _) = open(&fs, small()).unwrap();
    assert_eq!(all(&log.reader(), 0).len(), model.streams[&0].len());
    drop(log);
    let strict = LogOptions {
        hints: false,
        ..small()
    };
    let error = open(&fs, strict).unwrap_err();
    assert!(
        matches!(error, StoreError::Damaged { offset: 12320, .. }),
        "{error}"
    );
    let (log, recovered) = open(
        &fs,
        LogOptions {
            salvage: true,
            ..small()
        },
    )
    .unwrap();
    let skipped = matches!(
        recovered.notes[..],
        [RecoveryNote::DamagedRange { offset: 12320, .. }, ..]
    );
    assert!(skipped, "{:?}", recovered.notes);
    let found = all(&log.reader(), 0).len();
    assert!(found + 1 >= model.streams[&0].len(), "{found}");
}

#[test]
fn a_full_disk_turns_puts_away_and_everything_else_goes_on() {
    for seed in 0..scale(6) {
        let fs = Arc::new(SimFs::new());
        fs.set_capacity(Some(20 * 1024 * 12));
        let mut random = Random(seed);
        let (mut log, _) = open(&fs, small()).unwrap();
        let mut model = Model::default();
        let mut live = Vec::new();
        let mut at = 0;
        for round in 0..4 {
            let mut refused = 0;
            // Room comes back a segment a commit: a refusal or ten are not the last word.
            while refused < 30 {
                at += 1;
                let body = vec![at as u8; random.below(700) as usize + 100];
                let group = [
                    batch([
                        put(0, at, at.to_le_bytes(), body),
                        set("newest", at.to_le_bytes()),
                    ]),
                    batch([set([random.below(9) as u8], at.to_le_bytes())]),
                ];
                let answers = log.commit(&group).unwrap();
                assert_eq!(answers[1], Applied::Done, "state needs no room for puts");
                if answers[0] == Applied::Done {
                    model.apply(&group[0]);
                    live.push(at);
                } else {
                    assert_eq!(answers[0], Applied::Full);
                    refused += 1;
                }
                model.apply(&group[1]);
            }
            assert!(
                live.len() > 50,
                "round {round}: it fills before it is full: {}",
                live.len()
            );
            // A restart on the full disk changes nothing.
            drop(log);
            fs.crash(seed);
            let recovered;
            (log, recovered) = open(&fs, small()).unwrap();
            let found = Model::read(&log.reader(), 1, recovered.state);
            assert_eq!(found, model, "seed {seed} round {round}");
            // It drains one by one, in any order.
            while live.len() > 5 {
                let gone = live.swap_remove(random.below(live.len() as u64) as usize);
                let batch = batch([remove(0, gone, gone)]);
                let answers = log.commit(std::slice::from_ref(&batch)).unwrap();
                assert_eq!(
                    answers,
                    [Applied::Done],
                    "round {round}, {} left",
                    live.len()
                );
                model.apply(&batch);
            }
        }
        let found = Model::read(&log.reader(), 1, model.state.clone());
        assert_eq!(found, model);
    }
}

#[test]
fn room_made_by_others_is_found_again() {
    let fs = Arc::new(SimFs::new());
    fs.set_capacity(Some(20 * 1024 * 5));
    let (mut log, _) = open(&fs, small()).unwrap();
    let mut at = 0;
    let mut try_put = |log: &mut Log| {
        at += 1;
        log.commit(&[batch([put(0, at, "", vec![1; 1000])])])
            .unwrap()[0]
    };
    while try_put(&mut log) == Applied::Done {}
    for _ in 0..10 {
        assert_eq!(try_put(&mut log), Applied::Full);
    }
    fs.set_capacity(None);
    assert!((0..100).any(|_| try_put(&mut log) == Applied::Done));
}

#[test]
fn a_quota_counts_like_a_full_disk() {
    let fs = Arc::new(SimFs::new());
    let options = LogOptions {
        disk_bytes_max: Some(20 * 1024 * 8),
        ..small()
    };
    let (mut log, _) = open(&fs, options).unwrap();
    let mut at = 0;
    loop {
        at += 1;
        let answers = log
            .commit(&[batch([put(0, at, "", vec![1; 1000])])])
            .unwrap();
        if answers == [Applied::Full] {
            break;
        }
    }
    assert!(at > 20);
    assert!(log.usage().disk_bytes <= 20 * 1024 * 8);
    assert_eq!(
        log.commit(&[batch([remove(0, 0, at)])]).unwrap(),
        [Applied::Done]
    );
    while log.tidy(false).unwrap() {}
    assert_eq!(
        log.commit(&[batch([put(0, at, "", "again")])]).unwrap(),
        [Applied::Done]
    );
}

#[test]
fn one_long_lived_record_and_state_do_not_hold_the_disk() {
    let fs = Arc::new(SimFs::new());
    let (mut log, _) = open(&fs, small()).unwrap();
    log.commit(&[batch([put(0, 1, "", "stays"), set("key", "value")])])
        .unwrap();
    let mut most = 0;
    for at in 1..3000u64 {
        log.commit(&[batch([put(1, at, "", vec![2; 500]), remove(1, 0, at - 1)])])
            .unwrap();
        most = most.max(log.usage().segments);
    }
    assert!(most <= 8, "{most} segments for two live records and a key");
    log.close();
    let (log, recovered) = open(&fs, small()).unwrap();
    assert!(recovered.clean, "{:?}", recovered.notes);
    assert_eq!(recovered.state.len(), 1);
    assert_eq!(all(&log.reader(), 0)[0].2, "stays");
    assert_eq!(all(&log.reader(), 1).len(), 1);
}

#[test]
fn records_larger_than_the_pace_are_carried_as_well() {
    let fs = Arc::new(SimFs::new());
    let options = LogOptions {
        segment_bytes: 256 * 1024,
        ..small()
    };
    let (mut log, _) = open(&fs, options).unwrap();
    let large = vec![9; 150 * 1024];
    log.commit(&[batch([put(0, 1, "", &large)])]).unwrap();
    for at in 1..3000u64 {
        log.commit(&[batch([put(1, at, "", vec![2; 900]), remove(1, 0, at - 1)])])
            .unwrap();
    }
    assert!(log.usage().segments <= 6, "{:?}", log.usage());
    assert_eq!(all(&log.reader(), 0)[0].2, large);
}

#[test]
fn the_disk_stays_in_proportion_to_what_is_live() {
    for seed in 0..scale(3) {
        let mut random = Random(seed);
        let fs = Arc::new(SimFs::new());
        let segment_bytes = 256 * 1024;
        let options = LogOptions {
            segment_bytes,
            spare_segments_max: 4,
            ..small()
        };
        let (mut log, _) = open(&fs, options).unwrap();
        let mut next = [0u64; 3];
        let mut live: Vec<u64> = Vec::new();
        let mut most = 0.0f64;
        for step in 0..9000u64 {
            let mut put = |stream: usize, bytes: u64| {
                next[stream] += 1;
                put(stream as u32, next[stream], "", vec![1; bytes as usize])
            };
            let mut ops = vec![put(1, random.below(1500))];
            ops.push(remove(1, 0, next_back(&ops, 3)));
            // The long-lived come and go in tides, removed anywhere.
            if step / 1500 % 2 == 0 {
                ops.push(put(0, random.below(1500)));
                live.push(step_of(&ops));
            } else if !live.is_empty() {
                let gone = live.swap_remove(random.below(live.len() as u64) as usize);
                ops.push(remove(0, gone, gone));
            }
            assert_eq!(log.commit(&[batch(ops)]).unwrap(), [Applied::Done]);
            let usage = log.usage();
            let allowed = 2 * usage.live_bytes + 8 * u64::from(segment_bytes);
            let used = usage.segments * u64::from(segment_bytes);
            most = most.max(used as f64 / allowed as f64);
        }
        assert!(most <= 1.0, "seed {seed}: {most} times what is allowed");
    }
}

/// The position put last in the operations, less a few.
fn next_back(ops: &[qm_store::Op], behind: u64) -> u64 {
    step_of(ops).saturating_sub(behind)
}

fn step_of(ops: &[qm_store::Op]) -> u64 {
    let positions = ops.iter().filter_map(|op| match op {
        qm_store::Op::Put { position, .. } => Some(*position),
        _ => None,
    });
    positions.last().unwrap()
}

#[test]
fn the_newest_heads_come_back() {
    let fs = Arc::new(SimFs::new());
    let (mut log, _) = open(&fs, small()).unwrap();
    for at in 1..=300u64 {
        log.commit(&[batch([
            put(0, at, at.to_le_bytes(), "body"),
            remove(0, at, at),
        ])])
        .unwrap();
    }
    log.close();
    let (_, recovered) = open(&fs, small()).unwrap();
    let heads: Vec<u64> = recovered
        .recent
        .iter()
        .map(|put| u64::from_le_bytes(put.head.as_ref().try_into().unwrap()))
        .collect();
    assert_eq!(heads, (251..=300).collect::<Vec<u64>>());
    assert_eq!(recovered.streams[&StreamId(0)].next_position, 301);
    assert_eq!(recovered.streams[&StreamId(0)].first_live, None);
}

#[test]
fn the_size_of_segments_may_change() {
    let (fs, model) = filled(true);
    for segment_bytes in [64 * 1024, 20 * 1024, 32 * 1024] {
        let options = LogOptions {
            segment_bytes,
            ..small()
        };
        let (mut log, recovered) = open(&fs, options).unwrap();
        assert_eq!(Model::read(&log.reader(), 1, recovered.state), model);
        for at in 0..200u64 {
            let at = u64::from(segment_bytes) * 1000 + at;
            log.commit(&[batch([put(2, at, "", vec![1; 900]), remove(2, 0, at)])])
                .unwrap();
        }
        while log.tidy(true).unwrap() {}
        assert!(log.usage().segments <= 9, "{:?}", log.usage());
        log.close();
    }
}

#[test]
fn closing_in_order_is_told_from_a_crash() {
    for clean in [true, false] {
        let (fs, model) = filled(clean);
        let fs = Arc::new(fs.as_ref().clone());
        let (log, recovered) = open(&fs, small()).unwrap();
        assert_eq!(recovered.clean, clean);
        assert_eq!(Model::read(&log.reader(), 1, recovered.state), model);
        drop(log);
        let (_, recovered) = open(&fs, small()).unwrap();
        // An unclean start ends the log at a sealed segment: nothing can be half written there.
        assert_eq!(recovered.clean, !clean);
    }
}

#[test]
fn nonsense_options_are_named() {
    for segment_bytes in [0, 4096, 20 * 1024 + 1, u32::MAX] {
        let options = LogOptions {
            segment_bytes,
            ..small()
        };
        let error = open(&Arc::new(SimFs::new()), options).unwrap_err();
        assert!(matches!(error, StoreError::Options { .. }), "{error}");
    }
    let options = LogOptions {
        disk_bytes_max: Some(20 * 1024 * 2),
        ..small()
    };
    let error = open(&Arc::new(SimFs::new()), options).unwrap_err();
    assert!(error.to_string().contains("disk_bytes_max"), "{error}");
}

#[test]
fn readers_keep_reading_while_segments_are_reused() {
    let fs = Arc::new(SimFs::new());
    let (mut log, _) = open(&fs, small()).unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let busy = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (reader, stop) = (log.reader(), Arc::clone(&stop));
            let busy = Arc::clone(&busy);
            std::thread::spawn(move || {
                let mut read = 0u64;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    for record in reader.read(StreamId(0), 0, 20, 10_000).unwrap() {
                        assert!(
                            record
                                .body
                                .iter()
                                .all(|byte| *byte == record.position as u8)
                        );
                        if read == 0 {
                            busy.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        }
                        read += 1;
                    }
                }
            })
        })
        .collect();
    // Until both have read for a while, however busy the machine is.
    let mut rounds = 0;
    for at in 1.. {
        rounds += u32::from(busy.load(std::sync::atomic::Ordering::Relaxed) == 2);
        if rounds > 4000 {
            break;
        }
        let ops = [
            put(0, at, "", vec![at as u8; 300]),
            remove(0, 0, at.saturating_sub(10)),
        ];
        log.commit(&[batch(ops)]).unwrap();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for reader in readers {
        reader.join().unwrap();
    }
}

#[test]
fn sparse_positions_cost_no_more_than_a_chunk_each() {
    let fs = Arc::new(SimFs::new());
    let (mut log, _) = open(
        &fs,
        LogOptions {
            segment_bytes: 1 << 20,
            ..small()
        },
    )
    .unwrap();
    for gap in [1u64, 100, 1 << 20, 1 << 40] {
        let stream = gap.trailing_zeros() + gap as u32 % 7;
        let before = log.usage().index_bytes;
        let batches: Vec<Batch> = (1..=5000)
            .map(|at| batch([put(stream, at * gap, "", "")]))
            .collect();
        log.commit(&batches).unwrap();
        let each = (log.usage().index_bytes - before) as f64 / 5000.0;
        assert!(
            each < if gap < 1000 { 14.0 } else { 100.0 },
            "gap {gap}: {each} bytes each"
        );
        let read = log
            .reader()
            .read(StreamId(stream), 4999 * gap, 10, 1000)
            .unwrap();
        assert_eq!(
            read.iter().map(|r| r.position / gap).collect::<Vec<_>>(),
            [4999, 5000]
        );
    }
}
