//! Bodies in files of their own.

use std::path::PathBuf;
use std::sync::Arc;

use qm_store::{
    Applied, Batch, Fault, Fs, LogOptions, Op, RecoveryNote, RefusalsKnown, SimFs, StoreError,
    StreamId,
};

use crate::common::*;
use crate::crash::{life, scale};

fn options() -> LogOptions {
    LogOptions {
        side_file_bytes: 500,
        ..small()
    }
}

fn bodies(fs: &SimFs) -> Vec<PathBuf> {
    let names = fs.list(&dir()).unwrap();
    let bodies = names.into_iter().filter(|name| name.ends_with(".body"));
    bodies.map(|name| dir().join(name)).collect()
}

fn body(bytes: usize) -> Vec<u8> {
    (0..251u8).cycle().take(bytes).collect()
}

#[test]
fn a_body_larger_than_a_segment_is_stored_read_in_pieces_and_goes_with_its_record() {
    let fs = Arc::new(SimFs::new());
    let (mut log, _) = open(&fs, options()).unwrap();
    let huge = body(300_000);
    let one = batch([put(0, 1, "head", &huge), put(0, 2, "", "small")]);
    assert_eq!(log.commit(&[one]).unwrap(), [Applied::Done]);
    let usage = log.usage();
    assert_eq!((usage.side_files, usage.side_bytes), (1, 300_000));
    assert!(usage.live_bytes > 300_000, "{usage:?}");
    drop(log);
    fs.crash(1);
    let (mut log, recovered) = open(&fs, options()).unwrap();
    assert!(recovered.streams[&StreamId(0)].live_bytes > 300_000);
    let reader = log.reader();
    let both = reader.read(StreamId(0), 0, 10, 1 << 20).unwrap();
    assert_eq!(both[0].body, huge);
    assert_eq!(
        (&both[0].head[..], &both[1].body[..]),
        (&b"head"[..], &b"small"[..])
    );
    // The limit counts what is in files of their own.
    assert_eq!(reader.read(StreamId(0), 0, 10, 1000).unwrap().len(), 1);
    let part = |position, from, count| {
        reader
            .read_body(StreamId(0), position, from, count)
            .unwrap()
    };
    let piece = part(1, 100_000, 70_000).unwrap();
    assert_eq!(
        (piece.body_bytes, &piece.bytes[..]),
        (300_000, &huge[100_000..170_000])
    );
    assert_eq!(part(1, 299_999, 50).unwrap().bytes, huge[299_999..]);
    assert_eq!(part(1, 400_000, 50).unwrap().bytes, "");
    assert_eq!(part(2, 1, 3).unwrap().bytes, "mal");
    assert_eq!(part(3, 0, 3), None);
    log.commit(&[batch([remove(0, 1, 1)])]).unwrap();
    while log.tidy(false).unwrap() {}
    assert!(bodies(&fs).is_empty());
    assert_eq!(part(1, 0, 10), None);
    assert_eq!(all(&reader, 0).len(), 1);
    let usage = log.usage();
    assert_eq!((usage.side_files, usage.side_bytes), (0, 0));
    assert!(usage.live_bytes < 1000, "{usage:?}");
}

#[test]
fn bodies_survive_power_cuts_with_their_records_and_no_others_stay() {
    for seed in 500..500 + scale(8) {
        if let Err(error) = life(seed, options(), 40) {
            panic!("{error}");
        }
    }
}

#[test]
fn a_cut_at_any_step_leaves_the_record_with_its_body_or_neither() {
    let run = |fs: &Arc<SimFs>| -> Option<()> {
        let (mut log, _) = open(fs, options()).ok()?;
        log.commit(&[batch([put(0, 1, "", body(2000))])]).ok()?;
        log.commit(&[batch([put(0, 2, "", body(70_000)), remove(0, 1, 1)])])
            .ok()?;
        while log.tidy(false).ok()? {}
        log.commit(&[batch([remove(0, 2, 2)])]).ok()?;
        while log.tidy(false).ok()? {}
        Some(())
    };
    let whole = Arc::new(SimFs::new());
    run(&whole).unwrap();
    let mut seen = [0; 3];
    for cut in 0..whole.operations() {
        for seed in 0..4 {
            let fs = Arc::new(SimFs::new());
            fs.inject(Fault::CutAt(cut));
            assert!(run(&fs).is_none());
            fs.crash(seed);
            let (log, recovered) = open(&fs, options()).unwrap();
            let missing = |note: &RecoveryNote| matches!(note, RecoveryNote::BodyMissing { .. });
            assert!(!recovered.notes.iter().any(missing), "cut at {cut}");
            let found = all(&log.reader(), 0);
            for (at, _, content) in &found {
                assert_eq!(content.len(), [2000, 70_000][*at as usize - 1]);
                assert_eq!(*content, body(content.len()));
                seen[*at as usize] += 1;
            }
            assert_eq!(bodies(&fs).len(), found.len(), "orphans, cut at {cut}");
        }
    }
    assert!(seen[1] > 4 && seen[2] > 4, "{seen:?}");
}

#[test]
fn a_disk_without_room_for_a_body_turns_its_batch_away_and_keeps_nothing_of_it() {
    let fs = Arc::new(SimFs::new());
    let (mut log, _) = open(&fs, options()).unwrap();
    let used = log.usage().disk_bytes;
    fs.set_capacity(Some(used + 100_000));
    let group = [
        batch([put(0, 1, "", body(60_000)), put(0, 2, "", body(60_000))]),
        batch([put(1, 1, "", body(60_000)), set("key", "value")]),
        batch([put(2, 1, "", "small")]),
    ];
    let answers = log.commit(&group).unwrap();
    assert_eq!(answers, [Applied::Full, Applied::Done, Applied::Done]);
    assert_eq!(bodies(&fs).len(), 1);
    // As soon as there is room the same batch is taken: its positions were never used.
    log.commit(&[batch([remove(1, 1, 1)])]).unwrap();
    fs.set_capacity(Some(used + 400_000));
    assert_eq!(log.commit(&group[..1]).unwrap(), [Applied::Done]);
    assert_eq!(bodies(&fs).len(), 2);

    let limited = LogOptions {
        disk_bytes_max: Some(200_000),
        ..options()
    };
    let fs = Arc::new(SimFs::new());
    let (mut log, _) = open(&fs, limited).unwrap();
    let large = batch([put(0, 1, "", body(150_000))]);
    assert_eq!(
        log.commit(std::slice::from_ref(&large)).unwrap(),
        [Applied::Full]
    );
    assert!(bodies(&fs).is_empty());
    let fits = batch([put(0, 1, "", body(90_000))]);
    assert_eq!(log.commit(&[fits]).unwrap(), [Applied::Done]);
    assert!(log.usage().disk_bytes <= 200_000, "{:?}", log.usage());
    assert_eq!(log.commit(&[large]).unwrap().len(), 1);
}

/// A batch that knows of too few refusals is turned away whatever is in it, also nothing.
#[test]
fn nothing_overtakes_a_body_for_which_the_disk_has_no_room() {
    let known = |ops: &[Op]| Batch {
        refusals_known: Some(RefusalsKnown::All(0)),
        ..batch(ops)
    };
    let fs = Arc::new(SimFs::new());
    let (mut log, _) = open(&fs, options()).unwrap();
    let used = log.usage().disk_bytes;
    fs.set_capacity(Some(used + 100_000));
    let group = [
        known(&[put(0, 1, "", body(150_000))]),
        known(&[]),
        known(&[put(2, 1, "", "small")]),
        known(&[]),
        batch([]),
    ];
    let answers = log.commit(&group).unwrap();
    let full = Applied::Full;
    assert_eq!(answers, [full, full, full, full, Applied::Done]);
}

#[test]
fn a_damaged_or_missing_body_is_named_and_its_record_can_be_removed() {
    for is_missing in [false, true] {
        let fs = Arc::new(SimFs::new());
        let (mut log, _) = open(&fs, options()).unwrap();
        let ops = [put(0, 1, "", body(90_000)), put(0, 2, "", body(600))];
        log.commit(&[batch(ops)]).unwrap();
        log.close();
        let file = bodies(&fs).remove(0);
        if is_missing {
            fs.remove(&file).unwrap();
        } else {
            assert!(fs.flip(&file, 66_000, 3));
        }
        let checked = qm_store::check(fs.as_ref(), &dir()).unwrap();
        assert_eq!((checked.records, checked.lost_records), (1, 1));
        assert_eq!(checked.damages[0].file, file);

        let (mut log, recovered) = open(&fs, options()).unwrap();
        let told = recovered.notes.iter().any(|note| {
            matches!(note, RecoveryNote::BodyMissing { path, position: 1, .. } if *path == file)
        });
        assert_eq!(told, is_missing, "{:?}", recovered.notes);
        let reader = log.reader();
        let error = reader.read(StreamId(0), 0, 10, 1 << 20).unwrap_err();
        let named = matches!(
            &error,
            StoreError::Damaged { path, record: Some((StreamId(0), 1)), .. } if *path == file
        );
        assert!(named, "{error}");
        let raw = reader.raw(StreamId(0), 1).unwrap().unwrap();
        assert_eq!(raw.body_file.as_deref(), Some(&*file));
        // What is before the damage can be had.
        let start = reader.read_body(StreamId(0), 1, 0, 1000);
        assert_eq!(start.is_ok(), !is_missing);
        assert_eq!(
            reader.read(StreamId(0), 2, 10, 1 << 20).unwrap()[0].body,
            body(600)
        );
        log.commit(&[batch([remove(0, 1, 1)])]).unwrap();
        while log.tidy(true).unwrap() {}
        assert_eq!(all(&reader, 0).len(), 1);
        assert_eq!(bodies(&fs).len(), 1);
    }
}

/// Whatever happens to the file of a body: reading its record and the check name the file, the
/// other records are served, and a repair saves them.
#[test]
fn whatever_happens_to_the_file_of_a_body_is_named() {
    let whole = Arc::new(SimFs::new());
    let (mut log, _) = open(&whole, options()).unwrap();
    let ops = [
        put(0, 1, "one", body(66_000)),
        put(0, 2, "two", body(66_001)),
        put(0, 3, "three", "small"),
    ];
    log.commit(&[batch(ops)]).unwrap();
    log.close();
    let [one, other] = &bodies(&whole)[..] else {
        panic!("two files");
    };
    let content = whole.content(one).unwrap();
    let mut cases: Vec<(String, Option<Vec<u8>>)> = vec![("gone".to_owned(), None)];
    let lengths = (0..content.len())
        .step_by(4099)
        .chain([65_535, 65_536, 65_540]);
    cases.extend(lengths.map(|at| (format!("cut at {at}"), Some(content[..at].to_vec()))));
    let offsets = (0..content.len()).step_by(601).chain(65_530..65_545);
    cases.extend(offsets.chain([content.len() - 1]).map(|at| {
        let mut changed = content.clone();
        changed[at] ^= 1 << (at % 8);
        (format!("a bit at {at}"), Some(changed))
    }));
    cases.push(("another's".to_owned(), whole.content(other)));
    for (what, changed) in cases {
        let fs = Arc::new(whole.as_ref().clone());
        match changed {
            Some(changed) => fs.replace(one, &changed),
            None => assert!(fs.lose(one)),
        }
        let checked = qm_store::check(fs.as_ref(), &dir()).unwrap();
        assert_eq!((checked.records, checked.lost_records), (2, 1), "{what}");
        assert_eq!(checked.damages.len(), 1, "{what}");
        assert_eq!(checked.damages[0].file, *one, "{what}");

        let (log, _) = open(&fs, options()).unwrap();
        let reader = log.reader();
        let error = reader.read(StreamId(0), 0, 10, 1 << 20).unwrap_err();
        let named = matches!(
            &error,
            StoreError::Damaged { path, record: Some((StreamId(0), 1)), .. } if path == one
        );
        assert!(named, "{what}: {error}");
        let others = reader.read(StreamId(0), 2, 10, 1 << 20).unwrap();
        assert_eq!(others[0].body, body(66_001), "{what}");
        assert_eq!(others[1].body, "small", "{what}");
        drop(log);

        let out = PathBuf::from("/out");
        let any: Arc<dyn Fs> = Arc::clone(&fs) as Arc<dyn Fs>;
        qm_store::repair(&any, &dir(), &out, options(), salts(4)).unwrap();
        let (log, _) = open_at(&fs, &out, options(), 5).unwrap();
        let saved = all(&log.reader(), 0);
        assert_eq!(
            saved.iter().map(|r| r.0).collect::<Vec<_>>(),
            [2, 3],
            "{what}"
        );
    }
    // What stands behind the body makes no difference, and a file that nothing names goes.
    let fs = Arc::new(whole.as_ref().clone());
    fs.replace(one, &[&content[..], b"more"].concat());
    let orphan = dir().join("00000777.body");
    fs.replace(&orphan, b"of nobody");
    assert!(qm_store::check(fs.as_ref(), &dir()).unwrap().is_sound());
    let (log, _) = open(&fs, options()).unwrap();
    assert_eq!(all(&log.reader(), 0).len(), 3);
    assert_eq!(bodies(&fs).len(), 2);
}

#[test]
fn moving_a_record_leaves_its_body_where_it_is() {
    let fs = Arc::new(SimFs::new());
    let (mut log, _) = open(&fs, options()).unwrap();
    log.commit(&[batch([put(0, 1, "head", body(5000))])])
        .unwrap();
    let file = bodies(&fs);
    for at in 1..400u64 {
        log.commit(&[batch([put(1, at, "", vec![1; 400]), remove(1, 0, at - 1)])])
            .unwrap();
    }
    assert!(log.usage().segments < 12, "{:?}", log.usage());
    assert!(fs.content(&dir().join("00000001.seg")).is_some());
    for hints in [true, false] {
        drop(log);
        fs.crash(3);
        log = open(&fs, LogOptions { hints, ..options() }).unwrap().0;
        assert_eq!(all(&log.reader(), 0)[0].2, body(5000));
        assert_eq!(bodies(&fs), file);
    }
    drop(log);
    let out = PathBuf::from("/out");
    let any: Arc<dyn Fs> = Arc::clone(&fs) as Arc<dyn Fs>;
    qm_store::repair(&any, &dir(), &out, options(), salts(4)).unwrap();
    let (log, _) = open_at(&fs, &out, options(), 5).unwrap();
    assert_eq!(all(&log.reader(), 0)[0].2, body(5000));
}

/// What the lives of many power cuts say when a rule about bodies is broken.
#[cfg(feature = "__breaks")]
pub(crate) fn lives_with_bodies(fault: qm_store::breaks::Break) -> Option<String> {
    let options = || LogOptions {
        breaks: vec![fault],
        ..options()
    };
    (0..100).find_map(|seed| {
        std::panic::catch_unwind(|| life(seed, options(), 40))
            .unwrap_or_else(|_| Err("a panic".to_owned()))
            .err()
    })
}
