//! Limits of what all peers and all applications together make the engine keep: as many as there
//! may be, and one more.

use bytes::Bytes;
use qm_engine::admin::{AdminReply, AdminRequest};
use qm_engine::limits::QUEUES_MAX;
use qm_engine::{ConnId, Input, LocalSettings};
use qm_wire::local::{ClientFrame, Put};
use qm_wire::{Class, Credit, Outcome, PeerFrame, SessionAck, tag_hash};

use super::limits::answer;
use super::{Peer, Victim};

/// A queue is made with one message or one command more, however many there are: otherwise this
/// takes hours.
#[test]
fn there_are_so_many_queues_and_no_more() {
    const AWAY: u64 = 8_192;
    let mut victim = Victim::open_to_all();
    let peer = Peer::new(1);
    victim.hello_of(1, 1);
    peer.open(&mut victim);
    let send = |victim: &mut Victim, sequence: u64, number: u64| {
        let address = format!("qm:{}/q{number}", peer.qm);
        let mut put = Put::new(sequence, address.as_str(), Bytes::from_static(b"x"));
        put.class = Class::Recoverable;
        let frame = ClientFrame::Put(put);
        victim.hand(Input::Client {
            conn: ConnId(1),
            frame,
        });
        answer(victim).unwrap().1
    };
    let mut acknowledged = 0;
    let mut receive_all = |victim: &mut Victim| {
        let frames = victim.frames_to(peer.link).into_iter();
        let arrived = frames.filter_map(|frame| match frame {
            PeerFrame::Data(data) => Some((data.number, data.tag)),
            _ => None,
        });
        let (numbers, tags): (Vec<_>, Vec<_>) = arrived.unzip();
        let ack = SessionAck {
            duplicate: false,
            tag_hash: tag_hash(tags),
            ranges: vec![(numbers[0], numbers[numbers.len() - 1])],
        };
        acknowledged += numbers.len() as u64;
        peer.say_quietly(victim, &[PeerFrame::SessionAck(ack)]);
        let credit = Credit {
            messages: acknowledged + 4_096,
            bytes: 1 << 40,
        };
        peer.say_quietly(victim, &[PeerFrame::Credit(credit)]);
    };
    for number in 0..AWAY {
        assert_eq!(send(&mut victim, number + 1, number), None);
        if number % 1_000 == 999 {
            receive_all(&mut victim);
        }
    }
    let create = |victim: &mut Victim, number: u64| {
        let settings = LocalSettings::new(format!("q{number}").parse().unwrap());
        victim.hand(Input::Admin {
            conn: ConnId(9),
            request: number,
            what: AdminRequest::QueueCreate(settings),
        });
        match victim.admin.take().unwrap() {
            AdminReply::Done { .. } => None,
            AdminReply::Failed { outcome, .. } => Some(outcome),
            other => panic!("{other:?}"),
        }
    };
    let mut here = victim.engine.sizes().queues as u64 - AWAY;
    while here + AWAY < QUEUES_MAX as u64 {
        assert_eq!(create(&mut victim, here), None);
        here += 1;
    }
    assert_eq!(create(&mut victim, here), Some(Outcome::BUSY));
    let busy = Some(Outcome::BUSY);
    assert_eq!(send(&mut victim, AWAY + 1, AWAY), busy, "a new destination");
    assert_eq!(send(&mut victim, AWAY + 2, 0), None, "one that is known");
    let delete = AdminRequest::QueueDelete {
        name: format!("q{}", here - 1).parse().unwrap(),
        force: true,
        discard: true,
    };
    victim.hand(Input::Admin {
        conn: ConnId(9),
        request: here,
        what: delete,
    });
    assert_eq!(create(&mut victim, here), None, "there is room for one");
    assert_eq!(create(&mut victim, here + 1), busy);
    victim.engine.audit().unwrap();
}
