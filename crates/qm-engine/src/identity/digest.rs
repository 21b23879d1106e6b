//! Telling the states of a model apart; also of the models in `tests`.

use std::hash::{Hash, Hasher};

/// What tells states apart. Not the hasher of the standard library: in tests it is not optimised,
/// and takes longer than all else.
#[derive(Default)]
struct Digest(blake3::Hasher);

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = *self.0.finalize().as_bytes();
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

/// A number that no other state that is met has.
pub(crate) fn digest(state: &impl Hash) -> u64 {
    let mut digest = Digest::default();
    state.hash(&mut digest);
    digest.finish()
}
