//! A full store that is drained has room again: soon, whole, and without anybody asking.

use std::sync::{Arc, mpsc};

use qm_store::{
    Applied, Batch, Committer, Completion, Fault, Fs, Log, LogOptions, Op, Reader, RefusalsKnown,
    SimFs, Store, StoreError, StreamId, Usage,
};

use crate::common::*;
use crate::crash::scale;

/// Commits after a drain until puts are accepted again. `FORMAT.md` promises the first, and one
/// more for every `group_bytes_max` that has to move; what moves here is less than that.
const COMMITS_MAX: u32 = 1;
const STATE_KEYS: u64 = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drain {
    AtOnce,
    OneByOne,
    Newest,
    Random,
    /// Every record but a few, which stay.
    Nearly,
    /// Any of them, until a quarter of what the segments can hold is left.
    ToQuarter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Restart {
    None,
    /// Closed in order.
    Closed,
    /// The process dies.
    Killed,
    PowerCut,
    /// The power goes again and again while it drains.
    PowerCuts,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    segment_bytes: u32,
    /// Segments the disk has room for beside the reserve.
    segments: u64,
    /// The disk itself is too small, instead of the limit.
    is_disk: bool,
    body_bytes: u64,
    drain: Drain,
    restart: Restart,
    /// Whether the owner tidies when idle; otherwise commits are all that happens.
    tidies: bool,
    seed: u64,
}

struct Full {
    case: Case,
    fs: Arc<SimFs>,
    options: LogOptions,
    log: Option<Log>,
    random: Random,
    model: Model,
    live: Vec<u64>,
    next: u64,
}

impl Full {
    fn new(case: Case) -> Self {
        let fs = Arc::new(SimFs::new());
        let segment_bytes = u64::from(case.segment_bytes);
        let capacity = segment_bytes - 12 * 1024 - 64;
        // In the worst order nothing comes free until nearly all is removed, and a removal that
        // does not share its commit takes 120 bytes here.
        let records = case.segments * capacity / (case.body_bytes / 2 + 32) + 1;
        let reserve_bytes = match case.drain {
            Drain::AtOnce => 8000,
            _ => records * 120,
        };
        let reserve = reserve_bytes.div_ceil(capacity);
        let disk_bytes = segment_bytes * (case.segments + reserve);
        let mut options = LogOptions {
            segment_bytes: case.segment_bytes,
            reserve_bytes,
            index_bytes_max: 1 << 20,
            ..small()
        };
        if case.is_disk {
            // And a little, which is of no use.
            // With the list of the segments.
            let capacity = disk_bytes + u64::from(case.segment_bytes) / 3 + 8192;
            fs.set_capacity(Some(capacity));
        } else {
            options.disk_bytes_max = Some(disk_bytes);
        }
        let (log, _) = open(&fs, options.clone()).unwrap();
        let mut full = Self {
            case,
            fs,
            options,
            log: Some(log),
            random: Random(case.seed),
            model: Model::default(),
            live: Vec::new(),
            next: 0,
        };
        // Keys that are set once and never again lie in the oldest segment.
        for key in 1..STATE_KEYS as u8 {
            let once = batch([set([key], [key; 40])]);
            assert_eq!(full.commit(&[once]), [Applied::Done]);
        }
        full
    }

    fn log(&mut self) -> &mut Log {
        self.log.as_mut().unwrap()
    }

    fn usage(&mut self) -> Usage {
        self.log().usage()
    }

    fn commit(&mut self, group: &[Batch]) -> Vec<Applied> {
        let case = self.case;
        let answers = self.log().commit(group).unwrap();
        for (batch, answer) in group.iter().zip(&answers) {
            if *answer == Applied::Done {
                self.model.apply(batch);
            } else {
                assert_eq!(*answer, Applied::Full, "{case:?}");
                assert!(batch.has_puts(), "the reserve is there for it: {case:?}");
            }
        }
        if case.tidies {
            let mut steps = 0;
            let mut idle = false;
            while self.log().tidy(idle).unwrap() || !idle {
                idle = true;
                steps += 1;
                assert!(steps < 2000, "tidying does not end: {case:?}");
            }
        }
        answers
    }

    /// A client's state goes with every commit.
    fn seen(&mut self) -> Batch {
        batch([set([0], self.random.next().to_le_bytes())])
    }

    fn try_put(&mut self) -> bool {
        self.next += 1;
        let at = self.next;
        let least = self.case.body_bytes / 2 + 1;
        let bytes = least + self.random.below(least);
        let one = batch([put(0, at, at.to_le_bytes(), vec![at as u8; bytes as usize])]);
        let seen = self.seen();
        let accepted = self.commit(&[seen, one])[1] == Applied::Done;
        if accepted {
            self.live.push(at);
        }
        accepted
    }

    fn fill(&mut self) -> usize {
        let mut put = 0;
        let mut refused = 0;
        // A smaller one may fit where another did not.
        while refused < 10 {
            if self.try_put() {
                put += 1;
                refused = 0;
            } else {
                refused += 1;
            }
        }
        put
    }

    fn restart(&mut self, how: Restart) {
        let log = self.log.take().unwrap();
        match how {
            Restart::None => {
                self.log = Some(log);
                return;
            }
            Restart::Closed => log.close(),
            Restart::Killed => drop(log),
            Restart::PowerCut | Restart::PowerCuts => {
                drop(log);
                self.fs.crash(self.random.next());
            }
        }
        let (log, recovered) = open(&self.fs, self.options.clone()).unwrap();
        let found = Model::read(&log.reader(), 1, recovered.state);
        assert!(found == self.model, "{:?}", self.case);
        self.log = Some(log);
    }

    fn cut_while_opening(&mut self) {
        let at = self.fs.operations() + self.random.below(16);
        self.fs.inject(Fault::CutAt(at));
        drop(open(&self.fs, self.options.clone()));
        self.fs.crash(self.random.next());
    }

    fn remove(&mut self, at: u64) {
        let seen = self.seen();
        self.commit(&[batch([remove(0, at, at)]), seen]);
    }

    fn drain(&mut self) {
        let stay = match self.case.drain {
            Drain::Nearly => 3,
            _ => 0,
        };
        let capacity = u64::from(self.case.segment_bytes) - 12 * 1024 - 64;
        let every = self.live.len() as u64 / 4 + 1;
        if self.case.drain == Drain::AtOnce {
            let seen = self.seen();
            let all = batch([remove(0, 0, self.next)]);
            self.commit(&[all, seen]);
            self.live.clear();
        }
        while self.live.len() > stay {
            // Asked for only where it matters: it walks the index.
            if self.case.drain == Drain::ToQuarter {
                let usage = self.usage();
                if 4 * (usage.live_bytes + 500) <= usage.segments * capacity {
                    break;
                }
            }
            let count = self.live.len() as u64;
            let gone = match self.case.drain {
                Drain::AtOnce | Drain::OneByOne => self.live.remove(0),
                Drain::Newest => self.live.pop().unwrap(),
                Drain::Random | Drain::Nearly | Drain::ToQuarter => {
                    self.live.swap_remove(self.random.below(count) as usize)
                }
            };
            self.remove(gone);
            if self.case.restart == Restart::PowerCuts && self.random.below(every) == 0 {
                self.restart(Restart::PowerCut);
            }
        }
        self.live.sort_unstable();
    }

    fn recovers(&mut self) {
        let accepted = (0..COMMITS_MAX).any(|_| self.try_put());
        let usage = self.usage();
        assert!(accepted, "still full: {:?}\n{usage:?}", self.case);
    }
}

fn run(case: Case) {
    let mut full = Full::new(case);
    let reserve = full.usage().spare_segments - 1;
    let mut first = 0;
    for round in 0..3 {
        full.fill();
        let live = full.live.len();
        if round == 0 {
            first = live;
        }
        // Where more than half is live nothing moves, so it may be full with half of that.
        assert!(
            live >= first * 2 / 5,
            "round {round}: {live} of {first}: {case:?}"
        );
        full.restart(case.restart);
        full.drain();
        full.recovers();
        while full.log().tidy(true).unwrap() {}
        let usage = full.usage();
        assert!(
            usage.spare_segments >= reserve,
            "the reserve is not whole: {usage:?} {case:?}"
        );
        full.restart(Restart::Killed);
    }
}

/// All ways to drain and to restart, for one size.
fn run_all(segment_bytes: u32, segments: u64, body_bytes: u64, seed: u64) {
    let drains = [
        Drain::AtOnce,
        Drain::OneByOne,
        Drain::Newest,
        Drain::Random,
        Drain::Nearly,
        Drain::ToQuarter,
    ];
    let restarts = [
        Restart::None,
        Restart::Closed,
        Restart::Killed,
        Restart::PowerCut,
        Restart::PowerCuts,
    ];
    let mut turn = seed;
    for drain in drains {
        for restart in restarts {
            turn += 1;
            let even = turn.is_multiple_of(2);
            for (is_disk, tidies) in [(false, even), (true, !even)] {
                run(Case {
                    segment_bytes,
                    segments,
                    is_disk,
                    body_bytes,
                    drain,
                    restart,
                    tidies,
                    seed,
                });
            }
        }
    }
}

#[test]
fn one_segment_and_its_reserve_recover() {
    for seed in 0..scale(1) {
        run_all(20 * 1024, 1, 600, seed);
        run_all(256 * 1024, 1, 4000, seed);
    }
}

#[test]
fn a_few_segments_recover() {
    for seed in 0..scale(1) {
        for segments in [2, 3, 5] {
            run_all(20 * 1024, segments, 300, seed);
        }
        run_all(64 * 1024, 4, 1000, seed);
        // A record fills much of a segment: packing wastes the most.
        run_all(64 * 1024, 5, 30_000, seed);
    }
}

#[test]
fn many_segments_recover() {
    for seed in 0..scale(1) {
        run_all(20 * 1024, 40, 1500, seed);
        run_all(128 * 1024, 12, 5000, seed);
    }
}

/// The record nobody fetches lies before everything else, and every segment holds one key more
/// that never changes.
#[test]
fn what_stays_in_every_segment_moves_together() {
    for seed in 0..scale(10) {
        let mut full = Full::new(Case {
            segment_bytes: 20 * 1024,
            segments: 12,
            is_disk: false,
            body_bytes: 500,
            drain: Drain::OneByOne,
            restart: Restart::None,
            tidies: seed % 2 == 0,
            seed,
        });
        let mut key = 100u8;
        let mut put = 0;
        while full.try_put() {
            put += 1;
            if put % 12 == 0 {
                key += 1;
                full.commit(&[batch([set([key], [key; 300])])]);
            }
        }
        let oldest = full.live.remove(0);
        full.drain();
        full.recovers();
        let again = full.fill();
        assert!(again > put / 2, "{again} of {put}");
        let state = full.model.state.clone();
        let found = Model::read(&full.log().reader(), 1, state);
        assert!(found == full.model);
        assert!(found.streams[&0].contains_key(&oldest));
        full.restart(Restart::PowerCut);
    }
}

/// Days on a full disk: state goes on changing, the reserve does not wear out.
#[test]
fn state_that_changes_for_long_does_not_use_up_the_reserve() {
    for restart in [Restart::None, Restart::Killed, Restart::PowerCut] {
        let mut full = Full::new(Case {
            segment_bytes: 20 * 1024,
            segments: 6,
            is_disk: true,
            body_bytes: 500,
            drain: Drain::AtOnce,
            restart,
            tidies: true,
            seed: 3,
        });
        full.fill();
        for step in 0..3000 {
            full.try_put();
            if step % 100 == 0 {
                full.restart(restart);
            }
        }
        full.drain();
        full.recovers();
    }
}

/// The power goes at every operation of what makes room.
#[test]
fn every_operation_of_making_room_may_be_the_last() {
    for seed in 0..scale(2) {
        let prepared = |seed| {
            let mut full = Full::new(Case {
                segment_bytes: 20 * 1024,
                segments: 4,
                is_disk: false,
                body_bytes: 500,
                drain: Drain::Nearly,
                restart: Restart::None,
                tidies: false,
                seed,
            });
            full.fill();
            full
        };
        let mut whole = prepared(seed);
        let start = whole.fs.operations();
        whole.drain();
        whole.recovers();
        for cut in start..whole.fs.operations() {
            let mut full = prepared(seed);
            full.fs.inject(Fault::CutAt(cut));
            let mut under_way = None;
            while full.live.len() > 3 {
                let count = full.live.len() as u64;
                let gone = full.live.swap_remove(full.random.below(count) as usize);
                let group = [batch([remove(0, gone, gone)]), full.seen()];
                if full.log().commit(&group).is_err() {
                    under_way = Some(group);
                    break;
                }
                group.iter().for_each(|batch| full.model.apply(batch));
            }
            let log = full.log.take();
            drop(log);
            full.fs.crash(seed ^ cut);
            // And once more while it is opened.
            full.cut_while_opening();
            let (log, recovered) = open(&full.fs, full.options.clone()).unwrap();
            let found = Model::read(&log.reader(), 1, recovered.state);
            full.log = Some(log);
            for batch in under_way.iter().flatten() {
                if found != full.model {
                    full.model.apply(batch);
                }
            }
            assert!(found == full.model, "seed {seed}, cut at {cut}");
            let live = full.model.streams.get(&0);
            full.live = live.map_or_else(Vec::new, |live| live.keys().copied().collect());
            full.drain();
            full.recovers();
        }
    }
}

/// A third of everything stays, everywhere: one commit moves a group of it, and the next one
/// goes on.
#[test]
fn much_that_is_live_moves_a_group_a_commit() {
    let group_bytes_max = 16 * 1024;
    let fs = Arc::new(SimFs::new());
    let options = LogOptions {
        segment_bytes: 256 * 1024,
        reserve_bytes: 400 * 1024,
        disk_bytes_max: Some(8 * 256 * 1024),
        group_bytes_max,
        ..small()
    };
    let (mut log, _) = open(&fs, options.clone()).unwrap();
    let mut at = 0;
    let mut try_put = |log: &mut Log| {
        at += 1;
        let one = batch([put(0, at, "", vec![at as u8; 900]), set("newest", [1])]);
        log.commit(&[one]).unwrap() == [Applied::Done]
    };
    let mut model = 0;
    while try_put(&mut log) {
        model += 1;
    }
    let gone: Vec<_> = (1..=model)
        .filter(|at| at % 3 != 0)
        .map(|at| remove(0, at, at))
        .collect();
    // A batch of a segment or two.
    for some in gone.chunks(300) {
        assert_eq!(log.commit(&[batch(some)]).unwrap(), [Applied::Done]);
    }
    let moved_at_most = log.usage().live_bytes / 6 / group_bytes_max as u64 + 2;
    let mut commits = 1;
    while !try_put(&mut log) {
        commits += 1;
        assert!(commits <= moved_at_most, "{commits} > {moved_at_most}");
    }
    let mut again = 1;
    while again < model / 3 {
        // Going on costs a commit now and then, which is answered with what there is.
        again += u64::from(try_put(&mut log));
        commits += 1;
        assert!(commits < 2 * model, "{again} of {model}");
    }
    drop(log);
    let (log, _) = open(&fs, options).unwrap();
    let found = all(&log.reader(), 0);
    assert_eq!(found.len() as u64, model / 3 + again);
    assert!(
        found
            .iter()
            .all(|(at, _, body)| body.iter().all(|byte| *byte == *at as u8))
    );
}

/// Tells when there is nothing more to tidy.
struct Watched {
    log: Log,
    idle: mpsc::Sender<()>,
}

impl Store for Watched {
    fn commit(&mut self, batches: &[Batch]) -> Result<Vec<Applied>, StoreError> {
        self.log.commit(batches)
    }

    fn reader(&self) -> Reader {
        self.log.reader()
    }

    fn usage(&self) -> Usage {
        self.log.usage()
    }

    fn tidy(&mut self, idle: bool) -> Result<bool, StoreError> {
        let more = self.log.tidy(idle)?;
        if idle && !more {
            // The test may have heard enough.
            self.idle.send(()).ok();
        }
        Ok(more)
    }
}

#[test]
fn an_idle_committer_makes_room_before_the_next_put() {
    let fs = Arc::new(SimFs::new());
    let options = LogOptions {
        segment_bytes: 64 * 1024,
        reserve_bytes: 32 * 1024,
        disk_bytes_max: Some(64 * 1024 * 3),
        ..small()
    };
    let (log, _) = open(&fs, options).unwrap();
    let (idle, idles) = mpsc::channel();
    let (done, answers) = mpsc::channel();
    let committer = Committer::spawn(Watched { log, idle }, move |completion| {
        done.send(completion).unwrap();
    })
    .unwrap();
    let body = [7; 5000];
    committer.submit(0, batch([set("once", "value")]));
    answers.recv().unwrap();
    let mut at = 0;
    loop {
        at += 1;
        committer.submit(
            at,
            batch([put(0, at, "", body), set("seen", at.to_le_bytes())]),
        );
        match answers.recv().unwrap() {
            Completion::Done(_) => {}
            Completion::Full { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    committer.submit(0, batch([remove(0, 0, at)]));
    assert!(matches!(answers.recv().unwrap(), Completion::Done(0)));
    while idles.try_recv().is_ok() {}
    // Wakes it, does nothing, and lets it fall asleep again.
    committer.submit(0, Batch::default());
    answers.recv().unwrap();
    idles.recv().unwrap();
    let mut log = committer.shutdown().log;
    let (writes, syncs) = (fs.writes(), fs.syncs());
    let one = batch([put(0, at + 1, "", body)]);
    assert_eq!(log.commit(&[one]).unwrap(), [Applied::Done]);
    assert_eq!(
        (fs.writes() - writes, fs.syncs() - syncs),
        (2, 2),
        "the put begins a segment, which is listed, and has nothing else to wait for"
    );
}

/// What cannot be read stays where it is and holds what depends on its segment, but only until it
/// is removed.
#[test]
fn a_damaged_record_keeps_a_store_full_no_longer_than_it_is_there() {
    let mut full = Full::new(Case {
        segment_bytes: 20 * 1024,
        segments: 6,
        is_disk: false,
        body_bytes: 500,
        drain: Drain::OneByOne,
        restart: Restart::None,
        tidies: true,
        seed: 11,
    });
    full.fill();
    let damaged = full.live[full.live.len() / 2];
    let body = full.model.streams[&0][&damaged].1.clone();
    let files = full.fs.list(&dir()).unwrap();
    let hit = files.iter().map(|name| dir().join(name)).any(|path| {
        let content = full.fs.content(&path).unwrap();
        let at = content.windows(body.len()).position(|part| part == body);
        at.is_some_and(|at| full.fs.flip(&path, at as u64 + 9, 2))
    });
    assert!(hit);
    full.live.retain(|at| *at != damaged);
    full.drain();
    let error = full.log().reader().read(StreamId(0), damaged, 1, 1);
    assert!(matches!(
        error,
        Err(StoreError::Damaged { record: Some((_, at)), .. }) if at == damaged
    ));
    full.remove(damaged);
    full.recovers();
    full.fill();
    assert!(full.live.len() > 60, "{}", full.live.len());
}

#[test]
fn a_committer_tells_that_there_is_room_again() {
    let options = LogOptions {
        segment_bytes: 64 * 1024,
        reserve_bytes: 32 * 1024,
        ..small()
    };
    for is_limit in [true, false] {
        let fs = Arc::new(SimFs::new());
        let bytes = 64 * 1024 * 3;
        let mut options = options.clone();
        if is_limit {
            options.disk_bytes_max = Some(bytes);
        }
        let (log, _) = open(&fs, options).unwrap();
        if !is_limit {
            fs.set_capacity(Some(bytes + 32 * 1024));
        }
        let (done, answers) = mpsc::channel();
        let committer = Committer::spawn(log, move |completion| {
            done.send(completion).unwrap();
        })
        .unwrap();
        let mut at = 0;
        let limited = loop {
            at += 1;
            committer.submit(at, batch([put(0, at, "", [7; 5000])]));
            match answers.recv().unwrap() {
                Completion::Done(_) => {}
                Completion::Full { limited, .. } => break limited,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(limited, is_limit);
        assert!(answers.try_recv().is_err(), "nothing left");
        committer.submit(at + 1, batch([remove(0, 0, at)]));
        assert!(matches!(answers.recv().unwrap(), Completion::Done(_)));
        let patience = std::time::Duration::from_secs(20);
        let told = answers.recv_timeout(patience).unwrap();
        assert!(matches!(told, Completion::HasRoom), "{told:?}");
        committer.submit(at + 2, batch([put(0, at + 2, "", [7; 5000])]));
        assert!(matches!(answers.recv().unwrap(), Completion::Done(_)));
        drop(committer);
        assert!(answers.try_recv().is_err(), "told once");
    }
}

/// What its submitter gathered before it heard of a refusal would overtake what was refused.
#[test]
fn what_knows_of_too_few_refusals_is_turned_away_like_the_one_before() {
    let fs = Arc::new(SimFs::new());
    let (mut log, _) = open(&fs, small()).unwrap();
    let filler = |position| batch([put(1, position, [], [7; 3000])]);
    let mut position = 0;
    fs.set_capacity(Some(120 << 10));
    while log.commit(&[filler(position)]).unwrap() == [Applied::Done] {
        position += 1;
    }
    let mut refusals = 1;
    let known = |stream, refusals: u64, bytes: usize| Batch {
        refusals_known: Some(RefusalsKnown::All(refusals)),
        ..batch([put(stream, 0, [], vec![7; bytes])])
    };
    // Smaller ones still find room where the large one does not.
    let small_one = batch([put(2, 0, [], [7; 10])]);
    assert_eq!(log.commit(&[small_one]).unwrap(), [Applied::Done]);
    // In the same commit, and in the next.
    let speaks = |refusals: u64| Batch {
        refusals_known: Some(RefusalsKnown::All(refusals)),
        ..batch([set("answer", "value")])
    };
    let group = [
        known(3, refusals, 6_000),
        known(4, refusals, 10),
        // It may speak for what is refused before it.
        speaks(refusals),
    ];
    assert_eq!(log.commit(&group).unwrap(), [Applied::Full; 3]);
    assert_eq!(log.commit(&group[1..2]).unwrap(), [Applied::Full]);
    assert_eq!(log.commit(&group[2..]).unwrap(), [Applied::Full]);
    refusals += 5;
    // Without room behind nothing that was refused: it needs none of what puts need.
    assert_eq!(log.commit(&[speaks(refusals)]).unwrap(), [Applied::Done]);
    // What only gives room back has no place in any order.
    let settling = batch([set("key", "value")]);
    assert_eq!(log.commit(&[settling]).unwrap(), [Applied::Done]);
    let drained = batch([remove(1, 0, position)]);
    assert_eq!(log.commit(&[drained]).unwrap(), [Applied::Done]);
    while log.tidy(false).unwrap() {}
    let room = log.has_room_again().unwrap();
    assert_eq!(room, Some(true), "whoever waits is told");
    // Room alone is not enough.
    assert_eq!(
        log.commit(&[known(4, refusals - 1, 10)]).unwrap(),
        [Applied::Full]
    );
    let room = log.has_room_again().unwrap();
    assert_eq!(
        room,
        Some(true),
        "whoever was turned away for order is told"
    );
    refusals += 1;
    let group = [known(4, refusals, 10), known(5, refusals, 10)];
    assert_eq!(log.commit(&group).unwrap(), [Applied::Done, Applied::Done]);
}

/// The same where not even the reserve has room, and of what is behind it and empty.
#[test]
fn nothing_overtakes_what_the_reserve_has_no_room_for() {
    let fs = Arc::new(SimFs::new());
    let (mut log, _) = open(&fs, small()).unwrap();
    fs.set_capacity(Some(120 << 10));
    let known = |refusals: u64, ops: &[Op]| Batch {
        refusals_known: Some(RefusalsKnown::All(refusals)),
        ..batch(ops)
    };
    let large = |key: u8| set([key], [7; 3000]);
    let full = (0..200).find(|key| {
        let answers = log.commit(&[known(0, &[large(*key)])]).unwrap();
        answers == [Applied::Full]
    });
    let key = full.expect("it has no room some time");
    let group = [known(1, &[large(key)]), known(1, &[]), batch([])];
    let answers = log.commit(&group).unwrap();
    assert_eq!(answers, [Applied::Full, Applied::Full, Applied::Done]);
}

/// The batches of a commit that finds no room for all of them: the oldest may find it alone, and
/// gives back what the others need.
#[test]
fn the_oldest_batch_passes_alone_where_all_do_not() {
    let fs = Arc::new(SimFs::new());
    let (mut log, _) = open(&fs, small()).unwrap();
    fs.set_capacity(Some(120 << 10));
    let large = |key: u8| batch([set([key], [7; 3000])]);
    let full = (0..200).find(|key| log.commit(&[large(*key)]).unwrap() == [Applied::Full]);
    let key = full.expect("it has no room some time");
    let known = |ops: &[Op]| Batch {
        refusals_known: Some(RefusalsKnown::Settling(0)),
        ..batch(ops)
    };
    let group = [
        known(&[unset([0])]),
        known(&[set([key], [7; 3000])]),
        known(&[unset([1])]),
    ];
    let answers = log.commit(&group).unwrap();
    let (done, full) = (Applied::Done, Applied::Full);
    assert_eq!(
        answers,
        [done, full, full],
        "what is behind the second waits for it"
    );
}
