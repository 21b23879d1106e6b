//! Power cuts at every operation: after each, exactly what was reported done is there, and of
//! what was under way only whole batches, in order.

use std::sync::Arc;

use qm_store::{Applied, Batch, Fault, Fs as _, Log, LogOptions, Op, RecoveryNote, SimFs};

use crate::common::*;

const STREAMS: u32 = 4;

/// A machine that loses power again and again, and what must be on its disk.
struct Machine {
    fs: Arc<SimFs>,
    options: LogOptions,
    random: Random,
    /// Everything reported done.
    model: Model,
    /// Batches of a commit whose outcome is unknown.
    in_flight: Vec<Batch>,
    next: [u64; STREAMS as usize],
    phase: u64,
    crashes: u32,
    torn_tails: u32,
    /// Batches turned away.
    full: u32,
}

impl Machine {
    fn new(seed: u64, options: LogOptions) -> Self {
        Self {
            fs: Arc::new(SimFs::new()),
            options,
            random: Random(seed),
            model: Model::default(),
            in_flight: Vec::new(),
            next: [0; STREAMS as usize],
            phase: seed,
            crashes: 0,
            torn_tails: 0,
            full: 0,
        }
    }

    fn cut_within(&mut self, operations: u64) {
        let at = self.fs.operations() + self.random.below(operations);
        self.fs.inject(Fault::CutAt(at));
    }

    fn crash(&mut self) {
        self.crashes += 1;
        self.fs.crash(self.random.next());
    }

    /// Opens the log and compares every record and every key with what may be there.
    fn recover(&mut self) -> Result<Log, String> {
        let salt = self.random.next();
        // The power may fail again while recovery runs.
        while self.random.below(3) == 0 {
            self.cut_within(12);
            if let Ok((log, _)) = open_at(&self.fs, &dir(), self.options.clone(), salt ^ 1) {
                drop(log);
            }
            self.crash();
        }
        let opened = open_at(&self.fs, &dir(), self.options.clone(), salt);
        let (log, recovered) = opened.map_err(|error| format!("recovery: {error}"))?;
        for note in &recovered.notes {
            match note {
                RecoveryNote::TornTail { .. } => self.torn_tails += 1,
                RecoveryNote::DamagedHeader { .. } => {}
                RecoveryNote::ReserveIncomplete if self.options.disk_bytes_max.is_some() => {}
                other => return Err(format!("a power cut damages nothing, but: {other}")),
            }
        }
        let found = Model::read(&log.reader(), STREAMS, recovered.state);
        for (id, summary) in &recovered.streams {
            let live = found.streams.get(&id.0);
            let first = live
                .and_then(|live| live.first_key_value())
                .map(|(at, _)| *at);
            let count = live.map_or(0, |live| live.len() as u64);
            if (summary.first_live, summary.live_records) != (first, count) {
                return Err(format!(
                    "{id}: {summary:?}, but {count} live from {first:?}"
                ));
            }
        }
        for batch in std::mem::take(&mut self.in_flight) {
            if found == self.model {
                break;
            }
            self.model.apply(&batch);
        }
        if found == self.model {
            Ok(log)
        } else {
            Err(self.difference(&found))
        }
    }

    fn difference(&self, found: &Model) -> String {
        let positions = |model: &Model| {
            let streams = model.streams.iter();
            streams
                .map(|(id, records)| (*id, records.keys().copied().collect::<Vec<_>>()))
                .collect::<Vec<_>>()
        };
        format!(
            "after {} crashes:\nfound    {:?}\nexpected {:?}\nstate {:?}\nexpected {:?}",
            self.crashes,
            positions(found),
            positions(&self.model),
            found.state,
            self.model.state
        )
    }

    fn put(&mut self, stream: u32, body_bytes: u64) -> Op {
        let at = &mut self.next[stream as usize];
        *at += 1 + u64::from(self.random.below(8) == 0) * self.random.below(100_000);
        let body = vec![self.random.next() as u8; body_bytes as usize];
        put(stream, *at, at.to_le_bytes(), body)
    }

    /// One batch as the present phase has them.
    fn batch(&mut self) -> Batch {
        let mut ops = Vec::new();
        match self.phase % 6 {
            // Short-lived: what is put goes with the next batch or two.
            0 => {
                let last = self.next[1];
                let size = self.random.below(2000);
                ops.push(self.put(1, size));
                if self.random.below(3) > 0 {
                    ops.push(remove(1, 0, last));
                }
            }
            // Long-lived, with a few removed here and there.
            1 => {
                let size = self.random.below(600);
                ops.push(self.put(0, size));
                if self.random.below(4) == 0 {
                    let first = self.random.below(self.next[0] + 1);
                    ops.push(remove(0, first, first + self.random.below(3)));
                }
            }
            // One record of one size after the other: recycled segments look alike.
            2 => {
                let last = self.next[2];
                ops.push(self.put(2, 100));
                if self.random.below(2) == 0 {
                    ops.push(remove(2, last.saturating_sub(3), last));
                }
            }
            // Everything, in large batches.
            3 => {
                for _ in 0..=self.random.below(5) {
                    let stream = self.random.below(u64::from(STREAMS)) as u32;
                    match self.random.below(8) {
                        0..=3 => {
                            let size = self.random.below(900);
                            ops.push(self.put(stream, size));
                        }
                        4 | 5 => {
                            let first = self.random.below(self.next[stream as usize] + 1);
                            ops.push(remove(stream, first, first + self.random.below(50_000)));
                        }
                        6 => ops.push(set(
                            [self.random.below(6) as u8],
                            vec![self.random.next() as u8; self.random.below(200) as usize],
                        )),
                        _ => ops.push(unset([self.random.below(6) as u8])),
                    }
                }
            }
            // State comes, changes and goes, among what stays.
            4 => {
                for _ in 0..=self.random.below(3) {
                    let key = [self.random.below(12) as u8];
                    ops.push(if self.random.below(3) == 0 {
                        unset(key)
                    } else {
                        set(key, vec![7; self.random.below(900) as usize])
                    });
                }
            }
            // The tide goes out.
            _ => {
                let stream = self.random.below(u64::from(STREAMS)) as u32;
                let first = self.random.below(self.next[stream as usize] + 1);
                ops.push(remove(stream, first, u64::MAX >> self.random.below(64)));
                ops.retain(|op| !matches!(op, Op::Remove { first, last, .. } if first > last));
                ops.push(set("tide", self.random.next().to_le_bytes()));
            }
        }
        Batch::from(ops)
    }

    /// Works until the power goes (or the given number of commits is done).
    fn work(&mut self, log: &mut Log, commits: u32) -> Result<bool, String> {
        for _ in 0..commits {
            if self.random.below(12) == 0 {
                self.phase = self.random.next();
            }
            // Where batches are turned away, those of a failed commit cannot be told from them.
            let is_tight = self.options.disk_bytes_max.is_some();
            let others = if is_tight { 0 } else { self.random.below(4) };
            let group: Vec<Batch> = (0..=others).map(|_| self.batch()).collect();
            match log.commit(&group) {
                Ok(answers) => {
                    for (batch, answer) in group.iter().zip(answers) {
                        match answer {
                            Applied::Done => self.model.apply(batch),
                            Applied::Full if is_tight => self.full += 1,
                            answer => return Err(format!("there is room, yet {answer:?}")),
                        }
                    }
                }
                Err(_) => {
                    self.in_flight = group;
                    return Ok(true);
                }
            }
            if self.random.below(4) == 0 && log.tidy(self.random.below(2) == 0).is_err() {
                return Ok(true);
            }
            // The power may have gone while something was written that nothing relies on.
            if self.random.below(30) == 0 && self.fs.list(&dir()).is_ok() {
                let state = self.model.state.clone();
                let found = Model::read(&log.reader(), STREAMS, state);
                if found != self.model {
                    return Err(format!("while running, {}", self.difference(&found)));
                }
            }
        }
        Ok(false)
    }
}

/// One machine's life: long stretches of work and power cuts at random operations.
pub(crate) fn life(seed: u64, options: LogOptions, crashes: u32) -> Result<Lived, String> {
    let mut machine = Machine::new(seed, options);
    let mut log = machine.recover()?;
    while machine.crashes < crashes {
        let calm = machine.random.below(100) as u32;
        if !machine.work(&mut log, calm)? {
            machine.cut_within(40);
            machine.work(&mut log, 1000)?;
        }
        if machine.random.below(6) == 0 {
            // Sometimes the process alone dies, or it ends in order: the cache survives both.
            machine.fs.heal();
            let machine_survives = machine.fs.as_ref().clone();
            if machine.random.below(2) == 0 {
                log.close();
            } else {
                drop(log);
            }
            machine.fs = Arc::new(machine_survives);
            if machine.random.below(2) == 0 {
                drop(machine.recover());
            }
        } else {
            drop(log);
        }
        machine.crash();
        log = machine
            .recover()
            .map_err(|error| format!("seed {seed}: {error}"))?;
    }
    Ok(Lived {
        torn_tails: machine.torn_tails,
        full: machine.full,
    })
}

/// What a life met.
pub(crate) struct Lived {
    pub(crate) torn_tails: u32,
    pub(crate) full: u32,
}

/// On a disk that is nearly always full everything moves all the time, and what is left of the
/// reserve is taken up after each cut.
#[test]
fn nothing_is_lost_on_a_full_disk_either() {
    let mut full = 0;
    for seed in 0..scale(20) {
        let options = LogOptions {
            disk_bytes_max: Some(20 * 1024 * (5 + seed % 4)),
            ..small()
        };
        match life(seed, options, 40) {
            Ok(lived) => full += lived.full,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(full > 1000, "the disk must be full: {full}");
}

#[test]
fn nothing_reported_done_is_lost_over_many_power_cuts() {
    let mut torn_tails = 0;
    for seed in 0..scale(40) {
        match life(seed, small(), 40) {
            Ok(lived) => torn_tails += lived.torn_tails,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(torn_tails > 40, "the cuts must hit writes: {torn_tails}");
}

#[test]
fn every_operation_of_a_workload_may_be_the_last() {
    for seed in 100..100 + scale(4) {
        let mut machine = Machine::new(seed, small());
        let mut log = machine.recover().unwrap();
        machine.work(&mut log, 60).unwrap();
        let operations = machine.fs.operations();
        assert!(operations > 100);
        for cut in 0..operations {
            let mut machine = Machine::new(seed, small());
            machine.fs.inject(Fault::CutAt(cut));
            let salt = machine.random.next();
            // The same salt source as a machine that recovers without trouble.
            if let Ok((mut log, _)) = open_at(&machine.fs, &dir(), small(), salt) {
                machine.work(&mut log, 60).unwrap();
            }
            for again in 0..3 {
                machine.fs.crash(seed ^ cut ^ again);
                let log = machine.recover().unwrap_or_else(|error| {
                    panic!("seed {seed}, cut at {cut}, recovery {again}: {error}")
                });
                drop(log);
            }
        }
    }
}

/// `QM_SLOW_TESTS=1` multiplies the work of the seeded tests.
pub(crate) fn scale(seeds: u64) -> u64 {
    if std::env::var_os("QM_SLOW_TESTS").is_some() {
        seeds * 25
    } else {
        seeds
    }
}
