//! What stores are put through: short runs of steps, the same whenever they are asked for.

use std::sync::Arc;

use qm_store::{Applied, Batch, Log, LogOptions, Op, Recovered, RecoveryNote, SimFs, StreamId};

use crate::common::*;

pub(crate) const STREAMS: u32 = 4;

/// One thing a process does.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Commit(Vec<Batch>),
    /// One step of housekeeping, idle or not.
    Tidy(bool),
    /// Housekeeping until there is nothing more to do.
    Rest,
    /// The process dies and another one starts.
    Kill,
    /// It ends in order and another one starts.
    Restart,
}

/// A named run of steps.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) options: LogOptions,
    pub(crate) steps: Vec<Step>,
    /// So many segments at least are voided and used again on the way.
    pub(crate) reuses: u64,
}

impl Workload {
    /// Whether batches may be turned away for want of room.
    pub(crate) fn is_tight(&self) -> bool {
        self.options.disk_bytes_max.is_some()
    }

    #[cfg(feature = "__breaks")]
    pub(crate) fn with(mut self, options: impl FnOnce(&mut LogOptions)) -> Self {
        options(&mut self.options);
        self
    }
}

/// Writes steps down.
struct Author {
    random: Random,
    next: [u64; STREAMS as usize],
    steps: Vec<Step>,
}

impl Author {
    fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            next: [0; STREAMS as usize],
            steps: Vec::new(),
        }
    }

    fn put(&mut self, stream: u32, bytes: u64) -> Op {
        let at = &mut self.next[stream as usize];
        *at += 1 + self.random.below(3);
        let body: Vec<u8> = (0..bytes)
            .map(|byte| (*at as u8) ^ (stream as u8) << 6 ^ (byte as u8))
            .collect();
        put(stream, *at, at.to_le_bytes(), body)
    }

    fn commit(&mut self, batches: Vec<Vec<Op>>) {
        let batches = batches.into_iter().map(batch).collect();
        self.steps.push(Step::Commit(batches));
    }

    fn tidy_now_and_then(&mut self) {
        match self.random.below(4) {
            0 => self.steps.push(Step::Tidy(false)),
            1 => self.steps.push(Step::Tidy(true)),
            _ => {}
        }
    }

    fn named(self, name: &'static str, options: LogOptions) -> Workload {
        Workload {
            name,
            options,
            steps: self.steps,
            reuses: 0,
        }
    }
}

/// No emptied segment is kept for its heads, and the log may not outgrow what is live: segments
/// are used again soon.
fn eager() -> LogOptions {
    LogOptions {
        recent_puts: 2,
        spare_segments_max: 0,
        ..small()
    }
}

/// Each workload, in the order of the table.
pub(crate) fn all_workloads() -> Vec<Workload> {
    vec![
        plain(),
        short_among_long(1),
        short_among_long(2),
        state(),
        batches(),
        reserve(),
        restarts(),
        restarts_on_a_full_disk(),
        bodies(),
        bodies_on_a_full_disk(),
    ]
}

/// Puts and removals of one stream.
pub(crate) fn plain() -> Workload {
    let mut author = Author::new(1);
    for _ in 0..14 {
        let last = author.next[0];
        let mut ops = vec![author.put(0, 900)];
        if last > 6 {
            ops.push(remove(0, last - 6, last - 6));
        }
        author.commit(vec![ops]);
        author.tidy_now_and_then();
    }
    author.named("plain", small())
}

/// Phases of messages that come and go, between others that stay: segments empty in another order
/// than that in which they were filled, and are used again.
pub(crate) fn short_among_long(seed: u64) -> Workload {
    let mut author = Author::new(100 + seed);
    for phase in 0..6u8 {
        let stays = author.put(0, 150);
        author.commit(vec![vec![stays, set([phase], [phase; 40])]]);
        for _ in 0..4 {
            let last = author.next[1];
            let bytes = 2500 + author.random.below(2500);
            let comes = author.put(1, bytes);
            author.commit(vec![vec![comes, remove(1, 0, last)]]);
            author.tidy_now_and_then();
        }
        if phase % 2 == 1 {
            let first = author.random.below(author.next[0]);
            author.commit(vec![vec![remove(0, first, first + 1), unset([phase - 1])]]);
            author.steps.push(Step::Rest);
        }
    }
    let name = if seed == 1 {
        "short among long"
    } else {
        "short among long, 2"
    };
    Workload {
        reuses: 2,
        ..author.named(name, eager())
    }
}

/// Keys that come, change and go, large enough to fill segments.
pub(crate) fn state() -> Workload {
    let mut author = Author::new(3);
    for round in 0..36u64 {
        let key = [author.random.below(5) as u8];
        let value = vec![round as u8; 2600 + author.random.below(900) as usize];
        let op = if author.random.below(4) == 0 {
            unset(key)
        } else {
            set(key, value)
        };
        let mut ops = vec![op];
        if round % 5 == 0 {
            ops.push(author.put(2, 50));
        }
        author.commit(vec![ops]);
        author.tidy_now_and_then();
    }
    Workload {
        reuses: 1,
        ..author.named("keyed state", eager())
    }
}

/// Several batches a commit, several streams a batch.
pub(crate) fn batches() -> Workload {
    let mut author = Author::new(4);
    for _ in 0..14 {
        let mut group = Vec::new();
        for _ in 0..=author.random.below(3) {
            let mut ops = Vec::new();
            for _ in 0..=author.random.below(4) {
                let stream = author.random.below(u64::from(STREAMS)) as u32;
                match author.random.below(6) {
                    0..=3 => {
                        let bytes = author.random.below(1100);
                        ops.push(author.put(stream, bytes));
                    }
                    4 => {
                        let first = author.random.below(author.next[stream as usize] + 1);
                        ops.push(remove(stream, first, first + author.random.below(6)));
                    }
                    _ => ops.push(set([author.random.below(3) as u8], [7; 20])),
                }
            }
            group.push(ops);
        }
        author.commit(group);
        author.tidy_now_and_then();
    }
    author.named("several streams", small())
}

/// A disk that fills, drains out of order with the reserve, and fills again: what lives moves.
pub(crate) fn reserve() -> Workload {
    let mut author = Author::new(5);
    for _ in 0..2 {
        for _ in 0..22 {
            let op = author.put(0, 1500);
            let seen = set("newest", author.next[0].to_le_bytes());
            author.commit(vec![vec![op], vec![seen]]);
        }
        let top = author.next[0];
        let mut gone: Vec<u64> = (0..=top).filter(|at| at % 7 != 0).collect();
        while !gone.is_empty() {
            let count = gone.len().min(4);
            let ops: Vec<Op> = (0..count)
                .map(|_| {
                    let at = author.random.below(gone.len() as u64) as usize;
                    let at = gone.swap_remove(at);
                    remove(0, at, at)
                })
                .collect();
            author.commit(vec![ops]);
            author.tidy_now_and_then();
        }
    }
    let options = LogOptions {
        disk_bytes_max: Some(4 * 20 * 1024),
        ..eager()
    };
    Workload {
        reuses: 1,
        ..author.named("full disk", options)
    }
}

/// Processes that die or end in order, again and again.
pub(crate) fn restarts() -> Workload {
    let mut author = Author::new(6);
    for round in 0..9u64 {
        for _ in 0..3 {
            let last = author.next[1];
            let (stays, comes) = (author.put(0, 200), author.put(1, 1800));
            author.commit(vec![vec![stays, comes, remove(1, 0, last)]]);
        }
        author.tidy_now_and_then();
        author.steps.push(if round % 3 == 2 {
            Step::Restart
        } else {
            Step::Kill
        });
    }
    Workload {
        reuses: 1,
        ..author.named("restarts", eager())
    }
}

/// The same where no further segment can be had: the interrupted one is taken up again.
pub(crate) fn restarts_on_a_full_disk() -> Workload {
    let mut author = Author::new(7);
    for round in 0..14u64 {
        for _ in 0..3 {
            let op = author.put(0, 1300);
            author.commit(vec![vec![op]]);
        }
        if round > 6 {
            let first = author.random.below(author.next[0]);
            author.commit(vec![vec![remove(0, first, first + 3)]]);
        }
        author.steps.push(if round % 3 == 2 {
            Step::Restart
        } else {
            Step::Kill
        });
    }
    let options = LogOptions {
        disk_bytes_max: Some(4 * 20 * 1024),
        ..small()
    };
    author.named("restarts, full disk", options)
}

/// Huge bodies come and go among small records that empty the segments: the records that name
/// the files move, the files stay. Processes die on the way.
pub(crate) fn bodies() -> Workload {
    let mut author = Author::new(8);
    for round in 0..8u64 {
        let bytes = [700, 1500, 66_000, 900][round as usize % 4];
        let large = author.put(0, bytes);
        author.commit(vec![vec![large]]);
        for _ in 0..3 {
            let last = author.next[1];
            let comes = author.put(1, 480);
            let state = set("newest", vec![round as u8; 2500]);
            author.commit(vec![vec![comes, remove(1, 0, last)], vec![state]]);
            author.tidy_now_and_then();
        }
        if round > 2 {
            // One is removed in the batch that brings another.
            let first = author.next[0].saturating_sub(5);
            let large = author.put(2, 600);
            author.commit(vec![vec![remove(0, first, first + 2), large]]);
            author.steps.push(Step::Tidy(false));
        }
        match round % 4 {
            1 => author.steps.push(Step::Kill),
            3 => author.steps.push(Step::Restart),
            _ => {}
        }
    }
    author.commit(vec![vec![remove(0, 0, u64::MAX), remove(2, 0, 3)]]);
    author.steps.push(Step::Rest);
    let options = LogOptions {
        side_file_bytes: 500,
        ..eager()
    };
    Workload {
        reuses: 1,
        ..author.named("huge bodies", options)
    }
}

/// The same where the disk has no room for all of them.
pub(crate) fn bodies_on_a_full_disk() -> Workload {
    let mut author = Author::new(9);
    for round in 0..7u64 {
        for _ in 0..3 {
            let (one, other) = (author.put(0, 9000), author.put(0, 9000));
            let small = author.put(1, 300);
            author.commit(vec![vec![one, other], vec![small]]);
        }
        let first = author.random.below(author.next[0]);
        author.commit(vec![vec![remove(0, first, first + 2)]]);
        author.tidy_now_and_then();
        if round % 3 == 1 {
            author.steps.push(Step::Kill);
        }
    }
    let options = LogOptions {
        side_file_bytes: 500,
        disk_bytes_max: Some(4 * 20 * 1024 + 40_000),
        ..eager()
    };
    author.named("huge bodies, full disk", options)
}

/// How many of the records of a model have their bodies in files of their own.
pub(crate) fn bodies_in(model: &Model, options: &LogOptions) -> usize {
    let records = model.streams.values().flat_map(|records| records.values());
    records
        .filter(|(_, body)| body.len() >= options.side_file_bytes)
        .count()
}

/// What a run was told, and what it therefore may find.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Everything reported done.
    pub(crate) done: Model,
    /// What may be there instead: the step under way may have been done in part.
    pub(crate) may: Vec<Model>,
    /// Whether every step was done.
    pub(crate) finished: bool,
    /// How many batches were turned away.
    pub(crate) full: u64,
    /// What the store did wrong while it ran.
    pub(crate) wrong: Option<String>,
}

impl Told {
    pub(crate) fn allows(&self, found: &Model) -> bool {
        *found == self.done || self.may.contains(found)
    }
}

/// Runs a workload until it ends or something fails.
pub(crate) fn drive(workload: &Workload, fs: &Arc<SimFs>) -> Told {
    let mut told = Told::default();
    let mut salt = 1000;
    let mut open = || {
        salt += 1;
        open_at(fs, &dir(), workload.options.clone(), salt)
    };
    let Ok((mut log, _)) = open() else {
        return told;
    };
    for step in &workload.steps {
        let went_on = match step {
            Step::Commit(group) => commit(&mut log, group, workload.is_tight(), &mut told),
            Step::Tidy(idle) => log.tidy(*idle).is_ok(),
            Step::Rest => loop {
                match log.tidy(true) {
                    Ok(true) => {}
                    Ok(false) => break true,
                    Err(_) => break false,
                }
            },
            Step::Kill | Step::Restart => {
                if matches!(step, Step::Restart) {
                    log.close();
                } else {
                    drop(log);
                }
                match open() {
                    Ok((opened, recovered)) => {
                        log = opened;
                        match content(&log, recovered) {
                            Ok(found) if found != told.done => {
                                told.wrong = Some(difference(&found, &told.done));
                            }
                            // Reading may fail where faults are injected.
                            _ => {}
                        }
                        true
                    }
                    Err(_) => return told,
                }
            }
        };
        if !went_on || told.wrong.is_some() {
            return told;
        }
        read_some(&log, &mut told);
    }
    told.finished = true;
    told
}

fn commit(log: &mut Log, group: &[Batch], is_tight: bool, told: &mut Told) -> bool {
    match log.commit(group) {
        Ok(answers) => {
            for (batch, answer) in group.iter().zip(answers) {
                match answer {
                    Applied::Done => told.done.apply(batch),
                    Applied::Full => told.full += 1,
                    Applied::Refused(why) => told.wrong = Some(format!("refused: {why}")),
                    other => told.wrong = Some(format!("{other:?}")),
                }
            }
            true
        }
        Err(_) => {
            // A prefix of the group, or of what is left of it where there was no room for some
            // of the batches with puts.
            let most = if is_tight { 1 << group.len() } else { 1 };
            for turned_away in 0..most {
                let mut found = told.done.clone();
                for (at, batch) in group.iter().enumerate() {
                    if turned_away & (1 << at) != 0 && batch.has_puts() {
                        continue;
                    }
                    found.apply(batch);
                    told.may.push(found.clone());
                }
            }
            false
        }
    }
}

/// Whatever is read while the log runs is what was written.
fn read_some(log: &Log, told: &mut Told) {
    for stream in 0..STREAMS {
        let none = std::collections::BTreeMap::new();
        let expected = told.done.streams.get(&stream).unwrap_or(&none);
        let Ok(records) = log.reader().read(StreamId(stream), 0, 3, 8000) else {
            continue;
        };
        for (record, (position, (head, body))) in records.iter().zip(expected) {
            if (record.position, &record.head, &record.body) != (*position, head, body) {
                told.wrong = Some(format!("stream {stream}: read {record:?} for {position}"));
            }
        }
        if records.is_empty() != expected.is_empty() {
            told.wrong = Some(format!("stream {stream}: {} read", records.len()));
        }
    }
}

/// Everything a log holds.
pub(crate) fn content(log: &Log, recovered: Recovered) -> Result<Model, String> {
    let mut found = Model {
        state: recovered.state,
        ..Model::default()
    };
    for stream in 0..STREAMS {
        let mut from = 0;
        loop {
            let page = log.reader().read(StreamId(stream), from, 50, 16 * 1024);
            let page = page.map_err(|error| format!("reading: {error}"))?;
            let Some(last) = page.last() else { break };
            from = last.position + 1;
            let records = page.into_iter().map(|r| (r.position, (r.head, r.body)));
            found.streams.entry(stream).or_default().extend(records);
        }
    }
    Ok(found)
}

/// Works on in a store: what it held goes, and what comes and goes then has every segment used
/// again.
pub(crate) fn carry_on(workload: &Workload, fs: &Arc<SimFs>) -> Result<Told, String> {
    let (mut log, found) = open_and_read(workload, fs)?;
    let mut told = Told {
        done: found,
        ..Told::default()
    };
    let all = (0..3).map(|stream| remove(stream, 0, u64::MAX));
    commit(
        &mut log,
        &[batch(all.collect::<Vec<_>>())],
        false,
        &mut told,
    );
    for at in 0..20 {
        let at = (1 << 40) + at;
        let ops = [
            put(3, at, at.to_le_bytes(), vec![at as u8; 4000]),
            remove(3, 0, at - 1),
            set("on", at.to_le_bytes()),
        ];
        if !commit(&mut log, &[batch(ops)], false, &mut told) {
            return Err("it fails without a fault".to_owned());
        }
        log.tidy(false).map_err(|error| format!("tidy: {error}"))?;
    }
    Ok(told)
}

/// Opens a store and reads everything; a power cut must not look like damage.
pub(crate) fn open_and_read(workload: &Workload, fs: &Arc<SimFs>) -> Result<(Log, Model), String> {
    let opened = open_at(fs, &dir(), workload.options.clone(), 5);
    let (log, recovered) = opened.map_err(|error| format!("recovery: {error}"))?;
    for note in &recovered.notes {
        match note {
            RecoveryNote::TornTail { .. } | RecoveryNote::DamagedHeader { .. } => {}
            RecoveryNote::ReserveIncomplete if workload.is_tight() => {}
            other => return Err(format!("taken for damage: {other}")),
        }
    }
    let found = content(&log, recovered)?;
    Ok((log, found))
}

/// What two models differ in, in one line.
pub(crate) fn difference(found: &Model, expected: &Model) -> String {
    let positions = |model: &Model| {
        let streams = model.streams.iter();
        streams
            .map(|(id, records)| (*id, records.keys().copied().collect::<Vec<_>>()))
            .collect::<Vec<_>>()
    };
    let (one, other) = (positions(found), positions(expected));
    if one != other {
        return format!("found {one:?}, told {other:?}");
    }
    if found.state != expected.state {
        let keys = |model: &Model| model.state.keys().cloned().collect::<Vec<_>>();
        return format!("keys {:?}, told {:?}", keys(found), keys(expected));
    }
    "a record has another content".to_owned()
}
