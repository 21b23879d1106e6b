//! Examining and repairing the store of a node that does not run.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use qm_engine::{StoredMessage, StoredQueue};
use qm_store::{Checked, Damage, Fs, Lost, LostRecord, RealFs, StoreError};
use serde::Serialize;

use crate::adapter::random_u64;
use crate::life::{STORE_DIR, store_options};
use crate::run::{NodeConfig, RunError};

/// Beginnings of the names of a store that a repair made and of one that it put aside.
const REPAIRED: &str = "store.repaired";
const DAMAGED: &str = "store.damaged";

/// What a check found, `qm.store_check/1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StoreCheckDocument {
    /// `qm.store_check/1`.
    pub schema: Cow<'static, str>,
    /// The directory that was examined.
    pub store: String,
    /// Whether every byte is what was written.
    pub sound: bool,
    /// Whether damage cost messages or settings, or may have.
    pub loses: bool,
    /// Segments of the log.
    pub segments: u64,
    /// Segment files that hold nothing.
    pub empty_segments: u64,
    /// Bytes that were read and verified.
    pub bytes: u64,
    /// Messages that are whole.
    pub messages: u64,
    /// Messages that are damaged and cannot be served.
    pub lost_messages: u64,
    /// Messages that may have been received already: a record of that may have been damaged.
    pub uncertain_messages: u64,
    /// Settings and bookkeeping that are whole.
    pub keys: u64,
    /// The last write had not finished. That is no damage: nothing of it was reported done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfinished_write: Option<PlaceDocument>,
    /// Files that an earlier start set aside because their headers could not be read.
    pub set_aside: Vec<String>,
    /// Whole messages of each queue and priority.
    pub queues: Vec<StoredQueueDocument>,
    /// Every damaged place.
    pub damages: Vec<DamageDocument>,
    /// Damaged places beyond those that are listed.
    pub unlisted_damages: u64,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PlaceDocument {
    /// The file.
    pub file: String,
    /// Bytes from its beginning.
    pub offset: u64,
}

/// Messages of one priority of a queue in a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StoredQueueDocument {
    /// The queue; with the node it waits for when it is an outgoing one. Missing when nothing in
    /// the store names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// The priority.
    pub priority: u8,
    /// Number of the stream in the store.
    pub stream: u32,
    /// Messages that are whole.
    pub messages: u64,
}

/// A damaged place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DamageDocument {
    /// The file.
    pub file: String,
    /// Bytes from its beginning.
    pub offset: u64,
    /// Bytes in doubt.
    pub bytes: u64,
    /// Sequence number of the segment, when it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment: Option<u64>,
    /// What was found there.
    pub what: String,
    /// `nothing`, `message` or `unknown`: what it cost.
    pub lost: Cow<'static, str>,
    /// The message that is lost; with `unknown` the one that probably stood there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<LostMessageDocument>,
}

/// A message that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LostMessageDocument {
    /// Its queue, when the store names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Its priority.
    pub priority: u8,
    /// Number of its stream in the store.
    pub stream: u32,
    /// Its position there.
    pub position: u64,
    /// Who minted it, when that is readable. No checksum vouches for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Its id, when that is readable. No checksum vouches for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// What a repair did, `qm.store_repair/1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StoreRepairDocument {
    /// `qm.store_repair/1`.
    pub schema: Cow<'static, str>,
    /// Where the new store is.
    pub store: String,
    /// Where the damaged store is now; missing when nothing had to be repaired in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damaged_store: Option<String>,
    /// Messages that were saved.
    pub messages: u64,
    /// Bytes of these, heads and bodies.
    pub bytes: u64,
    /// Settings and bookkeeping that were saved.
    pub keys: u64,
    /// What is gone, and where it was: the check of the damaged store.
    pub check: StoreCheckDocument,
}

/// Where a repair puts the new store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepairTo {
    /// Into a directory that is not there yet.
    Directory(PathBuf),
    /// In the place of the damaged one, which is renamed to `store.damaged-N`.
    InPlace,
}

/// Verifies every byte of a node's store, and changes nothing.
///
/// # Errors
/// [`RunError::NotInitialised`] when there is no store, [`StoreError::Locked`] while the node runs,
/// [`StoreError::Io`]. Damage is no error but in the document.
pub fn check_store(data: &Path) -> Result<StoreCheckDocument, RunError> {
    let store = store_of(data)?;
    let checked = qm_store::check(&RealFs, &store)?;
    Ok(check_document(&store, &checked))
}

/// Saves everything undamaged of a node's store into a new one. The damaged one is never deleted.
///
/// In place, nothing is done to a store that is sound.
///
/// # Errors
/// As for [`check_store`], and when the new store cannot be written: then the damaged one is where
/// it was.
pub fn repair_store(config: &NodeConfig, to: &RepairTo) -> Result<StoreRepairDocument, RunError> {
    let store = store_of(&config.data)?;
    let out = match to {
        RepairTo::Directory(out) => out.clone(),
        RepairTo::InPlace => {
            let checked = qm_store::check(&RealFs, &store)?;
            if checked.is_sound() {
                return Ok(StoreRepairDocument {
                    schema: "qm.store_repair/1".into(),
                    store: store.display().to_string(),
                    damaged_store: None,
                    messages: checked.records,
                    bytes: 0,
                    keys: checked.state.len() as u64,
                    check: check_document(&store, &checked),
                });
            }
            let out = free_name(&config.data, REPAIRED);
            // An earlier attempt may have left a part of a store; it is not ours to delete.
            out.map_err(|error| io_error("list", &config.data, error))?
        }
    };
    let fs: Arc<dyn Fs> = Arc::new(RealFs);
    let salts = Box::new(random_u64);
    let repaired = qm_store::repair(&fs, &store, &out, store_options(config), salts)?;
    let mut document = StoreRepairDocument {
        schema: "qm.store_repair/1".into(),
        store: out.display().to_string(),
        damaged_store: Some(store.display().to_string()),
        messages: repaired.records,
        bytes: repaired.bytes,
        keys: repaired.keys,
        check: check_document(&store, &repaired.checked),
    };
    if *to == RepairTo::InPlace {
        // The lock on the damaged store is held until it has been replaced.
        let aside = free_name(&config.data, DAMAGED)
            .map_err(|error| io_error("list", &config.data, error))?;
        replace(&store, &out, &aside)
            .and_then(|()| RealFs.sync_dir(&config.data))
            .map_err(|error| io_error("replace", &store, error))?;
        document.store = store.display().to_string();
        document.damaged_store = Some(aside.display().to_string());
    }
    drop(repaired);
    Ok(document)
}

fn store_of(data: &Path) -> Result<PathBuf, RunError> {
    let store = data.join(STORE_DIR);
    if store.is_dir() {
        Ok(store)
    } else {
        Err(RunError::NotInitialised {
            data: data.to_owned(),
        })
    }
}

/// Puts a repaired store in the place of a damaged one, which gets another name.
fn replace(store: &Path, repaired: &Path, aside: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        // In one step where the file system can do that: at no time there is no store.
        if renameat_with(CWD, store, CWD, repaired, RenameFlags::EXCHANGE).is_ok() {
            return fs::rename(repaired, aside);
        }
    }
    fs::rename(store, aside)?;
    fs::rename(repaired, store)
}

/// The stores that repairs in place made or put aside, by name.
pub(crate) fn stores_aside(data: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(data) else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names
        .filter(|name| name.starts_with(REPAIRED) || name.starts_with(DAMAGED))
        .collect()
}

/// What a repair in place that was interrupted left: the store has no name then, and a node that
/// began a new one would seem to have lost everything.
pub(crate) fn check_interrupted(data: &Path) -> Result<(), StoreError> {
    let store = data.join(STORE_DIR);
    if store.symlink_metadata().is_ok() {
        return Ok(());
    }
    // The repaired one comes last, and of several the newest.
    let number = |name: &String| name.rsplit('-').next().and_then(|n| n.parse::<u32>().ok());
    let left = stores_aside(data)
        .into_iter()
        .max_by_key(|name| (name.starts_with(REPAIRED), number(name)));
    let Some(left) = left else {
        return Ok(());
    };
    let what = format!(
        "it is not there, and {left} is: a repair was interrupted; rename {left} to {STORE_DIR}"
    );
    let error = io::Error::new(io::ErrorKind::NotFound, what);
    Err(io_error("open", &store, error))
}

/// The first of `name-1`, `name-2`, … that is not there.
fn free_name(dir: &Path, name: &str) -> io::Result<PathBuf> {
    for number in 1_u32.. {
        let path = dir.join(format!("{name}-{number}"));
        if !path.try_exists()? {
            return Ok(path);
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn io_error(action: &'static str, path: &Path, error: io::Error) -> StoreError {
    StoreError::Io {
        action,
        path: path.to_owned(),
        source: Arc::new(error),
    }
}

fn check_document(store: &Path, checked: &Checked) -> StoreCheckDocument {
    let queues = checked.streams.iter().map(|(stream, messages)| {
        let stored = queue_of(stream.0, &checked.state);
        StoredQueueDocument {
            queue: stored.map(|stored| stored.name),
            priority: priority_of(stream.0),
            stream: stream.0,
            messages: *messages,
        }
    });
    let unfinished = checked.unfinished.as_ref();
    StoreCheckDocument {
        schema: "qm.store_check/1".into(),
        store: store.display().to_string(),
        sound: checked.is_sound(),
        loses: checked.loses(),
        segments: checked.segments,
        empty_segments: checked.empty_segments,
        bytes: checked.bytes,
        messages: checked.records,
        lost_messages: checked.lost_records,
        uncertain_messages: checked.uncertain_records,
        keys: checked.state.len() as u64,
        unfinished_write: unfinished.map(|(file, offset)| PlaceDocument {
            file: file.display().to_string(),
            offset: *offset,
        }),
        set_aside: checked
            .set_aside
            .iter()
            .map(|path| path.display().to_string())
            .collect(),
        queues: queues.collect(),
        damages: checked
            .damages
            .iter()
            .map(|damage| damage_document(damage, &checked.state))
            .collect(),
        unlisted_damages: checked.unlisted,
    }
}

fn damage_document(damage: &Damage, state: &BTreeMap<Bytes, Bytes>) -> DamageDocument {
    let (lost, record) = match &damage.lost {
        Lost::Nothing => ("nothing", None),
        Lost::Record(record) => ("message", Some(record)),
        Lost::Unknown { likely } => ("unknown", likely.as_ref()),
        _ => ("unknown", None),
    };
    DamageDocument {
        file: damage.file.display().to_string(),
        offset: damage.offset,
        bytes: damage.bytes,
        segment: damage.segment,
        what: damage.what.to_owned(),
        lost: lost.into(),
        message: record.map(|record| message_document(record, state)),
    }
}

fn message_document(record: &LostRecord, state: &BTreeMap<Bytes, Bytes>) -> LostMessageDocument {
    let stored = StoredMessage::read(&record.head);
    let envelope = stored.as_ref().map(|stored| &stored.envelope);
    LostMessageDocument {
        queue: queue_of(record.stream.0, state).map(|stored| stored.name),
        priority: priority_of(record.stream.0),
        stream: record.stream.0,
        position: record.position,
        source: envelope.map(|envelope| envelope.source.to_string()),
        id: envelope.map(|envelope| envelope.id.to_string()),
    }
}

fn queue_of(stream: u32, state: &BTreeMap<Bytes, Bytes>) -> Option<StoredQueue> {
    StoredQueue::read(qm_engine::StreamId(stream), state)
}

const fn priority_of(stream: u32) -> u8 {
    qm_engine::StreamId(stream).priority()
}
