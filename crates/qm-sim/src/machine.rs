//! A machine: a disk, a clock, and a queue manager that runs while there is power.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use qm_engine::{
    ConnId, Engine, EngineConfig, Entropy, Identity, Input, Now, OnTwin, Output, RefusalsKnown,
    Risen, Roles, Seal, SeededEntropy, StoreOp, StoredMessage, StoredQueue, StreamId, Ticket,
    Timestamp, TokenKey, Trust,
};
use qm_store::adapter;
use qm_store::{Applied, Fs, Log, LogOptions, SimFs};
use qm_wire::{Incarnation, MessageId, QmId};

use crate::oracle::Put;
use crate::scenario::{Case, Scenario};
use crate::tape::{Fresh, Tape};

/// Wall clock at the beginning of the world: 2026-01-02, microseconds.
const WALL_START_US: u64 = 1_767_312_000_000_000;

/// See the module.
pub(crate) struct Machine {
    pub(crate) number: usize,
    pub(crate) identity: Identity,
    /// Every key in its files, the first one first.
    pub(crate) keys: Vec<[u8; 32]>,
    /// The key of the identity that drains.
    former: Option<[u8; 32]>,
    /// By what the operating system knows the machine.
    pub(crate) hardware: u64,
    /// The first machine of which it is a copy; its own number otherwise.
    root: usize,
    pub(crate) disk: Arc<SimFs>,
    /// Whether the power is set to go at some operation of the disk.
    pub(crate) cut_armed: bool,
    /// Whether some operation of the disk is set to fail.
    pub(crate) failure_armed: bool,
    /// World time until which commits are slow.
    pub(crate) slow_until: u64,
    /// World time until which the disk is full.
    pub(crate) full_until: u64,
    /// What its processes are given, where that is less than usual, and until which world time.
    pub(crate) short: Option<(Memory, u64)>,
    /// What may only rise, as far as it was looked at.
    pub(crate) risen: Risen,
    /// How often it was looked at.
    audits: u64,
    pub(crate) running: Option<Running>,
    /// How often it was started; belongs into the randomness of each life.
    pub(crate) lives: u64,
    /// How far the wall clock is off, microseconds.
    pub(crate) wall_offset_us: i64,
    /// World time of the next tick that is planned.
    pub(crate) tick_at: u64,
    /// World time of the start of this life and node time then.
    boot: (u64, u64),
}

/// Memory that a process may use for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Bytes of waiting durable messages.
    pub(crate) resident_bytes: usize,
    /// Bytes of waiting express messages.
    pub(crate) express_bytes: usize,
}

/// A batch waiting for the disk.
#[derive(Clone)]
pub(crate) struct Waiting {
    pub(crate) ticket: Ticket,
    pub(crate) ops: Vec<StoreOp>,
    /// See [`qm_store::Batch::refusals_known`].
    pub(crate) refusals_known: RefusalsKnown,
}

/// What is gone when the power is.
pub(crate) struct Running {
    pub(crate) engine: Engine,
    pub(crate) log: Log,
    /// Batches waiting for the disk.
    pub(crate) waiting: Vec<Waiting>,
    /// Whether a commit is under way.
    pub(crate) committing: bool,
    /// Whether the process ends when nothing waits for the disk.
    pub(crate) stopping: bool,
    /// Whether a full disk refused what a stop wanted to write down.
    pub(crate) spill_refused: bool,
    /// What it was given.
    pub(crate) memory: Memory,
    /// Names of the values on its disk of which others may have been told.
    told: BTreeSet<Bytes>,
    /// What its streams are, as its disk says.
    queues: BTreeMap<Bytes, Bytes>,
    /// All that the engine was told, where it is to be copied with its memory.
    pub(crate) tape: Option<Tape>,
}

impl Running {
    /// Tells the engine something.
    pub(crate) fn handle(&mut self, now: Now, input: Input) {
        if let Some(tape) = &mut self.tape {
            tape.told(now, &input);
        }
        self.engine.handle(now, input);
    }

    /// These changes are on disk.
    fn keep_told(&mut self, ops: &[StoreOp]) {
        for op in ops {
            if let StoreOp::Set { key, value } = op
                && key.starts_with(QUEUES)
            {
                self.queues.insert(key.clone(), value.clone());
            }
            match op {
                StoreOp::Set { key, .. } if is_told(key) => drop(self.told.insert(key.clone())),
                StoreOp::Unset { key } => drop(self.told.remove(key)),
                _ => {}
            }
        }
    }

    /// Whether everything of which others may have been told is on disk.
    fn audit_told(&self) -> Result<(), String> {
        let told = self.engine.told_names();
        match told.iter().find(|name| !self.told.contains(*name)) {
            Some(name) => Err(format!(
                "it may have told of {name:?}, which is not on disk"
            )),
            None => Ok(()),
        }
    }

    /// Takes the next thing that the engine wants.
    pub(crate) fn poll(&mut self, now: Now) -> Option<Output> {
        if let Some(tape) = &mut self.tape {
            tape.polled(now);
        }
        self.engine.poll(now)
    }
}

/// Whether a value says what others may have been told.
fn is_told(name: &[u8]) -> bool {
    name.starts_with(b"void/") || name.starts_with(b"final/")
}

/// How the names begin under which a disk says what its streams are.
const QUEUES: &[u8] = b"q/";

/// Stands for Ed25519, which these worlds do not need: only who has the key makes it, and it covers
/// every byte.
pub(crate) fn sign(key: &[u8; 32], bytes: &[u8]) -> [u8; 64] {
    let mut signature = [0; 64];
    let hash = blake3::keyed_hash(key, bytes);
    let (first, _) = signature.split_at_mut(32);
    first.copy_from_slice(hash.as_bytes());
    signature
}

/// What recovery found on a disk.
#[derive(Default)]
pub(crate) struct Found {
    /// Messages that are there or were there lately, by source and id.
    pub(crate) known: Vec<StoredMessage>,
    /// Live messages, where they are, and the puts that their bodies name.
    pub(crate) named: Vec<((StreamId, u64), StoredMessage, Put)>,
    /// Live reports.
    pub(crate) reports: Vec<qm_wire::Envelope>,
    /// The named values, where ends are told.
    pub(crate) state: BTreeMap<Bytes, Bytes>,
    /// Arrivals from elsewhere that the duplicate cache can start from.
    pub(crate) remembered: BTreeSet<(QmId, MessageId)>,
}

/// A batch that the disk has answered for.
pub(crate) enum Committed {
    /// In the order of tickets: durable or refused.
    Answers(Vec<(Ticket, Vec<StoreOp>, Applied)>),
    /// The power went in the middle.
    PowerLost,
    /// The disk failed; what is on it, recovery must find out.
    Failed,
}

/// How a start went.
pub(crate) enum Started {
    /// The node runs.
    Runs(Found),
    /// The power went during recovery.
    PowerLost,
    /// The disk failed during recovery.
    Failed,
}

impl Machine {
    pub(crate) fn new(number: usize, seed: u64) -> Self {
        let mut random = SeededEntropy::new(seed ^ (number as u64) << 32);
        let mut public_key = [0; 32];
        random.fill(&mut public_key);
        let mut store_id = [0; 16];
        random.fill(&mut store_id);
        Self {
            number,
            identity: Identity {
                qm: QmId::from_ed25519_public_key(&public_key),
                public_key,
                store_id,
                token_key: TokenKey::new(public_key),
            },
            keys: vec![public_key],
            former: None,
            hardware: 0,
            root: number,
            disk: Arc::new(SimFs::new()),
            cut_armed: false,
            failure_armed: false,
            slow_until: 0,
            full_until: 0,
            short: None,
            risen: Risen::default(),
            audits: 0,
            running: None,
            lives: 0,
            wall_offset_us: 0,
            tick_at: u64::MAX,
            boot: (0, 0),
        }
    }

    /// Gives the machine a key that somebody holds.
    pub(crate) fn identify(&mut self, public_key: [u8; 32]) {
        self.identity.public_key = public_key;
        self.identity.qm = QmId::from_ed25519_public_key(&public_key);
        self.keys = vec![public_key];
    }

    /// A machine with the disk and the keys of this one, which does not run.
    pub(crate) fn copied(&self, number: usize, disk: SimFs, keys: Vec<[u8; 32]>) -> Self {
        Self {
            number,
            identity: self.identity,
            keys,
            former: self.former,
            hardware: self.hardware,
            root: self.root,
            disk: Arc::new(disk),
            cut_armed: false,
            failure_armed: false,
            slow_until: 0,
            full_until: 0,
            short: None,
            risen: Risen::default(),
            audits: 0,
            running: None,
            lives: 0,
            wall_offset_us: self.wall_offset_us,
            tick_at: u64::MAX,
            boot: (0, 0),
        }
    }

    /// The same machine with its memory: it runs on from where the other one is.
    pub(crate) fn resumed(
        &self,
        number: usize,
        scenario: &Scenario,
        reseed: u64,
    ) -> Result<Option<Self>, String> {
        let Some(running) = &self.running else {
            return Ok(None);
        };
        let Some(tape) = &running.tape else {
            return Ok(None);
        };
        let disk = SimFs::clone(&self.disk);
        disk.heal();
        disk.set_capacity(None);
        let mut machine = self.copied(number, disk, self.keys.clone());
        machine.boot = self.boot;
        machine.lives = self.lives;
        let (log, _) = machine
            .open(scenario, reseed)
            .map_err(|error| format!("the disk of a copied machine is not read: {error}"))?;
        machine.running = Some(Running {
            engine: tape.play(reseed),
            log,
            waiting: running.waiting.clone(),
            committing: running.committing,
            stopping: running.stopping,
            spill_refused: running.spill_refused,
            memory: running.memory,
            told: running.told.clone(),
            queues: running.queues.clone(),
            tape: None,
        });
        Ok(Some(machine))
    }

    /// The identity with which its family began.
    pub(crate) fn first_identity(&self) -> QmId {
        self.keys
            .first()
            .map_or(self.identity.qm, QmId::from_ed25519_public_key)
    }

    /// Every identity of which it has the key.
    pub(crate) fn identities(&self) -> Vec<QmId> {
        self.keys
            .iter()
            .map(QmId::from_ed25519_public_key)
            .collect()
    }

    /// The identity that it has, and the one that drains.
    pub(crate) fn spoken(&self) -> Vec<QmId> {
        let former = self.former.as_ref().map(QmId::from_ed25519_public_key);
        core::iter::once(self.identity.qm).chain(former).collect()
    }

    /// The key with which it answers whoever expects an identity there, if it does.
    pub(crate) fn key_of(&self, expected: QmId) -> Option<[u8; 32]> {
        let keys = [Some(self.identity.public_key), self.former];
        let mut keys = keys.into_iter().flatten();
        keys.find(|key| QmId::from_ed25519_public_key(key) == expected)
    }

    /// The engine says which key is which.
    pub(crate) fn take_roles(&mut self, current: QmId, former: Option<QmId>) -> Result<(), String> {
        let key = |qm: QmId| {
            let mut keys = self.keys.iter();
            keys.find(|key| QmId::from_ed25519_public_key(key) == qm)
                .copied()
        };
        let Some(now) = key(current) else {
            return Err(format!("node{}: the key of {current} is lost", self.number));
        };
        self.former = former.and_then(key);
        if self.former.is_none() && former.is_some() {
            return Err(format!(
                "node{}: the key of a former identity is lost",
                self.number
            ));
        }
        self.speak(now);
        Ok(())
    }

    fn speak(&mut self, key: [u8; 32]) {
        self.identity.public_key = key;
        self.identity.qm = QmId::from_ed25519_public_key(&key);
        self.identity.token_key = TokenKey::new(key);
    }

    /// The store says which of the keys is which.
    fn recover_roles(&mut self, recovered: &qm_engine::Recovered) -> Result<(), String> {
        let roles = Roles::read(&recovered.state)
            .map_err(|what| format!("rule 11: node{} cannot read {what}", self.number))?;
        let Some(roles) = roles else {
            if let Some(first) = self.keys.first().copied() {
                self.former = None;
                self.speak(first);
            }
            return Ok(());
        };
        if !self.keys.contains(&roles.current) {
            return Err(format!(
                "node{}: the key of its identity is lost",
                self.number
            ));
        }
        self.former = roles.former;
        self.speak(roles.current);
        Ok(())
    }

    fn open(
        &self,
        scenario: &Scenario,
        seed: u64,
    ) -> Result<(Log, qm_store::Recovered), qm_store::StoreError> {
        let mut salts = SeededEntropy::new(seed ^ 0x5a17);
        let options = LogOptions {
            segment_bytes: scenario.segment_bytes,
            reserve_bytes: 256 * 1024,
            spare_segments_max: 2,
            ..LogOptions::default()
        };
        let fs: Arc<dyn Fs> = Arc::clone(&self.disk) as Arc<dyn Fs>;
        Log::open(
            fs,
            Path::new("/store"),
            options,
            Box::new(move || salts.next_u64()),
        )
    }

    /// Both clocks of the machine at a world time.
    pub(crate) fn now(&self, world_us: u64) -> Now {
        let (booted, base) = self.boot;
        Now {
            at: Timestamp(base + (world_us - booted)),
            wall_us: WALL_START_US
                .saturating_add(world_us)
                .saturating_add_signed(self.wall_offset_us),
        }
    }

    /// World time of a node time in this life.
    pub(crate) fn world_time(&self, at: Timestamp) -> u64 {
        let (booted, base) = self.boot;
        if at == Timestamp::NEVER {
            u64::MAX
        } else {
            booted + at.0.saturating_sub(base)
        }
    }

    /// Recovers the store and starts a life.
    pub(crate) fn start(&mut self, scenario: &Scenario, world_us: u64) -> Result<Started, String> {
        self.lives += 1;
        self.tick_at = u64::MAX;
        let life_seed =
            scenario.seed ^ (self.number as u64) << 40 ^ self.lives.wrapping_mul(0x9e37_79b9);
        let (log, recovered) = match self.open(scenario, life_seed) {
            Ok(opened) => opened,
            Err(_) if self.cut_armed && self.disk_is_off() => return Ok(Started::PowerLost),
            Err(_) if self.failure_armed => return Ok(Started::Failed),
            Err(error) => return Err(format!("recovery failed: {error}")),
        };
        let recovered = adapter::recovered_of(recovered);
        self.recover_roles(&recovered)?;
        let mut found = found(&recovered, self.identity.qm, scenario.dedup_capacity);
        for (stream, summary) in &recovered.streams {
            let records = log.reader().read(
                adapter::stream_of(*stream),
                summary.first_live,
                usize::MAX,
                usize::MAX,
            );
            let records = match records {
                Ok(records) => adapter::records_of(records),
                Err(_) if self.cut_armed && self.disk_is_off() => return Ok(Started::PowerLost),
                Err(_) if self.failure_armed => return Ok(Started::Failed),
                Err(error) => return Err(format!("a recovered store is not read: {error}")),
            };
            for record in records {
                let Some(stored) = StoredMessage::read(&record.head) else {
                    continue;
                };
                let at = (*stream, record.position);
                if stored.envelope.report.is_some() && stored.dead.is_none() {
                    found.reports.push(stored.envelope);
                } else if let Some(put) = Put::from_body(&record.body) {
                    found.named.push((at, stored, put));
                }
            }
        }
        if scenario.tells_ends() {
            found.state.clone_from(&recovered.state);
        }
        let wall_us = WALL_START_US
            .saturating_add(world_us)
            .saturating_add_signed(self.wall_offset_us);
        self.boot = (world_us, resumed_clock(&recovered, wall_us));
        let mut config = EngineConfig::default();
        config.name = format!("node{}", self.root);
        config.host = config.name.clone();
        config.listen_port = 1801;
        config.trust = if scenario.approval {
            Trust::Approve
        } else {
            Trust::Any
        };
        config.body_bytes_max = Self::body_bytes_max(self.number);
        let memory = self.memory(scenario);
        config.express_bytes_max = memory.express_bytes;
        config.store_bytes_max = scenario.store_bytes_max;
        config.dedup_capacity = scenario.dedup_capacity;
        config.ack_route_lifetime_ms = scenario.ack_route_lifetime_ms;
        config.ack_route_purge_interval_ms = 1_000;
        config.window_messages = scenario.window_messages;
        config.resident_bytes_max = memory.resident_bytes;
        config.ack_wait_ms = 5_000;
        config.query_interval_ms = 3_000;
        config.batch_bytes_max = 16 * 1024;
        config.transaction_ms_max = 4_000;
        config.breaks = scenario.breaks;
        if let Some(clones) = &scenario.clones {
            let value = blake3::keyed_hash(&self.keys[0], &self.hardware.to_le_bytes());
            config.seals = vec![Seal {
                source: "product_uuid",
                value: *value.as_bytes(),
            }];
            config.token_rotation_ms = 60_000;
            if clones.case == Case::AlarmOnly {
                config.on_twin = OnTwin::AlarmOnly;
            }
        }
        let names = recovered.state.keys();
        let told = names.filter(|name| is_told(name)).cloned().collect();
        let queues = recovered.state.iter();
        let queues = queues.filter(|(name, _)| name.starts_with(QUEUES));
        let queues = queues.map(|(name, value)| (name.clone(), value.clone()));
        let queues = queues.collect();
        self.risen.begin_life();
        let now = self.now(world_us);
        let fresh = Fresh {
            config,
            identity: self.identity,
            former: self.former.map(TokenKey::new),
            recovered,
            seed: life_seed,
            now,
        };
        let engine = fresh.engine(0);
        let copied = scenario
            .clones
            .as_ref()
            .is_some_and(|clones| clones.case.copies_memory() && clones.victim == self.number);
        let tape = copied.then(|| Tape::new(fresh));
        self.running = Some(Running {
            engine,
            log,
            waiting: Vec::new(),
            committing: false,
            stopping: false,
            spill_refused: false,
            memory,
            told,
            queues,
            tape,
        });
        Ok(Started::Runs(found))
    }

    /// Whether what is set aside lies in this stream.
    pub(crate) fn is_quarantine(&self, stream: StreamId) -> bool {
        let Some(running) = &self.running else {
            return false;
        };
        let queue = StoredQueue::read(stream, &running.queues);
        queue.is_some_and(|queue| queue.name.ends_with(":quarantine"))
    }

    /// Does the commit that is due.
    pub(crate) fn commit(&mut self) -> Result<Committed, String> {
        let Some(running) = &mut self.running else {
            return Ok(Committed::Answers(Vec::new()));
        };
        let waiting = core::mem::take(&mut running.waiting);
        let batches: Vec<_> = waiting
            .iter()
            .map(|batch| adapter::batch_of(batch.ops.clone(), batch.refusals_known))
            .collect();
        match running.log.commit(&batches) {
            Ok(answers) => {
                let answers = waiting
                    .into_iter()
                    .zip(answers)
                    .map(|(batch, applied)| (batch.ticket, batch.ops, applied));
                let answers: Vec<_> = answers.collect();
                for (_, ops, _) in answers.iter().filter(|a| a.2 == Applied::Done) {
                    running.keep_told(ops);
                }
                Ok(Committed::Answers(answers))
            }
            Err(_) if self.cut_armed && self.disk_is_off() => Ok(Committed::PowerLost),
            Err(_) if self.failure_armed => Ok(Committed::Failed),
            Err(error) => Err(format!("node{}: commit failed: {error}", self.number)),
        }
    }

    /// What applications have in hand, or are about to.
    pub(crate) fn lent(&self) -> impl Iterator<Item = (ConnId, u64)> {
        let running = self.running.iter();
        running.flat_map(|running| running.engine.lent())
    }

    /// The rules of the engine itself: what takes long after every fourth step only.
    pub(crate) fn audit(&mut self) -> Result<(), String> {
        let Some(running) = &self.running else {
            return Ok(());
        };
        running.engine.audit_counts()?;
        self.audits += 1;
        if !self.audits.is_multiple_of(4) {
            return Ok(());
        }
        running.engine.audit_promises()?;
        running.engine.audit_since(&mut self.risen)?;
        running.audit_told()
    }

    /// What a process that starts now is given.
    fn memory(&self, scenario: &Scenario) -> Memory {
        let usual = Memory {
            resident_bytes: scenario.resident_bytes_max,
            express_bytes: scenario.express_bytes_max,
        };
        match self.short {
            Some((short, _)) => Memory {
                resident_bytes: usual.resident_bytes.min(short.resident_bytes),
                express_bytes: usual.express_bytes.min(short.express_bytes),
            },
            None => usual,
        }
    }

    /// Largest body that a machine takes: they differ.
    pub(crate) const fn body_bytes_max(number: usize) -> u32 {
        if number.is_multiple_of(2) {
            10_000
        } else {
            4_000
        }
    }

    fn disk_is_off(&self) -> bool {
        self.disk.list(Path::new("/store")).is_err()
    }

    /// The process is gone and the machine lives on: what was written stays written.
    pub(crate) fn kill(&mut self) {
        self.running = None;
        self.disk.restart();
        self.cut_armed = false;
        self.failure_armed = false;
    }

    /// The power is gone: what was not flushed may be lost or torn.
    pub(crate) fn lose_power(&mut self, seed: u64) {
        self.running = None;
        self.disk.crash(seed);
        self.cut_armed = false;
        self.failure_armed = false;
    }

    pub(crate) fn load(
        &self,
        stream: StreamId,
        from: u64,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<qm_engine::StoredRecord>, String> {
        let Some(running) = &self.running else {
            return Ok(Vec::new());
        };
        running
            .log
            .reader()
            .read(adapter::stream_of(stream), from, records_max, bytes_max)
            .map(adapter::records_of)
            .map_err(|error| format!("node{}: read failed: {error}", self.number))
    }
}

/// Node time of the last save, and what passed since by the wall clock when it looks sane.
fn resumed_clock(recovered: &qm_engine::Recovered, wall_us: u64) -> u64 {
    let Some(value) = recovered.state.get(&b"clock"[..]) else {
        return 1_000_000;
    };
    let mut value = value.clone();
    let (Ok(1), Ok(node_us), Ok(saved_us)) = (
        value.try_get_u8(),
        value.try_get_u64_le(),
        value.try_get_u64_le(),
    ) else {
        return 1_000_000;
    };
    // Two seconds cover what passed after the last save.
    node_us + 2_000_000 + wall_us.saturating_sub(saved_us).min(60_000_000)
}

/// What a machine asked of the world.
pub(crate) fn outputs(machine: &mut Machine, world_us: u64) -> Vec<Output> {
    let now = machine.now(world_us);
    let mut outputs = Vec::new();
    if let Some(running) = &mut machine.running {
        while let Some(output) = running.poll(now) {
            outputs.push(output);
        }
    }
    outputs
}

/// What a recovered store knows of messages.
fn found(recovered: &qm_engine::Recovered, me: QmId, capacity: usize) -> Found {
    let mut found = Found::default();
    let mut arrivals = Vec::new();
    // What the node took out again as if it had never come, though the log still shows it.
    let mut undone = BTreeSet::new();
    for (key, value) in &recovered.state {
        undone.extend(key.strip_prefix(b"undone/").and_then(read_arrival));
        if key.starts_with(b"arrivals/") {
            arrivals.extend(value.chunks_exact(40).filter_map(read_arrival));
        }
    }
    for (_, head) in &recovered.recent {
        let Some(stored) = StoredMessage::read(head) else {
            continue;
        };
        let arrival = (stored.envelope.source, stored.envelope.id);
        if arrival.0 != me && stored.dead.is_none() {
            if undone.contains(&arrival) {
                continue;
            }
            arrivals.push(arrival);
        }
        found.known.push(stored);
    }
    // The list and the log tell of the same arrivals: each counts once.
    let mut known = BTreeSet::new();
    arrivals.retain(|arrival| known.insert(*arrival));
    let most = match capacity {
        0 => 0,
        capacity => capacity.max(qm_engine::limits::RECALLED_MAX),
    };
    arrivals.drain(..arrivals.len().saturating_sub(most));
    found.remembered.extend(arrivals);
    found
}

/// The name in an arrival's key, which a tag follows.
fn read_arrival(mut row: &[u8]) -> Option<(QmId, MessageId)> {
    if row.len() < 40 {
        return None;
    }
    let mut qm = [0; 16];
    row.copy_to_slice(&mut qm);
    let id = MessageId {
        incarnation: Incarnation(row.get_u64_le()),
        sequence: row.get_u64_le(),
    };
    Some((QmId::from_bytes(qm), id))
}
