//! One more than a limit allows, for limits of the engine that peers and applications reach.

use bytes::Bytes;
use qm_engine::admin::{AdminReply, AdminRequest};
use qm_engine::limits::{
    ADDRESSES_MAX, CLIENT_REFUSALS_MAX, FLIGHT_BYTES_MAX, FLIGHTS_MAX, PENALTIES_MAX,
    TRANSACTIONS_MAX, TRANSACTIONS_PER_CONNECTION_MAX,
};
use qm_engine::{ConnId, EngineConfig, Input, LinkId, LocalSettings};
use qm_wire::local::{ClientFrame, EndTransaction, NodeFrame, Put};
use qm_wire::{Class, Credit, Outcome, PeerFrame};

use super::{Peer, Victim};

/// What an application was answered last: the sequence, and why it was refused.
pub(super) fn answer(victim: &mut Victim) -> Option<(u64, Option<Outcome>)> {
    let told = std::mem::take(&mut victim.told);
    told.into_iter().rev().find_map(|(_, frame)| match frame {
        NodeFrame::Refused(refused) => Some((refused.sequence, Some(refused.outcome))),
        NodeFrame::Accepted(accepted) => Some((accepted.first_sequence, None)),
        _ => None,
    })
}

#[test]
fn of_an_applications_refusals_the_oldest_is_judged_anew() {
    let mut victim = Victim::open_to_all();
    victim.hello_of(1, 1);
    let all = CLIENT_REFUSALS_MAX as u64 + 1;
    for sequence in 1..=all {
        victim.put(1, sequence, "nowhere", Bytes::from_static(b"x"));
        let refused = Some((sequence, Some(Outcome::BAD_DESTINATION_QUEUE)));
        assert_eq!(answer(&mut victim), refused);
    }
    let settings = LocalSettings::new("nowhere".parse().unwrap());
    victim.admin(AdminRequest::QueueCreate(settings));
    victim.put(1, 2, "nowhere", Bytes::from_static(b"x"));
    let again = Some((2, Some(Outcome::BAD_DESTINATION_QUEUE)));
    assert_eq!(answer(&mut victim), again, "as before");
    victim.put(1, 1, "nowhere", Bytes::from_static(b"x"));
    assert_eq!(answer(&mut victim), Some((1, None)), "it was forgotten");
}

/// A victim that has so many messages of so many bytes for a peer whose credit is without end.
fn sending(messages: u64, bytes: usize) -> Victim {
    let mut victim = Victim::open_to_all();
    let peer = Peer::new(1);
    victim.hello_of(1, 1);
    let address = format!("qm:{}/orders", peer.qm);
    let body = Bytes::from(vec![7; bytes]);
    for sequence in 1..=messages {
        victim.put(1, sequence, &address, body.clone());
    }
    peer.open(&mut victim);
    let credit = Credit {
        messages: 1 << 40,
        bytes: 1 << 50,
    };
    peer.say(&mut victim, &[PeerFrame::Credit(credit)]);
    victim
}

#[test]
fn no_credit_puts_more_in_flight_than_a_node_allows_itself() {
    let victim = sending(FLIGHTS_MAX as u64 + 10, 1);
    assert_eq!(victim.engine.sizes().flights, FLIGHTS_MAX);
    let victim = sending(20, 1 << 20);
    let sizes = victim.engine.sizes();
    let allowed = FLIGHT_BYTES_MAX..FLIGHT_BYTES_MAX + (2 << 20);
    assert!(allowed.contains(&sizes.flight_bytes), "{sizes:?}");
    assert!(sizes.flights < 20, "{sizes:?}");
}

#[test]
fn open_transactions_of_all_connections_are_bounded() {
    let mut victim = Victim::open_to_all();
    let begin = |victim: &mut Victim, conn: u64, sequence: u64, transaction: u64| {
        let mut put = Put::new(sequence, "orders", Bytes::from_static(b"x"));
        put.class = Class::Recoverable;
        put.transaction = Some(transaction);
        victim.hand(Input::Client {
            conn: ConnId(conn),
            frame: ClientFrame::Put(put),
        });
    };
    let each = TRANSACTIONS_PER_CONNECTION_MAX as u64;
    let connections = TRANSACTIONS_MAX as u64 / each;
    for conn in 1..=connections + 1 {
        victim.hello_of(conn, u8::try_from(conn).unwrap());
    }
    for conn in 1..=connections {
        (1..=each).for_each(|number| begin(&mut victim, conn, number, number));
    }
    let mut commit = |conn: u64, transaction: u64| {
        let sequence = 1_000 * transaction;
        begin(&mut victim, conn, sequence, transaction);
        let end = EndTransaction {
            sequence: sequence + 1,
            transaction,
            commit: true,
        };
        victim.told.clear();
        victim.client(conn, ClientFrame::EndTransaction(end));
        let ended = victim.told.iter().find_map(|(_, frame)| match frame {
            NodeFrame::TransactionEnded(ended) => Some(ended.committed.is_some()),
            _ => None,
        });
        ended.unwrap()
    };
    assert!(!commit(connections + 1, 1), "one more than there may be");
    assert!(commit(1, 1), "those that are open end as ever");
    assert!(commit(connections + 1, 2), "and make room");
}

#[test]
fn so_many_peers_are_held_off_and_a_further_one_is_not() {
    let mut victim = Victim::open_to_all();
    let misbehave = |victim: &mut Victim, number: u64| {
        let peer = Peer::new(number);
        peer.connect_quietly(victim);
        let hello = PeerFrame::Hello(peer.hello("bad"));
        peer.say_quietly(victim, &[hello.clone(), hello]);
        assert_eq!(victim.was_closed(peer.link), Some(Outcome::PROTOCOL));
        victim.closed.clear();
        victim.sent.clear();
        peer
    };
    let all = PENALTIES_MAX as u64;
    let first = misbehave(&mut victim, 1);
    for number in 2..=all {
        misbehave(&mut victim, number);
    }
    let further = misbehave(&mut victim, all + 1);
    assert_eq!(victim.engine.sizes().penalties, PENALTIES_MAX);
    for (peer, closed) in [(first, Some(Outcome::BUSY)), (further, None)] {
        let again = Peer {
            link: LinkId(peer.link.0 + 2 * all),
            ..peer
        };
        again.connect(&mut victim);
        assert_eq!(victim.was_closed(again.link), closed);
    }
}

#[test]
fn what_is_remembered_of_a_peers_addresses_and_connections_is_bounded() {
    let mut victim = Victim::open_to_all();
    for number in 1..=30 {
        let peer = Peer {
            link: LinkId(number),
            remote: format!("10.0.0.{number}:1801").parse().unwrap(),
            ..Peer::new(1)
        };
        peer.open(&mut victim);
        peer.gone(&mut victim);
        victim.now_ms += 1_000;
    }
    let AdminReply::Peers(views) = victim.admin(AdminRequest::Peers) else {
        panic!("the peers");
    };
    let [view] = views.as_slice() else {
        panic!("one peer: {views:?}");
    };
    assert_eq!(view.addresses.len(), ADDRESSES_MAX);
    assert_eq!(view.addresses[0], "10.0.0.30:1801");
    assert_eq!(view.connections.len(), 16);
}

#[test]
fn requests_before_the_first_commit_are_bounded() {
    let mut victim = Victim::new(|_: &mut EngineConfig| {});
    victim.slow = true;
    for conn in 1..=17 {
        victim.hello_of(conn, u8::try_from(conn).unwrap());
    }
    for conn in 1..=16 {
        (1..=256).for_each(|request| victim.receive(conn, request, 60_000));
    }
    let done = |victim: &mut Victim| {
        let told = std::mem::take(&mut victim.told);
        let done = |told: &&(ConnId, NodeFrame)| matches!(told.1, NodeFrame::ReceiveDone(_));
        told.iter().filter(done).count()
    };
    assert_eq!(done(&mut victim), 0, "they wait");
    victim.receive(17, 1, 60_000);
    assert_eq!(done(&mut victim), 1, "it comes back empty");
    // Each is answered once, also when it is asked again: the application knows it no more then.
    victim.receive(17, 1, 0);
    victim.receive(3, 5, 0);
    assert_eq!(done(&mut victim), 0);
    victim.slow = false;
    for ticket in std::mem::take(&mut victim.tickets) {
        victim.give(Input::Persisted { ticket });
    }
    assert_eq!(done(&mut victim), 4_096, "there is no such queue");
    victim.receive(3, 5, 0);
    victim.receive(17, 1, 0);
    assert_eq!(done(&mut victim), 0);
    victim.receive(17, 2, 0);
    assert_eq!(done(&mut victim), 1);
}

#[test]
fn a_request_names_so_many_dead_letters() {
    let mut victim = Victim::open_to_all();
    let mut drop = |letters: u64| {
        let positions = (1..=letters).collect();
        victim.admin(AdminRequest::DeadDrop { positions })
    };
    let failed = drop(1_025);
    assert!(
        matches!(&failed, AdminReply::Failed { outcome, cause, .. }
            if *outcome == Outcome::BAD_REQUEST && cause.contains("1024 letters")),
        "{failed:?}"
    );
    let fine = drop(1_024);
    assert!(
        !matches!(&fine, AdminReply::Failed { cause, .. } if cause.contains("1024 letters")),
        "{fine:?}"
    );
}

#[test]
fn memory_takes_so_much_of_what_waits_and_express_is_refused_beyond() {
    const LIMIT: usize = 100_000;
    let mut victim = Victim::new(|config| {
        config.resident_bytes_max = LIMIT;
        config.express_bytes_max = LIMIT;
    });
    let settings = LocalSettings::new("orders".parse().unwrap());
    victim.admin(AdminRequest::QueueCreate(settings));
    victim.hello_of(1, 1);
    let body = Bytes::from(vec![7; 1_000]);
    for sequence in 1..=300 {
        victim.put(1, sequence, "orders", body.clone());
        assert_eq!(
            answer(&mut victim),
            Some((sequence, None)),
            "it goes to disk"
        );
        assert!(victim.engine.sizes().resident_bytes <= LIMIT);
    }
    assert!(victim.engine.sizes().resident_bytes > LIMIT / 2);
    let mut refused = 0;
    for sequence in 301..=500 {
        let mut put = Put::new(sequence, "orders", body.clone());
        put.class = Class::Express;
        victim.client(1, ClientFrame::Put(put));
        match answer(&mut victim) {
            Some((_, None)) => assert_eq!(refused, 0, "nothing fits behind what did not"),
            Some((_, Some(outcome))) => {
                assert_eq!(outcome, Outcome::STORE_FULL);
                refused += 1;
            }
            None => panic!("no answer to {sequence}"),
        }
        assert!(victim.engine.sizes().express_bytes <= LIMIT / 8 * 7);
    }
    assert!((100..150).contains(&refused), "{refused}");
}
