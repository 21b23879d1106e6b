//! What is kept of refused batches, and in which order it reaches the disk.

use super::*;

#[test]
fn whatever_is_added_counts() {
    let key = || Bytes::from_static(b"name");
    let mut commits = Commits::default();
    let mut before = 0;
    let mut grew = |commits: &Commits, least: usize| {
        assert!(commits.gathered_bytes() >= before + least);
        before = commits.gathered_bytes();
    };
    commits.unset(key());
    grew(&commits, OP_BYTES + 4);
    commits.change(StoreOp::Unset { key: key() });
    grew(&commits, OP_BYTES + 4);
    commits.set(key(), key());
    grew(&commits, OP_BYTES + 8);
    let mut commits = Commits::default();
    commits.put(StoreOp::Unset { key: key() });
    assert!(commits.gathered_bytes() >= OP_BYTES + 4);
}

type Batch = (Ticket, Vec<StoreOp>);

fn sealed(commits: &mut Commits) -> Vec<Batch> {
    let sealed = commits.seal(Timestamp(0));
    sealed.map(|batch| (batch.ticket, batch.ops)).collect()
}

/// Seals, and there is one batch.
fn sealed_one(commits: &mut Commits) -> Batch {
    let mut batches = sealed(commits);
    assert_eq!(batches.len(), 1);
    batches.remove(0)
}

/// The disk has no room for a batch whose refusal takes nothing back.
fn refuse(commits: &mut Commits, (ticket, ops): Batch) {
    assert!(commits.refused(ticket, ops).unwrap().is_empty());
}

/// The numbers of those that a batch which is on disk tells.
fn told(commits: &mut Commits, ticket: Ticket) -> Vec<u32> {
    let then = commits.durable(ticket).unwrap().then.into_iter();
    then.map(|then| match then {
        Then::Moved(number) => number,
        other => panic!("{other:?}"),
    })
    .collect()
}

fn set(key: &'static str, value: &'static str) -> StoreOp {
    let (key, value) = (key.into(), value.into());
    StoreOp::Set { key, value }
}

#[test]
fn what_gives_room_back_and_is_refused_goes_in_front_of_the_next() {
    let mut commits = Commits::default();
    commits.change(set("a", "1"));
    commits.after_settling(Then::Moved(0));
    let first = sealed_one(&mut commits);
    refuse(&mut commits, first);
    // Nothing is handed over until there is something else, or time has passed.
    assert!(commits.is_empty() && commits.keeps_refused());
    commits.put(set("p", "3"));
    let mut batches = sealed(&mut commits).into_iter();
    let (settling, putting) = (batches.next().unwrap(), batches.next().unwrap());
    assert_eq!(
        (&settling.1[..], &putting.1[..]),
        (&[set("a", "1")][..], &[set("p", "3")][..])
    );
    refuse(&mut commits, settling);
    refuse(&mut commits, putting);
    assert!(commits.is_empty());
    commits.try_again();
    assert!(!commits.is_empty());
    let (ticket, ops) = sealed_one(&mut commits);
    assert_eq!(ops, [set("a", "1")]);
    assert_eq!(told(&mut commits, ticket), [0]);
    assert!(commits.is_empty() && !commits.keeps_refused());
}

/// The second of two is still at the disk when the first is refused: it comes back, too, and
/// goes behind the first, as does what was gathered meanwhile.
#[test]
fn nothing_is_handed_over_again_while_what_is_behind_it_is_at_the_disk() {
    let mut commits = Commits::default();
    let mut batches = Vec::new();
    for (number, key) in ["a", "b"].into_iter().enumerate() {
        commits.change(set(key, "1"));
        commits.after_settling(Then::Moved(u32::try_from(number).unwrap()));
        batches.push(sealed_one(&mut commits));
    }
    let second = batches.pop().unwrap();
    refuse(&mut commits, batches.pop().unwrap());
    commits.change(set("c", "1"));
    commits.after_settling(Then::Moved(2));
    commits.put(set("p", "1"));
    let mut sealed_now: Vec<_> = commits.seal(Timestamp(0)).collect();
    let put = sealed_now.remove(0);
    assert!(sealed_now.is_empty());
    assert_eq!(put.ops, [set("p", "1")]);
    assert_eq!(
        put.refusals_known,
        RefusalsKnown::All(0),
        "it is not to be taken"
    );
    assert!(commits.is_empty());
    refuse(&mut commits, second);
    refuse(&mut commits, (put.ticket, put.ops));
    assert!(!commits.is_empty(), "the third was never tried");
    let keys = |batches: &[Batch]| -> Vec<Vec<StoreOp>> {
        batches.iter().map(|(_, ops)| ops.clone()).collect()
    };
    let batches = sealed(&mut commits);
    let (a, b, c) = (set("a", "1"), set("b", "1"), set("c", "1"));
    assert_eq!(keys(&batches), [vec![a], vec![b, c]], "the first alone");
    assert_eq!(told(&mut commits, batches[0].0), [0]);
    assert_eq!(told(&mut commits, batches[1].0), [1, 2]);
    assert!(commits.is_empty() && !commits.keeps_refused());
}

/// A disk that answers late, has room now and then, and keeps the order that it is asked for.
#[derive(Default)]
struct Disk {
    owes: VecDeque<Sealed>,
    refusals: u64,
    settling_refusals: u64,
    /// Numbers of the settling changes that it has.
    settled: Vec<u64>,
    /// For each putting change that it has: how many settling ones were gathered before it.
    put: Vec<u64>,
}

impl Disk {
    fn answer(&mut self, commits: &mut Commits, has_room: bool) {
        let Some(batch) = self.owes.pop_front() else {
            return;
        };
        let (settles, in_order) = match batch.refusals_known {
            RefusalsKnown::All(known) => (false, known >= self.refusals),
            RefusalsKnown::Settling(known) => (true, known >= self.settling_refusals),
        };
        if !(has_room && in_order) {
            self.refusals += 1;
            self.settling_refusals += u64::from(settles);
            commits.refused(batch.ticket, batch.ops).unwrap();
            return;
        }
        for op in &batch.ops {
            let Some(key) = name_of(op) else { continue };
            let number = u64::from_be_bytes(key[1..].try_into().unwrap());
            match key[0] {
                b's' => self.settled.push(number),
                _ => self.put.push(number),
            }
        }
        commits.durable(batch.ticket).unwrap();
    }
}

/// Whatever a disk refuses, and however late it answers: what gives room back is on disk in the
/// order in which it was gathered, so that a crash at any moment leaves a beginning of it, and
/// what puts is behind all that was gathered before it.
#[test]
fn what_gives_room_back_is_on_disk_in_its_order() {
    for seed in 1..1_000_u64 {
        let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut roll = |sides: u64| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            dice % sides
        };
        let key = |kind: u8, number: u64| {
            let mut key = vec![kind];
            key.extend(number.to_be_bytes());
            Bytes::from(key)
        };
        let (mut commits, mut disk) = (Commits::default(), Disk::default());
        let mut gathered = 0;
        let check = |disk: &Disk| {
            let in_order = disk
                .settled
                .iter()
                .copied()
                .eq(0..disk.settled.len() as u64);
            assert!(in_order, "seed {seed}: {:?}", disk.settled);
            let most = disk.put.iter().max().copied().unwrap_or(0);
            assert!(most <= disk.settled.len() as u64, "seed {seed}");
        };
        for _ in 0..80 {
            match roll(8) {
                0..=2 => {
                    let bytes = if roll(4) == 0 { 40 << 10 } else { 4 };
                    let value = Bytes::from(vec![0; bytes]);
                    commits.set(key(b's', gathered), value);
                    gathered += 1;
                }
                3 => commits.put(StoreOp::Unset {
                    key: key(b'p', gathered),
                }),
                4 | 5 => disk.owes.extend(commits.seal(Timestamp(0))),
                6 => disk.answer(&mut commits, roll(3) > 0),
                _ => commits.try_again(),
            }
            check(&disk);
        }
        // There is room in the end.
        for _ in 0..200 {
            commits.try_again();
            disk.owes.extend(commits.seal(Timestamp(0)));
            disk.answer(&mut commits, true);
            check(&disk);
        }
        assert_eq!(disk.settled.len() as u64, gathered, "seed {seed}");
    }
}

/// A batch that was refused was not too large for the disk: many of them would be.
#[test]
fn refused_batches_are_joined_up_to_a_size() {
    let mut commits = Commits::default();
    let value = || Bytes::from(vec![0; 20 << 10]);
    let batches: Vec<Batch> = (0..8_u8)
        .map(|n| {
            commits.set(Bytes::copy_from_slice(&[n]), value());
            sealed_one(&mut commits)
        })
        .collect();
    for batch in batches {
        refuse(&mut commits, batch);
    }
    commits.try_again();
    let sizes: Vec<_> = sealed(&mut commits)
        .iter()
        .map(|(_, ops)| ops.len())
        .collect();
    assert_eq!(sizes, [1, 3, 3, 1]);
}

/// The clock alone has another value every second, for as long as the disk has no room.
#[test]
fn of_a_name_that_is_refused_again_and_again_one_value_is_kept() {
    let mut commits = Commits::default();
    commits.change(set("a", "1"));
    for _ in 0..100_000 {
        commits.set("clock".into(), Bytes::from(vec![0; 100]));
        for batch in sealed(&mut commits) {
            assert!(batch.1.len() <= 2, "{}", batch.1.len());
            refuse(&mut commits, batch);
        }
    }
    // Nor do they count.
    commits.try_again();
    assert_eq!(sealed(&mut commits).len(), 2);
}

#[test]
fn a_token_that_the_disk_refused_is_not_handed_over_again() {
    let (own, peer) = (QmId::from_bytes([1; 16]), QmId::from_bytes([2; 16]));
    let mut commits = Commits::default();
    commits.set(held_key(own, peer), Bytes::new());
    commits.change(set("a", "1"));
    commits.after_settling(Then::TokenStored { own, peer });
    let (ticket, ops) = sealed_one(&mut commits);
    assert_eq!(commits.refused(ticket, ops).unwrap().len(), 1);
    commits.try_again();
    assert_eq!(sealed_one(&mut commits).1, [set("a", "1")]);
}
