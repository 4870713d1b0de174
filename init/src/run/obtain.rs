//! What the phases of the plan do: get artifacts from each kind of source.
//!
//! Disk and initramfs end in a mounted squashfs. A provider ends in its kernel: everything that `stage` hands over is
//! verified again, loaded, and started by the shutdown.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use boot_manifest::handoff::HandoffRecord;
use boot_manifest::{Expiry, Manifest, Verified};

use super::own_command_line;
use crate::children::{Offer, Role};
use crate::cmdline::{self, SourceChoice};
use crate::console::Level;
use crate::machine::{Ending, Machine, Staged};
use crate::plan::{Kernel, Refusal, Source, Stop};
use crate::root::Inner;
use crate::screen::Artifacts;
use crate::source::{self, DiskWait, Found, Judged};
use crate::upgrade::{Upgrade, boot, disk::Disk};
use crate::{kexec, limits, root, verify};

/// Does what the plan says.
pub(super) struct Boot<'m> {
    pub(super) machine: &'m mut Machine,
    pub(super) upgrade: Upgrade,
    pub(super) offer: Option<Offer>,
    /// The image that is served, while the files in it are not checked one by one.
    pub(super) unfinished: Option<Verified<Manifest>>,
}

impl Kernel for Boot<'_> {
    fn start_network(&mut self) {
        self.machine.supervise(Role::Net, None);
    }

    fn obtain(&mut self, source: Source) -> Result<(), Stop> {
        self.machine.status.activity = match (source, &self.machine.options.provider) {
            (Source::Provider { .. }, Some(provider)) => format!("fetching from {provider}"),
            (Source::Provider { .. }, None) => "looking for a provider on the network".to_owned(),
            _ => format!("looking for artifacts: {}", source.name()),
        };
        self.machine.console.touch(Instant::now());
        match source {
            Source::Disk { only } => self.obtain_from_disk(only),
            Source::Initramfs => {
                let result = self.obtain_from_initramfs();
                source::discard_initramfs();
                result
            }
            Source::Provider { search } => self.obtain_from_provider(search),
        }
    }

    fn report(&mut self, source: Source, refusal: &Refusal) {
        let Refusal { code, reason } = refusal;
        if refusal.is_absence() {
            self.machine
                .console
                .say(Level::Info, &format!("{code}: {}: {reason}", source.name()));
        } else {
            self.machine.console.say(
                Level::Error,
                &format!("refused: {code}: {}: {reason}", source.name()),
            );
        }
    }

    fn start_serving(&mut self) {
        self.machine.supervise(Role::Serve, self.offer.as_ref());
        if self.machine.options.uses_dht() {
            self.machine.supervise(Role::Dht, self.offer.as_ref());
        }
    }
}

impl Boot<'_> {
    /// What could wait until the machine serves.
    pub(super) fn finish(&mut self) -> Result<(), Stop> {
        let Some(manifest) = self.unfinished.take() else {
            return Ok(());
        };
        let machine = &mut *self.machine;
        let result = root::finish(&manifest, &mut || machine.turn(Duration::ZERO));
        if let Err(Stop::Refused(refusal)) = &result {
            self.report(Source::Initramfs, refusal);
            self.machine.dismiss(Role::Serve);
        }
        result
    }

    fn obtain_from_disk(&mut self, only: bool) -> Result<(), Stop> {
        let most = Duration::from_secs(u64::from(self.machine.options.disk_wait_seconds));
        let mut wait = DiskWait::new(Instant::now(), only, most);
        let (block, dev) = (Path::new("/sys/class/block"), Path::new("/dev"));
        loop {
            let partitions = source::partitions(block, dev);
            if !partitions.is_empty() {
                return self.obtain_from_partitions(&partitions);
            }
            let devices =
                source::devices(Path::new("/sys/class"), Path::new("/sys/bus/usb/devices"));
            if !wait.goes_on(Instant::now(), devices) {
                return Err(Refusal::new(
                    Refusal::NOT_FOUND,
                    "no partition is named phase-artifacts",
                )
                .into());
            }
            self.machine.turn(limits::DISK_POLL)?;
        }
    }

    /// Tries the partitions whose manifests verify, the newest first. Each refusal is told when the next partition is
    /// tried; the last one is the result when none was good.
    fn obtain_from_partitions(&mut self, partitions: &[PathBuf]) -> Result<(), Stop> {
        let disk = Source::Disk { only: false };
        let mut last = None;
        let mut judged = Vec::new();
        for partition in partitions {
            match source::on_disk(partition)
                .map_err(Stop::from)
                .and_then(|found| self.judged(found))
            {
                Ok(candidate) => judged.push(candidate),
                Err(stop) => {
                    self.refused_partition(&partition.display().to_string(), stop, &mut last)?;
                }
            }
            self.machine.turn(Duration::ZERO)?;
        }
        if judged.is_empty() {
            for disk in partitions.iter().filter_map(|path| Disk::of(path)) {
                self.upgrade.rescue(self.machine, disk)?;
            }
        }
        source::newest_first(&mut judged);
        boot::used_first(&mut judged, &mut || self.machine.turn(Duration::ZERO))?;
        self.tell_choice(&judged);
        if let Some(first) = judged.first() {
            // May end in an image of a slot instead.
            let disk = Disk::of(Path::new(first.device()));
            let place = upgrade::Place::Golden;
            self.upgrade
                .begin(self.machine, &first.manifest, place, disk)?;
        }
        for (number, candidate) in judged.iter().enumerate() {
            if number > 0 {
                self.upgrade.give_up(self.machine);
            }
            if let Some(refusal) = last.take() {
                self.report(disk, &refusal);
            }
            match self.install(candidate, Inner::Checked) {
                Ok(()) => return Ok(()),
                Err(stop) => {
                    self.refused_partition(candidate.device(), stop, &mut last)?;
                }
            }
        }
        let none = || Refusal::new(Refusal::NOT_FOUND, "no partition is named phase-artifacts");
        Err(last.unwrap_or_else(none).into())
    }

    /// Keeps the refusal of a partition and tells the one before it; anything else ends the search.
    fn refused_partition(
        &mut self,
        device: &str,
        stop: Stop,
        last: &mut Option<Refusal>,
    ) -> Result<(), Stop> {
        let Stop::Refused(Refusal { code, reason }) = stop else {
            return Err(stop);
        };
        let refusal = Refusal::new(code, format!("{device}: {reason}"));
        if let Some(before) = last.replace(refusal) {
            self.report(Source::Disk { only: false }, &before);
        }
        Ok(())
    }

    /// Says in which order several good partitions are tried.
    fn tell_choice(&mut self, judged: &[Judged]) {
        let [first, others @ ..] = judged else {
            return;
        };
        if others.is_empty() {
            return;
        }
        let others: Vec<String> = others.iter().map(Judged::label).collect();
        let text = format!(
            "several manifests verify: {} is tried first, then {}",
            first.label(),
            others.join(", ")
        );
        self.machine.console.say(Level::Info, &text);
    }

    /// Verifies the manifest of what was found on this machine.
    fn judged(&self, found: Found) -> Result<Judged, Stop> {
        let manifest = self.judged_manifest(&found.manifest)?;
        Ok(Judged { found, manifest })
    }

    fn judged_manifest(&self, manifest: &[u8]) -> Result<Verified<Manifest>, Refusal> {
        let channel = self.machine.options.channel.as_ref();
        // Expiry stops upgrading, never serving.
        let policy = self.upgrade.identity().policy(channel, Expiry::Report);
        verify::manifest(manifest, &policy)
    }

    /// An image that was started by another one. The squashfs of one that lies in a slot is still there.
    fn obtain_from_initramfs(&mut self) -> Result<(), Stop> {
        let manifest = source::manifest_of_initramfs()?;
        let manifest = self.judged_manifest(&manifest)?;
        self.begin_from_initramfs(&manifest)?;
        let found = match self.upgrade.rootfs_of_slot(&manifest)? {
            Some(found) => found,
            None => source::in_initramfs()?,
        };
        let judged = Judged { found, manifest };
        self.install(&judged, Inner::Later)?;
        self.unfinished = Some(judged.manifest);
        Ok(())
    }

    /// The image that was started by another one is about to be mounted.
    fn begin_from_initramfs(&mut self, manifest: &Verified<Manifest>) -> Result<(), Stop> {
        let place = self.machine.options.upgrades.place;
        let disk = match place {
            Some(place) => boot::home_of(self.machine, place, &manifest.digest())?,
            None => None,
        };
        let place = place.unwrap_or(upgrade::Place::Memory);
        self.upgrade.begin(self.machine, manifest, place, disk)
    }

    /// Copies, verifies the copy, mounts.
    fn install(&mut self, judged: &Judged, inner: Inner) -> Result<(), Stop> {
        let Self {
            machine,
            offer,
            upgrade,
            ..
        } = self;
        let Judged { found, manifest } = judged;
        machine.console.say(
            Level::Info,
            &format!("source {}: version {}", found.place, manifest.version),
        );
        let roots = &upgrade.identity().roots;
        root::install(manifest, roots, &found.medium, inner, &mut || {
            machine.turn(Duration::ZERO)
        })?;
        *offer = Some(Offer {
            channel: manifest.channel.as_str().to_owned(),
            arch: manifest.arch.as_str().to_owned(),
        });
        tell_mounted(machine, manifest, &found.place);
        Ok(())
    }

    /// Waits for what `stage` brings, and loads it. A disk that appears while a provider is looked for is taken instead: it
    /// was slow, or somebody just plugged it in.
    fn obtain_from_provider(&mut self, search: bool) -> Result<(), Stop> {
        if !search && self.machine.options.provider.is_none() {
            let reason = "none is named, and in private mode none is looked for";
            return Err(Refusal::new(Refusal::NOT_FOUND, reason).into());
        }
        if search {
            self.machine
                .console
                .say(Level::Info, "looking for a provider on the network");
        }
        self.machine.supervise(Role::Stage, None);
        let looks_for_disk = search && self.machine.options.source == SourceChoice::Auto;
        let staged = loop {
            if let Some(staged) = self.machine.take_staged() {
                break staged;
            }
            self.machine.turn(limits::HEARTBEAT)?;
            if looks_for_disk {
                let partitions =
                    source::partitions(Path::new("/sys/class/block"), Path::new("/dev"));
                if !partitions.is_empty() {
                    self.machine.dismiss(Role::Stage);
                    return self.obtain_from_partitions(&partitions);
                }
            }
        };
        self.machine.dismiss(Role::Stage);
        match staged {
            Staged::Failed(refusal) => Err(refusal.into()),
            Staged::Handoff(record, files) => {
                let result = self.boot_into(&record, files);
                if result.is_err() {
                    kexec::unload();
                }
                result?;
                self.machine.end(Ending::Kexec);
                Err(Stop::Ending)
            }
        }
    }

    fn boot_into(&mut self, record: &HandoffRecord, files: Vec<File>) -> Result<(), Stop> {
        let Self {
            machine, upgrade, ..
        } = self;
        let channel = machine
            .options
            .channel
            .clone()
            .or_else(|| "stable".parse().ok());
        let policy = upgrade.identity().policy(channel.as_ref(), Expiry::Refuse);
        let handoff =
            verify::handoff(record, files, &policy, &mut || machine.turn(Duration::ZERO))?;
        let digest = handoff.manifest.digest();
        // The address that the child was told to use; where it had to find one, what it says, if that can be an address:
        // nothing is fetched from there any more.
        let told = machine.options.provider.clone();
        let origin = told.or_else(|| cmdline::url(&record.origin));
        let origin: Vec<String> = origin
            .map(|origin| format!("phase.origin={origin}"))
            .into_iter()
            .collect();
        let line = cmdline::successor(&handoff.manifest.cmdline, &own_command_line(), "", &origin);
        let roots = kexec::Extra::roots(&upgrade.identity().after(&handoff.roots)?.roots);
        let rootfs = kexec::Rootfs::Carried;
        kexec::load(handoff, rootfs, &roots, &line, &mut || {
            machine.turn(Duration::ZERO)
        })?;
        machine
            .console
            .say(Level::Info, &format!("kexec into {digest}"));
        Ok(())
    }
}

fn tell_mounted(machine: &mut Machine, manifest: &Verified<Manifest>, place: &str) {
    let source = match &machine.options.origin {
        Some(origin) => format!("{place}, fetched from {origin}"),
        None => place.to_owned(),
    };
    let artifacts = Artifacts {
        version: manifest.version.clone(),
        channel: manifest.channel.to_string(),
        arch: manifest.arch.to_string(),
        sequence: manifest.sequence,
        digest: manifest.digest().to_string(),
        expires_at: manifest.expires_at.to_string(),
        expired: manifest.expired(),
        source,
    };
    let Artifacts {
        version,
        channel,
        arch,
        sequence,
        digest,
        expires_at,
        ..
    } = &artifacts;
    let text = format!(
        "mounted {version} {channel}/{arch} sequence {sequence} from {place} manifest {digest}"
    );
    machine.console.say(Level::Info, &text);
    if artifacts.expired {
        let text = format!(
            "warning: the manifest expired at {expires_at}; it is served on, but nobody can upgrade to it"
        );
        machine.console.say(Level::Warning, &text);
    }
    machine.status.artifacts = Some(artifacts);
    machine.reached("mounted");
    machine.console.touch(Instant::now());
}
