//! Upgrades: PID 1's side of the machine that replaces itself.
//!
//! What to do is decided by [`upgrade::step`], a pure function with its picture at its top; here is what it needs to act:
//! the disk with ledger and slots, the image that was fetched, the roles that talk, the watchdog and `kexec`. Nothing here
//! decides, and nothing here parses what comes from the network: manifests, chains and orders are verified by
//! `boot_manifest` first.
//!
//! ```text
//! reports of update, serve, probe, stage ──► inbox ──► events ──► upgrade::step ──► effects ──► driver
//!                     ▲                                  ▲                                        │
//!                     └── commands, roles ◄──────────────┴── answers: recorded, fetched, loaded ◄─┘
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | `driver` | carries out effects, one after the other |
//! | `inbox` | makes events of what children report |
//! | `preflight` | everything before the jump: hardware, watchdog, memory, load |
//! | `probation` | what a new image must show: hardware, network, self-test, updater |
//! | `growth` | whether its programs leak |
//! | `crash` | the predecessor as crash image, the boot after a crash, the way back without a disk |
//! | `status` | what people and programs are shown |
//! | `home` | finds the disk whose ledger and slots belong to what runs |
//! | `boot` | what a machine finds out when it starts |
//! | `disk` | all that PID 1 asks of that disk, with deadlines |
//! | `ledger` | the two sectors that say which image a machine boots |
//! | `slots` | images in the slots: written, read back, read |
//! | `raw`, `worker` | past every cache, and never in the way of the main loop |

use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use boot_manifest::{Digest, Manifest, Verified};
use rustix::fs::{Mode, OFlags};
use upgrade::{BootFacts, Candidate, Event, How, ImageRef, Place, ResetCause, State, TrialId};

use crate::children::Offer;
use crate::console::Level;
use crate::identity::Identity;
use crate::kexec::Rootfs;
use crate::machine::Machine;
use crate::plan::{Refusal, Stop};
use crate::source::Found;
use crate::verify::Handoff;
use crate::{limits, settings};

use self::disk::Disk;
use self::probation::Probation;
use self::status::Published;

pub(crate) mod boot;
mod crash;
pub(crate) mod disk;
mod driver;
mod growth;
pub(crate) mod home;
mod inbox;
pub(crate) mod ledger;
mod preflight;
mod probation;
pub(crate) mod raw;
pub(crate) mod slots;
mod status;
pub(crate) mod worker;

pub(crate) use self::crash::take_over;

/// A manifest that was offered, verified, and where it came from.
#[derive(Debug)]
struct Offered {
    digest: Digest,
    origin: String,
}

/// All parts of an image, in sealed memory and verified.
#[derive(Debug)]
struct Fetched {
    handoff: Handoff,
    /// The chain of root documents that its successor needs.
    roots: Vec<u8>,
}

/// What runs.
#[derive(Debug)]
struct Running {
    image: ImageRef,
    /// The command line it was signed with.
    cmdline: String,
    offer: Offer,
    /// File names of kernel, initramfs and squashfs, as they are served.
    files: [String; 3],
}

/// The machine's side of its upgrades. One for each boot.
#[derive(Debug)]
pub(crate) struct Upgrade {
    identity: Identity,
    /// `None` before the first event, and while a step is under way.
    state: Option<State>,
    running: Option<Running>,
    disk: Option<Disk>,
    events: VecDeque<Event>,
    /// The last manifests that were offered; the newest last.
    offered: VecDeque<Offered>,
    fetching: Option<Candidate>,
    fetched: Option<Fetched>,
    /// Whether `serve` was seen to serve.
    served: bool,
    probation: Probation,
    let_go: preflight::LetGo,
    /// The predecessor is to be loaded as crash image.
    previous_wanted: bool,
    published: Published,
    /// What the disk said last when the record could not be written: told once, however often it is tried.
    complaint: Option<String>,
    /// Whether the clock was right when the machine started: the image's own time is no clock.
    clock_is_believed: bool,
}

impl Upgrade {
    /// Nothing is known yet.
    pub(crate) fn new(identity: Identity, clock_is_believed: bool) -> Self {
        Self {
            identity,
            state: None,
            running: None,
            disk: None,
            events: VecDeque::new(),
            offered: VecDeque::new(),
            fetching: None,
            fetched: None,
            served: false,
            probation: Probation::default(),
            let_go: preflight::LetGo::default(),
            previous_wanted: false,
            published: Published::default(),
            complaint: None,
            clock_is_believed,
        }
    }

    /// What the image brings to judge by.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The first event: `manifest` runs, or is about to, and was started from `place`.
    ///
    /// For golden this may end in another image: then the machine is about to leave, and the error says so.
    pub(crate) fn begin(
        &mut self,
        machine: &mut Machine,
        manifest: &Verified<Manifest>,
        place: Place,
        disk: Option<Disk>,
    ) -> Result<(), Stop> {
        if self.state.is_some() {
            return Ok(());
        }
        let image = image_of(manifest, place);
        self.running = Some(Running {
            image: image.clone(),
            cmdline: manifest.cmdline.clone(),
            offer: Offer {
                channel: manifest.channel.as_str().to_owned(),
                arch: manifest.arch.as_str().to_owned(),
            },
            files: file_names(manifest),
        });
        self.disk = disk;
        let facts = self.facts(machine, image)?;
        self.state = Some(State::new(machine.options.upgrades.policy));
        self.push(Event::Boot(Box::new(facts)));
        self.drain(machine);
        machine.turn(Duration::ZERO)
    }

    /// The squashfs of the running image, when that lies in a slot.
    pub(crate) fn rootfs_of_slot(
        &self,
        manifest: &Verified<Manifest>,
    ) -> Result<Option<Found>, Refusal> {
        let Some((disk, running)) = self.disk.as_ref().zip(self.running.as_ref()) else {
            return Ok(None);
        };
        let place = running.image.place;
        if Rootfs::of(place) == Rootfs::Carried {
            return Ok(None);
        }
        Ok(Some(Found {
            place: format!("slot {place} of {}", disk.name()),
            manifest: Vec::new(),
            medium: disk.rootfs(place, manifest)?,
        }))
    }

    /// Golden runs, but the manifest that it should serve by is damaged: what its disk remembers may still lead to an image in
    /// a slot. Then the machine is about to leave, and the error says so.
    pub(crate) fn rescue(&mut self, machine: &mut Machine, disk: Disk) -> Result<(), Stop> {
        self.disk = Some(disk);
        let remembered = self.read_ledger(machine)?;
        if let Some(golden) = remembered.and_then(|ledger| ledger.golden) {
            let facts = self.facts(machine, golden)?;
            self.state = Some(State::new(machine.options.upgrades.policy));
            self.push(Event::Boot(Box::new(facts)));
            self.drain(machine);
            machine.turn(Duration::ZERO)?;
        }
        self.give_up(machine);
        Ok(())
    }

    /// An image runs that [`Self::begin`] was not told of: nothing is known about it, so nothing is upgraded.
    pub(crate) fn give_up(&mut self, machine: &mut Machine) {
        self.state = None;
        self.running = None;
        self.disk = None;
        machine.feed_until(None);
    }

    fn facts(&mut self, machine: &mut Machine, running: ImageRef) -> Result<BootFacts, Stop> {
        let upgrades = machine.options.upgrades.clone();
        let had_disk = self.disk.is_some();
        let ledger = self.read_ledger(machine)?;
        let words = boot::last_words(Path::new("/sys/fs/pstore"));
        let how = match (upgrades.crashed, upgrades.trial) {
            (Some(trial), _) => How::Crashed { trial },
            (None, Some(trial)) => How::Kexec { trial: Some(trial) },
            (None, None) if machine.options.was_kexec() => How::Kexec { trial: None },
            (None, None) => How::Cold,
        };
        Ok(BootFacts {
            running,
            how,
            reset: reset_cause(machine, words.is_some()),
            crash_text: words,
            has_ledger: self.disk.is_some(),
            ledger_is_lost: had_disk && self.disk.is_none(),
            ledger,
            slot_size: self.disk.as_ref().map_or(0, Disk::slot_size),
            has_watchdog: machine.watchdog.is_some(),
            previous: crash::previous(&self.identity),
            returned: upgrades.returned,
            wall: self.wall(),
            seed: settings::random(),
        })
    }

    /// What the disk says. One that does not answer is no disk: the machine serves, and upgrades nothing.
    fn read_ledger(&mut self, machine: &mut Machine) -> Result<Option<upgrade::Ledger>, Stop> {
        let Some(disk) = &mut self.disk else {
            return Ok(None);
        };
        match disk.read_ledger(&mut || machine.turn(Duration::ZERO)) {
            Err(Stop::Refused(refusal)) => {
                let text = format!(
                    "warning: upgrade: the record on {} cannot be read: {} [{}]",
                    disk.name(),
                    refusal.reason,
                    refusal.code
                );
                machine.console.say(Level::Warning, &text);
                self.disk = None;
                Ok(None)
            }
            other => other,
        }
    }

    /// Seconds since 1970, when the clock is believed.
    fn wall(&self) -> Option<u64> {
        let now = settings::now(self.identity.image.built_at);
        self.clock_is_believed
            .then(|| u64::try_from(now).ok())
            .flatten()
    }

    fn push(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// Looks at what happened and goes on. Called whenever the loop of the machine turned.
    pub(crate) fn work(&mut self, machine: &mut Machine) {
        if self.state.is_none() {
            while machine.take_note().is_some() {}
            return;
        }
        self.take_notes(machine);
        self.take_staged(machine);
        self.look_after_trial(machine);
        self.push(Event::Tick { wall: self.wall() });
        self.drain(machine);
        self.publish(machine);
    }

    /// How long the loop may wait before it calls [`Self::work`] again.
    pub(crate) fn patience(&self) -> Duration {
        let deadline = self.state.as_ref().and_then(State::next_deadline);
        let due = deadline.map_or(limits::HEARTBEAT, |at| {
            at.saturating_sub(settings::uptime())
        });
        // A turn of no time at all would be one that never waits.
        due.clamp(limits::UPGRADE_TURN_MIN, limits::HEARTBEAT)
    }

    /// The image is served: the roles of upgrades start, and a trial goes on.
    pub(crate) fn mounted(&mut self, machine: &mut Machine) {
        let Some(running) = &self.running else {
            return;
        };
        machine.supervise(crate::children::Role::Update, Some(&running.offer));
        self.check_identity(machine);
        self.work(machine);
    }

    /// The image on trial could not even be mounted. Whether the machine is about to leave for another one.
    pub(crate) fn failed_to_mount(&mut self, machine: &mut Machine, reason: &str) -> bool {
        if machine.options.upgrades.trial.is_none() {
            return false;
        }
        let phase = upgrade::Phase::Identity;
        let failure = upgrade::Failure::new(upgrade::Reason::Identity, phase, reason);
        self.push(Event::GateFailed(failure));
        self.drain(machine);
        machine.ending().is_some()
    }

    /// Somebody switches the machine off.
    pub(crate) fn ending(&mut self, machine: &mut Machine) {
        self.push(Event::Ending);
        self.drain(machine);
    }
}

/// Why the machine started from cold.
fn reset_cause(machine: &Machine, crashed: bool) -> ResetCause {
    match &machine.watchdog {
        _ if crashed => ResetCause::Panic,
        Some(watchdog) if watchdog.caused_reset() => ResetCause::Watchdog,
        Some(watchdog) if watchdog.tells_resets() => ResetCause::Power,
        _ => ResetCause::Unknown,
    }
}

/// How the state machine calls an image.
fn image_of(manifest: &Verified<Manifest>, place: Place) -> ImageRef {
    ImageRef {
        digest: manifest.digest(),
        place,
        version: manifest.version.clone(),
        sequence: manifest.sequence,
        generation: manifest.generation,
        security_version: manifest.security_version,
    }
}

fn file_names(manifest: &Manifest) -> [String; 3] {
    ["kernel", "initramfs", "rootfs"].map(|name| {
        let artifact = manifest.artifact(name);
        artifact.map_or_else(String::new, |artifact| {
            artifact.filename.as_str().to_owned()
        })
    })
}

/// The words that tell a successor which trial it is, and where it lies.
fn boot_words(place: Place, trial: Option<TrialId>, origin: Option<&str>) -> Vec<String> {
    let mut words = Vec::new();
    if place != Place::Memory {
        words.push(format!("phase.place={place}"));
    }
    words.extend(trial.map(|trial| format!("phase.trial={trial}")));
    words.extend(origin.map(|origin| format!("phase.origin={origin}")));
    words
}

/// Reads a small file whole; `None` when it is not there, larger than `size_max`, or no file: a role that was taken over may
/// put a link or a pipe where PID 1 looks for what it wrote, and a pipe would be waited for without end.
fn small_file(path: &Path, size_max: u64) -> Option<Vec<u8>> {
    use std::io::Read;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    file.metadata().ok()?.is_file().then_some(())?;
    let mut bytes = Vec::new();
    file.take(size_max + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= size_max).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_files_are_read_where_a_role_writes() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name| folder.path().join(name);
        fs::write(path("file"), "12345").unwrap();
        assert_eq!(small_file(&path("file"), 5).as_deref(), Some(&b"12345"[..]));
        assert_eq!(small_file(&path("file"), 4), None);
        assert_eq!(small_file(&path("none"), 4), None);
        assert_eq!(small_file(folder.path(), 4), None);
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        assert_eq!(small_file(&path("link"), 5), None);
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, path("pipe"), mode).unwrap();
        assert_eq!(small_file(&path("pipe"), 5), None);
    }
}
