//! How much of what is said about copies is looked into at a time.

use qm_wire::{Hello, HelloFlags, Incarnation, Welcome, WelcomeFlags};

use super::*;
use crate::testing::{engine, qm, session};

const LINK: LinkId = LinkId(999);
const RANK: Rank = Rank {
    sealed: true,
    served_s: 5,
    draw: 9,
};

/// An engine with an open session, and what it would ask over it if it was told of a copy.
fn told() -> (Engine, Ask) {
    let mut engine = engine();
    session(&mut engine, LINK, qm(5));
    let welcome = Welcome {
        flags: WelcomeFlags::NONE,
        protocol: 1,
        incarnation: Incarnation(7),
        attempt: 1,
        nonce: [4; 16],
        store_id: [9; 16],
        token: Bytes::new(),
    };
    let session = engine.sessions.get_mut(&LINK).expect("it is there");
    session.welcome = Some(welcome);
    let twin = Twin {
        relay: [7; 16],
        incarnation: Incarnation(2),
        known_s: 3,
        address: "10.0.0.2:1801".into(),
        host: "till".into(),
    };
    let tenant = engine.tenant(qm(5));
    let ask = engine.twins.proofs.told(LINK, twin, [5; 32], RANK, tenant);
    let ends = (engine.qm_id(), qm(5));
    engine.twins.current.began(ends, LINK);
    (engine, ask.expect("it asks"))
}

/// What the other one claims when it is asked.
fn claim(ask: &Ask) -> Claim {
    Claim {
        relay: ask.relay,
        challenge: ask.challenge,
        incarnation: Incarnation(2),
        nonce: [2; 16],
        rank: RANK,
        asked_rank: ask.rank,
        points: Vec::new(),
        signature: [0; 64],
    }
}

#[test]
fn so_many_claims_are_signed_and_verified_at_a_time() {
    for (under_way, goes) in [(UNDER_WAY_MAX - 1, true), (UNDER_WAY_MAX, false)] {
        let (mut engine, mut ask) = told();
        ask.challenge = [6; 32];
        for n in 0..under_way as u64 {
            engine.twins.signing.insert(n, (LinkId(n), claim(&ask)));
        }
        engine.answer_copy(LINK, &ask, RANK);
        let signs = |output: &Output| matches!(output, Output::Sign { .. });
        assert_eq!(engine.outputs.iter().any(signs), goes, "{under_way}");

        let (mut engine, ask) = told();
        let unverified = || {
            let mut proofs = engine.twins.proofs.clone();
            proofs.claimed(LINK, &claim(&ask), &[]).expect("it answers")
        };
        let others: Vec<_> = (0..under_way as u64).map(|n| (n, unverified())).collect();
        for (n, other) in others {
            engine.twins.verifying.insert(n, (LinkId(n), other));
        }
        engine.on_claim(LINK, claim(&ask));
        let verifies = |output: &Output| matches!(output, Output::Verify { .. });
        assert_eq!(engine.outputs.iter().any(verifies), goes, "{under_way}");
    }
}

#[test]
fn so_many_older_sessions_are_asked_because_of_a_new_one() {
    let mut engine = engine();
    let newest = 3 * ASKED_MAX as u64;
    for n in 1..=newest {
        let link = LinkId(n);
        session(&mut engine, link, qm(5));
        let session = engine.sessions.get_mut(&link).expect("it is there");
        session.opened = true;
        session.hello = Some(Hello {
            protocol_min: 1,
            protocol_max: 1,
            incarnation: Incarnation(n),
            prior_incarnations: Vec::new(),
            attempt: n,
            token: Bytes::new(),
            listen_port: 1801,
            body_bytes_max: 4 << 20,
            flags: HelloFlags::NONE,
            enrolment: Bytes::new(),
            name: "peer".into(),
            host: "".into(),
        });
        engine.by_peer.entry(qm(5)).or_default().insert(link);
    }
    engine.look_for_twins(LinkId(newest), qm(5));
    // Each of them, and the new one for each, which is one more that speaks.
    assert_eq!(engine.busy_sessions.len(), ASKED_MAX + 1);
    let first = LinkId(newest - ASKED_MAX as u64);
    assert_eq!(
        engine.busy_sessions.first(),
        Some(&first),
        "the latest ones"
    );
}
