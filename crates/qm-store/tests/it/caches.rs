//! Hints and pages only save time: whatever becomes of them, the same is served.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use qm_store::{Applied, Fs, LogOptions, Recovered, SimFs};

use crate::common::*;

const STREAMS: u32 = 3;

fn without() -> LogOptions {
    LogOptions {
        hints: false,
        index_bytes_max: 1 << 20,
        ..small()
    }
}

/// A store with many segments, as a crash or an orderly end leaves it.
fn worked(seed: u64) -> (SimFs, Model) {
    let mut random = Random(seed);
    let fs = Arc::new(SimFs::new());
    let mut model = Model::default();
    let options = LogOptions {
        side_file_bytes: 700,
        ..small()
    };
    let (mut log, _) = open(&fs, options).unwrap();
    let mut next = [0u64; STREAMS as usize];
    for step in 0..400u64 {
        let mut ops = Vec::new();
        for _ in 0..=random.below(4) {
            let stream = random.below(u64::from(STREAMS)) as u32;
            let at = &mut next[stream as usize];
            match random.below(10) {
                0..=5 => {
                    *at += 1 + u64::from(random.below(9) == 0) * random.below(90_000);
                    let body = vec![step as u8; random.below(800) as usize];
                    ops.push(put(stream, *at, at.to_le_bytes(), body));
                }
                6 | 7 => {
                    let first = random.below(*at + 1);
                    ops.push(remove(stream, first, first + random.below(*at / 20 + 4)));
                }
                8 => ops.push(set([random.below(9) as u8], step.to_le_bytes())),
                _ => ops.push(unset([random.below(9) as u8])),
            }
        }
        let one = batch(ops);
        log.commit(std::slice::from_ref(&one)).unwrap();
        model.apply(&one);
        if random.below(3) == 0 {
            log.tidy(false).unwrap();
        }
    }
    if seed.is_multiple_of(2) {
        log.close();
    } else {
        drop(log);
        fs.crash(seed);
    }
    (fs.as_ref().clone(), model)
}

fn found(fs: &SimFs, options: LogOptions) -> (Model, Recovered) {
    let fs = Arc::new(fs.clone());
    let (log, recovered) = open(&fs, options).unwrap();
    let model = Model::read(&log.reader(), STREAMS, recovered.state.clone());
    (model, recovered)
}

fn hints(fs: &SimFs) -> Vec<PathBuf> {
    let names = fs.list(&dir()).unwrap();
    let hints = names.into_iter().filter(|name| name.ends_with(".hint"));
    hints.map(|name| dir().join(name)).collect()
}

/// Whatever may become of a hint file.
fn spoil(fs: &SimFs, hint: &Path, others: &[PathBuf], random: &mut Random) {
    let content = fs.content(hint).unwrap();
    let length = content.len() as u64;
    if length == 0 {
        return;
    }
    let replace = |with: &[u8]| {
        fs.remove(hint).unwrap();
        fs.open(hint, true).unwrap().write_at(with, 0).unwrap();
    };
    match random.below(5) {
        0 => fs.remove(hint).unwrap(),
        1 => assert!(fs.flip(hint, random.below(length), random.below(8) as u8)),
        2 => replace(&content[..random.below(length) as usize]),
        3 => {
            let other = &others[random.below(others.len() as u64) as usize];
            replace(&fs.content(other).unwrap());
        }
        _ => {
            let noise: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
            replace(&noise);
        }
    }
}

#[test]
fn opening_with_hints_and_pages_finds_what_opening_without_finds() {
    let mut used = 0;
    for seed in 0..crate::crash::scale(12) {
        let (fs, model) = worked(seed);
        let (plain, told) = found(&fs, without());
        assert!(plain == model, "seed {seed}");
        let (hinted, hinted_told) = found(&fs, small());
        assert!(hinted == model, "seed {seed}");
        assert_eq!(hinted_told, told, "seed {seed}");
        used += hints(&fs).len();
        let mut random = Random(seed);
        for _ in 0..6 {
            let spoiled = fs.clone();
            let all = hints(&spoiled);
            for _ in 0..=random.below(3) {
                let names = hints(&spoiled);
                if let Some(hint) = names.get(random.below(all.len().max(1) as u64) as usize) {
                    spoil(&spoiled, hint, &names, &mut random);
                }
            }
            let (found, found_told) = found(&spoiled, small());
            assert!(found == model, "seed {seed}");
            assert_eq!(found_told, told, "seed {seed}");
        }
    }
    assert!(used > 50, "{used}");
}

/// What is noticed of hints that the seal does not vouch for.
#[cfg(feature = "__breaks")]
pub(crate) fn spoiled_hints(fault: qm_store::breaks::Break) -> Option<String> {
    let caught = (0..40).any(|seed| {
        let (fs, model) = worked(seed);
        let mut random = Random(seed);
        let names = hints(&fs);
        let Some(hint) = names.first() else {
            return false;
        };
        spoil(&fs, hint, &names, &mut random);
        let options = LogOptions {
            breaks: vec![fault],
            ..small()
        };
        let (log, recovered) = open(&Arc::new(fs), options).unwrap();
        let reader = log.reader();
        let read = || Model::read(&reader, STREAMS, recovered.state.clone());
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)).map_or(true, |m| m != model)
    });
    caught.then(|| "a spoiled hint changes what is served".to_owned())
}

/// Several chunks of records that wait, nearly all of them paged out.
fn paged(options: LogOptions) -> (Arc<SimFs>, qm_store::Log, Model) {
    let fs = Arc::new(SimFs::new());
    let mut model = Model::default();
    let (mut log, _) = open(&fs, options).unwrap();
    for at in 0..40u64 {
        let ops: Vec<_> = (0..100)
            .map(|n| put(0, 1 + at * 100 + n, [n as u8], [at as u8; 20]))
            .collect();
        let one = batch(ops);
        log.commit(std::slice::from_ref(&one)).unwrap();
        model.apply(&one);
    }
    (fs, log, model)
}

fn large() -> LogOptions {
    LogOptions {
        segment_bytes: 128 * 1024,
        ..small()
    }
}

fn pages_path() -> PathBuf {
    dir().join("index.pages")
}

#[test]
fn damaged_pages_are_read_from_the_log_again() {
    let (fs, mut log, mut model) = paged(large());
    let bytes = fs.content(&pages_path()).unwrap().len() as u64;
    assert!(log.usage().index_bytes < 20_000, "{:?}", log.usage());
    let mut random = Random(3);
    for round in 0..12u64 {
        for _ in 0..4 {
            fs.flip(&pages_path(), random.below(bytes), random.below(8) as u8);
        }
        let first = random.below(3900);
        let one = batch([
            remove(0, first, first + random.below(40)),
            put(0, 5000 + round, "", "new"),
        ]);
        log.commit(std::slice::from_ref(&one)).unwrap();
        model.apply(&one);
        let state = model.state.clone();
        assert!(
            Model::read(&log.reader(), 1, state) == model,
            "round {round}"
        );
    }
    log.close();
    assert!(found(&fs, large()).0 == model);
}

/// What is noticed of damaged pages.
#[cfg(feature = "__breaks")]
pub(crate) fn spoiled_pages(fault: qm_store::breaks::Break) -> Option<String> {
    let options = LogOptions {
        breaks: vec![fault],
        ..large()
    };
    let (fs, log, model) = paged(options);
    let bytes = fs.content(&pages_path()).unwrap().len() as u64;
    for at in 0..bytes / 50 {
        fs.flip(&pages_path(), at * 50, 1);
    }
    let reader = log.reader();
    let read = || Model::read(&reader, 1, model.state.clone());
    let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
    let caught = read.map_or(true, |read| read != model);
    caught.then(|| "a damaged page changes what is served".to_owned())
}

#[test]
fn a_backlog_takes_no_memory_for_its_cold_part() {
    let (fs, log, _) = paged(large());
    let cold = log.usage();
    drop(log);
    let (log, _) = open(&fs, large()).unwrap();
    let again = log.usage();
    let options = LogOptions {
        index_bytes_max: 1 << 20,
        ..large()
    };
    let (_, hot, _) = paged(options);
    let hot = hot.usage();
    assert!(hot.index_bytes > 40_000, "{hot:?}");
    for usage in [cold, again] {
        assert_eq!(usage.live_records, 4000);
        assert!(usage.index_bytes < 20_000, "{usage:?}");
        assert!(usage.cache_bytes > 1000, "{usage:?}");
    }
    // Reading all of it brings nothing back.
    assert_eq!(all(&log.reader(), 0).len(), 4000);
    assert!(log.usage().index_bytes < 60_000, "{:?}", log.usage());
}

#[test]
fn the_file_of_pages_goes_when_nothing_waits() {
    let (fs, mut log, _) = paged(large());
    assert!(fs.content(&pages_path()).is_some());
    log.commit(&[batch([remove(0, 0, u64::MAX)])]).unwrap();
    while log.tidy(true).unwrap() {}
    assert!(fs.content(&pages_path()).is_none());
}

/// However little room the newest segment has when the store is closed: what the next process
/// seals tells everything that is in it.
#[test]
fn a_segment_that_was_closed_nearly_full_keeps_what_it_holds() {
    let mut sealed = 0;
    for body in (7800..8080).step_by(8) {
        let fs = Arc::new(SimFs::new());
        let (mut log, _) = open(&fs, small()).unwrap();
        log.commit(&[batch([put(0, 1, "head", vec![1; body])])])
            .unwrap();
        log.commit(&[batch([put(0, 2, "head", "second")])]).unwrap();
        let segments = log.usage().segments;
        log.close();
        let (mut log, recovered) = open(&fs, small()).unwrap();
        assert!(recovered.clean);
        for at in 3..6 {
            let large = batch([put(0, at, "head", vec![2; 6000])]);
            assert_eq!(log.commit(&[large]).unwrap(), [Applied::Done]);
            while log.tidy(false).unwrap() {}
        }
        sealed += u32::from(log.usage().segments > segments);
        drop(log);
        let (log, _) = open(&fs, small()).unwrap();
        let found: Vec<u64> = all(&log.reader(), 0).iter().map(|r| r.0).collect();
        assert_eq!(found, [1, 2, 3, 4, 5], "body of {body} bytes");
    }
    assert!(sealed > 0);
}
