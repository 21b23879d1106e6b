//! Targets of qm-store.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use qm_store::{
    Applied, Batch, Fault, Fs, Log, LogOptions, Op, Recovered, SimFs, StoreError, StreamId,
};

mod damage;

pub use self::damage::store_damage;

const STREAMS: u32 = 3;

fn folder() -> &'static Path {
    Path::new("/log")
}

/// What must be there.
#[derive(Clone, Debug, Default, PartialEq)]
struct Content {
    records: BTreeMap<(u32, u64), Bytes>,
    state: BTreeMap<Bytes, Bytes>,
}

impl Content {
    fn apply(&mut self, batch: &Batch) {
        for op in &batch.ops {
            match op {
                Op::Put {
                    stream,
                    position,
                    body,
                    ..
                } => {
                    self.records.insert((stream.0, *position), body.clone());
                }
                Op::Remove {
                    stream,
                    first,
                    last,
                } => self.records.retain(|(s, position), _| {
                    *s != stream.0 || !(first..=last).contains(&position)
                }),
                Op::Set { key, value } => {
                    self.state.insert(key.clone(), value.clone());
                }
                Op::Unset { key } => {
                    self.state.remove(key);
                }
            }
        }
    }
}

struct Machine {
    disk: Arc<SimFs>,
    log: Option<Log>,
    options: LogOptions,
    salt: u64,
    content: Content,
    /// What the content may be as well: a commit or housekeeping failed half-way.
    also: Option<Content>,
    next_position: u64,
    /// Every record ever put, removed or not.
    ever: BTreeMap<(u32, u64), Bytes>,
}

impl Machine {
    fn open(&mut self) -> Result<Recovered, StoreError> {
        let mut salt = self.salt;
        self.salt += 1 << 32;
        let salts = Box::new(move || {
            salt += 1;
            salt.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        });
        let disk = Arc::clone(&self.disk) as Arc<dyn Fs>;
        let (log, recovered) = Log::open(disk, folder(), self.options.clone(), salts)?;
        self.log = Some(log);
        Ok(recovered)
    }

    /// Everything live, read back.
    fn read(&self, recovered: &Recovered) -> Result<Content, StoreError> {
        let reader = self.log.as_ref().expect("opened before").reader();
        let mut records = BTreeMap::new();
        for stream in 0..STREAMS {
            let mut from = 0;
            loop {
                let some = reader.read(StreamId(stream), from, 7, 4096)?;
                let Some(last) = some.last() else { break };
                from = last.position + 1;
                records.extend(some.into_iter().map(|r| ((stream, r.position), r.body)));
            }
        }
        let state = recovered.state.clone();
        Ok(Content { records, state })
    }

    /// Opens an undamaged disk and compares.
    fn recover(&mut self) {
        self.disk.heal();
        let recovered = self.open().expect("an undamaged log opens");
        let found = self.read(&recovered).expect("an undamaged log is read");
        if found != self.content {
            assert_eq!(
                Some(&found),
                self.also.as_ref(),
                "neither before nor after: {:?}",
                self.content
            );
            self.content = found;
        }
        self.also = None;
    }

    fn commit(&mut self, batch: Batch) {
        let Some(log) = &mut self.log else { return };
        let mut after = self.content.clone();
        after.apply(&batch);
        match log.commit(&[batch]) {
            Ok(applied) => match applied.as_slice() {
                [Applied::Done] => self.content = after,
                [Applied::Full | Applied::Refused(_)] => {}
                other => panic!("one answer to one batch: {other:?}"),
            },
            Err(_) => {
                self.also = Some(after);
                self.log = None;
            }
        }
    }

    fn op(&mut self, code: u8, argument: u8) -> Op {
        let stream = StreamId(u32::from(argument) % STREAMS);
        match code % 4 {
            0 | 1 => {
                self.next_position += 1 + u64::from(argument & 1);
                let position = self.next_position;
                let bytes = usize::from(argument) * usize::from(code / 8);
                // No two records have the same body, so that one cannot pass for another.
                let mut body = vec![argument; bytes];
                for (to, from) in body.iter_mut().zip(position.to_le_bytes()) {
                    *to = from;
                }
                let body = Bytes::from(body);
                self.ever.insert((stream.0, position), body.clone());
                Op::Put {
                    stream,
                    position,
                    head: Bytes::from(vec![code; usize::from(argument % 16)]),
                    body,
                }
            }
            2 => {
                let first = self.next_position.saturating_sub(u64::from(code / 4));
                Op::Remove {
                    stream,
                    first,
                    last: first + u64::from(argument / 3),
                }
            }
            _ if code & 4 == 0 => Op::Set {
                key: Bytes::from(vec![argument % 8]),
                value: Bytes::from(vec![code; usize::from(argument / 8)]),
            },
            _ => Op::Unset {
                key: Bytes::from(vec![argument % 8]),
            },
        }
    }

    fn step(&mut self, code: u8, argument: u8, ops: &mut Vec<Op>) {
        match code {
            0xfe => {
                self.log = None;
                self.disk.crash(u64::from(argument));
                self.recover();
            }
            0xfd => {
                if let Some(log) = self.log.take() {
                    log.close();
                }
                self.disk.crash(u64::from(argument));
                self.recover();
            }
            0xfc => {
                let at = self.disk.operations() + u64::from(argument % 32);
                self.disk.inject(Fault::CutAt(at));
            }
            0xfb => {
                let at = self.disk.operations() + u64::from(argument % 32);
                self.disk.inject(Fault::FailAt(at));
            }
            0xf0..=0xfa => {
                if let Some(log) = &mut self.log
                    && log.tidy(argument & 1 == 1).is_err()
                {
                    self.log = None;
                }
            }
            _ => {
                ops.push(self.op(code, argument));
                // One batch of several operations now and then.
                if code & 8 == 0 || ops.len() > 20 {
                    self.commit(Batch::from(std::mem::take(ops)));
                }
            }
        }
    }
}

/// Any sequence of commits, power cuts, failed operations, restarts and housekeeping leaves
/// exactly what was reported durable; a commit that failed is there whole or not at all. At the
/// end bits are flipped with what is left of the input: opening is refused or tells of it, and
/// never panics. [`store_damage`] asks more of damage.
///
/// Two bytes an operation; codes from 0xf0 are faults and restarts.
pub fn store_recover(data: &[u8]) {
    let (machine, rest) = play(data, LogOptions::default().side_file_bytes, 400);
    damage_anywhere(machine, rest);
}

/// Plays the operations at the front of an input on a new store, and gives what follows them.
fn play(data: &[u8], side_file_bytes: usize, steps_max: usize) -> (Machine, &[u8]) {
    let options = LogOptions {
        segment_bytes: 20 * 1024,
        reserve_bytes: 20 * 1024,
        spare_segments_max: 1,
        disk_bytes_max: Some(400 * 1024),
        group_bytes_max: 8 * 1024,
        recent_puts: 16,
        side_file_bytes,
        ..LogOptions::default()
    };
    let mut machine = Machine {
        disk: Arc::new(SimFs::new()),
        log: None,
        options,
        salt: 1,
        content: Content::default(),
        also: None,
        next_position: 0,
        ever: BTreeMap::new(),
    };
    machine.recover();
    let mut ops = Vec::new();
    let (mut script, mut rest) = (data.chunks_exact(2), data);
    for step in script.by_ref().take(steps_max) {
        let (code, argument) = (step[0], step[1]);
        rest = rest.get(2..).unwrap_or_default();
        if code == 0xff {
            break;
        }
        machine.step(code, argument, &mut ops);
        if machine.log.is_none() {
            // What failed stopped the log; only recovery knows what survived.
            machine.disk.crash(u64::from(argument));
            machine.recover();
        }
    }
    (machine, rest)
}

fn damage_anywhere(mut machine: Machine, damage: &[u8]) {
    machine.log = None;
    machine.disk.crash(1);
    let files = machine
        .disk
        .list(folder())
        .expect("a disk without faults lists");
    for flip in damage.chunks_exact(4) {
        let name = &files[usize::from(flip[0]) % files.len()];
        let offset = u64::from(u16::from_le_bytes([flip[1], flip[2]])) % (20 * 1024);
        machine.disk.flip(&folder().join(name), offset, flip[3]);
    }
    for salvage in [false, true] {
        machine.options.salvage = salvage;
        machine.log = None;
        if let Ok(recovered) = machine.open() {
            // Damaged records are reported one by one; what is read is what was written.
            if let Ok(found) = machine.read(&recovered) {
                for (name, body) in &found.records {
                    assert_eq!(
                        machine.ever.get(name),
                        Some(body),
                        "damage was read as a record"
                    );
                }
                if damage.is_empty() {
                    assert_eq!(found, machine.content);
                }
            }
        }
    }
}
