//! Damage of any byte, and files cut, swapped or doubled: opening or reading says so, or exactly
//! what was stored is served. Never a wrong record, never one that was removed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qm_store::{Fs, RecoveryNote, SimFs, StoreError};

use crate::check::{is_slow, patterns, tiny, tiny_options};
use crate::common::*;

/// How damage came out.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Opening names the file.
    Refused,
    /// It is open, some records are refused by name, the others are served.
    Named,
    /// It made no difference.
    Harmless,
}

fn segments(fs: &SimFs) -> Vec<PathBuf> {
    let names = fs.list(&dir()).unwrap();
    let paths = names.iter().map(|name| dir().join(name));
    paths
        .filter(|path| fs.content(path).unwrap().starts_with(b"qmstore\0"))
        .collect()
}

/// Opens and reads everything; `path` is the only file that may be blamed.
fn meet(fs: &Arc<SimFs>, model: &Model, path: Option<&Path>) -> Result<End, String> {
    let blames = |other: &Path| path.is_none_or(|path| path == other);
    let (log, recovered) = match open(fs, tiny_options()) {
        Ok(opened) => opened,
        Err(StoreError::Damaged { path: other, .. } | StoreError::Foreign { path: other, .. })
            if blames(&other) =>
        {
            return Ok(End::Refused);
        }
        Err(StoreError::NewerFormat { path: other, .. }) if blames(&other) => {
            return Ok(End::Refused);
        }
        Err(error) => return Err(format!("another file is blamed: {error}")),
    };
    let (mut found, named) = Model::served(&log.reader(), 4, 4000, |path, _| blames(path))?;
    found.state = recovered.state;
    if found == *model {
        return Ok(End::Harmless);
    }
    let none = BTreeMap::new();
    let mut missing = 0;
    for (stream, records) in &model.streams {
        let served = found.streams.get(stream).unwrap_or(&none);
        missing += records
            .keys()
            .filter(|at| !served.contains_key(*at))
            .count();
    }
    let wrong = found.streams.iter().find(|(stream, records)| {
        let stored = model.streams.get(stream).unwrap_or(&none);
        records
            .iter()
            .any(|(at, record)| stored.get(at) != Some(record))
    });
    if let Some((stream, records)) = wrong {
        let served: Vec<_> = records.keys().collect();
        return Err(format!(
            "stream {stream} serves what is not stored: {served:?}"
        ));
    }
    if found.state != model.state {
        return Err(format!(
            "keys {:?} instead of {:?}",
            found.state, model.state
        ));
    }
    let noted = recovered
        .notes
        .iter()
        .filter(|note| matches!(note, RecoveryNote::DamagedRecord { .. }))
        .count();
    if missing != named.len() || noted == 0 {
        return Err(format!(
            "{missing} missing, {named:?} named, {:?}",
            recovered.notes
        ));
    }
    Ok(End::Named)
}

#[test]
fn every_damaged_byte_is_met_or_harmless() {
    let (fs, model, _) = tiny();
    let (mut refused, mut named, mut harmless) = (0, 0, 0);
    for path in segments(&fs) {
        let content = fs.content(&path).unwrap();
        let end = content.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        for offset in 0..end {
            // Long runs of one byte are bodies and the space between the blocks.
            let dull = offset > 8
                && content[offset - 8..offset + 1]
                    .windows(2)
                    .all(|w| w[0] == w[1]);
            if dull && offset % 16 != 0 && !is_slow() {
                continue;
            }
            for pattern in patterns() {
                let fs = Arc::new(fs.as_ref().clone());
                pattern.apply(&fs, &path, offset as u64);
                match meet(&fs, &model, Some(&path)) {
                    Ok(End::Refused) => refused += 1,
                    Ok(End::Named) => named += 1,
                    Ok(End::Harmless) => harmless += 1,
                    Err(error) => panic!("{pattern:?} at {offset} of {path:?}: {error}"),
                }
            }
        }
    }
    println!("{refused} refused, {named} named, {harmless} harmless");
    assert!(refused > 300 && named > 40 && harmless > 100);
}

/// Cut at every so many bytes, or with something behind its end.
#[test]
fn a_segment_of_another_length_is_named() {
    let (fs, model, _) = tiny();
    for path in segments(&fs) {
        let content = fs.content(&path).unwrap();
        for length in (0..content.len()).step_by(509) {
            let fs = Arc::new(fs.as_ref().clone());
            fs.replace(&path, &content[..length]);
            let end = meet(&fs, &model, Some(&path));
            // Without a whole copy of its header nothing tells whose it was; the file is set
            // aside or taken for empty only when no copy is left.
            if length >= 64 {
                assert_eq!(
                    end,
                    Ok(End::Refused),
                    "{length} bytes of {}",
                    path.display()
                );
            }
        }
        let fs = Arc::new(fs.as_ref().clone());
        fs.replace(&path, &[&content[..], &[7; 100]].concat());
        assert_eq!(meet(&fs, &model, Some(&path)), Ok(End::Refused));
    }
}

#[test]
fn segments_may_change_their_names() {
    let (fs, model, _) = tiny();
    let paths = segments(&fs);
    let [one, other] = &paths[..2] else {
        panic!("{paths:?}")
    };
    let contents = [one, other].map(|path| fs.content(path).unwrap());
    fs.replace(one, &contents[1]);
    fs.replace(other, &contents[0]);
    assert_eq!(meet(&fs, &model, None), Ok(End::Harmless));
}

#[test]
fn a_second_copy_of_a_segment_is_turned_away() {
    let (fs, model, _) = tiny();
    for path in segments(&fs) {
        let fs = Arc::new(fs.as_ref().clone());
        let content = fs.content(&path).unwrap();
        fs.replace(&dir().join("00000777.seg"), &content);
        assert_eq!(meet(&fs, &model, None), Ok(End::Refused));
        // And in the place of another one.
        for victim in segments(&fs) {
            let fs = Arc::new(fs.as_ref().clone());
            fs.replace(&victim, &content);
            assert_eq!(meet(&fs, &model, None), Ok(End::Refused));
        }
    }
}
