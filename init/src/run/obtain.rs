//! What the phases of the plan do: get artifacts from each kind of source.
//!
//! Disk and initramfs end in a mounted squashfs. A provider ends in its kernel: everything that `stage` hands over is
//! verified again, loaded, and started by the shutdown.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use boot_manifest::handoff::HandoffRecord;
use boot_manifest::{Expiry, Manifest, Verified};

use super::own_command_line;
use crate::children::{Offer, Role};
use crate::cmdline;
use crate::console::Level;
use crate::identity::Identity;
use crate::machine::{Ending, Machine, Staged};
use crate::plan::{Kernel, Refusal, Source, Stop};
use crate::screen::Artifacts;
use crate::source::{self, DiskWait, Found};
use crate::{kexec, limits, memory, root, verify};

/// Does what the plan says.
pub(super) struct Boot<'m> {
    pub(super) machine: &'m mut Machine,
    pub(super) identity: Identity,
    pub(super) offer: Option<Offer>,
}

impl Kernel for Boot<'_> {
    fn start_network(&mut self) {
        self.machine.supervise(Role::Net, None);
    }

    fn obtain(&mut self, source: Source) -> Result<(), Stop> {
        self.machine.status.activity = match (source, &self.machine.options.provider) {
            (Source::Provider, Some(provider)) => format!("fetching from {provider}"),
            _ => format!("looking for artifacts: {}", source.name()),
        };
        self.machine.console.touch(Instant::now());
        match source {
            Source::Disk { only } => self.obtain_from_disk(only),
            Source::Initramfs => {
                let found = source::in_initramfs()?;
                let result = self.install(&found);
                source::discard_initramfs();
                result
            }
            Source::Provider => self.obtain_from_provider(),
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
    }
}

impl Boot<'_> {
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

    fn obtain_from_partitions(&mut self, partitions: &[std::path::PathBuf]) -> Result<(), Stop> {
        let mut last = Refusal::new(Refusal::NOT_FOUND, "no partition is named phase-artifacts");
        for (index, partition) in partitions.iter().enumerate() {
            let result = source::on_disk(partition)
                .map_err(Stop::from)
                .and_then(|found| self.install(&found));
            match result {
                Err(Stop::Refused(refusal)) => {
                    let reason = format!("{}: {}", partition.display(), refusal.reason);
                    last = Refusal::new(refusal.code, reason);
                    if index + 1 < partitions.len() {
                        self.report(Source::Disk { only: false }, &last);
                    }
                }
                other => return other,
            }
        }
        Err(last.into())
    }

    /// Verifies, copies, mounts.
    fn install(&mut self, found: &Found) -> Result<(), Stop> {
        let Self {
            machine,
            identity,
            offer,
        } = self;
        let channel = machine.options.channel.clone();
        // Expiry stops upgrading, never serving.
        let policy = identity.policy(channel.as_ref(), Expiry::Report);
        let manifest = verify::manifest(&found.manifest, &policy)?;
        machine.console.say(
            Level::Info,
            &format!("source {}: version {}", found.place, manifest.version),
        );
        let available = memory::now().available;
        root::install(&manifest, &found.medium, available, &mut || {
            machine.turn(Duration::ZERO)
        })?;
        *offer = Some(Offer {
            channel: manifest.channel.as_str().to_owned(),
            arch: manifest.arch.as_str().to_owned(),
        });
        tell_mounted(machine, &manifest, &found.place);
        Ok(())
    }

    /// Waits for what `stage` brings, and loads it.
    fn obtain_from_provider(&mut self) -> Result<(), Stop> {
        self.machine.supervise(Role::Stage, None);
        let staged = loop {
            if let Some(staged) = self.machine.take_staged() {
                break staged;
            }
            self.machine.turn(limits::HEARTBEAT)?;
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
            machine, identity, ..
        } = self;
        let channel = machine
            .options
            .channel
            .clone()
            .or_else(|| "stable".parse().ok());
        let policy = identity.policy(channel.as_ref(), Expiry::Refuse);
        let handoff =
            verify::handoff(record, files, &policy, &mut || machine.turn(Duration::ZERO))?;
        let digest = handoff.manifest.digest();
        // What the child says about the origin is not believed: this is the address that it was told to use.
        let origin = machine.options.provider.clone().unwrap_or_default();
        let line = cmdline::successor(&handoff.manifest.cmdline, &own_command_line(), &origin);
        kexec::load(handoff, &line, &mut || machine.turn(Duration::ZERO))?;
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
    machine.console.touch(Instant::now());
}
