//! A machine that carries out what the state machine asks for, with images that behave and images that do not.

use std::collections::VecDeque;
use std::time::Duration;

use boot_manifest::Digest;
use upgrade::{
    BootFacts, Candidate, Effect, Event, Failure, Fingerprint, How, ImageRef, Ledger, Order, Phase,
    Place, Policy, Prepared, Rank, Reason, Refusal, Refused, ResetCause, Returned, Sizes, State,
    Status, TrialId, step,
};

use crate::check::Witness;
use crate::disk::{Disk, Trouble};

/// Starts after which a machine is not coming to rest any more. The longest honest story takes eight.
const STARTS_MAX: usize = 24;

/// Steps within one start, for the same reason.
const STEPS_MAX: usize = 5_000;

/// How long nothing must happen before a machine counts as at rest: longer than the longest back-off with its jitter.
const REST: Duration = Duration::from_secs(80 * 60);

/// How far time goes when nothing is due: neighbours are seen again before they are forgotten.
const PACE: Duration = Duration::from_secs(20 * 60);

/// How an image behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    Good,
    /// Silent from this phase of its trial on; nothing answers any more.
    Hangs(Phase),
    /// Its kernel panics in this phase of its trial.
    Panics(Phase),
    /// The mains fail in this phase of every trial of it, and the watchdog says that it was not it.
    LosesPower(Phase),
    /// It finds out by itself in this phase.
    Fails(Phase),
    /// It never passes this phase.
    Stalls(Phase),
    /// A child of its ends in the soak.
    Restarts,
    /// After kexec all is well; started from cold it hangs before it is stable.
    HangsCold,
    /// It was stable from cold once; every later cold start hangs.
    Decays,
}

#[derive(Debug, Clone)]
pub(crate) struct Release {
    pub(crate) candidate: Candidate,
    pub(crate) behaviour: Behaviour,
}

/// How the running image is left.
#[derive(Debug)]
enum Leave {
    /// The machine starts from cold.
    Cold(ResetCause),
    Into(Box<Successor>),
}

#[derive(Debug)]
struct Successor {
    image: ImageRef,
    how: How,
    returned: Option<Returned>,
    previous: Option<ImageRef>,
}

/// The machine and everything around it.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) disk: Disk,
    pub(crate) policy: Policy,
    pub(crate) golden: ImageRef,
    pub(crate) releases: Vec<Release>,
    /// Releases that the source has; the newest is offered.
    pub(crate) published: usize,
    /// Orders, each given at the first start in which this stage is seen.
    pub(crate) orders: VecDeque<(&'static str, Order)>,
    /// The machine has no disk.
    pub(crate) diskless: bool,
    pub(crate) has_watchdog: bool,
    /// What a power cut is taken for afterwards.
    pub(crate) cut_seen_as: ResetCause,
    /// Other machines: live ones, and of them those that serve what runs here.
    pub(crate) neighbours: (u32, u32),
    pub(crate) grants_turns: bool,
    pub(crate) witness: Witness,
    /// Notices and stages, for the stories.
    pub(crate) log: Vec<String>,
    pub(crate) starts: usize,
    rotten: bool,
    now: Duration,
    state: State,
    running: ImageRef,
    how: How,
    fetched: Option<Digest>,
    loaded: Option<(ImageRef, TrialId)>,
    crash_image: bool,
    previous: Option<ImageRef>,
    cold_starts: usize,
    queue: VecDeque<Event>,
    stage: &'static str,
    watched: Option<Duration>,
    last_change: Duration,
    steps: usize,
}

pub(crate) fn digest(version: &str) -> Digest {
    Digest::of(version.as_bytes())
}

pub(crate) fn image(version: &str, sequence: u64, place: Place) -> ImageRef {
    ImageRef {
        digest: digest(version),
        place,
        version: version.to_owned(),
        sequence,
        generation: 1,
        security_version: sequence,
    }
}

pub(crate) fn release(version: &str, sequence: u64, behaviour: Behaviour) -> Release {
    Release {
        candidate: Candidate {
            digest: digest(version),
            version: version.to_owned(),
            sequence,
            generation: 1,
            security_version: sequence,
            sizes: Sizes {
                kernel: 10,
                initramfs: 10,
                rootfs: 10,
                slot: 64,
            },
            expired: false,
            origin: "http://192.0.2.1:8080".to_owned(),
        },
        behaviour,
    }
}

impl World {
    /// A machine fresh from the factory with version 1, and a source that has these releases.
    pub(crate) fn new(releases: &[Release]) -> Self {
        let golden = image("v1", 1, Place::Golden);
        let policy = Policy::default();
        Self {
            disk: Disk::new(),
            policy,
            witness: Witness::new(&golden),
            running: golden.clone(),
            golden,
            releases: releases.to_vec(),
            published: releases.len(),
            orders: VecDeque::new(),
            diskless: false,
            has_watchdog: true,
            cut_seen_as: ResetCause::Unknown,
            neighbours: (1, 1),
            grants_turns: true,
            log: Vec::new(),
            starts: 0,
            rotten: false,
            now: Duration::ZERO,
            state: State::new(policy),
            how: How::Cold,
            fetched: None,
            loaded: None,
            crash_image: false,
            previous: None,
            cold_starts: 0,
            queue: VecDeque::new(),
            stage: "",
            watched: None,
            last_change: Duration::ZERO,
            steps: 0,
        }
    }

    pub(crate) fn rot(&mut self, place: Place) {
        self.disk.rot(place);
        self.rotten = true;
    }

    /// Switches the machine on, or off and on, and lets it go until nothing happens any more.
    pub(crate) fn run(&mut self) {
        self.witness.at_power_loss(&self.disk, self.rotten);
        self.start_cold(self.cut_seen_as);
        let mut starts = 0;
        loop {
            match self.turn() {
                Ok(true) => return,
                Ok(false) => {}
                Err(leave) => {
                    starts += 1;
                    assert!(
                        starts < STARTS_MAX,
                        "it never comes to rest:\n{}",
                        self.log.join("\n")
                    );
                    self.leave(leave);
                }
            }
        }
    }

    pub(crate) fn status(&self) -> Status {
        self.state.status(self.now)
    }

    pub(crate) fn ledger(&self) -> Ledger {
        self.disk.ledger().ledger.unwrap_or_default()
    }

    pub(crate) fn version(&self) -> &str {
        &self.running.version
    }

    fn leave(&mut self, leave: Leave) {
        match leave {
            Leave::Cold(cause) => {
                self.witness.at_power_loss(&self.disk, self.rotten);
                self.start_cold(cause);
            }
            Leave::Into(into) => self.start(*into, ResetCause::Unknown),
        }
    }

    fn start_cold(&mut self, cause: ResetCause) {
        // A machine without a disk gets from the network what it had.
        let image = self.golden.clone();
        self.crash_image = false;
        self.start(
            Successor {
                image,
                how: How::Cold,
                returned: None,
                previous: None,
            },
            cause,
        );
    }

    fn start(&mut self, into: Successor, reset: ResetCause) {
        self.starts += 1;
        self.running = into.image;
        self.how = into.how;
        self.previous = into.previous;
        self.now = Duration::from_secs(5);
        self.last_change = self.now;
        self.steps = 0;
        self.queue.clear();
        self.fetched = None;
        self.loaded = None;
        self.watched = None;
        self.stage = "";
        self.state = State::new(self.policy);
        self.disk.start();
        self.witness.started(self.disk.ledger().ledger.as_ref());
        let (how, version) = (self.how, self.running.version.clone());
        self.log.push(format!("start of {version}: {how:?}"));
        let is_from_cold = self.how == How::Kexec { trial: None };
        if is_from_cold {
            self.cold_starts += 1;
        }
        let facts = BootFacts {
            running: self.running.clone(),
            how: self.how,
            reset,
            crash_text: Some("Attempted to kill init!".to_owned()),
            has_ledger: !self.diskless,
            ledger_is_lost: false,
            ledger: (!self.diskless)
                .then(|| self.disk.ledger().ledger)
                .flatten(),
            slot_size: 64,
            has_watchdog: self.has_watchdog,
            previous: self.previous.clone(),
            returned: into.returned,
            wall: Some(1_000_000),
            seed: self.starts as u64,
        };
        self.queue.push_back(Event::Boot(Box::new(facts)));
        if let How::Kexec { trial: Some(_) } = self.how {
            // All at once, as fast machines do: the phases sort it out.
            for phase in [Phase::Watchdog, Phase::Identity, Phase::Network] {
                self.pass(phase);
            }
        }
        self.queue.push_back(Event::Serving(true));
        let (live, same) = self.neighbours;
        self.queue.push_back(Event::Neighbours { live, same });
        let newest = self.releases[..self.published].last();
        if let Some(release) = newest {
            let offer = Box::new(release.candidate.clone());
            self.queue.push_back(Event::Offered(offer));
        }
    }

    fn behaviour(&self) -> Behaviour {
        let release = self
            .releases
            .iter()
            .find(|release| release.candidate.digest == self.running.digest);
        release.map_or(Behaviour::Good, |release| release.behaviour)
    }

    fn pass(&mut self, phase: Phase) {
        let event = match self.behaviour() {
            Behaviour::Fails(at) if at == phase => {
                Event::GateFailed(Failure::new(reason(phase), phase, "it said so itself"))
            }
            Behaviour::Stalls(at) if at == phase => return,
            Behaviour::Hangs(at) | Behaviour::Panics(at) | Behaviour::LosesPower(at)
                if phase >= at =>
            {
                return;
            }
            _ => {
                self.witness.passed.push(phase);
                Event::Passed(phase)
            }
        };
        self.queue.push_back(event);
    }

    /// One event, or time. `Ok(true)` when the machine is at rest.
    fn turn(&mut self) -> Result<bool, Leave> {
        self.steps += 1;
        assert!(self.steps < STEPS_MAX, "{} turns round", self.version());
        self.misbehave()?;
        let event = match self.queue.pop_front() {
            Some(event) => event,
            None => {
                if self.now >= self.last_change + REST {
                    self.at_rest();
                    return Ok(true);
                }
                let due = self.state.next_deadline().filter(|at| *at > self.now);
                let pace = self.now + PACE;
                self.now = due.map_or(pace, |due| due.min(pace));
                if self.watched.is_some_and(|until| self.now > until + PACE) {
                    return Err(self.reset(ResetCause::Watchdog));
                }
                let (live, same) = self.neighbours;
                self.queue.push_back(Event::Neighbours { live, same });
                let wall = Some(1_000_000 + self.now.as_secs());
                Event::Tick { wall }
            }
        };
        let state = std::mem::replace(&mut self.state, State::new(self.policy));
        let (state, effects) = step(state, event, self.now);
        self.state = state;
        let stage = self.state.stage();
        if stage != self.stage {
            self.stage = stage;
            self.last_change = self.now;
        }
        for effect in effects {
            self.carry_out(effect)?;
        }
        if let Some(at) = self.orders.iter().position(|(at, _)| *at == stage) {
            let (_, order) = self.orders.remove(at).expect("it was found");
            self.witness.forced |= order.force;
            self.queue.push_back(Event::Ordered(order));
        }
        Ok(false)
    }

    /// What the running image does to itself.
    fn misbehave(&mut self) -> Result<(), Leave> {
        let behaviour = self.behaviour();
        if behaviour == Behaviour::Good {
            return Ok(());
        }
        let is_from_cold = self.how == How::Kexec { trial: None };
        let phase = self.status().trial.map(|trial| trial.phase);
        match behaviour {
            Behaviour::Hangs(at) if phase == Some(at) => Err(self.reset(ResetCause::Watchdog)),
            Behaviour::Panics(at) if phase == Some(at) => Err(self.panic()),
            Behaviour::LosesPower(at) if phase == Some(at) => Err(self.reset(ResetCause::Power)),
            Behaviour::HangsCold if is_from_cold => Err(self.reset(ResetCause::Watchdog)),
            Behaviour::Decays if is_from_cold && self.cold_starts > 1 => {
                Err(self.reset(ResetCause::Watchdog))
            }
            Behaviour::Restarts if phase == Some(Phase::Soak) && self.queue.is_empty() => {
                let event = Event::ChildRestarted("serve".to_owned());
                self.queue.push_back(event);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn reset(&mut self, cause: ResetCause) -> Leave {
        assert!(
            self.has_watchdog || cause != ResetCause::Watchdog,
            "nobody resets it"
        );
        self.disk.reset();
        Leave::Cold(cause)
    }

    fn panic(&mut self) -> Leave {
        let How::Kexec { trial: Some(trial) } = self.how else {
            return self.reset(ResetCause::Panic);
        };
        let Some(previous) = self.previous.clone().filter(|_| self.crash_image) else {
            return self.reset(ResetCause::Panic);
        };
        self.crash_image = false;
        Leave::Into(Box::new(Successor {
            image: previous,
            how: How::Crashed { trial },
            returned: None,
            previous: None,
        }))
    }

    fn cut(&mut self) -> Leave {
        Leave::Cold(self.cut_seen_as)
    }

    fn carry_out(&mut self, effect: Effect) -> Result<(), Leave> {
        if self.disk.point().is_err() {
            return Err(self.cut());
        }
        let push = |world: &mut Self, event| {
            world.queue.push_back(event);
            Ok(())
        };
        match effect {
            Effect::Tell(notice) => {
                self.log.push(notice.to_string());
                return Ok(());
            }
            Effect::FeedUntil(until) => {
                self.watched = until;
                return Ok(());
            }
            _ => self.last_change = self.now,
        }
        match effect {
            Effect::Record(ledger) => self.record(&ledger),
            Effect::Look => push(
                self,
                Event::Checked {
                    code: "up-to-date".to_owned(),
                    ok: true,
                },
            ),
            Effect::AskTurn(_) => push(
                self,
                Event::Turn {
                    granted: self.grants_turns,
                    by: "192.0.2.2".to_owned(),
                    reason: "it upgrades itself".to_owned(),
                },
            ),
            Effect::Fetch(candidate) => {
                self.fetched = Some(candidate.digest);
                push(self, Event::Fetched(Ok(())))
            }
            Effect::WriteSlot { place, image } => self.write_slot(place, image),
            Effect::DropFetched => {
                self.fetched = None;
                Ok(())
            }
            Effect::Prepare { image, trial } => self.prepare(*image, trial),
            Effect::Unload => {
                self.loaded = None;
                Ok(())
            }
            Effect::Jump => {
                let (image, trial) = self.loaded.take().expect("a jump with nothing loaded");
                self.witness.jump(&self.disk, &image, !self.diskless);
                Err(self.jump_into(image, trial))
            }
            Effect::Start(image) => self.start_slot(*image),
            Effect::Restart => Err(self.reset(ResetCause::Unknown)),
            Effect::Return { failed, failure } => Err(self.return_to(&failed, &failure)),
            Effect::LoadPrevious => {
                self.crash_image = self.previous.is_some();
                Ok(())
            }
            Effect::SelfTest => {
                self.pass(Phase::Serve);
                Ok(())
            }
            Effect::DryRun => {
                self.pass(Phase::Updater);
                Ok(())
            }
            Effect::ReleaseCrashMemory => {
                self.crash_image = false;
                Ok(())
            }
            Effect::ReleaseTurn | Effect::FeedUntil(_) | Effect::Tell(_) => Ok(()),
        }
    }

    fn record(&mut self, ledger: &Ledger) -> Result<(), Leave> {
        let result = if self.diskless {
            Ok(())
        } else {
            let old = self.ledger();
            let trial = match self.how {
                How::Kexec { trial } => trial.filter(|_| old.trial.is_some()),
                How::Cold | How::Crashed { .. } => None,
            };
            self.witness.record(&old, ledger, &self.running, trial);
            match self.disk.write_ledger(ledger) {
                Ok(()) => Ok(()),
                Err(Trouble::Error) => Err("input/output error".to_owned()),
                Err(Trouble::Cut) => return Err(self.cut()),
            }
        };
        self.queue.push_back(Event::Recorded(result));
        Ok(())
    }

    fn write_slot(&mut self, place: Place, image: Digest) -> Result<(), Leave> {
        assert_eq!(self.fetched, Some(image), "written before it was fetched");
        let known = self.ledger();
        self.witness.write(place, &known, &self.running);
        let result = match self.disk.write_slot(place, image) {
            Ok(()) if self.disk.slot(place) == Some(image) => Ok(()),
            Ok(()) | Err(Trouble::Error) => Err(Refused {
                refusal: Refusal::SlotFailed,
                detail: "input/output error".to_owned(),
            }),
            Err(Trouble::Cut) => return Err(self.cut()),
        };
        self.fetched = None;
        self.queue.push_back(Event::SlotWritten(result));
        Ok(())
    }

    fn prepare(&mut self, image: ImageRef, trial: TrialId) -> Result<(), Leave> {
        assert!(
            self.loaded.is_none(),
            "a stale image stays loaded (fault 10)"
        );
        let is_there = match image.place {
            Place::A | Place::B => self.disk.slot(image.place) == Some(image.digest),
            Place::Golden => true,
            Place::Memory => self.fetched == Some(image.digest),
        };
        let result = if is_there {
            self.loaded = Some((image, trial));
            Ok(Box::new(Prepared {
                watchdog: self.has_watchdog,
                crash_image: true,
                fingerprint: Fingerprint::default(),
            }))
        } else {
            Err(Refused {
                refusal: Refusal::WrongBytes,
                detail: "bad-hash".to_owned(),
            })
        };
        self.queue.push_back(Event::Prepared(result));
        Ok(())
    }

    /// Before its first process an image may be silent or panic, with nobody to catch it.
    fn jump_into(&mut self, image: ImageRef, trial: TrialId) -> Leave {
        let previous = Some(self.running.clone());
        self.running = image.clone();
        match self.behaviour() {
            Behaviour::Hangs(Phase::Jump) => self.reset(ResetCause::Watchdog),
            Behaviour::Panics(Phase::Jump) => self.reset(ResetCause::Unknown),
            _ => Leave::Into(Box::new(Successor {
                image,
                how: How::Kexec { trial: Some(trial) },
                returned: None,
                previous,
            })),
        }
    }

    fn start_slot(&mut self, image: ImageRef) -> Result<(), Leave> {
        if self.disk.slot(image.place) == Some(image.digest) {
            return Err(Leave::Into(Box::new(Successor {
                image,
                how: How::Kexec { trial: None },
                returned: None,
                previous: None,
            })));
        }
        self.queue.push_back(Event::StartFailed {
            reason: Reason::SlotDamaged,
            detail: "bad-hash".to_owned(),
        });
        Ok(())
    }

    fn return_to(&mut self, failed: &ImageRef, failure: &Failure) -> Leave {
        let Some(image) = self.previous.clone() else {
            return self.reset(ResetCause::Unknown);
        };
        Leave::Into(Box::new(Successor {
            image,
            how: How::Kexec { trial: None },
            returned: Some(Returned {
                digest: failed.digest,
                rank: failed.rank(),
                reason: failure.reason,
            }),
            previous: None,
        }))
    }

    /// "Eventually serving", and nothing left lying about.
    fn at_rest(&mut self) {
        let status = self.status();
        assert!(
            ["idle", "staged", "waiting", "serve-only"].contains(&status.stage.as_str()),
            "rests in {}: {}",
            status.stage,
            self.log.join("\n")
        );
        assert!(self.loaded.is_none(), "an image stays loaded");
        assert!(status.trial.is_none(), "a trial without an end");
        if !self.diskless && status.ledger == "disk" && status.stage != "serve-only" {
            let open = self.ledger().trial;
            assert!(open.is_none(), "an open trial at rest: {open:?}");
        }
        let rank = |sequence| Rank {
            generation: 1,
            sequence,
        };
        assert!(self.running.rank() >= rank(1), "older than the factory's");
    }
}

/// What an image that fails by itself says in this phase.
fn reason(phase: Phase) -> Reason {
    match phase {
        Phase::Jump | Phase::Watchdog | Phase::Identity => Reason::Hardware,
        Phase::Network => Reason::Network,
        Phase::Serve => Reason::SelfTest,
        Phase::Updater => Reason::Updater,
        Phase::Soak => Reason::Growth,
    }
}
