//! Frames of the protocol for what this engine does not offer: read and checked like any other,
//! then answered in their own words with [`Outcome::UNSUPPORTED`] (W-KND-1).

use qm_wire::local::{AdminReply, ReceiveDone, Settled};
use qm_wire::{
    Announce, Outcome, PeerFrame, Refusal, RemoteAnswer, RemoteAsk, RemoteReply, RemoteRequest,
};

use crate::engine::Engine;
use crate::io::{Lane, LinkId};

impl Engine {
    pub(crate) fn on_unoffered(&mut self, link: LinkId, frame: PeerFrame) {
        match frame {
            PeerFrame::Announce(announce) => self.refuse_announce(link, &announce),
            PeerFrame::RemoteRequest(request) => self.refuse_remote(link, &request),
            frame => {
                let kind = frame.kind();
                let text = format!("this version does not offer what {kind:?} frames are for");
                self.end_session(link, Outcome::UNSUPPORTED, &text);
            }
        }
    }

    /// An announce is counted like the message that it is, so that a peer can make no more
    /// refusals wait than it has credit.
    fn refuse_announce(&mut self, link: LinkId, announce: &Announce) {
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        session.arrived.messages += 1;
        if session.peer_pending
            || announce.number > session.granted.messages
            || session.arrived.messages > session.granted.messages
        {
            return self.misbehaved(link, "a message beyond the credit granted");
        }
        session.last_activity = self.now.at;
        session.refusals.push(Refusal {
            number: announce.number,
            tag: announce.tag,
            outcome: Outcome::UNSUPPORTED,
        });
        self.counters.rejected += 1;
        self.busy_sessions.insert(link);
    }

    fn refuse_remote(&mut self, link: LinkId, request: &RemoteRequest) {
        const TEXT: &str = "this version takes requests only from applications on its own machine";
        let (number, outcome) = (request.request(), Some(Outcome::UNSUPPORTED));
        let reply = match &request.ask {
            RemoteAsk::Receive(_) => RemoteReply::ReceiveDone(ReceiveDone {
                request: number,
                messages: 0,
                outcome,
                text: TEXT.into(),
            }),
            RemoteAsk::Settle(settle) => RemoteReply::Settled(Settled {
                request: number,
                messages: 0,
                outcome,
                text: TEXT.into(),
                lost: settle.ranges.clone(),
            }),
            _ => RemoteReply::AdminReply(AdminReply {
                request: number,
                ok: false,
                json: format!(r#"{{"code":"unsupported","text":"{TEXT}"}}"#).into(),
            }),
        };
        let channel = request.channel;
        if let Some(session) = self.sessions.get_mut(&link) {
            let answer = PeerFrame::RemoteAnswer(RemoteAnswer { channel, reply });
            session.push(Lane::Control, &answer);
            self.busy_sessions.insert(link);
        }
    }
}
