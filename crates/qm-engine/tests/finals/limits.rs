//! What is kept is bounded, and what happens at the bound is counted and told.

use bytes::{BufMut, Bytes, BytesMut};
use qm_engine::limits::{AWAITED_MAX, FINALS_PER_PEER_MAX};
use qm_wire::local::NodeFrame;
use qm_wire::{Class, Outcome, QmId};

use super::support::{Node, carry, carry_but, connect};
use super::{LINK, NEXT, finals_of, is_final, met, put};

/// A final as it lies on disk.
fn stored_final(source: QmId, sequence: u64) -> (Bytes, Bytes) {
    let mut name = BytesMut::from(&b"final/"[..]);
    name.put_slice(source.as_bytes());
    name.put_u64_le(77);
    name.put_u64_le(sequence);
    name.put_slice(&[5; 8]);
    let mut value = BytesMut::new();
    value.put_u8(1);
    value.put_u16_le(Outcome::RECEIVED.0);
    value.put_u64_le(sequence);
    (name.freeze(), value.freeze())
}

#[test]
fn the_oldest_final_of_a_sender_makes_room_and_no_other_senders() {
    let (mut a, mut b) = met(Class::Recoverable);
    let (from_a, other) = (a.identity.qm, QmId::from_bytes([9; 16]));
    for sequence in 1..=FINALS_PER_PEER_MAX as u64 {
        b.disk.state.extend([stored_final(from_a, sequence)]);
    }
    b.disk.state.extend([stored_final(other, 1)]);
    let mut b = b.crash();
    a.lose_link(LINK);
    a.wait(60_000);
    super::support::plug(&mut a, &mut b, NEXT);
    carry_but(&mut a, &mut b, NEXT, is_final);
    put(&mut a, Class::Recoverable, "1");
    carry(&mut a, &mut b, NEXT);
    assert_eq!(b.receive("orders"), ["1"]);
    assert_eq!(b.engine.counters().finals_forgotten, 1);
    let has = |b: &Node, (name, _): (Bytes, Bytes)| b.disk.state.contains_key(&name);
    assert!(!has(&b, stored_final(from_a, 1)), "the oldest");
    assert!(has(&b, stored_final(from_a, 2)) && has(&b, stored_final(other, 1)));
    carry(&mut a, &mut b, NEXT);
    assert_eq!(a.fates(), [Outcome::REACHED_QUEUE, Outcome::RECEIVED]);
    assert_eq!(finals_of(&b), FINALS_PER_PEER_MAX);
}

/// What an application hears of its last message.
fn refusal(a: &mut Node) -> Option<Outcome> {
    let told = std::mem::take(&mut a.told).into_iter();
    told.filter_map(|frame| match frame {
        NodeFrame::Refused(refused) => Some(refused.outcome),
        _ => None,
    })
    .last()
}

#[test]
fn too_many_open_ends_refuse_further_wishes_and_nothing_else() {
    let (mut a, mut b) = met(Class::Recoverable);
    put(&mut a, Class::Recoverable, "1");
    carry(&mut a, &mut b, LINK);
    let mut stored = a.disk.state.iter();
    let (_, value) = stored
        .find(|(name, _)| name.starts_with(b"await/"))
        .unwrap();
    // They wait for another node, which is not there: of this one they would be asked one by one.
    let mut value = value.to_vec();
    let peer = b.identity.qm.as_bytes();
    let at = value.windows(peer.len()).position(|part| part == peer);
    value[at.unwrap()..][..peer.len()].fill(9);
    let value = Bytes::from(value);
    for sequence in 0..AWAITED_MAX as u64 - 1 {
        let mut name = BytesMut::from(&b"await/"[..]);
        name.put_u64(77);
        name.put_u64(sequence);
        a.disk.state.insert(name.freeze(), value.clone());
    }
    let mut a = a.crash();
    // Counting so many anew after each step takes longer than all else.
    a.audits = false;
    b.lose_link(LINK);
    put(&mut a, Class::Recoverable, "2");
    assert_eq!(refusal(&mut a), Some(Outcome::BUSY));
    a.put("qm://b/orders", "3", |put| put.class = Class::Recoverable);
    assert_eq!(refusal(&mut a), None);
    // One that ended makes room, although how it ended is remembered.
    assert_eq!(b.receive("orders"), ["1"]);
    a.wait(60_000);
    connect(&mut a, &mut b, NEXT);
    assert_eq!(a.engine.counters().finals_heard, 1);
    put(&mut a, Class::Recoverable, "4");
    assert_eq!(refusal(&mut a), None);
    a.engine.audit().unwrap();
}
