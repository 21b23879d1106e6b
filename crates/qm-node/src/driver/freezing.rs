//! A node that stands still for a snapshot of its disk.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use qm_engine::admin::{AdminReply, AdminRequest};
use qm_engine::{ConnId, Input, RefusalsKnown, StoreOp, Ticket};
use qm_wire::Outcome;
use qm_wire::local::{self as wire, ClientFrame};
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use super::Driver;
use crate::adapter::DiskEvent;
use crate::admin_json;
use crate::local::LocalEvent;

/// What a frozen node keeps of an application's words before it reads no further; the batch of
/// frames that reaches it is kept whole.
const FROZEN_BYTES_MAX: usize = 1 << 20;
/// Longest time for which a node stands still for a snapshot, milliseconds; asked for longer, it
/// goes on after so long.
pub const FREEZE_MS_MAX: u64 = 600_000;
const FREEZE_MAX: Duration = Duration::from_millis(FREEZE_MS_MAX);
/// How long its disk may take until it stands still.
const FREEZE_PATIENCE: Duration = Duration::from_secs(10);

/// A batch for the disk, and how many refusals the engine knew of.
pub(super) type HeldBack = (Ticket, Vec<StoreOp>, RefusalsKnown);

/// A request to stand still.
#[derive(Clone, Copy)]
pub(super) struct Freeze {
    pub(super) conn: ConnId,
    pub(super) request: u64,
    pub(super) for_ms: u64,
}

impl Driver {
    /// Nothing leaves this node and nothing is written, until somebody says so, or for a while.
    pub(super) async fn stand_still(
        &mut self,
        freeze: Freeze,
        local: &mut mpsc::Receiver<LocalEvent>,
        stop: &Notify,
    ) {
        let Freeze {
            conn,
            request,
            for_ms,
        } = freeze;
        self.abandon_network();
        let patience = Instant::now() + FREEZE_PATIENCE;
        while self.commits > 0 && self.failed.is_none() {
            let left = patience.saturating_duration_since(Instant::now());
            tokio::select! {
                Some(event) = self.disk.next() => self.on_disk(event),
                () = sleep(left) => break,
            }
            self.drain();
        }
        // The disk is tidied when nothing is committed, too.
        let mut still = false;
        if self.commits == 0 && self.failed.is_none() {
            self.held_back = Some(Vec::new());
            self.disk.hold();
            still = self.until_held(patience).await;
        }
        let mut thawed = None;
        if !still {
            let reply = AdminReply::Failed {
                outcome: Outcome::BUSY,
                cause: "the disk did not confirm everything in time".to_owned(),
                fix: "look at the disk (qm-node doctor), then try again".to_owned(),
            };
            self.on_reply(conn, request, &reply);
        } else {
            let limit = Duration::from_millis(for_ms).min(FREEZE_MAX);
            tracing::warn!(
                event = "frozen",
                for_ms,
                "the node stands still for a snapshot"
            );
            self.on_reply(conn, request, &AdminReply::Done { count: 0 });
            self.flush_written();
            let until = tokio::time::Instant::now() + limit;
            let mut kept_bytes = BTreeMap::new();
            loop {
                tokio::select! {
                    () = stop.notified() => {
                        // The loop hears it, too.
                        stop.notify_one();
                        break;
                    }
                    Some(event) = local.recv() => {
                        thawed = self.hear_while_frozen(event, &mut kept_bytes);
                    }
                    () = tokio::time::sleep_until(until) => break,
                }
                if thawed.is_some() {
                    break;
                }
            }
            let asked = thawed.is_some();
            tracing::warn!(event = "thawed", asked, "the node goes on");
        }
        self.disk.release();
        for (ticket, ops, refusals_known) in self.held_back.take().into_iter().flatten() {
            self.commits += 1;
            self.disk.persist(ticket, ops, refusals_known);
        }
        let why = "it stood still for a snapshot";
        self.handle(Input::Resumed { why });
        if let Some((conn, request)) = thawed {
            self.on_reply(conn, request, &AdminReply::Done { count: 1 });
        }
    }

    /// Waits until the disk writes nothing any more; whether it came so far.
    async fn until_held(&mut self, patience: Instant) -> bool {
        while self.failed.is_none() {
            let left = patience.saturating_duration_since(Instant::now());
            tokio::select! {
                Some(event) = self.disk.next() => {
                    if matches!(event, DiskEvent::Held) {
                        return true;
                    }
                    self.on_disk(event);
                }
                () = sleep(left) => return false,
            }
            self.drain();
        }
        false
    }

    /// Keeps what applications ask for until the node goes on, and reads no further from one of
    /// which it keeps much. Who says that it shall go on.
    fn hear_while_frozen(
        &mut self,
        event: LocalEvent,
        kept_bytes: &mut BTreeMap<ConnId, usize>,
    ) -> Option<(ConnId, u64)> {
        let LocalEvent::Frames {
            conn,
            frames,
            bytes,
            ..
        } = event
        else {
            // No message comes or goes with a connection.
            self.on_local(event);
            return None;
        };
        let of_conn = kept_bytes.entry(conn).or_default();
        *of_conn = of_conn.saturating_add(bytes);
        if *of_conn >= FROZEN_BYTES_MAX
            && let Some(known) = self.conns.get(&conn)
        {
            // Until its frames are served.
            known.hold_back(true);
        }
        let mut thawed = None;
        let kept = self.asking.entry(conn).or_default();
        let mut hellos = Vec::new();
        for frame in frames {
            match frame {
                ClientFrame::Admin(admin) if is_thaw(&admin) => {
                    thawed = Some((conn, admin.request));
                }
                // Without an answer nobody would say that it is over.
                hello @ ClientFrame::Hello(_) => hellos.push(hello),
                frame => kept.push_back(frame),
            }
        }
        for hello in hellos {
            self.on_client(conn, hello);
            self.drain();
        }
        thawed
    }
}

fn is_thaw(admin: &wire::Admin) -> bool {
    let asked = admin_json::decode_request(&admin.json);
    asked.is_ok_and(|asked| asked.request == AdminRequest::Thaw)
}
