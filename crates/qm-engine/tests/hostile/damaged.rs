//! Messages that arrive damaged, and whole ones that are said to have (W-TAG-2).

use bytes::Bytes;
use qm_engine::limits::{DOUBTFUL_MAX, DOUBTFUL_SPAN_MS};
use qm_wire::{Class, Outcome, PeerFrame, Refusal, Reject, Tag};

use super::{Peer, Victim};

#[test]
fn a_damaged_message_is_refused_and_not_stored_and_its_session_goes_on() {
    let mut victim = Victim::open_to_all();
    let peer = Peer::new(1);
    peer.open(&mut victim);
    victim.frames_to(peer.link);
    for (number, class) in [(1, Class::Express), (2, Class::Recoverable)] {
        let mut data = peer.data(number, number, "orders", class);
        data.tag = Tag([9; 8]);
        let refusal = Refusal {
            number,
            tag: data.tag,
            outcome: Outcome::DAMAGED,
        };
        peer.say(&mut victim, &[PeerFrame::Data(data)]);
        let refuses = |frame: &PeerFrame| match frame {
            PeerFrame::Reject(reject) => reject.refusals == [refusal],
            _ => false,
        };
        assert!(victim.frames_to(peer.link).iter().any(refuses), "{class:?}");
    }
    assert_eq!(victim.engine.counters().delivered, 0);
    assert_eq!(victim.was_closed(peer.link), None);
    let whole = peer.data(3, 3, "orders", Class::Recoverable);
    peer.say(&mut victim, &[PeerFrame::Data(whole)]);
    assert_eq!(victim.engine.counters().delivered, 1);
}

/// It is sent again, but not for ever: a destination with a fault in it is left alone, longer each
/// time.
#[test]
fn a_whole_message_that_is_called_damaged_is_sent_again_and_not_without_end() {
    let mut victim = Victim::open_to_all();
    let peer = Peer::new(1);
    victim.hello_of(1, 1);
    let address = format!("qm:{}/orders", peer.qm);
    victim.put(1, 1, &address, Bytes::from_static(b"x"));
    peer.open(&mut victim);
    let mut sent = 0;
    while victim.was_closed(peer.link).is_none() {
        let frames = victim.frames_to(peer.link);
        let data = frames.into_iter().find_map(|frame| match frame {
            PeerFrame::Data(data) => Some(data),
            _ => None,
        });
        let data = data.expect("it is sent again");
        sent += 1;
        assert!(sent <= DOUBTFUL_MAX + 1, "within {DOUBTFUL_SPAN_MS} ms");
        let refusals = vec![Refusal {
            number: data.number,
            tag: data.tag,
            outcome: Outcome::DAMAGED,
        }];
        peer.say(&mut victim, &[PeerFrame::Reject(Reject { refusals })]);
    }
    assert_eq!(sent, DOUBTFUL_MAX + 1);
    assert_eq!(victim.was_closed(peer.link), Some(Outcome::PROTOCOL));
    assert_eq!(victim.engine.sizes().penalties, 1);
    assert_eq!(victim.engine.counters().dead_letters, 0);
}
