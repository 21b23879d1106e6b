//! Opening: what is there, what survived, and making that durable before anybody relies on it.

mod listing;
mod replay;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use crate::breaks::Break;
use crate::error::StoreError;
use crate::format::{DATA_AT, LISTED_VERSION, RECORD, RECORD_BYTES, Seal};
use crate::fs::Fs;
use crate::hint::HintWriter;
use crate::index::{Index, PAGES_NAME, Pages, Segment};
use crate::manifest::{self, Found, MANIFEST_NAME, Manifest};
use crate::rules::Rules;
use crate::scan::Tail;
use crate::segment::Window;
use crate::types::{Recovered, RecoveryNote, Refusals};

use super::space::Space;
use super::{Active, Log, LogOptions, SaltSource, Scratch, Shared};
use listing::{check_belonging, list};
use replay::Replay;

/// Bytes rewritten at once when a tail is made durable.
const REWRITE_BYTES: usize = 1024 * 1024;

pub(super) fn open(
    fs: Arc<dyn Fs>,
    dir: &Path,
    options: LogOptions,
    mut salt_source: SaltSource,
) -> Result<(Log, Recovered), StoreError> {
    fs.create_dir_all(dir)
        .map_err(|error| StoreError::io("create", dir, error))?;
    let lock_path = dir.join("lock");
    let lock = fs
        .open(&lock_path, true)
        .map_err(|e| StoreError::io("open", &lock_path, e))?;
    match lock.try_lock() {
        Ok(true) => {}
        Ok(false) => return Err(StoreError::Locked { path: lock_path }),
        Err(error) => return Err(StoreError::io("lock", &lock_path, error)),
    }
    let mut space = Space::new(Arc::clone(&fs), dir, &options);
    let found = manifest::read(fs.as_ref(), dir, true)?;
    let mut listing = list(fs.as_ref(), dir, &options, &mut space)?;
    check_belonging(&listing.segments)?;
    let store_id = match (listing.segments.first(), &found) {
        (Some(first), _) => first.header.store,
        (None, Found::Whole(read)) => read.listed.store,
        (None, _) => salt_source(),
    };
    if let Found::Whole(read) = &found
        && read.listed.store != store_id
    {
        return Err(StoreError::Foreign {
            path: dir.join(MANIFEST_NAME),
            what: "it lists the segments of another store",
        });
    }
    listing.compare(fs.as_ref(), dir, &found, options.salvage)?;
    listing.clear_hints(fs.as_ref())?;
    let (segments, mut notes) = (listing.segments, listing.notes);
    let was_listed = segments
        .iter()
        .any(|listed| listed.header.version >= LISTED_VERSION);
    if matches!(found, Found::Unreadable) || (matches!(found, Found::None) && was_listed) {
        let path = dir.join(MANIFEST_NAME);
        notes.push(RecoveryNote::ManifestLost { path });
    }
    for listed in &segments {
        space.in_log(&listed.file);
    }

    let salts = std::array::from_fn(|_| salt_source());
    let pages = Pages::new(
        Arc::clone(&fs),
        dir.join(PAGES_NAME),
        salts,
        options.chunks_max(),
        options.broken(Break::TrustPages),
    );
    let mut replay = Replay::new(&options, pages);
    let hints = (options.hints && !options.salvage).then_some(fs.as_ref());
    let told = replay
        .run(&segments, hints)
        .and_then(|()| replay.take_recent());
    let recent = match told {
        Ok(recent) => recent,
        // Hints and pages save time. Whatever went wrong with them, the segments alone decide.
        Err(_) => {
            replay = Replay::new(&options, Pages::default());
            replay.run(&segments, None)?;
            replay.take_recent()?
        }
    };
    let Replay {
        mut index,
        state,
        notes: mut met,
        order,
        last,
        hint,
        next_side,
        bodies_unknown,
        ..
    } = replay;
    notes.append(&mut met);
    for listed in &segments {
        let (segment, path) = (listed.header.sequence, &listed.file.path);
        for part in listed.file.unreadable() {
            notes.push(RecoveryNote::Unreadable {
                segment,
                path: path.clone(),
                offset: part.start.into(),
                bytes: u64::from(part.end) - u64::from(part.start),
            });
        }
    }

    let is_sealed = |index: &Index, slot| index.segments.get(slot).seal.is_some();
    // What was written after the closing group may begin in a place that cannot be read.
    let goes_on = |index: &Index, slot, end: u32| {
        let file = &index.segments.get(slot).file;
        file.is_unreadable(end..end.saturating_add(RECORD))
    };
    let closed = last.is_none_or(|(slot, tail)| {
        tail.clean && !is_sealed(&index, slot) && !goes_on(&index, slot, tail.end)
    });
    let sealed = last.is_some_and(|(slot, _)| is_sealed(&index, slot));
    let mut recovered = Recovered {
        recent,
        state,
        clean: (closed || sealed) && notes.is_empty(),
        streams: index.summaries()?,
        ..Recovered::default()
    };
    let mut rules = Rules::default();
    for (id, last_put) in index.last_puts() {
        rules.put(id, last_put);
    }

    let newest = order
        .last_key_value()
        .map(|(sequence, slot)| (*sequence, index.segments.get(*slot).end));
    let mut active = None;
    let mut unsealed = None;
    if let Some((slot, tail)) = last {
        let segment = index.segments.get(slot);
        let resumes = (closed
            // A place that cannot be read cannot be written but as a whole.
            && !segment.file.is_unreadable(tail.end..segment.file.bytes)
            && tail.end as usize + 2 * RECORD_BYTES <= segment.file.bytes as usize)
            || options.broken(Break::AppendAfterTornTail);
        if resumes {
            let Segment { seed, end, .. } = *segment;
            active = Some(Active {
                slot,
                seed,
                end,
                segment_bytes: segment.file.bytes,
            });
        }
        make_durable(segment, tail, &options)?;
    }
    if closed {
        for slot in order.values().rev().skip(1).copied() {
            let segment = index.segments.get_mut(slot);
            if segment.seal.is_none() {
                seal(segment)?;
            }
        }
        // Nothing fits behind what the newest has: it is complete.
        unsealed = last.map(|(slot, _)| slot).filter(|_| active.is_none());
    } else {
        // Of what an interrupted process left, only the page cache may know: the newest seals,
        // the emptied headers and the names are written again before anything builds on them.
        for slot in order.values().rev().take(2).rev().copied() {
            let segment = index.segments.get_mut(slot);
            let is_newest = last.is_some_and(|(newest, _)| newest == slot);
            if is_newest && active.is_none() && segment.seal.is_none() {
                // Or it is taken up again, if there is no room to begin another.
                unsealed = Some(slot);
            } else if active.is_none_or(|active| active.slot != slot) {
                seal(segment)?;
            }
        }
        if !options.broken(Break::SkipVoid) && !options.broken(Break::SkipVoidAgain) {
            for spare in &listing.spares {
                spare.void()?;
            }
        }
    }
    for file in &listing.unfinished {
        file.void()?;
    }
    fs.sync_dir(dir)
        .map_err(|error| StoreError::io("flush", dir, error))?;
    let files = segments
        .iter()
        .map(|listed| (listed.header.sequence, listed.file.number));
    let manifest = take_over(fs.as_ref(), dir, found, store_id, files.collect(), &options)?;
    space.keep_list(manifest);
    listing.spares.append(&mut listing.unfinished);
    for spare in listing.spares {
        space.add_spare(spare);
    }

    index.dead_side.clear();
    for ((stream, position), side) in &index.side {
        space.add_side(side.file_bytes());
        if !listing.bodies.contains(&side.number) {
            notes.push(RecoveryNote::BodyMissing {
                path: side.path(dir),
                stream: *stream,
                position: *position,
            });
        }
    }
    let next_side = next_side.max(
        listing
            .bodies
            .last()
            .map_or(1, |last| last.saturating_add(1)),
    );
    if !bodies_unknown {
        remove_orphans(fs.as_ref(), dir, listing.bodies, &index)?;
    }

    let unchecked = options.broken(Break::ServeUnchecked);
    let shared = Arc::new(Shared::new(index, Arc::clone(&fs), dir, unchecked));
    // These hold files, and what is held is not used again.
    drop(segments);
    let resumed = active.is_some();
    let (hint, unsealed_hint) = if resumed {
        (hint, HintWriter::broken())
    } else {
        (HintWriter::default(), hint)
    };
    let mut log = Log {
        options,
        salt_source,
        shared,
        space,
        rules,
        active,
        order,
        unsealed,
        unsealed_hint,
        hint,
        next_side,
        carry: None,
        pinned: BTreeSet::new(),
        newest,
        next_group: last.map_or(1, |(_, tail)| tail.group_number.saturating_add(1)),
        store_id,
        last_group_bytes: 0,
        untidy: false,
        refused_bytes: 0,
        refusals: Refusals::default(),
        owes_room: false,
        scratch: Scratch::default(),
        _lock: lock,
    };
    if log.active.is_some() {
        // What the closing group promised no longer holds once anything is written behind it.
        log.write_group(&[], &[], &[], 0)?;
    }
    while log.reclaim_one(false)? {}
    let reserve = log.options.reserve_segments();
    let mut is_full = false;
    while !is_full && log.space.spares() < reserve + usize::from(log.active.is_none()) {
        is_full = !log.space.create()? && !log.reclaim_one(true)?;
    }
    if let Some((_, tail)) = last
        && is_full
        && !log.options.salvage
    {
        log.take_up(tail)?;
    }
    log.seal_previous()?;
    if log.space.spares() < reserve + usize::from(log.active.is_none()) {
        notes.push(RecoveryNote::ReserveIncomplete);
    }
    recovered.notes = notes;
    Ok((log, recovered))
}

/// From now on the list says what was found; without one a new one is made, if there is room.
fn take_over(
    fs: &dyn Fs,
    dir: &Path,
    found: Found,
    store: u64,
    files: BTreeMap<u64, u64>,
    options: &LogOptions,
) -> Result<Option<Manifest>, StoreError> {
    let mut manifest = match found {
        Found::Whole(read) => {
            let mut manifest = read.into_manifest();
            // Also when it says the same: only the page cache may know what it says.
            manifest.replace(fs, files)?;
            Some(manifest)
        }
        Found::None | Found::Unreadable => Manifest::create(fs, dir, store, files)?,
    };
    if let Some(manifest) = &mut manifest {
        manifest.skip_sync(options.broken(Break::SkipListingSync));
    }
    Ok(manifest)
}

/// Makes it durable (again) where a segment ends; a hint it had stays its hint.
fn seal(segment: &mut Segment) -> Result<(), StoreError> {
    let seal = segment.seal.unwrap_or(Seal {
        end: segment.end,
        hint: None,
    });
    segment.file.seal(segment.seed, seal)?;
    segment.seal = Some(seal);
    Ok(())
}

/// Removes bodies no live record names: a crash came before the record, or after its removal.
fn remove_orphans(
    fs: &dyn Fs,
    dir: &Path,
    mut bodies: BTreeSet<u64>,
    index: &Index,
) -> Result<(), StoreError> {
    for side in index.side.values() {
        bodies.remove(&side.number);
    }
    for number in bodies {
        let path = dir.join(format!("{number:08}.body"));
        match fs.remove(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io("remove", path, error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Writes the last group again and flushes it. After a failed flush or a killed process it may
/// be readable without being on the disk, and a mere flush would not put it there.
fn make_durable(segment: &Segment, tail: Tail, options: &LogOptions) -> Result<(), StoreError> {
    if options.broken(Break::SkipRewrite) {
        return Ok(());
    }
    let file = &segment.file;
    let with_header = !options.broken(Break::RewriteWithoutHeader);
    let mut at = if tail.last_group == DATA_AT && with_header {
        0
    } else {
        tail.last_group
    };
    let mut window = Window::new(file);
    while at < tail.end {
        let count = REWRITE_BYTES.min((tail.end - at) as usize);
        let bytes = window.bytes(at, count)?;
        // What the disk does not give now may be there the next time.
        let mut from = at;
        let end = at + u32::try_from(bytes.len()).unwrap_or(0);
        let holes = file.unreadable();
        let holes = holes.into_iter().chain(std::iter::once(end..u32::MAX));
        for hole in holes.filter(|hole| hole.end > at) {
            let to = hole.start.clamp(from, end);
            if from < to {
                let part = &bytes[(from - at) as usize..(to - at) as usize];
                file.file
                    .write_at(part, u64::from(from))
                    .map_err(|error| file.error("rewrite", error))?;
            }
            from = hole.end.clamp(to, end);
        }
        at = end.max(at.saturating_add(1));
    }
    file.file
        .sync_data()
        .map_err(|error| file.error("flush", error))
}
