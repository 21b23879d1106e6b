//! Damage to the files of a store that was closed in order, and what of it may be noticed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;
use qm_store::{Batch, Fs, Op, StoreError, StreamId};

use super::{Content, Machine, STREAMS, folder, play};

/// Bodies of so many bytes have a file of their own.
const SIDE_FILE_BYTES: usize = 3_000;
const BLOCK: usize = 4_096;
/// Where the groups of a segment begin.
const DATA_AT: usize = 3 * BLOCK;

/// What a piece of damage may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cost {
    /// Nothing: a cache, or one of two copies.
    Nothing,
    /// One record, which is known.
    Record(u32, u64),
    /// At most one record; or the store is not opened.
    One,
    /// Whatever was there; or the store is not opened.
    Any,
    /// What looks like a write that a power cut stopped is dropped as one.
    Tail,
}

struct Files {
    machine: Machine,
    files: BTreeMap<String, Vec<u8>>,
    /// The segment that was begun last.
    newest: String,
    costs: Vec<Cost>,
    /// Blocks at the front of segments that were damaged.
    leading: BTreeSet<String>,
}

impl Files {
    fn new(machine: Machine) -> Self {
        let names = machine.disk.list(folder()).expect("a healed disk lists");
        let mut files = BTreeMap::new();
        for name in names {
            let content = machine.disk.content(&folder().join(&name));
            files.insert(name, content.unwrap_or_default());
        }
        let sequence = |content: &Vec<u8>| {
            let bytes = content.get(16..24).and_then(|b| b.first_chunk());
            bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
        };
        let segments = files.iter().filter(|(name, _)| name.ends_with(".seg"));
        let newest = segments.max_by_key(|(_, content)| sequence(content));
        let newest = newest.map_or_else(String::new, |(name, _)| name.clone());
        Self {
            machine,
            files,
            newest,
            costs: Vec::new(),
            leading: BTreeSet::new(),
        }
    }

    /// The file that a byte chooses among those of a kind.
    fn choose(&self, kind: &str, by: u8) -> Option<String> {
        let names: Vec<_> = self.files.keys().filter(|n| n.ends_with(kind)).collect();
        let at = usize::from(by) % names.len().max(1);
        names.get(at).map(|name| (*name).clone())
    }

    fn write(&mut self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let Some(content) = self.files.get_mut(name) else {
            return false;
        };
        let before = content.clone();
        change(content);
        let changed = *content != before;
        if changed {
            let path = folder().join(name);
            self.machine.disk.replace(&path, content);
        }
        changed
    }

    /// What damage to a segment costs that lies in these bytes.
    fn cost_of(&mut self, name: &str, at: Range<usize>, is_bit: bool) -> Cost {
        if at.end <= DATA_AT && at.start / BLOCK == (at.end - 1) / BLOCK {
            // One block of three: the others tell what it told, unless they are damaged as well,
            // here or in the segment that follows.
            return match self.leading.is_empty() && self.leading.insert(name.to_owned()) {
                true => Cost::Nothing,
                false => Cost::Tail,
            };
        }
        match (name == self.newest, is_bit) {
            (false, true) => Cost::One,
            (false, false) => Cost::Any,
            // The end of the newest segment is where unfinished writes are.
            (true, true) if self.costs.iter().all(|cost| *cost == Cost::Nothing) => Cost::One,
            (true, _) => Cost::Tail,
        }
    }

    fn damage(&mut self, what: u8, by: u8, at: usize, value: u8) {
        match what % 10 {
            // One bit anywhere in a segment, or in what leads it.
            0 | 1 => {
                let Some(name) = self.choose(".seg", by) else {
                    return;
                };
                let within = if what.is_multiple_of(10) {
                    DATA_AT
                } else {
                    20 * 1024
                };
                let at = at % within;
                if self.write(&name, |content| {
                    if let Some(byte) = content.get_mut(at) {
                        *byte ^= 1 << (value % 8);
                    }
                }) {
                    let cost = self.cost_of(&name, at..at + 1, true);
                    self.costs.push(cost);
                }
            }
            // A run of bytes: zeros, or bytes of another segment, whole blocks or not.
            2 | 3 => self.overwrite(what, by, at, value),
            // A body that is found where it lies.
            4..=6 => self.hit_body(by, at, value),
            7 => {
                let Some(name) = self.choose(".body", by) else {
                    return;
                };
                let lost = self.machine.disk.lose(&folder().join(&name));
                self.files.remove(&name);
                if lost {
                    self.costs.push(Cost::One);
                }
            }
            // The caches: gone, cut, or wrong.
            8 => {
                let Some(name) = self.choose(".hint", by) else {
                    return;
                };
                self.machine.disk.lose(&folder().join(&name));
                self.files.remove(&name);
                self.costs.push(Cost::Nothing);
            }
            _ => {
                let kind = if value & 1 == 0 { ".hint" } else { ".pages" };
                let Some(name) = self.choose(kind, by) else {
                    return;
                };
                self.write(&name, |content| {
                    let at = at % content.len().max(1);
                    match content.get_mut(at) {
                        Some(byte) if value & 2 == 0 => *byte ^= value,
                        _ => content.truncate(at),
                    }
                });
                self.costs.push(Cost::Nothing);
            }
        }
    }

    fn overwrite(&mut self, what: u8, by: u8, at: usize, value: u8) {
        let (Some(name), Some(other)) = (self.choose(".seg", by), self.choose(".seg", value))
        else {
            return;
        };
        let (start, count) = match value % 4 {
            0 => (at % 5 * BLOCK, BLOCK),
            _ => (at % (20 * 1024) / 8 * 8, 8 << (value % 7)),
        };
        let range = start..(start + count).min(20 * 1024);
        let source = match what % 10 {
            2 => vec![0; range.len()],
            _ => {
                let from = self.files.get(&other).and_then(|c| c.get(range.clone()));
                from.map_or_else(Vec::new, <[u8]>::to_vec)
            }
        };
        let changed = self.write(&name, |content| {
            if let Some(to) = content.get_mut(range.clone())
                && to.len() == source.len()
            {
                to.copy_from_slice(&source);
            }
        });
        if changed {
            // A whole header of another segment is no damage: it is a file that contradicts itself.
            let is_foreign = what % 10 == 3 && range.start < DATA_AT;
            let cost = match self.cost_of(&name, range, false) {
                _ if is_foreign => Cost::Tail,
                cost => cost,
            };
            self.costs.push(cost);
        }
    }

    /// Flips a bit of a live body, which every record but its own survives.
    fn hit_body(&mut self, by: u8, at: usize, value: u8) {
        let live: Vec<_> = self.machine.content.records.iter().collect();
        let Some(((stream, position), body)) = live.get(usize::from(by) % live.len().max(1)) else {
            return;
        };
        let (stream, position, body) = (*stream, *position, (*body).clone());
        // Shorter ones may stand elsewhere by chance.
        if body.len() < 32 {
            return;
        }
        let mut found = Vec::new();
        for (name, content) in &self.files {
            let places = content.windows(body.len()).enumerate();
            found.extend(
                places
                    // One look at two bytes spares most of the comparisons.
                    .filter(|(_, bytes)| bytes.first() == body.first())
                    .filter(|(_, bytes)| bytes.last() == body.last() && *bytes == body)
                    .map(|(at, _)| (name.clone(), at)),
            );
        }
        // A record that was moved stands twice, and only one of them counts.
        let [(name, start)] = found.as_slice() else {
            return;
        };
        let (name, place) = (name.clone(), start + at % body.len());
        self.write(&name, |content| content[place] ^= 1 << (value % 8));
        let is_tail = name == self.newest && self.costs.iter().any(|cost| *cost >= Cost::One);
        self.costs.push(match is_tail {
            true => Cost::Tail,
            false => Cost::Record(stream, position),
        });
    }
}

/// What a store that was opened serves: live records, and those it knows and cannot read.
struct Served {
    records: BTreeMap<(u32, u64), Bytes>,
    unreadable: BTreeSet<(u32, u64)>,
    state: BTreeMap<Bytes, Bytes>,
}

fn serve(machine: &mut Machine) -> Result<Served, StoreError> {
    machine.log = None;
    let recovered = machine.open()?;
    let reader = machine.log.as_ref().expect("opened before").reader();
    let (mut records, mut unreadable) = (BTreeMap::new(), BTreeSet::new());
    for stream in 0..STREAMS {
        let mut from = 0;
        loop {
            match reader.read(StreamId(stream), from, 1, 0) {
                Ok(some) => {
                    let Some(record) = some.into_iter().next() else {
                        break;
                    };
                    assert!(record.position >= from, "streams are read in order");
                    from = record.position + 1;
                    records.insert((stream, record.position), record.body);
                }
                Err(StoreError::Damaged {
                    record: Some((of, position)),
                    ..
                }) => {
                    assert_eq!(of.0, stream, "the damaged record is of this stream");
                    assert!(position >= from, "damage is met in order");
                    from = position + 1;
                    unreadable.insert((stream, position));
                }
                Err(error) => panic!("reading fails for another reason than damage: {error}"),
            }
        }
    }
    Ok(Served {
        records,
        unreadable,
        state: recovered.state,
    })
}

/// Damage to the files of a store: a bit, a run of zeros, bytes of another segment, a block of a
/// header, a seal, a body, a file of a body, a cache. Nothing that is damaged is served; nothing
/// that is whole is lost; what costs nothing is not noticed; a body costs its record alone, and
/// removing that record mends the store.
///
/// The operations of [`store_recover`](super::store_recover) up to a code of 0xff, then five bytes
/// a piece of damage.
pub fn store_damage(data: &[u8]) {
    let (mut machine, rest) = play(data, SIDE_FILE_BYTES, 200);
    machine.log = None;
    machine.disk.crash(1);
    machine.recover();
    if let Some(log) = machine.log.take() {
        log.close();
    }
    let before = machine.content.clone();
    let mut files = Files::new(machine);
    for piece in rest.chunks_exact(5).take(6) {
        let at = usize::from(u16::from_le_bytes([piece[2], piece[3]]));
        files.damage(piece[0], piece[1], at, piece[4]);
    }
    let Files {
        mut machine, costs, ..
    } = files;
    match serve(&mut machine) {
        Ok(served) => {
            judge(&machine, &before, &costs, &served);
            mend(&mut machine, &before, &costs, served);
        }
        Err(error) => {
            let excuse = costs
                .iter()
                .any(|cost| !matches!(cost, Cost::Nothing | Cost::Record(..)));
            assert!(excuse, "not opened for the sake of {costs:?}: {error}");
            assert!(!error.to_string().is_empty());
        }
    }
    // Whoever salvages gets what was written, if no longer all of it.
    machine.options.salvage = true;
    if let Ok(served) = serve(&mut machine) {
        for (name, body) in &served.records {
            let written = machine.ever.get(name);
            assert_eq!(written, Some(body), "damage was salvaged as a record");
        }
    }
}

fn judge(machine: &Machine, before: &Content, costs: &[Cost], served: &Served) {
    for (name, body) in &served.records {
        let written = machine.ever.get(name);
        assert_eq!(written, Some(body), "damage was served as a record");
    }
    if costs.contains(&Cost::Tail) {
        return;
    }
    for name in served.records.keys().chain(&served.unreadable) {
        assert!(
            before.records.contains_key(name),
            "{name:?} was removed and is back after {costs:?}"
        );
    }
    for name in before.records.keys() {
        let known = served.records.contains_key(name) || served.unreadable.contains(name);
        assert!(known, "{name:?} is gone without a word after {costs:?}");
    }
    assert_eq!(served.state, before.state, "after {costs:?}");
    let mut allowed = 0;
    for cost in costs {
        match cost {
            Cost::Nothing => {}
            Cost::Record(..) | Cost::One => allowed += 1,
            Cost::Any | Cost::Tail => return,
        }
    }
    let lost = &served.unreadable;
    assert!(lost.len() <= allowed, "{lost:?} lost to {costs:?}");
    let named = costs.iter().filter_map(|cost| match cost {
        Cost::Record(stream, position) => Some((*stream, *position)),
        _ => None,
    });
    let named: BTreeSet<_> = named.collect();
    if !costs.contains(&Cost::One) {
        assert!(lost.is_subset(&named), "{lost:?} lost to {costs:?}");
    }
}

/// Removing what cannot be read leaves a store without damage to what it holds.
fn mend(machine: &mut Machine, before: &Content, costs: &[Cost], served: Served) {
    let only_records = costs
        .iter()
        .all(|cost| matches!(cost, Cost::Nothing | Cost::Record(..)));
    if !only_records {
        return;
    }
    let mut ops = Vec::new();
    for (stream, position) in &served.unreadable {
        ops.push(Op::Remove {
            stream: StreamId(*stream),
            first: *position,
            last: *position,
        });
    }
    let log = machine.log.as_mut().expect("opened before");
    log.commit(&[Batch::from(ops)])
        .expect("a removal needs no room that the reserve has not");
    let again = serve(machine).expect("a mended store opens");
    assert!(again.unreadable.is_empty(), "{:?}", again.unreadable);
    assert_eq!(again.records, served.records);
    assert_eq!(again.state, before.state);
}
