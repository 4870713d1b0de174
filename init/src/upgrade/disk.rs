//! Everything that PID 1 asks of its home disk, one thing at a time.
//!
//! Each call runs in a worker with a deadline (see `worker`), so PID 1 goes on turning its loop whatever the disk does. A
//! disk that once did not answer is lost until the next boot: a write that was given up may still be under way, and nothing
//! that was written after it could be relied on.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use boot_manifest::handoff::HandoffRecord;
use boot_manifest::{Digest, Manifest};
use rustix::fs::{MemfdFlags, SealFlags};
use upgrade::{Ledger, Place};

use super::home::{self, Home, Partition};
use super::ledger::{self, Turns};
use super::raw::Raw;
use super::slots::{self, Image, Span};
use super::worker::{self, Failed, Patience, Step};
use crate::plan::{Refusal, Stop};
use crate::root::Medium;
use crate::verify::{self, HANDOFF_FILES, Handoff, Policy, Tick};
use crate::{limits, memory};

/// The ledger is never left half done because somebody presses a button.
const FOR_THE_LEDGER: Patience = Patience {
    stall: limits::DISK_STALL,
    total: limits::LEDGER_TOTAL,
    is_broken_off: false,
};

/// A slot that was not finished is one that was never begun.
const FOR_A_SLOT: Patience = Patience {
    stall: limits::DISK_STALL,
    total: limits::SLOT_TOTAL,
    is_broken_off: true,
};

/// The home disk.
#[derive(Debug)]
pub(crate) struct Disk {
    home: Home,
    /// What is known of the ledger's sectors; `None` until it was read.
    turns: Option<Turns>,
    /// Longest wait for one step.
    stall: Duration,
    is_lost: bool,
}

impl Disk {
    /// Every disk that has room for upgrades.
    pub(crate) fn all() -> Vec<Self> {
        let homes = home::all(Path::new("/sys/class/block"), Path::new("/dev"));
        homes.into_iter().map(Self::new).collect()
    }

    /// The disk of an artifacts partition, when it has room for upgrades.
    pub(crate) fn of(artifacts: &Path) -> Option<Self> {
        let mut all = Self::all().into_iter();
        all.find(|disk| disk.home.artifacts.path == artifacts)
    }

    /// That of `disks` which holds this very manifest at `place`. Of several (a disk and the stick it was made from) the one
    /// whose ledger was written most, which is the one that is in use.
    pub(crate) fn holding(
        disks: Vec<Self>,
        place: Place,
        digest: &Digest,
        tick: Tick<'_>,
    ) -> Result<Option<Self>, Stop> {
        let mut found = Vec::new();
        for mut disk in disks {
            match disk.manifest_of(place, tick) {
                Ok(manifest) if Digest::of(&manifest) == *digest => found.push(disk),
                Err(Stop::Ending) => return Err(Stop::Ending),
                // Another disk, or one that does not work: whoever looks for this one has no use for it.
                Ok(_) | Err(Stop::Refused(_)) => {}
            }
        }
        let mut best: Option<(u64, Self)> = None;
        for mut disk in found {
            let writes = disk.writes(tick)?;
            if best.as_ref().is_none_or(|(most, _)| writes > *most) {
                best = Some((writes, disk));
            }
        }
        Ok(best.map(|(_, disk)| disk))
    }

    /// How often its ledger was written; 0 where there is none.
    pub(crate) fn writes(&mut self, tick: Tick<'_>) -> Result<u64, Stop> {
        match self.read_ledger(tick) {
            Err(Stop::Ending) => Err(Stop::Ending),
            Ok(_) | Err(Stop::Refused(_)) => Ok(self.turns.map_or(0, Turns::counter)),
        }
    }

    fn new(home: Home) -> Self {
        Self {
            home,
            turns: None,
            stall: limits::DISK_STALL,
            is_lost: false,
        }
    }

    /// For the console.
    pub(crate) fn name(&self) -> &str {
        &self.home.name
    }

    /// What the ledger says; `None` is a machine as it left the factory.
    pub(crate) fn read_ledger(&mut self, tick: Tick<'_>) -> Result<Option<Ledger>, Stop> {
        let ledger = self.home.ledger.clone();
        let sectors = self.work(FOR_THE_LEDGER, &[], tick, |step| {
            ledger::read(&open(&ledger, false)?, step)
        })?;
        let (turns, ledger) = Turns::begin(&sectors);
        self.turns = Some(turns);
        Ok(ledger)
    }

    /// Writes the ledger. When this returns, it was read back from the medium; on an error what was there before still is.
    pub(crate) fn write_ledger(&mut self, ledger: &Ledger, tick: Tick<'_>) -> Result<(), Stop> {
        if self.turns.is_none() {
            self.read_ledger(tick)?;
        }
        let Some(turns) = &mut self.turns else {
            return Err(Refusal::new("io", "the ledger was not read").into());
        };
        let (place, bytes) = turns.take(ledger)?;
        let ledger = self.home.ledger.clone();
        self.work(FOR_THE_LEDGER, &[], tick, |step| {
            ledger::write(&open(&ledger, true)?, place, &bytes, step).map(|()| Vec::new())
        })?;
        if let Some(turns) = &mut self.turns {
            turns.acknowledged();
        }
        Ok(())
    }

    /// Bytes of the smaller slot.
    pub(crate) fn slot_size(&self) -> u64 {
        self.home.slot_size()
    }

    /// Writes a verified image and reads all of it back. On an error the slot must not be started.
    pub(crate) fn write_slot(
        &mut self,
        place: Place,
        image: &Handoff,
        roots: &[u8],
        tick: Tick<'_>,
    ) -> Result<(), Stop> {
        let slot = self.slot(place)?;
        let [kernel, initramfs, rootfs] = slots::spans(&image.manifest)?;
        let files = [&image.kernel, &image.initramfs, &image.rootfs];
        let parts = [
            (kernel, files[0]),
            (initramfs, files[1]),
            (rootfs, files[2]),
        ];
        let image = Image {
            manifest: image.manifest.bytes(),
            roots,
            parts,
        };
        let keep = files.map(AsFd::as_fd);
        self.work(FOR_A_SLOT, &keep, tick, |step| {
            slots::write(&open(&slot, true)?, &image, step).map(|()| Vec::new())
        })?;
        Ok(())
    }

    /// The manifest at a place, golden's too; empty where there is none. Verified by nobody.
    pub(crate) fn manifest_of(&mut self, place: Place, tick: Tick<'_>) -> Result<Vec<u8>, Stop> {
        let partition = self.partition(place)?;
        self.work(FOR_A_SLOT, &[], tick, |step| {
            slots::manifest(&open(&partition, false)?, step)
        })
    }

    /// The partition that golden lies on.
    pub(crate) fn artifacts(&self) -> &Path {
        &self.home.artifacts.path
    }

    /// The squashfs in a slot, to be verified while it is copied.
    pub(crate) fn rootfs(&self, place: Place, manifest: &Manifest) -> Result<Medium, Refusal> {
        let [_, _, rootfs] = slots::spans(manifest)?;
        let slot = self.slot(place)?;
        let failed = |error: io::Error| verify::io(&slot.path.display().to_string(), &error);
        let file = File::open(&slot.path).map_err(failed)?;
        if !slot.is_same() {
            let reason = format!("{} is another disk now", slot.path.display());
            return Err(Refusal::new("disk-lost", reason));
        }
        Ok(Medium {
            file,
            offset: rootfs.offset,
            consume: false,
        })
    }

    /// The root documents of a slot. Verified by nobody.
    pub(crate) fn roots_of(&mut self, place: Place, tick: Tick<'_>) -> Result<Vec<u8>, Stop> {
        let slot = self.slot(place)?;
        self.work(FOR_A_SLOT, &[], tick, |step| {
            slots::roots(&open(&slot, false)?, step)
        })
    }

    /// Reads an image and its root documents into memory that cannot change any more, and verifies all of it there. The
    /// root of `policy` is where the chain of root documents begins.
    pub(crate) fn read_slot(
        &mut self,
        place: Place,
        policy: &Policy<'_>,
        tick: Tick<'_>,
    ) -> Result<(Handoff, Vec<u8>), Stop> {
        let slot = self.slot(place)?;
        let bytes = self.manifest_of(place, tick)?;
        let roots = self.roots_of(place, tick)?;
        let root = verify::newest_root(&roots, policy.root)?;
        let policy = &policy.after(&root);
        let manifest = verify::manifest(&bytes, policy)?;
        let spans = slots::spans(&manifest)?;
        check_memory(&spans)?;
        let failed = |error: io::Error| verify::io("slot", &error);
        let [kernel, initramfs, rootfs] = slots::NAMES.map(memory_file);
        let parts = [
            kernel.map_err(failed)?,
            initramfs.map_err(failed)?,
            rootfs.map_err(failed)?,
        ];
        let keep: Vec<BorrowedFd<'_>> = parts.iter().map(AsFd::as_fd).collect();
        self.work(FOR_A_SLOT, &keep, tick, |step| {
            let device = open(&slot, false)?;
            for (span, out) in spans.iter().zip(&parts) {
                slots::copy_part(&device, span, out, step)?;
            }
            Ok(Vec::new())
        })?;
        let manifest = memory_file("manifest").map_err(failed)?;
        io::Write::write_all(&mut &manifest, &bytes).map_err(failed)?;
        let files: Vec<File> = [manifest].into_iter().chain(parts).collect();
        for file in &files {
            seal(file).map_err(failed)?;
        }
        let record = HandoffRecord {
            origin: String::new(),
            fds: HANDOFF_FILES.map(str::to_owned).to_vec(),
        };
        let handoff = verify::handoff(&record, files, policy, tick)?;
        Ok((handoff, roots))
    }

    fn slot(&self, place: Place) -> Result<Partition, Refusal> {
        if Place::SLOTS.contains(&place) {
            self.partition(place)
        } else {
            let reason = format!("{} is no slot", place.as_str());
            Err(Refusal::new(Refusal::NOT_FOUND, reason))
        }
    }

    fn partition(&self, place: Place) -> Result<Partition, Refusal> {
        let partition = self.home.partition(place).cloned();
        let reason = || format!("there is no partition for {}", place.as_str());
        partition.ok_or_else(|| Refusal::new(Refusal::NOT_FOUND, reason()))
    }

    fn work(
        &mut self,
        patience: Patience,
        files: &[BorrowedFd<'_>],
        tick: Tick<'_>,
        work: impl FnOnce(Step<'_>) -> Result<Vec<u8>, Refusal>,
    ) -> Result<Vec<u8>, Stop> {
        if self.is_lost {
            let reason = format!("{} did not answer once and is left alone", self.name());
            return Err(Refusal::new("disk-lost", reason).into());
        }
        let patience = Patience {
            stall: self.stall,
            ..patience
        };
        worker::run(patience, files, tick, work).map_err(|failed| match failed {
            Failed::Stopped(stop) => stop,
            Failed::Stuck(Refusal { code, reason }) => {
                self.is_lost = true;
                Refusal::new(code, format!("{}: {reason}", self.name())).into()
            }
        })
    }
}

fn open(partition: &Partition, write: bool) -> Result<Raw, Refusal> {
    let path = &partition.path;
    let opened = if write {
        Raw::to_write(path)
    } else {
        Raw::to_read(path)
    };
    let opened = opened.map_err(|error| verify::io(&path.display().to_string(), &error))?;
    if partition.is_same() {
        return Ok(opened);
    }
    let reason = format!("{} is another disk now", path.display());
    Err(Refusal::new("disk-lost", reason))
}

/// PID 1 has no limit of its own: what does not fit must not be read.
fn check_memory(spans: &[Span]) -> Result<(), Refusal> {
    let size = spans
        .iter()
        .map(|span| span.size)
        .fold(0, u64::saturating_add);
    let available = memory::now().available;
    if size.saturating_add(limits::IMAGE_RESERVE) <= available {
        return Ok(());
    }
    let reason = format!(
        "the image has {} MiB and {} MiB of memory are free",
        size >> 20,
        available >> 20
    );
    Err(Refusal::new("not-enough-memory", reason))
}

fn memory_file(name: &str) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    Ok(File::from(rustix::fs::memfd_create(name, flags)?))
}

fn seal(file: &File) -> io::Result<()> {
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    Ok(rustix::fs::fcntl_add_seals(file, seals)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Seek};

    use boot_manifest::{Floor, SecretKey, TrustRoot};
    use upgrade::{ImageRef, Slot};

    use super::*;
    use crate::verify::tests::{key, manifest_for, policy};

    const KERNEL: &[u8] = b"kernel bytes";
    const INITRAMFS: &[u8] = b"initramfs";
    const SLOT: u64 = 4 << 20;

    /// Files of the right lengths.
    fn disk() -> (tempfile::TempDir, Disk) {
        let folder = tempfile::tempdir().unwrap();
        for (name, length) in [
            ("artifacts", SLOT),
            ("ledger", 1 << 20),
            ("a", SLOT),
            ("b", SLOT),
        ] {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_len(length).unwrap();
        }
        let disk = Disk::new(Home::in_folder(folder.path()));
        (folder, disk)
    }

    fn handoff(rootfs: &[u8]) -> Handoff {
        let manifest = manifest_for(KERNEL, INITRAMFS, rootfs);
        let bytes = boot_manifest::sign(&manifest, &[&key()]).unwrap();
        let root = TrustRoot::single(key().public());
        let file = |bytes: &[u8]| {
            let file = memory_file("part").unwrap();
            io::Write::write_all(&mut &file, bytes).unwrap();
            file
        };
        Handoff {
            manifest: verify::manifest(&bytes, &policy(&root)).unwrap(),
            kernel: file(KERNEL),
            initramfs: file(INITRAMFS),
            rootfs: file(rootfs),
            roots: Vec::new(),
        }
    }

    fn go_on() -> impl FnMut() -> Result<(), Stop> {
        || Ok(())
    }

    #[track_caller]
    fn refused<T: std::fmt::Debug>(result: Result<T, Stop>) -> String {
        match result {
            Err(Stop::Refused(refusal)) => refusal.code,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_image_goes_into_a_slot_and_comes_back_verified() {
        let (_folder, mut disk) = disk();
        let rootfs = vec![7; 1_000_001];
        let image = handoff(&rootfs);
        let root = TrustRoot::single(key().public());
        let tick = &mut go_on();
        disk.write_slot(Place::B, &image, b"", tick).unwrap();
        let (mut back, roots) = disk.read_slot(Place::B, &policy(&root), tick).unwrap();
        assert_eq!(back.manifest.digest(), image.manifest.digest());
        assert!(roots.is_empty());
        let mut bytes = Vec::new();
        back.rootfs.rewind().unwrap();
        back.rootfs.read_to_end(&mut bytes).unwrap();
        assert!(bytes == rootfs);

        assert_eq!(
            refused(disk.read_slot(Place::A, &policy(&root), tick)),
            "malformed"
        );
        for place in [Place::Golden, Place::Memory] {
            assert_eq!(
                refused(disk.write_slot(place, &image, b"", tick)),
                "not-found"
            );
        }
    }

    /// Counters begin anew with the keys: the floor of golden, which knows the old ones, says nothing about the image.
    #[test]
    fn an_image_of_a_newer_generation_is_not_below_the_floor_of_golden() {
        let new_key = SecretKey::from_seed([8; 32]);
        let start = TrustRoot::single(key().public());
        let role = boot_manifest::Role::new(1, vec![new_key.public()]).unwrap();
        let next = start.successor().unwrap();
        let next = next.with_role(boot_manifest::RoleName::Release, role);
        let draft = boot_manifest::draft_link(&next).unwrap();
        let link = boot_manifest::sign_link(&draft, &[&key(), &new_key]).unwrap();
        let (chain, _) = boot_manifest::append_link(None, &link, &start).unwrap();

        let mut manifest = manifest_for(KERNEL, INITRAMFS, b"hsqs");
        (manifest.generation, manifest.sequence) = (2, 1);
        let bytes = boot_manifest::sign(&manifest, &[&new_key]).unwrap();
        let mut image = handoff(b"hsqs");
        image.manifest = verify::manifest(&bytes, &policy(&next)).unwrap();

        let (_folder, mut disk) = disk();
        let tick = &mut go_on();
        disk.write_slot(Place::A, &image, &chain, tick).unwrap();
        let of_golden = Policy {
            floor: Floor {
                security_version: 1,
                sequence: 9,
            },
            ..policy(&start)
        };
        let (back, _) = disk.read_slot(Place::A, &of_golden, tick).unwrap();
        assert_eq!(back.manifest.generation, 2);
        // One of the same generation is.
        disk.write_slot(Place::B, &handoff(b"hsqs"), b"", tick)
            .unwrap();
        assert_eq!(
            refused(disk.read_slot(Place::B, &of_golden, tick)),
            "version-too-low"
        );
    }

    /// Fault 6: bits of a slot that turn after it was read back are found when it is read to be started.
    #[test]
    fn bit_rot_in_a_slot_is_refused() {
        let (folder, mut disk) = disk();
        let root = TrustRoot::single(key().public());
        let tick = &mut go_on();
        disk.write_slot(Place::A, &handoff(&[3; 9000]), b"", tick)
            .unwrap();
        let path = folder.path().join("a");
        let good = fs::read(&path).unwrap();
        let parts = usize::try_from(2_u64 << 20).unwrap();
        for at in [parts, parts + 4096, parts + 8192 + 5000] {
            let mut bad = good.clone();
            bad[at] ^= 4;
            fs::write(&path, bad).unwrap();
            assert_eq!(
                refused(disk.read_slot(Place::A, &policy(&root), tick)),
                "bad-hash",
                "{at}"
            );
        }
        let mut bad = good.clone();
        bad[5] ^= 4;
        fs::write(&path, bad).unwrap();
        assert_eq!(
            refused(disk.read_slot(Place::A, &policy(&root), tick)),
            "malformed"
        );
        let mut bad = good.clone();
        bad[1 << 20] = b'[';
        fs::write(&path, bad).unwrap();
        assert_eq!(
            refused(disk.read_slot(Place::A, &policy(&root), tick)),
            "roots-malformed"
        );
        fs::write(&path, &good[..parts + 4096]).unwrap();
        assert_eq!(
            refused(disk.read_slot(Place::A, &policy(&root), tick)),
            "io"
        );
    }

    #[test]
    fn the_ledger_survives_whoever_wrote_it() {
        let (folder, mut disk) = disk();
        let tick = &mut go_on();
        assert_eq!(disk.read_ledger(tick).unwrap(), None);
        let image = ImageRef {
            digest: Digest::of(b"image"),
            place: Place::A,
            version: "2".to_owned(),
            sequence: 2,
            generation: 1,
            security_version: 1,
        };
        let mut ledger = Ledger::default();
        for trials in 1..4 {
            ledger.trials = trials;
            ledger.a = Slot::Valid {
                image: image.clone(),
                proved: true,
            };
            disk.write_ledger(&ledger, tick).unwrap();
            let mut next = Disk::new(Home::in_folder(folder.path()));
            assert_eq!(next.read_ledger(tick).unwrap().as_ref(), Some(&ledger));
        }
        // Without reading first, and although somebody asked for an end.
        ledger.trials = 9;
        let mut next = Disk::new(Home::in_folder(folder.path()));
        let mut ending = || Err(Stop::Ending);
        next.write_ledger(&ledger, &mut ending).unwrap();
        assert_eq!(disk.read_ledger(tick).unwrap(), Some(ledger));
    }

    /// Fault 43: a disk that does not answer is given up, and not asked again.
    #[test]
    fn a_disk_that_does_not_answer_is_lost() {
        let (folder, mut disk) = disk();
        let path = folder.path().join("ledger");
        fs::remove_file(&path).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        // Opening a pipe that nobody writes to waits for ever.
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
        disk.stall = Duration::from_millis(200);
        let tick = &mut go_on();
        assert_eq!(refused(disk.read_ledger(tick)), "disk-slow");
        assert_eq!(refused(disk.manifest_of(Place::A, tick)), "disk-lost");
        assert_eq!(
            refused(disk.write_ledger(&Ledger::default(), tick)),
            "disk-lost"
        );
    }

    #[test]
    fn of_two_disks_with_one_image_the_used_one_is_home() {
        let (stick, used, other) = (disk(), disk(), disk());
        let image = handoff(b"hsqs");
        let digest = image.manifest.digest();
        let tick = &mut go_on();
        let all =
            || [&stick, &used, &other].map(|(folder, _)| Disk::new(Home::in_folder(folder.path())));
        for mut disk in all().into_iter().take(2) {
            disk.write_slot(Place::A, &image, b"", tick).unwrap();
        }
        let found = Disk::holding(all().into(), Place::A, &digest, tick).unwrap();
        assert!(found.is_some());
        let [mut first, mut second, _] = all();
        first.write_ledger(&Ledger::default(), tick).unwrap();
        for _ in 0..2 {
            second.write_ledger(&Ledger::default(), tick).unwrap();
        }
        for disks in [Vec::from(all()), all().into_iter().rev().collect()] {
            let found = Disk::holding(disks, Place::A, &digest, tick).unwrap();
            let found = found.unwrap().home.ledger.path;
            assert_eq!(found, used.0.path().join("ledger"));
        }
        let none = Disk::holding(all().into(), Place::B, &digest, tick).unwrap();
        assert!(none.is_none());
    }

    #[test]
    fn a_disk_that_is_gone_is_an_error_and_no_factory() {
        let (folder, mut disk) = disk();
        fs::remove_file(folder.path().join("ledger")).unwrap();
        assert_eq!(refused(disk.read_ledger(&mut go_on())), "io");
    }
}
