//! What every store promises, checked for each of them.

use std::sync::{Arc, mpsc};

use qm_store::{
    Applied, Batch, Committer, Completion, HEAD_BYTES_MAX, KEY_BYTES_MAX, MemoryStore, Op, Refusal,
    RefusalsKnown, SimFs, Store, StreamId,
};

use crate::common::*;

fn stores() -> Vec<(&'static str, Box<dyn Store>)> {
    let (log, recovered) = open(&Arc::new(SimFs::new()), small()).unwrap();
    assert!(recovered.clean);
    assert!(recovered.streams.is_empty() && recovered.state.is_empty());
    let memory = MemoryStore::with_limits(8 * 1024, None);
    vec![("log", Box::new(log)), ("memory", Box::new(memory))]
}

#[test]
fn puts_are_read_back_in_order_from_a_position() {
    for (name, mut store) in stores() {
        let reader = store.reader();
        for position in [3, 4, 9, 1000, 1 << 40] {
            let body = vec![b'x'; position as usize % 500];
            let done = store
                .commit(&[batch([put(1, position, b"head", body)])])
                .unwrap();
            assert_eq!(done, [Applied::Done], "{name}");
        }
        let found = all(&reader, 1);
        assert_eq!(
            found.iter().map(|r| r.0).collect::<Vec<_>>(),
            [3, 4, 9, 1000, 1 << 40]
        );
        for (position, head, body) in found {
            assert_eq!(head, "head");
            assert_eq!(body.len(), position as usize % 500);
        }
        let from = reader.read(StreamId(1), 5, 2, usize::MAX).unwrap();
        assert_eq!(
            from.iter().map(|r| r.position).collect::<Vec<_>>(),
            [9, 1000],
            "{name}"
        );
        assert!(reader.read(StreamId(2), 0, 10, 10).unwrap().is_empty());
        assert!(reader.read(StreamId(1), 0, 0, 10).unwrap().is_empty());
        assert_eq!(
            reader.read(StreamId(1), 0, 10, 0).unwrap().len(),
            1,
            "one at least"
        );
    }
}

#[test]
fn a_removal_affects_only_what_was_put_before_it() {
    for (name, mut store) in stores() {
        let reader = store.reader();
        let one = batch([
            put(0, 1, "", "a"),
            put(0, 2, "", "b"),
            remove(0, 0, 10),
            put(0, 5, "", "c"),
        ]);
        assert_eq!(
            store
                .commit(&[one, batch([remove(7, 0, u64::MAX)])])
                .unwrap(),
            [Applied::Done; 2]
        );
        assert_eq!(
            all(&reader, 0).iter().map(|r| r.0).collect::<Vec<_>>(),
            [5],
            "{name}"
        );
        let usage = store.usage();
        assert_eq!((usage.live_records, usage.live_bytes), (1, 40), "{name}");
    }
}

#[test]
fn batches_that_break_a_rule_are_refused_whole() {
    for (name, mut store) in stores() {
        let reader = store.reader();
        let answers = store
            .commit(&[
                batch([put(0, 5, "", "kept")]),
                batch([set("k", "v"), put(0, 6, "", ""), put(0, 5, "", "")]),
                batch([put(0, 6, "", "kept as well")]),
                batch([put(0, 6, "", "again")]),
                batch([put(1, 0, "", vec![0; 16 * 1024])]),
                batch([put(1, 0, vec![0; HEAD_BYTES_MAX + 1], "")]),
                batch([set(vec![0; KEY_BYTES_MAX + 1], "")]),
                batch([remove(0, 2, 1)]),
                batch([]),
            ])
            .unwrap();
        let stream = StreamId(0);
        assert_eq!(answers[0], Applied::Done, "{name}");
        assert_eq!(
            answers[1],
            Applied::Refused(Refusal::NotRising {
                stream,
                position: 5,
                last: 6
            }),
            "{name}"
        );
        assert_eq!(answers[2], Applied::Done, "{name}");
        assert!(matches!(
            answers[3],
            Applied::Refused(Refusal::NotRising { .. })
        ));
        assert!(
            matches!(answers[4], Applied::Refused(Refusal::TooLarge { .. })),
            "{name}"
        );
        assert!(matches!(answers[5], Applied::Refused(_)));
        assert!(matches!(
            answers[6],
            Applied::Refused(Refusal::KeyTooLong { .. })
        ));
        let reversed = Refusal::Reversed {
            stream,
            first: 2,
            last: 1,
        };
        assert_eq!(answers[7], Applied::Refused(reversed), "{name}");
        assert_eq!(answers[8], Applied::Done);
        assert_eq!(all(&reader, 0).len(), 2);
        assert_eq!(store.usage().state_keys, 0, "{name}");
    }
}

/// What gives room back keeps its own order, and passes the others.
#[test]
fn a_settling_batch_is_behind_those_of_its_kind_only() {
    for (name, mut store) in stores() {
        let with = |known: RefusalsKnown, ops: &[Op]| Batch {
            refusals_known: Some(known),
            ..batch(ops)
        };
        let settling = |refusals: u64, ops: &[Op]| with(RefusalsKnown::Settling(refusals), ops);
        let putting = |refusals: u64, ops: &[Op]| with(RefusalsKnown::All(refusals), ops);
        let bad = || [put(1, 5, "", ""), put(1, 5, "", "")];
        let group = [
            putting(0, &bad()),
            settling(0, &[set("a", "1")]),
            settling(0, &bad()),
            settling(0, &[set("b", "1")]),
            settling(0, &[]),
            settling(3, &[set("c", "1")]),
        ];
        let answers = store.commit(&group).unwrap();
        let (done, full) = (Applied::Done, Applied::Full);
        assert_eq!(answers[1], done, "{name}");
        assert_eq!(answers[3..], [full, full, done], "{name}");
        // A refusal of another kind does not count, in the next commit either.
        let next = [settling(2, &[set("d", "1")]), settling(3, &[set("e", "1")])];
        assert_eq!(store.commit(&next).unwrap(), [full, full], "{name}");
        let last = [settling(5, &[set("f", "1")]), putting(6, &[])];
        assert_eq!(store.commit(&last).unwrap(), [done, done], "{name}");
        assert_eq!(store.usage().state_keys, 3, "{name}");
    }
}

/// What its submitter handed over before it heard of a refusal would overtake what was refused.
#[test]
fn a_batch_that_knows_of_too_few_refusals_is_turned_away() {
    for (name, mut store) in stores() {
        let known = |refusals: u64, ops: &[Op]| Batch {
            refusals_known: Some(RefusalsKnown::All(refusals)),
            ..batch(ops)
        };
        let breaks_a_rule = || batch([put(1, 5, "", ""), put(1, 5, "", "")]);
        let group = [
            known(0, &[put(1, 1, "", "1")]),
            breaks_a_rule(),
            known(0, &[put(1, 2, "", "2")]),
            known(0, &[]),
            known(3, &[put(1, 3, "", "3")]),
            batch([put(1, 4, "", "4")]),
        ];
        let answers = store.commit(&group).unwrap();
        assert!(matches!(answers[1], Applied::Refused(_)), "{name}");
        let (done, full) = (Applied::Done, Applied::Full);
        assert_eq!(answers[0], done, "{name}");
        assert_eq!(answers[2..], [full, full, done, done], "{name}");
        let late = known(2, &[put(1, 6, "", "6")]);
        assert_eq!(store.commit(&[late]).unwrap(), [full], "{name}");
        let next = known(4, &[put(1, 7, "", "7")]);
        assert_eq!(store.commit(&[next]).unwrap(), [done], "{name}");
        let found: Vec<_> = all(&store.reader(), 1).iter().map(|r| r.0).collect();
        assert_eq!(found, [1, 3, 4, 7], "{name}");
    }
}

#[test]
fn random_work_matches_the_model() {
    for (name, mut store) in stores() {
        let mut random = Random(3);
        let mut model = Model::default();
        let mut next = [0u64; 4];
        for _ in 0..600 {
            let mut group = Vec::new();
            for _ in 0..random.below(6) {
                let mut ops = Vec::new();
                for _ in 0..=random.below(4) {
                    let stream = random.below(4) as u32;
                    let at = &mut next[stream as usize];
                    match random.below(10) {
                        0..=4 => {
                            *at += 1 + random.below(3);
                            let body = vec![random.next() as u8; random.below(300) as usize];
                            ops.push(put(stream, *at, at.to_le_bytes(), body));
                        }
                        5..=7 => {
                            let first = random.below(*at + 1);
                            ops.push(remove(stream, first, first + random.below(20)));
                        }
                        8 => ops.push(set([random.below(5) as u8], random.next().to_le_bytes())),
                        _ => ops.push(unset([random.below(5) as u8])),
                    }
                }
                model.apply(&batch(ops.clone()));
                group.push(batch(ops));
            }
            let answers = store.commit(&group).unwrap();
            assert!(
                answers.iter().all(|answer| *answer == Applied::Done),
                "{name}: {answers:?}"
            );
            if random.below(20) == 0 {
                while store.tidy(true).unwrap() {}
            }
        }
        let read = Model::read(&store.reader(), 4, model.state.clone());
        assert_eq!(read, model, "{name}");
        let live: usize = model
            .streams
            .values()
            .map(std::collections::BTreeMap::len)
            .sum();
        assert_eq!(store.usage().live_records, live as u64, "{name}");
        assert_eq!(store.usage().state_keys, model.state.len() as u64, "{name}");
    }
}

#[test]
fn the_committer_answers_in_order_and_gives_the_store_back() {
    for (name, store) in stores() {
        let (tell, told) = mpsc::channel();
        let committer = Committer::spawn(Boxed(store), move |completion| {
            tell.send(completion).unwrap();
        })
        .unwrap();
        for ticket in 0..500u64 {
            committer.submit(ticket, batch([put(0, ticket + 1, "", "body")]));
        }
        committer.submit(500, batch([put(0, 1, "", "too low")]));
        let mut store = committer.shutdown();
        let completions: Vec<Completion> = told.iter().collect();
        assert_eq!(completions.len(), 501, "{name}");
        for (ticket, completion) in completions.iter().enumerate() {
            assert_eq!(completion.ticket(), Some(ticket as u64));
            assert_eq!(
                matches!(completion, Completion::Done(_)),
                ticket < 500,
                "{completion:?}"
            );
        }
        assert_eq!(all(&store.reader(), 0).len(), 500);
        assert_eq!(
            store.commit(&[batch([put(0, 501, "", "")])]).unwrap(),
            [Applied::Done]
        );
    }
}

/// Counts what comes in one commit, and holds the first until it is told to go on.
struct Gate {
    store: MemoryStore,
    sizes: mpsc::Sender<usize>,
    go_on: mpsc::Receiver<()>,
}

impl Store for Gate {
    fn commit(&mut self, batches: &[Batch]) -> Result<Vec<Applied>, qm_store::StoreError> {
        self.sizes.send(batches.len()).unwrap();
        self.go_on.recv().unwrap();
        self.store.commit(batches)
    }

    fn reader(&self) -> qm_store::Reader {
        self.store.reader()
    }

    fn usage(&self) -> qm_store::Usage {
        self.store.usage()
    }
}

#[test]
fn everything_that_waits_goes_in_one_commit() {
    let (sizes, committed) = mpsc::channel();
    let (release, go_on) = mpsc::channel();
    let gate = Gate {
        store: MemoryStore::new(),
        sizes,
        go_on,
    };
    let committer = Committer::spawn(gate, drop).unwrap();
    committer.submit(1, batch([put(0, 1, "", "")]));
    assert_eq!(committed.recv().unwrap(), 1);
    for at in 2..102 {
        committer.submit(at, batch([put(0, at, "", "")]));
    }
    assert_eq!(committer.backlog(), 100);
    release.send(()).unwrap();
    assert_eq!(committed.recv().unwrap(), 100);
    release.send(()).unwrap();
    let gate = committer.shutdown();
    assert_eq!(gate.store.usage().live_records, 101);
}

/// Fails from the third commit on.
struct Failing(MemoryStore, u32);

impl Store for Failing {
    fn commit(&mut self, batches: &[Batch]) -> Result<Vec<Applied>, qm_store::StoreError> {
        self.1 += 1;
        if self.1 > 2 {
            return Err(qm_store::StoreError::Failed {
                cause: "gone".into(),
            });
        }
        self.0.commit(batches)
    }

    fn reader(&self) -> qm_store::Reader {
        self.0.reader()
    }

    fn usage(&self) -> qm_store::Usage {
        self.0.usage()
    }
}

#[test]
fn a_failed_commit_answers_every_ticket_and_all_later_ones() {
    let (tell, told) = mpsc::channel();
    let store = Failing(MemoryStore::new(), 0);
    let committer = Committer::spawn(store, move |completion| {
        tell.send(completion).unwrap();
    })
    .unwrap();
    for at in 1..=5 {
        committer.submit(at, batch([put(0, at, "", "")]));
        let completion = told.recv().unwrap();
        assert_eq!(completion.ticket(), Some(at));
        match completion {
            Completion::Done(_) => assert!(at <= 2),
            Completion::Failed(_, error) => {
                assert!(at > 2 && error.to_string().contains("gone"), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
}

struct Boxed(Box<dyn Store>);

impl Store for Boxed {
    fn commit(&mut self, batches: &[Batch]) -> Result<Vec<Applied>, qm_store::StoreError> {
        self.0.commit(batches)
    }

    fn reader(&self) -> qm_store::Reader {
        self.0.reader()
    }

    fn usage(&self) -> qm_store::Usage {
        self.0.usage()
    }

    fn tidy(&mut self, idle: bool) -> Result<bool, qm_store::StoreError> {
        self.0.tidy(idle)
    }
}
