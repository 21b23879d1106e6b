//! The offline check names what is damaged, and the repair saves everything else.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use qm_store::{
    Applied, Checked, Fault, Fs, Log, LogOptions, Lost, Repaired, SimFs, StoreError, StreamId,
    check, repair,
};

use crate::common::*;

fn out() -> PathBuf {
    PathBuf::from("/saved")
}

fn repair_to(fs: &Arc<SimFs>, to: &Path) -> Result<Repaired, StoreError> {
    let fs: Arc<dyn Fs> = Arc::clone(fs) as Arc<dyn Fs>;
    repair(&fs, &dir(), to, small(), salts(77))
}

/// Records that stay, records that went, keys, over several segments and compactions.
fn filled() -> (Arc<SimFs>, Model) {
    let fs = Arc::new(SimFs::new());
    let mut model = Model::default();
    let (mut log, _) = open(&fs, small()).unwrap();
    for at in 1..=120u64 {
        let mut ops = vec![
            put(1, at, format!("head {at}"), vec![at as u8; 600]),
            set([at as u8 % 4], at.to_le_bytes()),
        ];
        if at % 10 == 0 {
            ops.push(put(2, at * 1000, "stays", vec![!(at as u8); 300]));
        }
        if at > 40 {
            ops.push(remove(1, at - 40, at - 40));
        }
        if at == 80 {
            ops.push(unset([3]));
        }
        let one = batch(ops);
        assert_eq!(
            log.commit(std::slice::from_ref(&one)).unwrap(),
            [Applied::Done]
        );
        model.apply(&one);
    }
    log.close();
    (fs, model)
}

fn content_of(fs: &Arc<SimFs>, at: &Path) -> Model {
    let (log, recovered) = open_at(fs, at, small(), 5).unwrap();
    let found = Model::read(&log.reader(), 4, recovered.state);
    log.close();
    found
}

/// Where the body of a record stands.
fn place_of(fs: &SimFs, body: &[u8]) -> (PathBuf, u64) {
    let names = fs.list(&dir()).unwrap();
    let paths = names.iter().map(|name| dir().join(name));
    let place = |path: PathBuf| {
        let content = fs.content(&path).unwrap();
        // The newest copy, if there are several.
        let at = content.windows(body.len()).rposition(|part| part == body)?;
        Some((path, at as u64))
    };
    paths.filter_map(place).next_back().unwrap()
}

fn used(fs: &SimFs) -> Vec<PathBuf> {
    let names = fs.list(&dir()).unwrap();
    let paths = names.iter().map(|name| dir().join(name));
    paths
        .filter(|path| fs.content(path).unwrap().starts_with(b"qmstore\0"))
        .collect()
}

#[test]
fn a_sound_store_is_sound_and_nothing_is_changed() {
    let (fs, model) = filled();
    let before = fs.operations();
    let checked = check(fs.as_ref(), &dir()).unwrap();
    assert_eq!(fs.operations(), before, "a check writes nothing");
    assert!(checked.is_sound() && !checked.loses(), "{checked:?}");
    let live: usize = model.streams.values().map(|stream| stream.len()).sum();
    assert_eq!(checked.records, live as u64);
    assert_eq!(checked.state, model.state);
    assert_eq!(
        checked.streams[&StreamId(2)],
        model.streams[&2].len() as u64
    );
    assert_eq!(checked.unfinished, None);
    assert!(checked.segments > 1 && checked.bytes > 10_000);
}

#[test]
fn a_store_in_use_is_left_alone() {
    let (fs, _) = filled();
    let (log, _) = open(&fs, small()).unwrap();
    for error in [
        check(fs.as_ref(), &dir()).unwrap_err(),
        repair_to(&fs, &out()).unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    }
    drop(log);
    check(fs.as_ref(), &dir()).unwrap();
}

#[test]
fn a_write_cut_short_is_no_damage() {
    let mut told = 0;
    for seed in 0..40 {
        let fs = Arc::new(SimFs::new());
        let (mut log, _) = open(&fs, small()).unwrap();
        log.commit(&[batch([put(1, 1, "", "kept")])]).unwrap();
        while log.tidy(true).unwrap() {}
        // The write or the flush.
        fs.inject(Fault::CutAt(fs.operations() + seed % 2));
        let large = batch([put(1, 2, "", vec![1; 2000]), put(1, 3, "", vec![2; 2000])]);
        assert!(log.commit(&[large]).is_err());
        drop(log);
        fs.crash(seed);
        let checked = check(fs.as_ref(), &dir()).unwrap();
        assert!(checked.is_sound(), "{checked:?}");
        assert!(checked.records == 1 || checked.records == 3);
        told += u64::from(checked.unfinished.is_some());
        // What the check says is what recovery finds.
        let found = content_of(&fs, &dir());
        assert_eq!(found.streams[&1].len() as u64, checked.records);
    }
    assert!(told > 0, "some of the writes were cut");
}

#[test]
fn a_damaged_body_costs_its_record_and_no_other() {
    let (fs, mut model) = filled();
    let position = 95;
    let body = model.streams[&1][&position].1.clone();
    let (path, offset) = place_of(&fs, &body);
    assert!(fs.flip(&path, offset + 77, 4));
    let checked = check(fs.as_ref(), &dir()).unwrap();
    assert!(checked.loses());
    assert_eq!((checked.lost_records, checked.uncertain_records), (1, 0));
    let [damage] = &checked.damages[..] else {
        panic!("{checked:?}")
    };
    let Lost::Record(lost) = &damage.lost else {
        panic!("{damage:?}")
    };
    assert_eq!((lost.stream, lost.position), (StreamId(1), position));
    assert_eq!(lost.head, format!("head {position}"));
    assert_eq!(damage.file, path);
    let head_bytes = lost.head.len() as u64;
    assert_eq!(damage.offset, offset - 32 - head_bytes);

    let repaired = repair_to(&fs, &out()).unwrap();
    assert_eq!(repaired.checked, checked);
    model.streams.get_mut(&1).unwrap().remove(&position);
    assert_eq!(content_of(&fs, &out()), model);
    let saved = check(fs.as_ref(), &out()).unwrap();
    assert!(saved.is_sound());
    assert_eq!(saved.records, repaired.records);
}

/// The original must be there for a second try, whatever happens.
#[test]
fn a_repair_changes_nothing_of_the_original_and_writes_over_nothing() {
    let (fs, _) = filled();
    let path = used(&fs).remove(0);
    assert!(fs.flip(&path, 12288 + 32 + 9, 0));
    let names = fs.list(&dir()).unwrap();
    let contents: Vec<_> = names
        .iter()
        .map(|name| fs.content(&dir().join(name)))
        .collect();
    repair_to(&fs, &out()).unwrap();
    assert_eq!(fs.list(&dir()).unwrap(), names);
    let after: Vec<_> = names
        .iter()
        .map(|name| fs.content(&dir().join(name)))
        .collect();
    assert!(after == contents);
    let error = repair_to(&fs, &out()).unwrap_err();
    assert!(error.to_string().contains("not empty"), "{error}");
    let error = repair_to(&fs, &dir()).unwrap_err();
    assert!(error.to_string().contains("not empty"), "{error}");
}

#[test]
fn a_repair_that_runs_out_of_disk_says_so() {
    let (fs, _) = filled();
    let used: u64 = fs
        .list(&dir())
        .unwrap()
        .iter()
        .map(|name| fs.content(&dir().join(name)).unwrap().len() as u64)
        .sum();
    fs.set_capacity(Some(used + 5 * 20 * 1024));
    let error = repair_to(&fs, &out()).unwrap_err();
    assert!(error.to_string().contains("/saved"), "{error}");
}

/// Whatever byte is damaged: the check names the file or nothing was lost, and what a repair saves
/// is what was stored; only marks that were damaged let removed records back, and then the check
/// says so.
#[test]
fn every_damaged_byte_is_named_or_harmless() {
    let (fs, model, ever) = tiny();
    let mut named = 0;
    for path in used(&fs) {
        let content = fs.content(&path).unwrap();
        let end = content.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        // A sample, unless there is time.
        let is_wanted = |at: &usize| {
            is_slow() || at.is_multiple_of(23) || (content[*at] != 0 && at.is_multiple_of(3))
        };
        for offset in (0..end).filter(is_wanted) {
            for pattern in patterns() {
                let fs = Arc::new(fs.as_ref().clone());
                pattern.apply(&fs, &path, offset as u64);
                let checked = check(fs.as_ref(), &dir()).unwrap();
                let at = format!("{pattern:?} at {offset} of {}", path.display());
                assert!(
                    checked.damages.iter().all(|damage| damage.file == path),
                    "{at}: {checked:?}"
                );
                named += u64::from(!checked.is_sound());
                let repaired = repair_to(&fs, &out()).unwrap();
                let saved = content_of(&fs, &out());
                assert_eq!(repaired.checked, checked, "{at}");
                compare(&saved, &model, &ever, &checked, &at);
            }
        }
    }
    assert!(named > 150, "{named}");
}

/// What was saved, against what lived and what ever was.
fn compare(saved: &Model, model: &Model, ever: &Model, checked: &Checked, at: &str) {
    if !checked.loses() {
        assert_eq!(saved, model, "{at}: nothing is lost, so it says");
        return;
    }
    let unknown = checked
        .damages
        .iter()
        .any(|damage| matches!(damage.lost, Lost::Unknown { .. }));
    let mut missing = 0;
    for (stream, records) in &model.streams {
        for (position, record) in records {
            match saved.streams.get(stream).and_then(|s| s.get(position)) {
                Some(found) => assert_eq!(found, record, "{at}"),
                None => missing += 1,
            }
        }
    }
    for (stream, records) in &saved.streams {
        for (position, record) in records {
            assert_eq!(
                ever.streams.get(stream).and_then(|s| s.get(position)),
                Some(record),
                "{at}: never stored"
            );
            let live = model
                .streams
                .get(stream)
                .is_some_and(|s| s.contains_key(position));
            assert!(
                live || (unknown && checked.uncertain_records > 0),
                "{at}: returned"
            );
        }
    }
    if !unknown {
        assert_eq!(missing, checked.lost_records, "{at}");
        assert_eq!(saved.state, model.state, "{at}");
    }
}

/// How a byte is damaged.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pattern {
    Flip(u8),
    /// Every bit of it.
    Invert,
}

impl Pattern {
    pub(crate) fn apply(self, fs: &SimFs, path: &Path, offset: u64) {
        let bits = match self {
            Self::Flip(bit) => bit..bit + 1,
            Self::Invert => 0..8,
        };
        for bit in bits {
            assert!(fs.flip(path, offset, bit));
        }
    }
}

pub(crate) fn is_slow() -> bool {
    std::env::var_os("QM_SLOW_TESTS").is_some()
}

pub(crate) fn patterns() -> Vec<Pattern> {
    if is_slow() {
        let flips = (0..8).map(Pattern::Flip);
        flips.chain([Pattern::Invert]).collect()
    } else {
        vec![Pattern::Flip(2)]
    }
}

/// As little as shows everything: two segments, records that live, that went and that moved, keys.
/// The last model holds whatever was ever put.
pub(crate) fn tiny() -> (Arc<SimFs>, Model, Model) {
    let fs = Arc::new(SimFs::new());
    let (mut model, mut ever) = (Model::default(), Model::default());
    let (mut log, _) = open(&fs, tiny_options()).unwrap();
    let mut commit = |log: &mut Log, ops: Vec<qm_store::Op>| {
        let one = batch(ops);
        assert_eq!(
            log.commit(std::slice::from_ref(&one)).unwrap(),
            [Applied::Done]
        );
        model.apply(&one);
        let puts = one.ops.into_iter();
        let puts: Vec<_> = puts
            .filter(|op| matches!(op, qm_store::Op::Put { .. }))
            .collect();
        ever.apply(&batch(puts));
    };
    for at in 1..=4u64 {
        let (head, body) = (format!("h{at}"), vec![at as u8; 40]);
        commit(
            &mut log,
            vec![put(0, at, head, body), set([at as u8 % 2], [at as u8])],
        );
    }
    commit(&mut log, vec![remove(0, 2, 2), unset([1])]);
    // Fills the first segment, so that the rest stands in a second one.
    commit(&mut log, vec![put(1, 1, "", vec![7; 7450])]);
    commit(
        &mut log,
        vec![remove(1, 1, 1), put(2, 9, "next", "segment")],
    );
    commit(
        &mut log,
        vec![put(0, 5, "h5", vec![5; 40]), remove(0, 3, 3)],
    );
    commit(&mut log, vec![set("k", "v")]);
    log.close();
    (fs, model, ever)
}

pub(crate) fn tiny_options() -> LogOptions {
    LogOptions {
        recent_puts: 8,
        reserve_bytes: 0,
        ..small()
    }
}
