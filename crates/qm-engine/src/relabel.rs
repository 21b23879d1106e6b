//! Messages of a former identity under the current one, for the simulation: what names are for ever
//! against, to see that it is noticed.

use qm_wire::QmId;

use crate::backlog::Message;
use crate::engine::Engine;

/// The message as if the node had accepted it under this identity.
pub(crate) fn relabelled(mut message: Message, own: QmId) -> Message {
    if message.source == own {
        return message;
    }
    let Ok(mut envelope) = qm_wire::Envelope::decode(&message.envelope) else {
        return message;
    };
    envelope.source = own;
    let mut bytes = bytes::BytesMut::new();
    if envelope.encode(&mut bytes).is_err() {
        return message;
    }
    message.tag = qm_wire::Tag::compute(&bytes, &envelope.salt, &message.body);
    message.envelope = bytes.freeze();
    message.source = own;
    message
}

impl Engine {
    /// What waited under a former identity waits under the current one.
    pub(crate) fn relabel_queues(&mut self, former: QmId) {
        let me = self.me.qm;
        let mut keys = Vec::new();
        for (number, remote) in &mut self.remotes {
            if remote.own == former {
                remote.own = me;
                keys.push((remote.key.clone(), *number));
            }
        }
        for (key, number) in keys {
            self.remote_keys.remove(&(former, key.clone()));
            self.remote_keys.insert((me, key), number);
        }
    }
}
