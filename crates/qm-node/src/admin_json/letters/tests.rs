use expect_test::{Expect, expect};
use qm_wire::Incarnation;

use super::*;

fn check_golden(document: &impl Serialize, golden: &Expect) {
    golden.assert_eq(&serde_json::to_string_pretty(document).unwrap());
}

fn printed(sequence: u64) -> String {
    MessageId {
        incarnation: Incarnation(0x51),
        sequence,
    }
    .to_string()
}

#[test]
fn documents_of_letters_are_those_of_the_contract() {
    let qm = QmId::from_bytes([0x22; 16]);
    check_golden(
        &DeadLetterDocument {
            schema: "qm.dead_letter/1".into(),
            id: printed(7),
            source: qm,
            reason: word(Outcome::BAD_DESTINATION_QUEUE),
            outcome: code(Outcome::BAD_DESTINATION_QUEUE),
            uncertain: false,
            unconfirmed: true,
            died_at: rfc3339(1_700_000_000_000_000),
            age_ms: 61_000,
            by: Some(qm),
            destination: "qm://hub/orders".to_owned(),
            class: "recoverable".to_owned(),
            priority: 3,
            sent_at: rfc3339(1_700_000_000_000_000),
            label: "first".to_owned(),
            resent_from: Some(format!("{qm}/{}", printed(2))),
            body_bytes: 12,
            leased: false,
            lookup_id: 9,
            position: 9,
        },
        &expect![[r#"
            {
              "schema": "qm.dead_letter/1",
              "id": "0000000000000051-7",
              "source": "22222222-2222-2222-2222-222222222222",
              "reason": "bad_destination_queue",
              "outcome": "8000",
              "uncertain": false,
              "unconfirmed": true,
              "died_at": "2023-11-14T22:13:20.000000Z",
              "age_ms": 61000,
              "by": "22222222-2222-2222-2222-222222222222",
              "destination": "qm://hub/orders",
              "class": "recoverable",
              "priority": 3,
              "sent_at": "2023-11-14T22:13:20.000000Z",
              "label": "first",
              "resent_from": "22222222-2222-2222-2222-222222222222/0000000000000051-2",
              "body_bytes": 12,
              "leased": false,
              "lookup_id": 9,
              "position": 9
            }"#]],
    );
    check_golden(
        &LetterFateDocument {
            schema: "qm.letter_fate/1".into(),
            id: Some(printed(7)),
            resent_as: None,
            destination: "qm://hub/orders".to_owned(),
            done: false,
            reason: Some(word(Outcome::STORE_FULL)),
            outcome: Some(code(Outcome::STORE_FULL)),
            text: "the disk is full".to_owned(),
            position: 9,
        },
        &expect![[r#"
            {
              "schema": "qm.letter_fate/1",
              "id": "0000000000000051-7",
              "resent_as": null,
              "destination": "qm://hub/orders",
              "done": false,
              "reason": "store_full",
              "outcome": "9006",
              "text": "the disk is full",
              "position": 9
            }"#]],
    );
    check_golden(
        &TraceDocument {
            schema: "qm.trace/1".into(),
            id: printed(7),
            source: Some(qm),
            state: "delivered".to_owned(),
            now: "delivered: hub has it".to_owned(),
            events: vec![TraceEventDocument {
                at: rfc3339(1_700_000_000_000_000),
                event: "accepted".to_owned(),
                text: "accepted as recoverable".to_owned(),
            }],
            complete: true,
            remembered_since: Some(rfc3339(1_700_000_000_000_000)),
            remembered_events: 1,
            remembered_events_max: 32_768,
            ask: vec!["on hub, run: qm-node trace".to_owned()],
        },
        &expect![[r#"
            {
              "schema": "qm.trace/1",
              "id": "0000000000000051-7",
              "source": "22222222-2222-2222-2222-222222222222",
              "state": "delivered",
              "now": "delivered: hub has it",
              "events": [
                {
                  "at": "2023-11-14T22:13:20.000000Z",
                  "event": "accepted",
                  "text": "accepted as recoverable"
                }
              ],
              "complete": true,
              "remembered_since": "2023-11-14T22:13:20.000000Z",
              "remembered_events": 1,
              "remembered_events_max": 32768,
              "ask": [
                "on hub, run: qm-node trace"
              ]
            }"#]],
    );
    check_golden(
        &ConnectionDocument {
            at: rfc3339(1_700_000_000_000_000),
            event: "closed".to_owned(),
            text: "the peer went away".to_owned(),
        },
        &expect![[r#"
            {
              "at": "2023-11-14T22:13:20.000000Z",
              "event": "closed",
              "text": "the peer went away"
            }"#]],
    );
}
