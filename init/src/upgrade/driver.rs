//! Carries out what the state machine asks for.
//!
//! Events wait in one queue; each goes through [`upgrade::step`] with the time, and its effects are carried out in their
//! order. What takes long (a slot, a load) ticks the loop of the machine meanwhile; what happens during that waits in the
//! inbox, so a step never sees another one half done.

use std::fs::File;
use std::time::Duration;

use boot_manifest::handoff::{Command, HandoffRecord};
use boot_manifest::{Digest, Expiry};
use upgrade::{Candidate, Effect, Event, Notice, Place, Refusal as No, Refused, TrialId};

use super::preflight::keeps_watching;
use super::{Fetched, Upgrade};
use crate::children::{self, Role};
use crate::console::Level;
use crate::identity::Identity;
use crate::kexec::{Extra, Rootfs};
use crate::machine::{Ending, Machine, Staged};
use crate::plan::{Refusal, Stop};
use crate::verify::Tick;
use crate::{kexec, memory, settings, verify};

impl Upgrade {
    /// Steps until nothing is left to do.
    pub(super) fn drain(&mut self, machine: &mut Machine) {
        while let Some(event) = self.events.pop_front() {
            let Some(state) = self.state.take() else {
                return;
            };
            let (state, effects) = upgrade::step(state, event, settings::uptime());
            self.state = Some(state);
            for effect in effects {
                self.carry_out(machine, effect);
            }
        }
    }

    fn carry_out(&mut self, machine: &mut Machine, effect: Effect) {
        match effect {
            Effect::Record(ledger) => self.record(machine, &ledger),
            Effect::Look => {
                machine.command(Role::Update, &Command::CheckNow {});
            }
            Effect::AskTurn(digest) => self.ask_turn(machine, &digest),
            Effect::ReleaseTurn => {
                machine.command(Role::Update, &Command::ReleaseTurn {});
            }
            Effect::Fetch(candidate) => self.fetch(machine, *candidate),
            Effect::WriteSlot { place, image } => self.write_slot(machine, place, image),
            Effect::DropFetched => self.drop_fetched(machine),
            Effect::Prepare { image, trial } => {
                let result = self
                    .prepare(machine, &image, trial)
                    .map_err(refused(No::NotLoaded));
                if result.is_err() {
                    kexec::unload();
                }
                self.push(Event::Prepared(result.map(Box::new)));
            }
            Effect::Unload => self.take_back(machine),
            Effect::Jump => self.jump(machine),
            Effect::Start(image) => self.start(machine, &image),
            Effect::Restart => machine.end(Ending::Restart),
            Effect::Return { failed, failure } => {
                self.return_to_previous(machine, &failed, &failure)
            }
            Effect::LoadPrevious => self.plan_previous(),
            Effect::SelfTest => self.begin_self_test(machine),
            Effect::DryRun => self.begin_dry_run(machine),
            Effect::FeedUntil(deadline) => machine.feed_until(deadline),
            Effect::ReleaseCrashMemory => self.forget_previous(machine),
            Effect::Tell(notice) => {
                if let Notice::OrderRefused(refusal) = &notice {
                    self.published.refused_order(*refusal);
                }
                if let Notice::LedgerFailed(text) = &notice
                    && self.complaint.replace(text.clone()).as_ref() == Some(text)
                {
                    return;
                }
                tell(machine, &notice);
            }
        }
    }

    fn record(&mut self, machine: &mut Machine, ledger: &upgrade::Ledger) {
        let mut tick = || machine.turn(Duration::ZERO);
        let result = match &mut self.disk {
            Some(disk) => disk.write_ledger(ledger, &mut tick),
            None => Ok(()),
        };
        let result = result.map_err(|stop| reason_of(&stop));
        if result.is_ok() {
            self.complaint = None;
        }
        self.push(Event::Recorded(result));
    }

    fn ask_turn(&mut self, machine: &mut Machine, digest: &Digest) {
        let digest = digest.to_string();
        if !machine.command(Role::Update, &Command::AskTurn { digest }) {
            self.push(Event::Turn {
                granted: false,
                by: "update".to_owned(),
                reason: "the program that asks the neighbours does not run".to_owned(),
            });
        }
    }

    /// Starts `stage`, which brings all parts; what it brings is taken by [`Self::take_staged`].
    fn fetch(&mut self, machine: &mut Machine, candidate: Candidate) {
        self.drop_fetched(machine);
        let Some(running) = &self.running else {
            return;
        };
        let sizes = candidate.sizes;
        let needed = sizes
            .kernel
            .saturating_add(sizes.initramfs)
            .saturating_add(sizes.rootfs)
            .saturating_add(crate::limits::IMAGE_RESERVE);
        let available = memory::now().available;
        if needed > available {
            let detail = format!(
                "fetching it needs {} MiB and {} are free",
                needed >> 20,
                available >> 20
            );
            let refusal = No::Memory;
            return self.push(Event::Fetched(Err(Refused { refusal, detail })));
        }
        let digest = candidate.digest.to_string();
        let arguments = children::fetch_arguments(&digest, &candidate.origin, &running.offer);
        self.fetching = Some(candidate);
        machine.supervise_with(Role::Stage, arguments);
    }

    /// What `stage` brought since the last look.
    pub(super) fn take_staged(&mut self, machine: &mut Machine) {
        if self.fetching.is_none() {
            return;
        }
        let Some(staged) = machine.take_staged() else {
            return;
        };
        machine.dismiss(Role::Stage);
        let Some(candidate) = self.fetching.take() else {
            return;
        };
        let result = self.judge_staged(machine, &candidate, staged);
        let result = result.map(|fetched| self.fetched = Some(fetched));
        self.push(Event::Fetched(result.map_err(refused(No::NotFetched))));
    }

    fn judge_staged(
        &self,
        machine: &mut Machine,
        candidate: &Candidate,
        staged: Staged,
    ) -> Result<Fetched, Stop> {
        let (record, files) = match staged {
            Staged::Handoff(record, files) => (record, files),
            Staged::Failed(refusal) => return Err(refusal.into()),
        };
        judge_handoff(
            &self.identity,
            &candidate.digest,
            &record,
            files,
            &mut || machine.turn(Duration::ZERO),
        )
    }

    fn drop_fetched(&mut self, machine: &mut Machine) {
        self.fetched = None;
        self.fetching = None;
        if machine.supervises(Role::Stage) {
            machine.dismiss(Role::Stage);
        }
    }

    fn write_slot(&mut self, machine: &mut Machine, place: Place, image: Digest) {
        let fetched = self.fetched.take();
        let fetched = fetched.filter(|fetched| fetched.handoff.manifest.digest() == image);
        let mut tick = || machine.turn(Duration::ZERO);
        let result = match (&mut self.disk, fetched) {
            (Some(disk), Some(Fetched { handoff, roots })) => {
                disk.write_slot(place, &handoff, &roots, &mut tick)
            }
            (None, _) => Err(Refusal::new("io", "there is no disk").into()),
            (_, None) => Err(Refusal::new("io", "the image is not in memory any more").into()),
        };
        self.push(Event::SlotWritten(result.map_err(refused(No::SlotFailed))));
    }

    /// Leaves for what is loaded. From here on the machine ends in order; a kernel that does not jump then restarts.
    fn jump(&mut self, machine: &mut Machine) {
        let reason = match machine.ending() {
            // Somebody was faster while the attempt went on record. It was none, and says nothing about the image.
            Some(_) => "somebody switches the machine off or restarts it",
            None if !kexec::is_ready() => "the kernel does not have its successor any more",
            None => return machine.end(Ending::Kexec),
        };
        self.push(Event::JumpFailed(reason.to_owned()));
    }

    /// Golden's last step: into the slot that holds the default.
    fn start(&mut self, machine: &mut Machine, image: &upgrade::ImageRef) {
        let result = self.try_start(machine, image);
        match result {
            Ok(()) | Err(Stop::Ending) => {}
            Err(Stop::Refused(Refusal { code, reason })) => {
                kexec::unload();
                let damaged = !matches!(code.as_str(), "kexec-failed" | "not-enough-memory");
                let reason_of = if damaged {
                    upgrade::Reason::SlotDamaged
                } else {
                    upgrade::Reason::NotStarted
                };
                self.push(Event::StartFailed {
                    reason: reason_of,
                    detail: format!("{code}: {reason}"),
                });
            }
        }
    }

    fn try_start(&mut self, machine: &mut Machine, image: &upgrade::ImageRef) -> Result<(), Stop> {
        let Fetched { handoff, roots } = self.read_slot(machine, image)?;
        let words = super::boot_words(image.place, None::<TrialId>, None);
        let line = self.line_for(&handoff, &words);
        let extras = Extra::roots(&roots);
        let rootfs = Rootfs::of(image.place);
        kexec::load(handoff, rootfs, &extras, &line, &mut || {
            machine.turn(Duration::ZERO)
        })?;
        // Without a watchdog too: a cold start has no trial to refuse.
        let _runs_on = keeps_watching(machine);
        let text = format!("kexec into {} from slot {}", image.digest, image.place);
        machine.console.say(Level::Info, &text);
        machine.end(Ending::Kexec);
        Ok(())
    }

    /// The image in a slot, verified, in sealed memory.
    pub(super) fn read_slot(
        &mut self,
        machine: &mut Machine,
        image: &upgrade::ImageRef,
    ) -> Result<Fetched, Stop> {
        let Some(disk) = &mut self.disk else {
            return Err(Refusal::new("io", "there is no disk").into());
        };
        let mut tick = || machine.turn(Duration::ZERO);
        // Expiry stops fetching, never starting what was fetched in time.
        let identity = self.identity.beside(&[])?;
        let policy = identity.policy(None, Expiry::Report);
        let (handoff, roots) = disk.read_slot(image.place, &policy, &mut tick)?;
        if handoff.manifest.digest() == image.digest {
            return Ok(Fetched { handoff, roots });
        }
        let reason = format!("slot {} holds {}", image.place, handoff.manifest.digest());
        Err(Refusal::new("bad-hash", reason).into())
    }
}

/// Verifies what was fetched for `wanted`. Times only count when an offer is admitted: a clock that is wrong by years (a
/// machine whose battery is empty starts at the time its image was built) must not make every newer image one of the future.
fn judge_handoff(
    identity: &Identity,
    wanted: &Digest,
    record: &HandoffRecord,
    files: Vec<File>,
    tick: Tick<'_>,
) -> Result<Fetched, Stop> {
    let policy = identity.policy(None, Expiry::Report);
    let handoff = verify::handoff(record, files, &policy, tick)?;
    if handoff.manifest.digest() != *wanted {
        let reason = "another image was brought than the one that was asked for";
        return Err(Refusal::new("bad-handoff", reason).into());
    }
    let roots = identity.after(&handoff.roots)?.roots;
    Ok(Fetched { handoff, roots })
}

/// Why a step did not work, as the state machine counts. Codes that say more than `otherwise` win.
fn refused(otherwise: No) -> impl Fn(Stop) -> Refused {
    move |stop| {
        let (refusal, detail) = match &stop {
            Stop::Ending => (No::Ending, String::new()),
            Stop::Refused(Refusal { code, reason }) => {
                let refusal = match code.as_str() {
                    "not-enough-memory" => No::Memory,
                    "no-watchdog" => No::NoWatchdog,
                    "bad-hash" | "bad-size" if otherwise == No::NotFetched => No::WrongBytes,
                    "too-large" => No::SlotTooSmall,
                    _ => otherwise,
                };
                (refusal, format!("{code}: {reason}"))
            }
        };
        Refused { refusal, detail }
    }
}

fn reason_of(stop: &Stop) -> String {
    match stop {
        Stop::Ending => "the machine is about to restart".to_owned(),
        Stop::Refused(Refusal { code, reason }) => format!("{code}: {reason}"),
    }
}

fn tell(machine: &mut Machine, notice: &Notice) {
    let (level, prefix) = match notice {
        Notice::Failed { .. } | Notice::LedgerFailed(_) => (Level::Error, "upgrade"),
        Notice::Warning(_) | Notice::OrderRefused(_) => (Level::Warning, "warning: upgrade"),
        _ => (Level::Info, "upgrade"),
    };
    machine.console.say(level, &format!("{prefix}: {notice}"));
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::FileExt;

    use boot_manifest::{Timestamp, TrustRoot};
    use rustix::fs::{MemfdFlags, SealFlags};

    use super::*;
    use crate::verify::HANDOFF_FILES;
    use crate::verify::tests::{key, manifest_for};

    const PARTS: [&[u8]; 3] = [b"kernel bytes", b"initramfs", b"hsqs rootfs"];

    fn sealed(bytes: &[u8]) -> File {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(rustix::fs::memfd_create("part", flags).unwrap());
        file.write_all_at(bytes, 0).unwrap();
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals).unwrap();
        file
    }

    fn identity() -> Identity {
        let info = r#"{"name":"Phase","version":"1","built_at":0,"floor":{"security_version":1,"sequence":5}}"#;
        let root = TrustRoot::single(key().public());
        Identity::for_tests(info, root)
    }

    pub(in super::super) fn upgrade() -> Upgrade {
        Upgrade::new(identity(), true)
    }

    /// What becomes of an image that claims to be of that time.
    fn judged(created_at: i64, wanted: Option<Digest>) -> Result<Digest, String> {
        let [kernel, initramfs, rootfs] = PARTS;
        let mut manifest = manifest_for(kernel, initramfs, rootfs);
        manifest.created_at = Timestamp::from_unix(created_at);
        manifest.expires_at = Timestamp::from_unix(created_at + 1000);
        let bytes = boot_manifest::sign(&manifest, &[&key()]).unwrap();
        let files = [&bytes[..], kernel, initramfs, rootfs].map(sealed);
        let record = HandoffRecord {
            origin: String::new(),
            fds: HANDOFF_FILES.map(str::to_owned).to_vec(),
        };
        let wanted = wanted.unwrap_or_else(|| Digest::of(&bytes));
        let result = judge_handoff(&identity(), &wanted, &record, files.into(), &mut || Ok(()));
        result
            .map(|fetched| fetched.handoff.manifest.digest())
            .map_err(|stop| reason_of(&stop))
    }

    /// Fault 22: the clock of the machine may be anywhere, before or after.
    #[test]
    fn what_was_fetched_is_judged_by_its_bytes_and_not_by_the_clock() {
        const DECADES: i64 = 40 * 365 * 86_400;
        let now = settings::now(0);
        for created_at in [now + DECADES, now, now - DECADES] {
            let found = judged(created_at, None);
            assert!(found.is_ok(), "{found:?}");
        }
        let other = judged(now, Some(Digest::of(b"another"))).unwrap_err();
        assert!(other.starts_with("bad-handoff"), "{other}");
    }

    /// The attempt is on record by then: it must be taken back, or the next start takes it for a failure of the image.
    #[test]
    fn nobody_jumps_out_of_a_machine_that_is_switched_off() {
        let mut machine = crate::machine::tests::machine();
        let mut upgrade = upgrade();
        machine.end(Ending::PowerOff);
        upgrade.jump(&mut machine);
        assert_eq!(machine.ending(), Some(Ending::PowerOff));
        let Some(Event::JumpFailed(reason)) = upgrade.events.pop_front() else {
            panic!("the attempt stays on record")
        };
        assert!(reason.contains("switches"), "{reason}");
    }
}
