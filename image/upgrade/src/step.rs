//! The machine that upgrades itself.

use std::time::Duration;

use crate::effect::Effect;
use crate::event::Event;
use crate::policy::Policy;
use crate::status::Status;

/// What goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Before the first event.
    New,
    /// Looking from time to time.
    Idle,
}

/// The machine between two events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    policy: Policy,
    stage: Stage,
}

impl State {
    /// A machine before its first event.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            stage: Stage::New,
        }
    }

    /// When the next `Tick` is due at the latest.
    pub fn next_deadline(&self) -> Option<Duration> {
        None
    }

    /// What is shown at `now`.
    pub fn status(&self, now: Duration) -> Status {
        let _ = now;
        Status {
            mode: self.policy.mode,
            stage: String::new(),
            running: None,
            default: None,
            previous: None,
            slot_a: None,
            slot_b: None,
            trial: None,
            candidate: None,
            waits: None,
            checked: None,
            neighbours: 0,
            ledger: String::new(),
            watchdog: false,
            floor: 0,
            quarantine: Vec::new(),
            history: Vec::new(),
            nonce: None,
            last_order: None,
        }
    }
}

/// One step: what `event` at `now` (time since the machine booted) makes of `state`, and what must be done about it.
pub fn step(mut state: State, event: Event, now: Duration) -> (State, Vec<Effect>) {
    let _ = now;
    if matches!(event, Event::Boot(_)) {
        state.stage = Stage::Idle;
    }
    (state, Vec::new())
}
