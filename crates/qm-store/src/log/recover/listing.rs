//! What a directory holds, before any record is read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::StoreError;
use crate::format::{DATA_AT, HeaderState, Seal, SegmentHeader, VERSION};
use crate::fs::Fs;
use crate::index::PAGES_NAME;
use crate::log::space::Space;
use crate::log::{LogOptions, file_path};
use crate::manifest::{self, FileState};
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
    /// Files whose header cannot be read and that held no segment: what a power cut left of a
    /// first write.
    pub(super) unfinished: Vec<Arc<SegmentFile>>,
    pub(super) notes: Vec<RecoveryNote>,
    /// Numbers of those among them of whose headers the disk gives nothing.
    lost: BTreeSet<u64>,
    states: BTreeMap<u64, FileState>,
    hints: Vec<PathBuf>,
}

pub(super) fn list(
    fs: &dyn Fs,
    dir: &Path,
    options: &LogOptions,
    space: &mut Space,
) -> Result<Listing, StoreError> {
    let mut listing = Listing::default();
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
            listing.hints.push(path);
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
        let file = Arc::new(SegmentFile::new(number, path.clone(), file, bytes));
        let copies = file.read_header()?;
        listing.states.insert(number, FileState::of(&copies.state));
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
                if copies.is_lost {
                    listing.lost.insert(number);
                }
                listing.unfinished.push(file);
            }
        }
    }
    listing
        .segments
        .sort_by_key(|listed| listed.header.sequence);
    Ok(listing)
}

impl Listing {
    /// Compares what is there with what the list says is there.
    pub(super) fn compare(
        &mut self,
        fs: &dyn Fs,
        dir: &Path,
        found: &manifest::Found,
        salvage: bool,
    ) -> Result<(), StoreError> {
        let listed = match found {
            manifest::Found::Whole(read) if read.is_complete() => Some(read),
            _ => None,
        };
        let missing = match found {
            manifest::Found::Whole(read) => read.missing(&self.states),
            _ => Vec::new(),
        };
        if let Some(first) = missing.first()
            && !salvage
        {
            return Err(StoreError::Missing {
                segment: first.sequence,
                path: file_path(dir, first.file),
                what: first.what,
                others: missing.len() - 1,
            });
        }
        for one in &missing {
            self.notes.push(RecoveryNote::MissingSegment {
                segment: one.sequence,
                path: file_path(dir, one.file),
            });
        }
        // Whoever was not listed had not been begun; without a list nobody knows.
        for file in std::mem::take(&mut self.unfinished) {
            let held = missing.iter().any(|one| one.file == file.number);
            if listed.is_some() && !held {
                self.unfinished.push(file);
                continue;
            }
            if self.lost.contains(&file.number) && !held && !salvage {
                // Were the disk gone for a moment only, all that it holds would be set aside.
                let error = std::io::Error::other(
                    "the disk reads nothing of it and no list tells whether it is in use; the \
                     option `salvage` sets it aside",
                );
                return Err(file.error("read the header of", error));
            }
            let aside = file.path.with_extension("unreadable");
            fs.rename(&file.path, &aside)
                .map_err(|error| StoreError::io("rename", &file.path, error))?;
            self.notes.push(RecoveryNote::SetAside { path: aside });
        }
        Ok(())
    }

    /// Removes hints that a segment which is gone left behind.
    pub(super) fn clear_hints(&mut self, fs: &dyn Fs) -> Result<(), StoreError> {
        for hint in std::mem::take(&mut self.hints) {
            let segment = hint.with_extension("seg");
            let files = self.segments.iter().map(|listed| &listed.file);
            let mut files = files.chain(&self.spares).chain(&self.unfinished);
            if !files.any(|file| file.path == segment) {
                fs.remove(&hint)
                    .map_err(|error| StoreError::io("remove", hint, error))?;
            }
        }
        Ok(())
    }
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
