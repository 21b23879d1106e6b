//! Peers that say nothing of their earlier lives.

use bytes::BytesMut;
use qm_engine::LinkId;
use qm_engine::admin::AdminRequest;
use qm_wire::{AckWishes, Class, Envelope, MessageId, Outcome, PeerFrame, Salt, Tag};

use super::{Peer, Victim};

/// The life that sent it is over, and where it listens is known; the next one, which does not name
/// it, is connected.
#[test]
fn an_end_for_a_life_that_is_not_named_goes_on_the_session_that_is_open() {
    let mut victim = Victim::open_to_all();
    let before = Peer::new(1);
    before.open(&mut victim);
    let mut data = before.data(1, 1, "orders", Class::Recoverable);
    let mut envelope = Envelope::decode(&data.envelope).unwrap();
    envelope.ack_wishes = AckWishes::NEGATIVE_RECEIVE;
    envelope.admin_queue = "acks".into();
    let mut encoded = BytesMut::new();
    envelope.encode(&mut encoded).unwrap();
    data.envelope = encoded.freeze();
    data.tag = Tag::compute(&data.envelope, &Salt([3; 16]), &data.body);
    let id: MessageId = envelope.id;
    before.say(&mut victim, &[PeerFrame::Data(data)]);
    assert_eq!(victim.engine.counters().delivered, 1);
    before.gone(&mut victim);
    let now = Peer {
        life: 2,
        link: LinkId(2),
        ..Peer::new(1)
    };
    now.open(&mut victim);
    victim.frames_to(now.link);
    victim.admin(AdminRequest::QueuePurge {
        name: "orders".parse().unwrap(),
        discard: true,
    });
    let tells = |frame: &PeerFrame| match frame {
        PeerFrame::Final(told) => {
            let (entry, outcome) = told.entries[0];
            (entry.id, outcome) == (id, Outcome::QUEUE_PURGED)
        }
        _ => false,
    };
    assert!(victim.frames_to(now.link).iter().any(tells));
}
