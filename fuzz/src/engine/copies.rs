//! Words about machines that have the same key, and about identities that follow one another. No
//! key is needed for them: a signature is good here when its first byte is even.

use qm_engine::{Input, LinkId, Now, Output, TokenKey};
use qm_wire::{
    Ask, Claim, ForkPoint, ForkPoints, Incarnation, Parted, PeerFrame, Rank, Succession, Twin,
};

use super::{Cut, PEERS, World, key_of, life_of};

/// What the engine said of copies.
#[derive(Debug, Default)]
pub(super) struct Copies {
    relays: Vec<[u8; 16]>,
    asks: Vec<(LinkId, Ask)>,
    /// Keys that were made for the engine.
    made: u64,
}

fn signature(cut: &mut Cut<'_>) -> [u8; 64] {
    [u8::from(cut.byte() > 192); 64]
}

fn rank(cut: &mut Cut<'_>) -> Rank {
    Rank {
        sealed: cut.below(2) == 1,
        served_s: cut.number(),
        draw: cut.number(),
    }
}

fn points(least: u8, cut: &mut Cut<'_>) -> Vec<ForkPoint> {
    let point = |n: u8| ForkPoint {
        from_us: u64::from(n) * 1_000,
        mark: [n; 16],
    };
    (0..least + cut.below(4)).map(point).collect()
}

impl Copies {
    fn relay(&self, cut: &mut Cut<'_>) -> [u8; 16] {
        let how = cut.byte();
        let at = usize::from(how) % self.relays.len().max(1);
        let known = self.relays.iter().rev().nth(at).filter(|_| how < 224);
        known.copied().unwrap_or([how; 16])
    }

    pub(super) fn overhear(&mut self, link: LinkId, frame: &PeerFrame) {
        match frame {
            PeerFrame::Twin(twin) => self.relays.push(twin.relay),
            PeerFrame::Ask(ask) => {
                self.relays.push(ask.relay);
                self.asks.push((link, *ask));
            }
            PeerFrame::Claim(claim) => self.relays.push(claim.relay),
            _ => {}
        }
    }
}

impl World {
    /// A peer's word about copies and successors.
    pub(super) fn on_copies(&self, link: LinkId, peer: u8, cut: &mut Cut<'_>) -> PeerFrame {
        let copies = &self.copies;
        match cut.below(6) {
            0 => PeerFrame::Twin(Twin {
                relay: copies.relay(cut),
                incarnation: self.some_life(peer, cut),
                known_s: cut.number(),
                address: "10.0.0.7:1801".into(),
                host: "copy".into(),
            }),
            1 => PeerFrame::Ask(Ask {
                relay: copies.relay(cut),
                challenge: [cut.byte(); 32],
                rank: rank(cut),
            }),
            2 => {
                let asked = copies.asks.iter().rev().find(|(on, _)| *on == link);
                let asked = asked.filter(|_| cut.byte() < 224).map(|(_, ask)| *ask);
                let ask = asked.unwrap_or_else(|| Ask {
                    relay: copies.relay(cut),
                    challenge: [cut.byte(); 32],
                    rank: rank(cut),
                });
                PeerFrame::Claim(Claim {
                    relay: ask.relay,
                    challenge: ask.challenge,
                    incarnation: self.some_life(peer, cut),
                    nonce: [cut.byte(); 16],
                    rank: rank(cut),
                    asked_rank: ask.rank,
                    points: points(0, cut),
                    signature: signature(cut),
                })
            }
            3 => PeerFrame::ForkPoints(ForkPoints {
                relay: copies.relay(cut),
                challenge: [cut.byte(); 32],
                points: points(1, cut),
                signature: signature(cut),
            }),
            4 => PeerFrame::Succession(self.succession(peer, cut)),
            _ => PeerFrame::Parted(Parted {
                succession: self.succession(peer, cut),
                lives: {
                    let own = self.engine.incarnation().0;
                    let first = own.saturating_sub(u64::from(cut.below(2)));
                    (first..=own).map(Incarnation).collect()
                },
                signature: signature(cut),
            }),
        }
    }

    fn some_life(&self, peer: u8, cut: &mut Cut<'_>) -> Incarnation {
        match cut.below(4) {
            0 => self.engine.incarnation(),
            n => life_of(peer, n),
        }
    }

    fn succession(&self, peer: u8, cut: &mut Cut<'_>) -> Succession {
        let key = |cut: &mut Cut<'_>| match cut.byte() {
            0..128 => key_of(peer),
            128..192 => self.own_key,
            other => key_of(other % (PEERS + 1)),
        };
        Succession {
            old_key: key(cut),
            new_key: key(cut),
            old_signature: signature(cut),
            new_signature: signature(cut),
        }
    }

    /// Whoever holds the keys does what the engine asks of him.
    pub(super) fn with_keys(&mut self, now: Now, output: Output) {
        let input = match output {
            Output::Sign { sign, .. } => Input::Signed {
                sign,
                signature: [0; 64],
            },
            Output::Verify {
                verify, signature, ..
            } => Input::Verified {
                verify,
                good: signature[0] % 2 == 0,
            },
            Output::Succeed { old_key, new_key } => {
                let new_key = new_key.unwrap_or_else(|| {
                    self.copies.made += 1;
                    let mut key = [0x80; 32];
                    key[..8].copy_from_slice(&self.copies.made.to_le_bytes());
                    key
                });
                self.own_key = new_key;
                Input::Succeeded {
                    succession: Succession {
                        old_key,
                        new_key,
                        old_signature: [0; 64],
                        new_signature: [0; 64],
                    },
                    token_key: TokenKey::new(new_key),
                }
            }
            _ => return,
        };
        self.engine.handle(now, input);
    }
}
