//! Vectors of the frames that tell a node from its copies.

use bytes::Bytes;
use qm_wire::limits::{FORK_POINTS_MAX, PARTED_LIVES_MAX};
use qm_wire::{
    Ask, Challenge, Claim, Confirm, ForkPoint, ForkPoints, Incarnation, Parted, PeerFrame, Rank,
    Succession, Twin,
};

use super::{Invalid, Reader, Valid, Value, frame, le16};

pub(crate) const RELAY: [u8; 16] = [0x2e; 16];
const CHALLENGE: [u8; 32] = [0xc4; 32];

fn point(from_us: u64) -> ForkPoint {
    ForkPoint {
        from_us,
        mark: [0xf0; 16],
    }
}

/// A claim; its signature is no signature, which the format does not look at.
pub(crate) fn claim() -> Claim {
    Claim {
        relay: RELAY,
        challenge: CHALLENGE,
        incarnation: Incarnation(0x52),
        nonce: [0xee; 16],
        rank: Rank {
            sealed: false,
            served_s: 3600,
            draw: 0x1234,
        },
        asked_rank: Rank {
            sealed: true,
            served_s: 86_400,
            draw: 0x5678,
        },
        points: vec![point(1), point(1024)],
        signature: [0x51; 64],
    }
}

pub(crate) fn fork_points() -> ForkPoints {
    ForkPoints {
        relay: RELAY,
        challenge: CHALLENGE,
        points: vec![point(512)],
        signature: [0x51; 64],
    }
}

pub(crate) const SUCCESSION: Succession = Succession {
    old_key: [7; 32],
    new_key: [8; 32],
    old_signature: [0x51; 64],
    new_signature: [0x52; 64],
};

pub(crate) fn parted() -> Parted {
    Parted {
        succession: SUCCESSION,
        lives: vec![Incarnation(0x51), Incarnation(0x52)],
        signature: [0x53; 64],
    }
}

pub(super) fn valid(list: &mut Vec<Valid>) {
    let mut add = |name, about, frame| {
        let value = Value::Peer(frame);
        list.push(Valid { name, about, value });
    };
    add(
        "confirm",
        "the welcome's token is stored",
        PeerFrame::Confirm(Confirm {
            attempt: 1,
            token: Bytes::from_static(b"token"),
        }),
    );
    let challenge = Challenge {
        attempt: 1,
        challenge: [0xc4; 16],
    };
    add(
        "challenge",
        "a token that is neither child nor same",
        PeerFrame::Challenge(challenge),
    );
    add(
        "challenge_ok",
        "this process lives",
        PeerFrame::ChallengeOk(challenge),
    );
    add(
        "twin",
        "another session of the same identity",
        PeerFrame::Twin(Twin {
            relay: RELAY,
            incarnation: Incarnation(0x52),
            known_s: 3600,
            address: "192.0.2.7:1801".into(),
            host: "till-2".into(),
        }),
    );
    add(
        "ask",
        "which of us stays",
        PeerFrame::Ask(Ask {
            relay: RELAY,
            challenge: CHALLENGE,
            rank: claim().asked_rank,
        }),
    );
    add(
        "claim",
        "the proof, with two courses; the signature is made up",
        PeerFrame::Claim(claim()),
    );
    add(
        "fork_points",
        "a course; the signature is made up",
        PeerFrame::ForkPoints(fork_points()),
    );
    add(
        "succession",
        "a new key; the signatures are made up",
        PeerFrame::Succession(SUCCESSION),
    );
    add(
        "parted",
        "the identity stays with another machine; the signatures are made up",
        PeerFrame::Parted(parted()),
    );
}

pub(super) fn invalid(list: &mut Vec<Invalid>) {
    let mut add = |name, requirement, about, bytes| {
        list.push(Invalid {
            name,
            about,
            requirement,
            reader: Reader::Peer,
            bytes,
        });
    };
    add("hello_flag_unknown", "W-SES-2", "a third hello flag", {
        let mut body = vec![1, 0, 1, 0];
        body.extend([0; 22]);
        body.push(4);
        body.extend([0; 10]);
        frame(0x01, 0, &body)
    });
    add(
        "hello_of_a_later_version",
        "W-VER-6",
        "versions 2 to 3, whose layout this version does not know",
        frame(0x01, 0, &[2, 0, 3, 0, 0xff]),
    );
    add(
        "confirm_nothing",
        "W-SES-6",
        "no token",
        frame(0x03, 0, &[0; 10]),
    );
    let claim_with = |points: &[u64]| {
        let mut body = vec![0; 106];
        body.extend(le16(points.len()));
        for from_us in points {
            body.extend(from_us.to_le_bytes());
            body.extend([0; 16]);
        }
        body.extend([0; 64]);
        body
    };
    add("claim_seal_two", "W-FRM-7", "a truth value of 2", {
        let mut body = claim_with(&[]);
        body[72] = 2;
        frame(0x0b, 0, &body)
    });
    add(
        "claim_points_descend",
        "W-TWN-3",
        "one from 2 on before one from 1 on",
        frame(0x0b, 0, &claim_with(&[2, 1])),
    );
    add(
        "claim_points_twice",
        "W-TWN-3",
        "one twice",
        frame(0x0b, 0, &claim_with(&[1, 1])),
    );
    let many: Vec<u64> = (0..=FORK_POINTS_MAX as u64).collect();
    add(
        "claim_points_over_limit",
        "W-LIM-1",
        "257 points",
        frame(0x0b, 0, &claim_with(&many)),
    );
    add(
        "fork_points_none",
        "W-ACK-4",
        "no point",
        frame(0x0c, 0, &[0; 48 + 2 + 64]),
    );
    add(
        "succession_of_itself",
        "W-SUC-1",
        "the same key twice",
        frame(0x0d, 0, &[7; 192]),
    );
    let parted_with = |lives: &[u64]| {
        let mut body = vec![7; 192];
        body[32] = 8;
        body.extend(le16(lives.len()));
        for life in lives {
            body.extend(life.to_le_bytes());
        }
        body.extend([0; 64]);
        body
    };
    add(
        "parted_lives_none",
        "W-ACK-4",
        "no life",
        frame(0x0e, 0, &parted_with(&[])),
    );
    add(
        "parted_lives_descend",
        "W-TWN-6",
        "life 2 before life 1",
        frame(0x0e, 0, &parted_with(&[2, 1])),
    );
    let many: Vec<u64> = (0..=PARTED_LIVES_MAX as u64).collect();
    add(
        "parted_lives_over_limit",
        "W-LIM-1",
        "17 lives",
        frame(0x0e, 0, &parted_with(&many)),
    );
}
