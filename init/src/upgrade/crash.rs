//! The ways back that need neither firmware nor a network.
//!
//! An image on trial carries the image that started it. As soon as its first process runs, it loads that one as crash
//! image: a panic of the kernel, or the death of its first process, then starts the predecessor in the memory that was
//! reserved for it. On a machine with a disk that boot only writes the reason down and restarts; without a disk it serves
//! from the reserved memory until somebody restarts it. A trial that fails while its image works leaves by the same
//! files, at full size.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use boot_manifest::{Manifest, Verified};
use upgrade::{Event, Failure, ImageRef, Phase, Place};

use super::preflight::keeps_watching;
use super::{Upgrade, boot, image_of, small_file};
use crate::cmdline;
use crate::console::Level;
use crate::identity::Identity;
use crate::kexec::{self, Content, Extra, Rootfs};
use crate::machine::{Ending, Machine};
use crate::plan::{Refusal, Stop};
use crate::run::own_command_line;
use crate::verify::{self, Handoff};
use crate::{limits, root, source};

/// What the predecessor put beside the artifacts of this image.
const PREVIOUS: &str = "/phase/previous";

/// The predecessor that this image carries. Its bytes are not verified yet.
struct Previous {
    manifest: Verified<Manifest>,
    place: Place,
    /// The chain that leads to its keys; empty when they were never replaced.
    roots: Vec<u8>,
}

fn read_previous(folder: &Path, identity: &Identity) -> Option<Previous> {
    let size_max = boot_manifest::MANIFEST_SIZE_MAX as u64;
    let bytes = small_file(&folder.join("manifest.json"), size_max)?;
    let roots = small_file(&folder.join("roots.json"), limits::ROOTS_MAX).unwrap_or_default();
    // It was believed when it was started; only damage is looked for. A floor that rose since is no reason to stay dead.
    // Its keys are those that its own chain leads to, or those in force.
    let by_its_chain = identity.beside(&roots).ok();
    let manifest = by_its_chain
        .iter()
        .chain([identity])
        .find_map(|identity| verify::manifest(&bytes, &identity.lenient_policy()).ok())?;
    let place = small_file(&folder.join("place"), limits::WORD_SIZE_MAX)?;
    let place = Place::parse(std::str::from_utf8(&place).ok()?)?;
    Some(Previous {
        manifest,
        place,
        roots,
    })
}

/// The image that started this one, when it is carried along.
pub(super) fn previous(identity: &Identity) -> Option<ImageRef> {
    read_previous(Path::new(PREVIOUS), identity)
        .map(|previous| image_of(&previous.manifest, previous.place))
}

fn open(name: &str) -> Result<File, Refusal> {
    File::open(Path::new(PREVIOUS).join(name)).map_err(|error| verify::io(name, &error))
}

/// A part of the predecessor, checked against its manifest.
fn part(machine: &mut Machine, manifest: &Manifest, name: &str, file: &str) -> Result<File, Stop> {
    let opened = open(file)?;
    let artifact = verify::artifact(manifest, name)?;
    verify::same_bytes(name, &opened, artifact, &mut || {
        machine.turn(Duration::ZERO)
    })?;
    Ok(opened)
}

impl Upgrade {
    /// P1: the predecessor becomes the answer to a crash of this kernel as soon as this image serves. Until then a crash
    /// leads back through firmware: loading takes seconds, and nobody is served meanwhile.
    pub(super) fn plan_previous(&mut self) {
        self.previous_wanted = true;
        self.push(Event::Passed(Phase::Watchdog));
    }

    /// Loads it. A trial goes on without.
    pub(super) fn load_previous(&mut self, machine: &mut Machine) {
        self.previous_wanted = false;
        match self.try_load_previous(machine) {
            Ok(version) => {
                let text = format!("upgrade: version {version} takes over if this one crashes");
                machine.console.say(Level::Info, &text);
            }
            Err(Stop::Ending) => {}
            Err(Stop::Refused(Refusal { code, reason })) => {
                let text = format!(
                    "warning: upgrade: nothing takes over after a crash: {reason} [{code}]"
                );
                machine.console.say(Level::Warning, &text);
            }
        }
    }

    fn try_load_previous(&mut self, machine: &mut Machine) -> Result<String, Stop> {
        if kexec::crash_memory() == 0 {
            let reason = "no memory is reserved for it";
            return Err(Refusal::new("not-enough-memory", reason).into());
        }
        let none = || Refusal::new(Refusal::NOT_FOUND, "the predecessor was not carried along");
        let Previous {
            manifest,
            place,
            roots,
        } = read_previous(Path::new(PREVIOUS), &self.identity).ok_or_else(none)?;
        let trial = machine.options.upgrades.trial;
        let [kernel, initramfs] = self.previous_parts(machine, &manifest, place)?;
        let size = verify::artifact(&manifest, "initramfs")?.size;
        let mut extras = vec![Extra {
            path: "manifest.json",
            content: Content::Bytes(manifest.bytes().to_vec()),
        }];
        extras.extend(Extra::roots(&roots));
        if let Ok(rootfs) = part(machine, &manifest, "rootfs", "rootfs.squashfs") {
            let size = verify::artifact(&manifest, "rootfs")?.size;
            let content = Content::File(rootfs, size);
            extras.push(Extra {
                path: "rootfs.squashfs",
                content,
            });
        }
        let initrd = kexec::initrd_of(&initramfs, size, &extras, &mut || {
            machine.turn(Duration::ZERO)
        })?;
        let mut words = super::boot_words(place, None, None);
        words.extend(trial.map(|trial| format!("phase.crashed={trial}")));
        // Devices are in the state in which the crash left them, and so are the other processors.
        words.extend(["nr_cpus=1".to_owned(), "reset_devices".to_owned()]);
        let own_signed = self.running.as_ref().map_or("", |running| &running.cmdline);
        let line = cmdline::successor(&manifest.cmdline, &own_command_line(), own_signed, &words);
        kexec::load_for_crash(&kernel, &initrd, &line)?;
        Ok(manifest.version.clone())
    }

    /// Kernel and initramfs of the predecessor: from where it lies on the disk, or as they were carried along.
    fn previous_parts(
        &mut self,
        machine: &mut Machine,
        manifest: &Verified<Manifest>,
        place: Place,
    ) -> Result<[File; 2], Stop> {
        match (place, &self.disk) {
            (Place::A | Place::B, Some(_)) => {
                let image = image_of(manifest, place);
                let Handoff {
                    kernel, initramfs, ..
                } = self.read_slot(machine, &image)?.handoff;
                Ok([kernel, initramfs])
            }
            (Place::Golden, Some(disk)) => {
                let medium = source::on_disk(disk.artifacts())?.medium;
                root::look_into(manifest, &medium, &mut || machine.turn(Duration::ZERO))
            }
            (Place::Memory, _) | (_, None) => Ok([
                part(machine, manifest, "kernel", "vmlinuz")?,
                part(machine, manifest, "initramfs", "initramfs.img")?,
            ]),
        }
    }

    /// The trial is over: the memory of the way back is given back.
    pub(super) fn forget_previous(&mut self, machine: &mut Machine) {
        let _gone_with_the_machine = fs::remove_dir_all(PREVIOUS);
        if kexec::crash_memory() == 0 {
            return;
        }
        if let Err(error) = kexec::release_crash_memory() {
            let text =
                format!("warning: upgrade: the memory of the crash image stays reserved: {error}");
            machine.console.say(Level::Warning, &text);
        }
    }

    /// Leaves for the predecessor, which is told why.
    pub(super) fn return_to_previous(
        &mut self,
        machine: &mut Machine,
        failed: &ImageRef,
        failure: &Failure,
    ) {
        match self.try_return(machine, failed, failure) {
            Ok(()) => machine.end(Ending::Kexec),
            Err(Stop::Ending) => {}
            Err(Stop::Refused(Refusal { code, reason })) => {
                kexec::unload();
                self.push(Event::ReturnFailed(format!("{code}: {reason}")));
            }
        }
    }

    fn try_return(
        &mut self,
        machine: &mut Machine,
        failed: &ImageRef,
        failure: &Failure,
    ) -> Result<(), Stop> {
        let none = || Refusal::new(Refusal::NOT_FOUND, "the predecessor was not carried along");
        let Previous {
            manifest,
            place,
            roots,
        } = read_previous(Path::new(PREVIOUS), &self.identity).ok_or_else(none)?;
        let kernel = part(machine, &manifest, "kernel", "vmlinuz")?;
        let initramfs = part(machine, &manifest, "initramfs", "initramfs.img")?;
        let rootfs = part(machine, &manifest, "rootfs", "rootfs.squashfs")?;
        let digest = manifest.digest();
        let handoff = Handoff {
            manifest,
            kernel,
            initramfs,
            rootfs,
            roots,
        };
        let extras = Extra::roots(&handoff.roots);
        let origin = machine.options.origin.clone();
        let mut words = super::boot_words(place, None, origin.as_deref());
        let (reason, at) = (failure.reason.code(), failed.rank());
        words.push(format!(
            "phase.returned={},{reason},{},{}",
            failed.digest, at.generation, at.sequence
        ));
        let line = self.line_for(&handoff, &words);
        kexec::load(handoff, Rootfs::Carried, &extras, &line, &mut || {
            machine.turn(Duration::ZERO)
        })?;
        // What failed may have left hardware behind that hangs the next kernel. Without a watchdog it is tried all the same.
        let _runs_on = keeps_watching(machine);
        let text = format!("kexec back into {digest}");
        machine.console.say(Level::Info, &text);
        Ok(())
    }
}

/// The boot after a crash of an image on trial, in the memory that was reserved. On a machine with a disk the reason is
/// written down and the machine restarts; otherwise the boot goes on, and serves with what it has.
pub(crate) fn take_over(upgrade: &mut Upgrade, machine: &mut Machine) -> Result<(), Stop> {
    let Some(trial) = machine.options.upgrades.crashed else {
        return Ok(());
    };
    let text = format!("upgrade: the image of trial {trial} crashed; this one takes over");
    machine.console.say(Level::Error, &text);
    let found = source::manifest_of_initramfs()?;
    let policy = upgrade.identity().lenient_policy();
    let manifest = verify::manifest(&found, &policy)?;
    let place = machine.options.upgrades.place.unwrap_or(Place::Memory);
    let disk = if trial.on_disk {
        boot::home_of(machine, place, &manifest.digest())?
    } else {
        None
    };
    let is_rescue = disk.is_some();
    upgrade.begin(machine, &manifest, place, disk)?;
    if trial.on_disk && !is_rescue {
        let text = "warning: upgrade: the disk with the record is not there";
        machine.console.say(Level::Warning, text);
        machine.end(Ending::Restart);
    }
    // What was asked for is carried out; a machine with a disk never serves from here.
    let until = Instant::now() + limits::RESCUE_TIME;
    while trial.on_disk && machine.ending().is_none() && Instant::now() < until {
        machine.turn(limits::HEARTBEAT)?;
        upgrade.work(machine);
    }
    if trial.on_disk {
        machine.end(Ending::Restart);
        return Err(Stop::Ending);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use boot_manifest::{Role, RoleName, SecretKey, TrustRoot};

    use super::*;
    use crate::verify::tests::{key, manifest_for};

    /// The way back must not end with the first key that is replaced.
    #[test]
    fn a_predecessor_of_replaced_keys_is_known_by_its_chain() {
        let start = TrustRoot::single(key().public());
        let new_key = SecretKey::from_seed([8; 32]);
        let role = Role::new(1, vec![new_key.public()]).unwrap();
        let next = start.successor().unwrap();
        let next = next.with_role(RoleName::Release, role);
        let draft = boot_manifest::draft_link(&next).unwrap();
        let link = boot_manifest::sign_link(&draft, &[&key(), &new_key]).unwrap();
        let (chain, _) = boot_manifest::append_link(None, &link, &start).unwrap();
        let info = r#"{"name":"Phase","version":"1","built_at":0,"floor":{"security_version":9,"sequence":9}}"#;
        let identity = Identity::for_tests(info, start);

        let folder = tempfile::tempdir().unwrap();
        let write = |name, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
        write("place", b"b");
        let mut manifest = manifest_for(b"kernel", b"initramfs", b"hsqs");
        write(
            "manifest.json",
            &boot_manifest::sign(&manifest, &[&key()]).unwrap(),
        );
        let found = read_previous(folder.path(), &identity).unwrap();
        assert_eq!((found.place, found.manifest.generation), (Place::B, 1));

        manifest.generation = 2;
        write(
            "manifest.json",
            &boot_manifest::sign(&manifest, &[&new_key]).unwrap(),
        );
        assert!(read_previous(folder.path(), &identity).is_none());
        write("roots.json", &chain);
        let found = read_previous(folder.path(), &identity).unwrap();
        assert_eq!(found.manifest.generation, 2);
        assert_eq!(found.roots, chain, "it needs the chain itself");
    }
}
