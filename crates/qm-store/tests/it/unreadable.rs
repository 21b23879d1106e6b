//! Places that the disk can no longer read: they are named, what else there is is served, and the
//! store goes on as far as it does with other damage.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qm_store::{
    Applied, Fs, Log, LogOptions, Lost, RecoveryNote, SimFs, StoreError, StreamId, check, repair,
};

use crate::check::is_slow;
use crate::common::*;

/// What the disk reads and fails together.
const PAGE: u64 = 4096;
const STREAMS: u32 = 4;

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 40 * 1024,
        side_file_bytes: 30_000,
        ..small()
    }
}

/// Long and short records and keys over several segments, one body in a file of its own.
fn filled(hints: bool) -> (Arc<SimFs>, Model) {
    let fs = Arc::new(SimFs::new());
    let mut model = Model::default();
    let options = LogOptions { hints, ..options() };
    let (mut log, _) = open(&fs, options).unwrap();
    let mut commit = |ops: Vec<qm_store::Op>| {
        let one = batch(ops);
        let done = log.commit(std::slice::from_ref(&one)).unwrap();
        assert_eq!(done, [Applied::Done]);
        model.apply(&one);
    };
    for at in 1..=15u64 {
        let long = at as usize % 3 * 4100 + 100;
        commit(vec![
            put(1, at, format!("head {at}"), vec![at as u8; long]),
            put(2, at, "short", vec![100 + at as u8; 60]),
            set([at as u8 % 5], at.to_le_bytes()),
        ]);
        if at % 4 == 0 {
            commit(vec![remove(1, at - 2, at - 2), unset([(at as u8 + 1) % 5])]);
        }
    }
    commit(vec![put(3, 1, "huge", vec![255; 70_000])]);
    commit(vec![put(1, 19, "head", vec![99; 9000])]);
    log.close();
    (fs, model)
}

fn files(fs: &SimFs) -> Vec<PathBuf> {
    let names = fs.list(&dir()).unwrap();
    names.iter().map(|name| dir().join(name)).collect()
}

/// Records whose bytes touch a page of a file.
fn touched(fs: &SimFs, model: &Model, path: &Path, page: u64) -> BTreeSet<(u32, u64)> {
    let content = fs.content(path).unwrap();
    let is_body = path.extension().is_some_and(|kind| kind == "body");
    let touched = model.streams.iter().flat_map(|(stream, records)| {
        let content = &content;
        records.iter().filter_map(move |(position, (head, body))| {
            let record = (*stream, *position);
            if *stream == 3 {
                // Its body is the only one in a file of its own; its record is found by its head.
                let at = content.windows(4).rposition(|part| part == &head[..]);
                let end = at? as u64 + 28;
                return covers(at? as u64 - 32, end, page).then_some(record);
            }
            let at = content.windows(body.len()).rposition(|part| part == body)? as u64;
            let start = at - head.len() as u64 - 32;
            covers(start, at + body.len() as u64, page).then_some(record)
        })
    });
    match is_body {
        true => [(3, 1)].into(),
        false => touched.collect(),
    }
}

fn covers(start: u64, end: u64, page: u64) -> bool {
    start < (page + 1) * PAGE && page * PAGE < end
}

/// What is served, and which records are refused by name.
fn serve(log: &Log, path: &Path) -> Result<(Model, BTreeSet<(u32, u64)>), String> {
    Model::served(&log.reader(), STREAMS, 40_000, |other, what| {
        other == path && what.contains("the disk cannot read")
    })
}

/// Every record but those in `gone` must be as it was put.
fn compare(found: &Model, model: &Model, gone: &BTreeSet<(u32, u64)>) -> Result<(), String> {
    for (stream, records) in &model.streams {
        for (position, record) in records {
            let served = found.streams.get(stream).and_then(|r| r.get(position));
            if served != Some(record) && !(served.is_none() && gone.contains(&(*stream, *position)))
            {
                return Err(format!("stream {stream} position {position} is lost"));
            }
        }
    }
    Ok(())
}

/// Drains a store, damaged records included, and fills it again. A place that cannot be written
/// may end it once; the next start goes on.
fn work_on(mut log: Log, fs: &Arc<SimFs>, options: &LogOptions) -> Result<(), String> {
    let said = |error: StoreError| format!("working on: {error}");
    let drain: Vec<_> = (0..STREAMS).map(|id| remove(id, 0, u64::MAX)).collect();
    let mut starts = 0;
    let mut at = 99u64;
    while at < 130 {
        let next = match at {
            99 => drain.clone(),
            at => vec![put(1, at, "", vec![1; 5000]), remove(1, 0, at - 3)],
        };
        let go = || {
            let done = log.commit(&[batch(next)])?;
            while log.tidy(at.is_multiple_of(8))? {}
            Ok(done)
        };
        match go() {
            Ok(done) if done == [Applied::Done] => at += 1,
            Ok(done) => return Err(format!("turned away at {at}: {done:?}")),
            Err(StoreError::Failed { .. }) if starts == 0 => {
                starts += 1;
                drop(log);
                fs.restart();
                log = open(fs, options.clone()).map_err(said)?.0;
                // It may have been written before the failure, and may not be put again then.
                at += u64::from(all_positions(&log).last().is_some_and(|last| *last >= at));
            }
            Err(error) => return Err(said(error)),
        }
    }
    drop(log);
    // The process dies; a power cut would take the hints along, which nobody flushes.
    fs.restart();
    let (log, _) = open(fs, options.clone()).map_err(said)?;
    let rest = all_positions(&log);
    (rest == [127, 128, 129])
        .then_some(())
        .ok_or_else(|| format!("{rest:?}"))
}

fn all_positions(log: &Log) -> Vec<u64> {
    let records = all(&log.reader(), 1);
    records.iter().map(|record| record.0).collect()
}

#[derive(Debug, Default)]
struct Ends {
    refused: u32,
    named: u32,
    harmless: u32,
}

fn examine(
    fs: &Arc<SimFs>,
    model: &Model,
    path: &Path,
    page: u64,
    ends: &mut Ends,
) -> Result<(), String> {
    let gone = touched(fs, model, path, page);
    assert!(fs.spoil(path, page * PAGE..page * PAGE + 1));

    let checked = check(fs.as_ref(), &dir()).map_err(|error| format!("check: {error}"))?;
    let names = |file: &Path, offset: u64, bytes: u64| {
        file == path && offset < (page + 1) * PAGE && page * PAGE < offset + bytes.max(1)
    };
    let is_noted = |notes: &[RecoveryNote]| {
        notes.iter().any(|note| {
            matches!(note, RecoveryNote::Unreadable { path: other, offset, bytes, .. }
                if names(other, *offset, *bytes))
        })
    };
    let is_named = checked
        .damages
        .iter()
        .any(|damage| names(&damage.file, damage.offset, damage.bytes));
    if checked.loses() && !is_named {
        return Err(format!("the check names another place: {checked:?}"));
    }
    if !gone.is_empty() && !checked.loses() {
        return Err(format!("the check misses what is gone: {gone:?}"));
    }

    let saved = Path::new("/saved");
    let disk: Arc<dyn Fs> = Arc::clone(fs) as Arc<dyn Fs>;
    let repaired = repair(&disk, &dir(), saved, options(), salts(9));
    let repaired = repaired.map_err(|error| format!("repair: {error}"))?;
    assert_eq!(repaired.checked, checked);
    drop(repaired);
    let (log, recovered) = open_at(fs, saved, options(), 5).unwrap();
    let found = Model::read(&log.reader(), STREAMS, recovered.state);
    drop(log);
    compare(&found, model, &gone).map_err(|error| format!("repair: {error}"))?;

    match open(fs, options()) {
        Ok((log, recovered)) => {
            let (found, refused) = serve(&log, path)?;
            // Where the end of the log stood nothing tells records from none: the place is told.
            let mut told = refused.clone();
            if is_noted(&recovered.notes) && !recovered.clean {
                told.extend(gone.iter().filter(|record| **record == (1, 19)));
            }
            compare(&found, model, &told)?;
            if !refused.is_subset(&gone) || recovered.state != model.state {
                return Err(format!("refused {refused:?}, keys {:?}", recovered.state));
            }
            let harmless = refused.is_empty();
            ends.named += u32::from(!harmless);
            ends.harmless += u32::from(harmless);
            work_on(log, fs, &options())
        }
        Err(StoreError::Damaged {
            path: other, what, ..
        }) if other == path && what.contains("the disk cannot read") => {
            ends.refused += 1;
            // The operator may go on without it.
            let salvage = LogOptions {
                salvage: true,
                ..options()
            };
            let (log, recovered) = open(fs, salvage.clone()).map_err(|error| error.to_string())?;
            if !is_noted(&recovered.notes) {
                return Err(format!("not noted: {:?}", recovered.notes));
            }
            let (found, mut missing) = serve(&log, path)?;
            missing.extend(&gone);
            compare(&found, model, &missing)?;
            work_on(log, fs, &salvage)
        }
        Err(error) => Err(format!("opening: {error}")),
    }
}

#[test]
fn every_unreadable_page_is_named_and_the_rest_is_served() {
    for hints in [true, false] {
        let (fs, model) = filled(hints);
        let mut ends = Ends::default();
        for path in files(&fs) {
            let pages = fs.content(&path).unwrap().len() as u64;
            // Without hints only what is read differs: a sample tells.
            let step = if hints || is_slow() { 1 } else { 3 };
            for page in (0..pages.div_ceil(PAGE)).step_by(step) {
                let fs = Arc::new(fs.as_ref().clone());
                examine(&fs, &model, &path, page, &mut ends)
                    .unwrap_or_else(|error| panic!("page {page} of {}: {error}", path.display()));
            }
        }
        println!("hints {hints}: {ends:?}");
        assert!(
            ends.refused > 2 && ends.named > 4 && ends.harmless > 9,
            "{ends:?}"
        );
    }
}

/// What was reported done last may have stood there: that is told, by opening and by the check.
#[test]
fn an_unreadable_end_of_the_log_is_told() {
    let fs = Arc::new(SimFs::new());
    let (mut log, _) = open(&fs, options()).unwrap();
    log.commit(&[batch([put(1, 1, "", vec![1; 3000])])])
        .unwrap();
    log.commit(&[batch([put(1, 2, "", vec![2; 9000])])])
        .unwrap();
    drop(log);
    fs.restart();
    let path = files(&fs).into_iter().find(|path| {
        let content = fs.content(path).unwrap();
        content.windows(64).any(|part| part == [2; 64])
    });
    let path = path.unwrap();
    fs.spoil(&path, 5 * PAGE..5 * PAGE + 1);
    let checked = check(fs.as_ref(), &dir()).unwrap();
    assert_eq!(checked.records, 1);
    let damage = &checked.damages[0];
    assert_eq!((damage.offset, damage.bytes), (5 * PAGE, PAGE));
    assert_eq!(damage.lost, Lost::Unknown { likely: None });
    let (log, recovered) = open(&fs, options()).unwrap();
    assert!(!recovered.clean);
    let note = RecoveryNote::Unreadable {
        segment: 1,
        path,
        offset: 5 * PAGE,
        bytes: PAGE,
    };
    assert!(recovered.notes.contains(&note), "{:?}", recovered.notes);
    assert_eq!(all_positions(&log), [1]);
    // What could not be read was not written over: it may come back, and so may the next start.
    drop(log);
    fs.restart();
    assert!(check(fs.as_ref(), &dir()).unwrap().loses() || open(&fs, options()).is_ok());
}

/// A disk that gives nothing is not damaged but gone: nothing is set aside or taken for lost.
#[test]
fn a_disk_that_reads_nothing_is_no_damage() {
    let (fs, model) = filled(true);
    let before = files(&fs);
    let gone = Arc::new(fs.as_ref().clone());
    for path in &before {
        gone.spoil(path, 0..1 << 30);
    }
    let error = open(&gone, options()).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    assert_eq!(files(&gone), before);
    // And while it is open: the message stays where it is.
    let (log, _) = open(&fs, options()).unwrap();
    for path in files(&fs) {
        fs.spoil(&path, 0..1 << 30);
    }
    let error = log.reader().read(StreamId(1), 0, 10, 1000).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    assert!(!model.streams[&1].is_empty());
}

/// A write or a flush that fails is another matter: nothing is reported done after it, whatever
/// the cause, and the next start goes on elsewhere.
#[test]
fn a_place_that_cannot_be_written_ends_the_store_until_it_is_opened_again() {
    let fs = Arc::new(SimFs::new());
    let (mut log, _) = open(&fs, options()).unwrap();
    log.commit(&[batch([put(1, 1, "", vec![1; 3000])])])
        .unwrap();
    for path in files(&fs) {
        fs.spoil(&path, 4 * PAGE..5 * PAGE);
    }
    let next = [batch([put(1, 2, "", vec![2; 2000])])];
    assert!(matches!(log.commit(&next), Err(StoreError::Failed { .. })));
    assert!(matches!(log.commit(&next), Err(StoreError::Failed { .. })));
    drop(log);
    fs.restart();
    let (mut log, _) = open(&fs, options()).unwrap();
    assert_eq!(all_positions(&log), [1]);
    assert_eq!(log.commit(&next).unwrap(), [Applied::Done]);
}
