//! The machine that upgrades itself: its picture, its states, and the one function that moves it.
//!
//! ```text
//!  firmware, always into golden                                     kexec with phase.trial=
//!      | Boot(Cold)                                                       | Boot(Kexec{trial})
//!      v                                                                  v
//!  close an open trial as failed (quarantine)            TRIAL  feed the watchdog until the phase's deadline only
//!  count the start; a default that started too often      P1 watchdog   watchdog armed, predecessor as crash image
//!  gives way to the proved one before it, then golden     P2 identity   verified, mounted, the same hardware
//!      | [record]                                         P3 network    every entry of a phase is
//!      +--> Start(slot): kexec, no trial ---+             P4 serve      marked in the ledger
//!      |      | StartFailed: next best      |             P5 updater      [record] each
//!      v      v                             |             P6 soak
//!  SERVING (idle)  <------------------------+               |             | a gate fails, a deadline passes,
//!      | Offered, admitted                  |               | all passed  | an operator's word
//!      | no slot free: prove the default    |               v             v
//!      | by a restart (window, turn)        |           [record] COMMIT  [record] the reason
//!      v                                    |               |             |
//!  [record] slot dirty                      +---------------+         disk: restart through firmware
//!      v                                                              memory: kexec the predecessor
//!  FETCHING -> WRITING, read back                                         |
//!      v                                            crash kernel: the predecessor records the reason, restarts
//!  [record] slot valid                              watchdog, panic=, mains: nothing is recorded; the next
//!      v                                            cold start finds the open trial and closes it
//!  READY: mode, stable, window, watchdog, not alone
//!      v                                            Diskless: no slot, so FETCHING comes after the turn, and
//!  ASKING the neighbours for the turn               the ledger is kept in memory.
//!      v
//!  PREPARING: memory, fingerprint, watchdog, load   every abort: unload, give the turn back, back off
//!      v
//!  [record] armed: the attempt is consumed          the write fails: unload, no jump
//!      v
//!  JUMPING -- comes back --> unload, [record] without the trial, SERVING
//! ```
//!
//! `[record]` is one durable write of the whole ledger. What follows it is asked for only when the write came back good: the
//! order "durable, then visible" is that of the states. While a record is under way nothing else moves.
//!
//! A power cut at any line leads to the top left with what the last good record says. Before the commit that is the old
//! image; after it the new one, and both are whole, because a slot that is named is never written.
//!
//! The invariants (each asserted by the simulator in `tests/it`):
//! the default always names a committed image (I1); the attempt is durable before the jump (I2); only an image on trial
//! commits, and only itself (I3); every way back names a digest (I4); the last image that a cold start proved is never
//! written over (I5); a trial changes nothing that the old image reads but its own record (I6); the security floor rises
//! only by a cold proof and never above what a failure or an order leads to, golden as the last resort aside (I7); what
//! failed is not tried again without a newer one or an operator's force (I8); doubt keeps or restores the old image (I9);
//! no commit without the dry run of the updater (I10).

use std::time::Duration;

use boot_manifest::Digest;

use crate::effect::{Effect, Notice};
use crate::event::Event;
use crate::image::{Candidate, ImageRef, Place, Rank};
use crate::ledger::{Ledger, Phase, TrialId};
use crate::policy::{Policy, jittered};
use crate::reason::Refusal;

mod order;
mod start;
mod take;
mod trial;

/// What goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Before the first event.
    New,
    /// A record is under way; then comes what it was made for.
    Recording { ledger: Box<Ledger>, then: Then },
    /// Golden jumps into the default.
    Starting,
    /// Serving.
    Idle,
    /// All parts come into sealed memory.
    Fetching { until: Duration },
    /// They go to the slot.
    Writing { until: Duration },
    /// An image could be tried as soon as nothing speaks against it.
    Ready,
    /// The neighbours are asked.
    Asking { until: Duration },
    /// Pre-flight.
    Preparing { until: Duration },
    /// The jump was asked for.
    Jumping,
    /// This image is on trial. `soaked` is when the soak is over, in the phase of that name.
    Trial {
        phase: Phase,
        deadline: Duration,
        soaked: Option<Duration>,
    },
    /// The predecessor in memory is jumped into.
    Returning,
    /// The machine is being left.
    Ended,
}

/// What a record is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Then {
    /// Golden: start the default, or serve.
    Start,
    /// The slot is marked dirty: fetch.
    Fetch,
    /// The slot is valid.
    Ready,
    /// The attempt is consumed: jump.
    Jump,
    /// The trial is not open any more, because there was no jump; or a slot lost its image.
    Idle,
    /// A phase of the trial begins.
    Mark(Phase),
    /// This image is the default.
    Commit,
    /// The reason is on record: restart.
    Restart,
    /// An operator's way back is on record: restart.
    RollBack,
    /// The running image was stable; back to what went on.
    Stable(Box<Stage>),
}

/// What an operator wants beyond the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) apply: bool,
    pub(crate) force: bool,
    pub(crate) digest: Option<Digest>,
}

/// The image that is being taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) image: ImageRef,
    /// Where to fetch it; none when it lay in its slot already.
    pub(crate) candidate: Option<Box<Candidate>>,
    /// It cannot be taken before the running image is proved by a cold start, which is what is prepared.
    pub(crate) needs_proof: bool,
}

/// The turn of this machine among its neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Turn {
    pub(crate) granted_at: Option<Duration>,
    pub(crate) refused_since: Option<Duration>,
    pub(crate) not_before: Duration,
    /// A trial that ended with a restart may have left it open; the neighbours are told as soon as the role that talks to
    /// them does.
    pub(crate) is_left_over: bool,
}

/// The machine between two events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub(crate) policy: Policy,
    pub(crate) stage: Stage,
    /// What is on disk as far as is known, or what a machine without disk remembers.
    pub(crate) ledger: Ledger,
    pub(crate) running: Option<ImageRef>,
    pub(crate) on_disk: bool,
    /// The last record failed.
    pub(crate) ledger_failed: bool,
    /// On a machine that remembers no more: the image that failed before this start. Nothing up to it is tried, or two bad
    /// ones would take turns for ever.
    pub(crate) returned: Option<Rank>,
    /// This machine hung or panicked before this start and has no record of what it ran: perhaps what it would try next.
    pub(crate) forgot_a_failure: bool,
    /// Why this machine only serves.
    pub(crate) serve_only: Option<Refusal>,
    pub(crate) slot_size: u64,
    pub(crate) has_watchdog: bool,
    /// Whether a cold start led to the running image.
    pub(crate) from_cold: bool,
    pub(crate) serving_since: Option<Duration>,
    pub(crate) is_stable: bool,
    pub(crate) wall: Option<(u64, Duration)>,
    pub(crate) neighbours: Option<(u32, u32, Duration)>,
    pub(crate) checked: Option<String>,
    /// Answers to looks since the machine started.
    pub(crate) looks: u64,
    /// The newest image that was offered, for those who look.
    pub(crate) offered: Option<Box<Candidate>>,
    /// Why that one is not taken, once it was said.
    pub(crate) offer_refused: Option<Refusal>,
    pub(crate) target: Option<Target>,
    pub(crate) wanted: Option<Wanted>,
    pub(crate) waits: Option<Refusal>,
    pub(crate) turn: Turn,
    /// Failures in a row of taking an image.
    pub(crate) failures: u32,
    pub(crate) not_before: Duration,
    /// The seed of this boot, changed with every use.
    pub(crate) seed: u64,
    /// Phases of the trial that are passed.
    pub(crate) passed: Vec<Phase>,
    /// Children that ended during the trial.
    pub(crate) restarts: u32,
    /// What happened to the trial while a record was under way.
    pub(crate) deferred: Vec<Event>,
}

/// One step: what `event` at `now` (time since the machine booted) makes of `state`, and what must be done about it.
///
/// Any event in any state is answered; what does not fit is ignored or refused. The effects are carried out in order; see
/// [`Effect`] for which of them are answered by which event. The answer to a record comes before everything else that can
/// wait: until then orders are refused.
pub fn step(mut state: State, event: Event, now: Duration) -> (State, Vec<Effect>) {
    let mut effects = Vec::new();
    state.take(event, now, &mut effects);
    // What was put off goes on as long as no new record is under way.
    while !matches!(state.stage, Stage::Recording { .. }) && !state.deferred.is_empty() {
        let event = state.deferred.remove(0);
        state.take(event, now, &mut effects);
    }
    (state, effects)
}

impl State {
    /// A machine before its first event.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            stage: Stage::New,
            ledger: Ledger::default(),
            running: None,
            on_disk: false,
            ledger_failed: false,
            returned: None,
            forgot_a_failure: false,
            serve_only: None,
            slot_size: 0,
            has_watchdog: false,
            from_cold: false,
            serving_since: None,
            is_stable: false,
            wall: None,
            neighbours: None,
            checked: None,
            looks: 0,
            offered: None,
            offer_refused: None,
            target: None,
            wanted: None,
            waits: None,
            turn: Turn::default(),
            failures: 0,
            not_before: Duration::ZERO,
            seed: 0,
            passed: Vec::new(),
            restarts: 0,
            deferred: Vec::new(),
        }
    }

    /// When the next `Tick` is due at the latest.
    pub fn next_deadline(&self) -> Option<Duration> {
        let of_stage = match &self.stage {
            Stage::Fetching { until }
            | Stage::Writing { until }
            | Stage::Asking { until }
            | Stage::Preparing { until } => Some(*until),
            Stage::Trial {
                deadline, soaked, ..
            } => Some(soaked.map_or(*deadline, |soaked| soaked.min(*deadline))),
            Stage::Ready => {
                Some(self.turn.not_before).filter(|_| self.waits == Some(Refusal::Turn))
            }
            Stage::New
            | Stage::Recording { .. }
            | Stage::Starting
            | Stage::Idle
            | Stage::Jumping
            | Stage::Returning
            | Stage::Ended => None,
        };
        let stable = self.serving_since.filter(|_| !self.is_stable);
        let stable = stable.map(|since| since.saturating_add(self.policy.soak));
        of_stage.into_iter().chain(stable).min()
    }

    /// Whether the running image is on trial.
    pub fn is_on_trial(&self) -> bool {
        match &self.stage {
            Stage::Trial { .. } => true,
            Stage::Recording { then, .. } => matches!(then, Then::Mark(_) | Then::Commit),
            _ => false,
        }
    }

    fn take(&mut self, event: Event, now: Duration, effects: &mut Vec<Effect>) {
        match event {
            Event::Boot(facts) => {
                if self.stage == Stage::New {
                    self.boot(*facts, now, effects);
                }
            }
            Event::Ending => self.end(effects),
            Event::Tick { wall } => {
                self.wall = wall.map(|unix| (unix, now)).or(self.wall);
                self.tick(now, effects);
            }
            Event::Serving(serves) => {
                self.serving_since = match (serves, self.serving_since) {
                    (true, since) => since.or(Some(now)),
                    (false, _) => None,
                };
            }
            Event::Neighbours { live, same } => {
                self.neighbours = Some((live, same, now));
                let is_left_over = std::mem::take(&mut self.turn.is_left_over);
                // One that is asked for again is no leftover any more.
                let is_wanted = matches!(self.stage, Stage::Asking { .. });
                if is_left_over && !is_wanted && self.turn.granted_at.is_none() {
                    effects.push(Effect::ReleaseTurn);
                }
                self.look_at_gates(now, effects);
            }
            Event::Recorded(result) => self.recorded(result, now, effects),
            Event::Ordered(order) => self.order(order, now, effects),
            Event::Offered(offer) => self.offered(offer, now, effects),
            Event::Checked { code, .. } => self.checked(code, effects),
            Event::Turn {
                granted,
                by,
                reason,
            } => self.turn_answered(granted, &by, &reason, now, effects),
            Event::Fetched(result) => self.fetched(result, now, effects),
            Event::SlotWritten(result) => self.slot_written(result, now, effects),
            Event::Prepared(result) => self.prepared(result, now, effects),
            Event::JumpFailed(reason) => self.jump_failed(&reason, now, effects),
            Event::StartFailed { reason, detail } => {
                self.start_failed(reason, &detail, now, effects)
            }
            Event::ReturnFailed(reason) => self.return_failed(reason, effects),
            Event::Passed(_) | Event::GateFailed(_) | Event::ChildRestarted(_) => {
                self.of_trial(event, effects);
            }
        }
    }

    fn tick(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        match &self.stage {
            Stage::Fetching { until } | Stage::Writing { until } | Stage::Preparing { until }
                if now >= *until =>
            {
                self.give_up(Refusal::TooSlow, "", now, effects);
            }
            Stage::Asking { until } if now >= *until => {
                self.turn_answered(false, "", "no answer", now, effects);
            }
            Stage::Trial { .. } => self.trial_tick(now, effects),
            Stage::Idle | Stage::Ready => {
                self.note_stable(now, effects);
                // Does nothing while that is written.
                self.look_at_gates(now, effects);
            }
            _ => {}
        }
    }

    /// Records that the running image was stable, when that changes anything.
    fn note_stable(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let soaked = self
            .serving_since
            .is_some_and(|since| now >= since.saturating_add(self.policy.soak));
        if self.is_stable || !soaked || self.ledger_is_foreign() {
            return;
        }
        let Some(running) = &self.running else {
            return;
        };
        let mut ledger = self.ledger.clone();
        ledger.stable(running, self.from_cold, self.wall_at(now));
        if ledger == self.ledger {
            self.say_stable(effects);
            return;
        }
        let back = Box::new(self.stage.clone());
        self.record(ledger, Then::Stable(back), effects);
    }

    fn say_stable(&mut self, effects: &mut Vec<Effect>) {
        self.is_stable = true;
        if self.serve_only == Some(Refusal::ServeOnly) {
            // It started too often without being stable. Now it was.
            self.serve_only = None;
        }
        if let Some(running) = &self.running {
            effects.push(Effect::Tell(Notice::Stable {
                digest: running.digest,
                is_proved: self.is_proved(running),
            }));
        }
    }

    /// Whether the ledger is not this image's to write: it does not know the image that runs.
    fn ledger_is_foreign(&self) -> bool {
        self.serve_only == Some(Refusal::Ledger)
    }

    /// Asks for a durable write; nothing else moves until it is answered.
    fn record(&mut self, ledger: Ledger, then: Then, effects: &mut Vec<Effect>) {
        effects.push(Effect::Record(Box::new(ledger.clone())));
        self.stage = Stage::Recording {
            ledger: Box::new(ledger),
            then,
        };
    }

    fn recorded(&mut self, result: Result<(), String>, now: Duration, effects: &mut Vec<Effect>) {
        let stage = std::mem::replace(&mut self.stage, Stage::Idle);
        let Stage::Recording { ledger, then } = stage else {
            // That of a machine that ends, which nobody waits for.
            self.stage = stage;
            return;
        };
        self.ledger_failed = result.is_err();
        let written = match result {
            Ok(()) => {
                self.ledger = *ledger;
                true
            }
            Err(reason) => {
                effects.push(Effect::Tell(Notice::LedgerFailed(reason)));
                false
            }
        };
        match then {
            Then::Start => self.start(written, now, effects),
            Then::Fetch | Then::Ready | Then::Jump if !written => {
                self.give_up(Refusal::Ledger, "", now, effects);
            }
            Then::Fetch => self.fetch(now, effects),
            Then::Ready => {
                self.stage = Stage::Ready;
                self.say_staged(effects);
                self.look_at_gates(now, effects);
            }
            Then::Jump => {
                self.stage = Stage::Jumping;
                effects.push(Effect::Jump);
            }
            Then::Idle => {}
            Then::Mark(phase) if written => self.enter(phase, now, effects),
            Then::Mark(phase) => self.doubt(phase, effects),
            Then::Commit if written => self.committed(now, effects),
            // Nobody knows which of the two ledgers the disk has. A cold start does, and both lead to a whole image.
            Then::Commit => self.doubt(Phase::Soak, effects),
            Then::Restart => self.restart("the trial failed", effects),
            Then::RollBack if written => self.restart("an operator goes back", effects),
            Then::RollBack => {}
            Then::Stable(back) => {
                self.stage = *back;
                if written {
                    self.say_stable(effects);
                } else {
                    // The next attempt comes after another soak, not with every tick.
                    self.serving_since = self.serving_since.map(|_| now);
                }
                self.look_at_gates(now, effects);
            }
        }
    }

    /// Leaves the machine by way of the firmware.
    fn restart(&mut self, why: &'static str, effects: &mut Vec<Effect>) {
        self.stage = Stage::Ended;
        effects.push(Effect::Tell(Notice::Restarting(why)));
        effects.push(Effect::Restart);
    }

    /// Somebody switches the machine off or restarts it.
    fn end(&mut self, effects: &mut Vec<Effect>) {
        let stage = std::mem::replace(&mut self.stage, Stage::Ended);
        let is_asking = matches!(stage, Stage::Asking { .. });
        match stage {
            Stage::Trial { phase, .. } => self.interrupted(phase, effects),
            Stage::Preparing { .. } => effects.push(Effect::Unload),
            Stage::Recording {
                then: Then::Jump, ..
            } => effects.push(Effect::Unload),
            _ => {}
        }
        self.deferred.clear();
        if self.turn.granted_at.take().is_some() || is_asking {
            effects.push(Effect::ReleaseTurn);
        }
    }

    /// A wait around `interval` that no other machine has.
    fn jitter(&mut self, interval: Duration) -> Duration {
        self.seed = self.seed.wrapping_add(1);
        jittered(interval, self.seed)
    }

    /// The time of day as far as it is known, in seconds since 1970.
    pub(crate) fn wall_at(&self, now: Duration) -> Option<u64> {
        let (unix, at) = self.wall?;
        Some(unix.saturating_add(now.saturating_sub(at).as_secs()))
    }

    fn is_forced(&self) -> bool {
        self.wanted.is_some_and(|wanted| wanted.force)
    }

    /// The number that the next trial has.
    fn next_trial(&self) -> TrialId {
        TrialId {
            number: self.ledger.trials.saturating_add(1),
            on_disk: self.on_disk,
        }
    }

    /// Whether the image at `place` was stable after a cold start. Golden is started from cold always.
    pub(crate) fn is_proved(&self, image: &ImageRef) -> bool {
        match image.place {
            Place::Golden => true,
            Place::Memory => false,
            Place::A | Place::B => {
                let stored = self.ledger.stored(&image.digest);
                stored.is_some_and(|(_, proved)| proved)
            }
        }
    }
}
