//! What must hold of the waits for ends at any time.

use super::{Awaiting, Wait};

impl Awaiting {
    pub(crate) fn audit(&self) -> Result<(), String> {
        let (mut open, mut ended, mut bytes) = (0, 0, 0);
        for (id, awaited) in &self.all {
            bytes += awaited.bytes();
            let listed = match awaited.wait {
                Wait::Open => {
                    open += 1;
                    self.open.contains(&(awaited.own, awaited.peer, *id))
                }
                Wait::Ended(_) => {
                    ended += 1;
                    self.ended.contains(&(awaited.at, *id))
                }
                Wait::Doubt(_) => true,
            };
            if !listed {
                return Err(format!("the wait for the end of {id} is not listed"));
            }
        }
        for (what, counted, there) in [
            ("open waits", self.open.len(), open),
            ("known ends", self.ended.len(), ended),
            ("bytes of waits", self.bytes, bytes),
        ] {
            if counted != there {
                return Err(format!("{there} {what}, counted {counted}"));
            }
        }
        Ok(())
    }
}
