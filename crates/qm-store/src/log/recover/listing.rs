//! What a directory holds, before any record is read.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crate::error::StoreError;
use crate::format::{DATA_AT, HeaderState, Seal, SegmentHeader, VERSION};
use crate::fs::Fs;
use crate::index::PAGES_NAME;
use crate::log::LogOptions;
use crate::log::space::Space;
use crate::segment::SegmentFile;
use crate::types::RecoveryNote;

pub(super) struct Listed {
    pub(super) header: SegmentHeader,
    pub(super) file: Arc<SegmentFile>,
    pub(super) seal: Option<Seal>,
}

/// What the directory holds, before any record is read.
#[derive(Default)]
pub(super) struct Listing {
    pub(super) segments: Vec<Listed>,
    pub(super) spares: Vec<Arc<SegmentFile>>,
    /// Numbers of the files with bodies.
    pub(super) bodies: BTreeSet<u64>,
    pub(super) notes: Vec<RecoveryNote>,
}

pub(super) fn list(
    fs: &dyn Fs,
    dir: &Path,
    options: &LogOptions,
    space: &mut Space,
) -> Result<Listing, StoreError> {
    let mut listing = Listing::default();
    let mut hints = Vec::new();
    for name in fs
        .list(dir)
        .map_err(|error| StoreError::io("list", dir, error))?
    {
        let path = dir.join(&name);
        let remove = |path: &Path| {
            fs.remove(path)
                .map_err(|error| StoreError::io("remove", path, error))
        };
        if name == PAGES_NAME {
            remove(&path)?;
            continue;
        }
        let Some((number, kind)) = name.split_once('.') else {
            continue;
        };
        let Ok(number) = number.parse::<u64>() else {
            continue;
        };
        if kind == "body" {
            listing.bodies.insert(number);
            continue;
        }
        space.saw(number);
        if kind == "new" {
            remove(&path)?;
            continue;
        }
        if kind == "hint" {
            hints.push(path);
            continue;
        }
        if kind != "seg" {
            continue;
        }
        let file = fs
            .open(&path, false)
            .map_err(|error| StoreError::io("open", &path, error))?;
        let length = file
            .len()
            .map_err(|error| StoreError::io("measure", &path, error))?;
        let bytes = u32::try_from(length).unwrap_or(u32::MAX);
        let file = Arc::new(SegmentFile {
            path: path.clone(),
            file,
            bytes,
        });
        let copies = file.read_header()?;
        match copies.state {
            HeaderState::Valid(header) => {
                let sound = u64::from(header.segment_bytes) == length
                    && header.segment_bytes > DATA_AT
                    && header.segment_bytes.is_multiple_of(4096);
                if !sound {
                    let what = "its length is not what its header says";
                    return Err(StoreError::Foreign { path, what });
                }
                if copies.one_damaged {
                    listing.notes.push(RecoveryNote::DamagedHeader { path });
                }
                let seal = file.read_seal(options.seed(&header))?;
                let inside = DATA_AT..=header.segment_bytes;
                let seal = seal.filter(|seal| inside.contains(&seal.end));
                listing.segments.push(Listed { header, file, seal });
            }
            HeaderState::Newer(found) => {
                return Err(StoreError::NewerFormat {
                    path,
                    found,
                    supported: VERSION,
                });
            }
            HeaderState::Void => listing.spares.push(file),
            HeaderState::Unreadable => {
                let aside = dir.join(format!("{number:08}.unreadable"));
                fs.rename(&path, &aside)
                    .map_err(|e| StoreError::io("rename", &path, e))?;
                listing.notes.push(RecoveryNote::SetAside { path: aside });
            }
        }
    }
    for hint in hints {
        // Left behind by a segment that is gone.
        let segment = hint.with_extension("seg");
        let mut files = listing.segments.iter().map(|listed| &listed.file);
        if !files.any(|file| file.path == segment)
            && !listing.spares.iter().any(|file| file.path == segment)
        {
            fs.remove(&hint)
                .map_err(|error| StoreError::io("remove", hint, error))?;
        }
    }
    listing
        .segments
        .sort_by_key(|listed| listed.header.sequence);
    Ok(listing)
}

pub(super) fn check_belonging(segments: &[Listed]) -> Result<(), StoreError> {
    for pair in segments.windows(2) {
        let [one, other] = pair else { continue };
        let path = other.file.path.clone();
        if one.header.store != other.header.store {
            return Err(StoreError::Foreign {
                path,
                what: "another store wrote it",
            });
        }
        if one.header.sequence == other.header.sequence {
            return Err(StoreError::Foreign {
                path,
                what: "a segment of its number is there",
            });
        }
    }
    Ok(())
}
