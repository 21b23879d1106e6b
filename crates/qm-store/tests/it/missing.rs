//! Segment files that disappear: they are missed, by name, and nothing is served as if they had
//! never been.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qm_store::{
    Applied, Fault, Fs, LogOptions, Lost, RecoveryNote, SimFs, StoreError, StreamId, Tear, check,
    repair,
};

use crate::common::*;

/// A few segments in use: records that stay in every one of them.
fn filled(options: LogOptions, clean: bool) -> (Arc<SimFs>, Model) {
    let fs = Arc::new(SimFs::new());
    let mut model = Model::default();
    let (mut log, _) = open(&fs, options).unwrap();
    for at in 1..=80u64 {
        let mut ops = vec![put(0, at, format!("head {at}"), vec![at as u8; 900])];
        if at % 3 == 0 {
            ops.push(remove(0, at - 1, at - 1));
        }
        ops.push(set([at as u8 % 4], at.to_le_bytes()));
        let one = batch(ops);
        let answers = log.commit(std::slice::from_ref(&one)).unwrap();
        assert_eq!(answers, [Applied::Done]);
        model.apply(&one);
        while log.tidy(false).unwrap() {}
    }
    if clean {
        log.close();
    }
    (fs, model)
}

/// Sequence numbers of the segments in use, by file.
fn used(fs: &SimFs) -> BTreeMap<PathBuf, u64> {
    let names = fs.list(&dir()).unwrap();
    let segments = names.iter().filter(|name| name.ends_with(".seg"));
    let used = segments.filter_map(|name| {
        let path = dir().join(name);
        let content = fs.content(&path)?;
        let sequence = content.get(16..24)?.try_into().ok()?;
        content
            .starts_with(b"qmstore\0")
            .then(|| (path, u64::from_le_bytes(sequence)))
    });
    used.collect()
}

/// How the content of a segment goes.
const WAYS: [fn(&SimFs, &Path); 3] = [
    |fs, path| assert!(fs.lose(path)),
    // As file systems do after a power cut, or a copy that was not finished.
    |fs, path| fs.replace(path, &vec![0; fs.content(path).unwrap().len()]),
    |fs, path| {
        for at in [20, 4096 + 20] {
            assert!(fs.flip(path, at, 1));
        }
    },
];

#[test]
fn every_segment_that_disappears_is_named() {
    for clean in [true, false] {
        let (whole, model) = filled(small(), clean);
        let segments = used(&whole);
        assert!(segments.len() > 3, "{segments:?}");
        let names = whole.list(&dir()).unwrap();
        for (path, sequence) in &segments {
            for lose in WAYS {
                let fs = Arc::new(whole.as_ref().clone());
                fs.crash_as(Tear::Nothing);
                lose(&fs, path);
                let error = open(&fs, small()).unwrap_err();
                let named = matches!(&error, StoreError::Missing { segment, path: file, .. }
                    if segment == sequence && file == path);
                assert!(named, "{error}");
                let text = error.to_string();
                assert!(
                    text.contains("missing") && text.contains("backup"),
                    "{text}"
                );

                let checked = check(fs.as_ref(), &dir()).unwrap();
                assert!(checked.loses());
                assert_eq!(checked.missing_segments, 1);
                let damage = checked
                    .damages
                    .iter()
                    .find(|damage| damage.file == *path && damage.segment == Some(*sequence));
                assert!(
                    damage.is_some_and(|damage| matches!(damage.lost, Lost::Unknown { .. })),
                    "{checked:?}"
                );

                // Refusing changed nothing: with the file in its place all is well again.
                fs.replace(path, &whole.content(path).unwrap());
                let left = fs.list(&dir()).unwrap();
                assert!(
                    names
                        .iter()
                        .all(|name| left.contains(name) || name == "index.pages")
                );
                let (log, recovered) = open(&fs, small()).unwrap();
                assert_eq!(Model::read(&log.reader(), 1, recovered.state), model);
            }
        }
    }
}

#[test]
fn an_emptied_directory_is_no_new_store() {
    let (fs, _) = filled(small(), true);
    let segments = used(&fs);
    for path in segments.keys() {
        assert!(fs.lose(path));
    }
    let error = open(&fs, small()).unwrap_err();
    let expected = segments.len() - 1;
    assert!(
        matches!(&error, StoreError::Missing { others, .. } if *others == expected),
        "{error}"
    );
    assert!(
        error.to_string().contains(&format!("{expected} more")),
        "{error}"
    );
    let checked = check(fs.as_ref(), &dir()).unwrap();
    assert_eq!(checked.missing_segments, segments.len() as u64);
}

/// What the other segments hold can be had, and is saved.
#[test]
fn without_a_segment_the_others_can_be_salvaged_and_repaired() {
    let (whole, model) = filled(small(), true);
    for path in used(&whole).keys() {
        let fs = Arc::new(whole.as_ref().clone());
        assert!(fs.lose(path));
        let any: Arc<dyn Fs> = Arc::clone(&fs) as Arc<dyn Fs>;
        let out = PathBuf::from("/saved");
        let repaired = repair(&any, &dir(), &out, small(), salts(3)).unwrap();
        drop(repaired.lock);
        let checked = repaired.checked;
        assert_eq!(checked.missing_segments, 1);
        let (saved, _) = open_at(&fs, &out, small(), 5).unwrap();
        let saved = all(&saved.reader(), 0);
        assert!(saved.len() > 20, "{} saved", saved.len());
        let live = &model.streams[&0];
        let back = saved.iter().filter(|(at, ..)| !live.contains_key(at));
        let back = back.count() as u64;
        assert!(
            back <= checked.uncertain_records,
            "{back} are back, {} uncertain",
            checked.uncertain_records
        );
        let options = LogOptions {
            salvage: true,
            ..small()
        };
        let (log, recovered) = open(&fs, options).unwrap();
        let mut notes = recovered.notes.iter();
        let told = notes
            .any(|n| matches!(n, RecoveryNote::MissingSegment { path: file, .. } if file == path));
        assert!(told, "{:?}", recovered.notes);
        assert_eq!(all(&log.reader(), 0), saved);
        drop(log);
        // It was told once; from then on the store is what is there.
        open(&fs, small()).unwrap();
    }
}

#[test]
fn a_lost_or_damaged_list_is_told_and_made_anew() {
    let manifest = dir().join("manifest");
    let lose: [fn(&SimFs, &Path); 3] = [
        |fs, path| assert!(fs.lose(path)),
        |fs, path| fs.replace(path, b"nothing of the kind"),
        |fs, path| {
            let half = fs.content(path).unwrap().len() as u64 / 2;
            for at in [20, half + 20] {
                assert!(fs.flip(path, at, 1));
            }
        },
    ];
    for lose in lose {
        let (fs, model) = filled(small(), true);
        lose(&fs, &manifest);
        let checked = check(fs.as_ref(), &dir()).unwrap();
        assert!(checked.damages.iter().any(|damage| damage.file == manifest));
        let (log, recovered) = open(&fs, small()).unwrap();
        let lost = RecoveryNote::ManifestLost {
            path: manifest.clone(),
        };
        assert!(recovered.notes.contains(&lost), "{:?}", recovered.notes);
        assert_eq!(Model::read(&log.reader(), 1, recovered.state), model);
        log.close();
        assert!(check(fs.as_ref(), &dir()).unwrap().is_sound());
        let (_, recovered) = open(&fs, small()).unwrap();
        assert_eq!(recovered.notes, []);
    }
}

/// One slot or the other: what is left says enough, and raises no false alarm.
#[test]
fn any_damaged_byte_of_the_list_is_harmless() {
    for clean in [true, false] {
        let (whole, model) = filled(small(), clean);
        let path = dir().join("manifest");
        let content = whole.content(&path).unwrap();
        for offset in (0..content.len()).filter(|at| content[*at] != 0 || at % 97 == 0) {
            let fs = Arc::new(whole.as_ref().clone());
            assert!(fs.flip(&path, offset as u64, 3));
            fs.restart();
            assert!(!check(fs.as_ref(), &dir()).unwrap().loses(), "{offset}");
            let (log, recovered) = open(&fs, small()).unwrap();
            assert_eq!(Model::read(&log.reader(), 1, recovered.state), model);
        }
    }
}

#[test]
fn a_list_of_a_newer_version_is_named() {
    let (fs, _) = filled(small(), true);
    let path = dir().join("manifest");
    let mut content = fs.content(&path).unwrap();
    let half = content.len() / 2;
    content[7] = 2;
    content[half + 7] = 2;
    fs.replace(&path, &content);
    for error in [
        open(&fs, small()).unwrap_err(),
        check(fs.as_ref(), &dir()).unwrap_err(),
    ] {
        let named = matches!(
            &error,
            StoreError::NewerFormat { path: file, found: 2, supported: 1 } if *file == path
        );
        assert!(named, "{error}");
    }
}

#[test]
fn a_list_of_another_store_is_turned_away() {
    let (fs, _) = filled(small(), true);
    let other = Arc::new(SimFs::new());
    let (mut log, _) = open_at(&other, &dir(), small(), 99).unwrap();
    log.commit(&[batch([put(0, 1, "", "")])]).unwrap();
    log.close();
    let path = dir().join("manifest");
    fs.replace(&path, &other.content(&path).unwrap());
    let error = open(&fs, small()).unwrap_err();
    assert!(
        matches!(&error, StoreError::Foreign { path: file, .. } if *file == path),
        "{error}"
    );
    let checked = check(fs.as_ref(), &dir()).unwrap();
    assert!(checked.damages.iter().any(|damage| damage.file == path));
}

/// Stores of before the list are opened, and have one from then on.
#[test]
fn a_store_without_a_list_gets_one() {
    let (fs, model) = filled(small(), true);
    for path in used(&fs).keys() {
        let file = fs.open(path, false).unwrap();
        for at in [0, 4096] {
            let mut header = [0; 64];
            file.read_at(&mut header, at).unwrap();
            header[8..12].copy_from_slice(&2u32.to_le_bytes());
            let crc = crc32c::crc32c(&header[..60]);
            header[60..].copy_from_slice(&crc.to_le_bytes());
            file.write_at(&header, at).unwrap();
        }
        file.sync_data().unwrap();
    }
    assert!(fs.lose(&dir().join("manifest")));
    assert!(check(fs.as_ref(), &dir()).unwrap().is_sound());
    let (log, recovered) = open(&fs, small()).unwrap();
    assert_eq!(recovered.notes, []);
    assert_eq!(Model::read(&log.reader(), 1, recovered.state), model);
    log.close();
    let path = used(&fs).into_keys().next().unwrap();
    assert!(fs.lose(&path));
    let error = open(&fs, small()).unwrap_err();
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
}

/// A disk without room for the list: a store of before it opens, drains and has its list later.
#[test]
fn without_room_for_the_list_the_store_goes_on_without() {
    let fs = Arc::new(SimFs::new());
    fs.set_capacity(Some(4000));
    let (mut log, recovered) = open(&fs, small()).unwrap();
    assert_eq!(recovered.notes, [RecoveryNote::ReserveIncomplete]);
    let one = batch([put(0, 1, "", "body")]);
    let answers = log.commit(std::slice::from_ref(&one)).unwrap();
    assert_eq!(answers, [Applied::Full]);
    fs.set_capacity(None);
    assert_eq!(log.commit(&[one]).unwrap(), [Applied::Done]);
    drop(log);
    let (_, recovered) = open(&fs, small()).unwrap();
    assert_eq!(recovered.streams[&StreamId(0)].live_records, 1);
    let path = used(&fs).into_keys().next().unwrap();
    assert!(fs.lose(&path));
    assert!(matches!(
        open(&fs, small()),
        Err(StoreError::Missing { .. })
    ));
}

/// Files that are given back and used again raise no alarm, wherever the power goes.
#[test]
fn what_is_given_back_is_not_missed() {
    let run = |fs: &Arc<SimFs>| -> Option<()> {
        let (mut log, _) = open(fs, small()).ok()?;
        for at in 1..60u64 {
            let ops = [put(0, at, "", vec![1; 1500]), remove(0, 0, at - 1)];
            log.commit(&[batch(ops)]).ok()?;
        }
        // The reserve and one more stay, the others go back to the disk.
        while log.tidy(true).ok()? {}
        log.commit(&[batch([remove(0, 0, 60)])]).ok()?;
        while log.tidy(true).ok()? {}
        Some(())
    };
    let whole = Arc::new(SimFs::new());
    run(&whole).unwrap();
    for cut in 0..whole.operations() {
        for tear in [
            Tear::Nothing,
            Tear::Odd,
            Tear::Everything,
            Tear::Seeded(cut),
        ] {
            let fs = Arc::new(SimFs::new());
            fs.inject(Fault::CutAt(cut));
            assert!(run(&fs).is_none());
            fs.crash_as(tear);
            let checked = check(fs.as_ref(), &dir()).unwrap();
            assert_eq!(checked.missing_segments, 0, "cut at {cut}, {tear:?}");
            assert!(!checked.loses(), "cut at {cut}, {tear:?}: {checked:?}");
            if let Err(error) = open(&fs, small()) {
                panic!("cut at {cut}, {tear:?}: {error}");
            }
        }
    }
}

/// Whether a segment that is removed goes unnoticed.
#[cfg(feature = "__breaks")]
pub(crate) fn removed_segment(fault: qm_store::breaks::Break) -> Option<String> {
    let options = LogOptions {
        breaks: vec![fault],
        ..small()
    };
    let (fs, _) = filled(options, true);
    let path = used(&fs).into_keys().next_back().unwrap();
    assert!(fs.lose(&path));
    let checked = check(fs.as_ref(), &dir()).unwrap();
    (checked.missing_segments == 0).then(|| format!("{} is not missed", path.display()))
}
