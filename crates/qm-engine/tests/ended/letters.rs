//! What is noted of open dead letters goes with them.

use qm_engine::Input;
use qm_engine::admin::{AdminReply, AdminRequest, DeadFilter, DeadLetterView};
use qm_wire::Class;
use qm_wire::local::{ClientFrame, EndTransaction, Receive, Verdict};

use super::support::{Node, carry_but, connect};
use super::{LINK, NEXT, is_answer, met, put};

fn notes(a: &Node) -> usize {
    let notes = |key: &&bytes::Bytes| key.starts_with(b"letter/");
    a.disk.state.keys().filter(notes).count()
}

fn all(a: &mut Node) -> Vec<DeadLetterView> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let filter = DeadFilter::default();
        match a.ask(AdminRequest::DeadList { filter, after }) {
            AdminReply::DeadLetters {
                letters,
                after: next,
            } => {
                all.extend(letters);
                after = next;
            }
            other => panic!("{other:?}"),
        }
        if after.is_none() {
            return all;
        }
    }
}

/// Dead letters that are open, so many that some are on disk only, behind them one that is not.
fn open_letters(messages: usize) -> (Node, Node) {
    let (mut a, mut b) = met();
    for n in 0..messages {
        put(&mut a, Class::Recoverable, &n.to_string(), Some(5_000));
        carry_but(&mut a, &mut b, LINK, is_answer);
    }
    a.lose_link(LINK);
    b.lose_link(LINK);
    a.wait(5_000);
    // Never transmitted.
    put(&mut a, Class::Recoverable, "certain", Some(1_000));
    a.wait(1_500);
    assert_eq!(notes(&a), messages);
    (a, b)
}

#[test]
fn a_letter_that_is_received_takes_its_note_along() {
    const MESSAGES: usize = 1_200;
    let (mut a, mut b) = open_letters(MESSAGES);
    let first = a.take("dead$", 1, None)[0].lookup;
    a.settle("dead$", first, Verdict::Consume);
    // In the part that a restart leaves on disk.
    let late = all(&mut a)[MESSAGES - 20].lookup;
    assert_eq!(a.take("dead$", 1, Some(late))[0].lookup, late);
    a.settle("dead$", late, Verdict::Consume);
    assert_eq!(notes(&a), MESSAGES - 2);
    let mut a = a.crash();
    a.wait(60_000);
    connect(&mut a, &mut b, NEXT);
    a.wait(60_000);
    assert_eq!(notes(&a), 0);
    put(&mut a, Class::Recoverable, "unrelated", None);
    assert_eq!(a.receive("dead$"), ["certain"]);
}

/// A crash between the batch in which it was sent again and what follows that.
#[test]
fn a_letter_that_is_sent_again_takes_its_note_along() {
    const MESSAGES: usize = 1_200;
    for refused in [false, true] {
        let (mut a, mut b) = open_letters(MESSAGES);
        let letter = all(&mut a)[MESSAGES - 20].position;
        a.hold_disk = true;
        a.give(Input::Admin {
            conn: qm_engine::ConnId(1),
            request: 1,
            what: AdminRequest::DeadResend {
                positions: vec![letter],
                force: true,
                to: None,
            },
        });
        if refused {
            a.release_disk(1);
        }
        let mut a = a.die_with(|_| true);
        let gone = usize::from(!refused);
        assert_eq!(notes(&a), MESSAGES - gone);
        assert_eq!(all(&mut a).len(), MESSAGES + 1 - gone);
        a.wait(60_000);
        connect(&mut a, &mut b, NEXT);
        a.wait(60_000);
        assert_eq!(notes(&a), 0);
        put(&mut a, Class::Recoverable, "unrelated", None);
        // What was sent again has run out of time while there was no link.
        let dead = ["certain", "1180"];
        assert_eq!(a.receive("dead$"), dead[..1 + gone]);
    }
}

/// As an earlier version left them.
#[test]
fn notes_without_letters_are_dropped_at_the_start() {
    for received in [0, 2] {
        let (mut a, _b) = open_letters(2);
        for _ in 0..received {
            let held = a.take("dead$", 1, None)[0].lookup;
            a.settle("dead$", held, Verdict::Consume);
        }
        let stale = [&b"letter/"[..], &1_u64.to_be_bytes()].concat();
        let value = bytes::Bytes::from_static(&[1, 1]);
        a.disk.state.insert(stale.into(), value);
        let a = a.crash();
        assert_eq!(notes(&a), 2 - received);
    }
}

#[test]
fn purged_letters_take_their_notes_along() {
    let (mut a, _b) = open_letters(3);
    let reply = a.ask(AdminRequest::QueuePurge {
        name: "dead$".parse().unwrap(),
        discard: true,
    });
    assert!(matches!(reply, AdminReply::Purged(_)), "{reply:?}");
    assert_eq!(notes(&a), 0);
}

/// The commit is on disk, the removal of what it received is not.
#[test]
fn a_letter_that_a_transaction_took_takes_its_note_along_also_over_a_crash() {
    for removed in [false, true] {
        let (mut a, _b) = open_letters(2);
        let conn = qm_engine::ConnId(1);
        let mut receive = Receive::new(700, "dead$".parse().unwrap());
        receive.messages_max = 1;
        receive.bytes_max = u32::MAX;
        receive.wait_ms = 0;
        receive.transaction = Some(1);
        let frame = ClientFrame::Receive(receive);
        a.give(Input::Client { conn, frame });
        a.hold_disk = true;
        let frame = ClientFrame::EndTransaction(EndTransaction {
            sequence: 1_000,
            transaction: 1,
            commit: true,
        });
        a.give(Input::Client { conn, frame });
        if removed {
            a.release_disk(0);
            assert_eq!(notes(&a), 1);
        }
        let a = a.die_with(|_| true);
        assert_eq!(notes(&a), 1, "{removed}");
        assert_eq!(a.crash().dead().len(), 2);
    }
}
