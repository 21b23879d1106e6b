//! A copy of a running engine: what it was told is told to another one, which is then in the same
//! state, because an engine is a function of what it is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use qm_engine::{
    Engine, EngineConfig, Entropy, Identity, Input, Now, Recovered, SeededEntropy, TokenKey,
};

/// An engine before it was told anything.
#[derive(Clone)]
pub(crate) struct Fresh {
    pub(crate) config: EngineConfig,
    pub(crate) identity: Identity,
    pub(crate) former: Option<TokenKey>,
    pub(crate) recovered: Recovered,
    pub(crate) seed: u64,
    pub(crate) now: Now,
}

/// Randomness that goes on differently from some time on.
struct Reseeded {
    random: SeededEntropy,
    other: Arc<AtomicU64>,
}

impl Entropy for Reseeded {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next_u64().to_le_bytes();
            for (to, from) in chunk.iter_mut().zip(word) {
                *to = from;
            }
        }
    }

    fn next_u64(&mut self) -> u64 {
        let word = self.random.next_u64();
        match self.other.load(Ordering::Relaxed) {
            0 => word,
            other => SeededEntropy::new(word ^ other).next_u64(),
        }
    }
}

impl Fresh {
    /// The engine; with another number than 0 its randomness is another.
    pub(crate) fn engine(&self, reseed: u64) -> Engine {
        self.engine_with(Arc::new(AtomicU64::new(reseed)))
    }

    fn engine_with(&self, other: Arc<AtomicU64>) -> Engine {
        let random = SeededEntropy::new(self.seed);
        let entropy = Box::new(Reseeded { random, other });
        let mut engine = Engine::new(
            self.config.clone(),
            self.identity,
            self.recovered.clone(),
            entropy,
            self.now,
        );
        if let Some(key) = self.former {
            engine.set_former_token_key(key);
        }
        engine
    }
}

enum Step {
    Told(Now, Box<Input>),
    Polled(Now),
}

/// See the module.
pub(crate) struct Tape {
    fresh: Fresh,
    steps: Vec<Step>,
}

impl Tape {
    pub(crate) const fn new(fresh: Fresh) -> Self {
        Self {
            fresh,
            steps: Vec::new(),
        }
    }

    pub(crate) fn told(&mut self, now: Now, input: &Input) {
        self.steps.push(Step::Told(now, Box::new(input.clone())));
    }

    pub(crate) fn polled(&mut self, now: Now) {
        self.steps.push(Step::Polled(now));
    }

    /// An engine in the state of the one that this is the tape of; its randomness goes on
    /// differently, unless the number is 0.
    pub(crate) fn play(&self, reseed: u64) -> Engine {
        let other = Arc::new(AtomicU64::new(0));
        let mut engine = self.fresh.engine_with(Arc::clone(&other));
        for step in &self.steps {
            match step {
                Step::Told(now, input) => engine.handle(*now, Input::clone(input)),
                Step::Polled(now) => drop(engine.poll(*now)),
            }
        }
        other.store(reseed, Ordering::Relaxed);
        engine
    }
}
