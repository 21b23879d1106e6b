//! Messages that wait in queues: who is handed them, when their time runs out, what becomes of
//! those that come back.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

#[path = "../streams/support.rs"]
#[expect(
    dead_code,
    reason = "shared with the tests of streams, which use all of it"
)]
mod support;

mod competing;
mod doubts;
mod expiry;
mod followed;
mod idle;
mod picked;
mod rejected;
mod released;

use qm_engine::LinkId;
use qm_wire::PeerFrame;
use qm_wire::local::{ClientFrame, Delivery, NodeFrame, Receive, Settle, Verdict};
use support::Node;

const LINK: LinkId = LinkId(1);

const fn is_data(frame: &PeerFrame) -> bool {
    matches!(frame, PeerFrame::Data(_))
}

impl Node {
    /// Asks for messages; what comes of it stays in `told`. Returns the number of the request.
    pub(crate) fn ask_for(&mut self, queue: &str, change: impl FnOnce(&mut Receive)) -> u64 {
        let request = self.next_request;
        self.next_request += 1;
        let mut receive = Receive::new(request, queue.parse().unwrap());
        receive.messages_max = 1_000;
        receive.bytes_max = u32::MAX;
        receive.wait_ms = 0;
        change(&mut receive);
        self.client(ClientFrame::Receive(receive));
        request
    }

    /// Rejects what is held of these lookup ids.
    pub(crate) fn reject_all(&mut self, queue: &str, range: (u64, u64)) {
        let request = self.next_request;
        self.next_request += 1;
        self.client(ClientFrame::Settle(Settle {
            request,
            queue: queue.parse().unwrap(),
            verdict: Verdict::Reject,
            ranges: vec![range],
        }));
    }

    /// Stops waiting for what was asked for.
    pub(crate) fn stop_waiting(&mut self, queue: &str, request: u64) {
        let mut receive = Receive::new(request, queue.parse().unwrap());
        receive.wait_ms = 0;
        self.client(ClientFrame::Receive(receive));
    }

    fn deliveries(&self, request: u64) -> impl Iterator<Item = &Delivery> {
        self.told.iter().filter_map(move |frame| match frame {
            NodeFrame::Delivery(delivery) if delivery.request == request => Some(delivery),
            _ => None,
        })
    }

    /// What a request has brought.
    pub(crate) fn handed(&self, request: u64) -> Vec<String> {
        let bodies = self.deliveries(request);
        bodies
            .map(|delivery| String::from_utf8(delivery.body.to_vec()).unwrap())
            .collect()
    }

    /// The lookup ids of what a request has brought.
    pub(crate) fn lookups(&self, request: u64) -> Vec<u64> {
        let brought = self.deliveries(request);
        brought.map(|delivery| delivery.lookup).collect()
    }

    /// Whether a request is answered.
    pub(crate) fn is_done(&self, request: u64) -> bool {
        let done = |frame: &NodeFrame| match frame {
            NodeFrame::ReceiveDone(done) => done.request == request,
            _ => false,
        };
        self.told.iter().any(done)
    }
}
