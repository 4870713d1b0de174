//! Everything before the jump: the hardware is written down, memory is counted, the watchdog is made to run on, and the
//! successor is loaded with what it needs to come back.
//!
//! A load that does not fit does not fail, it takes the machine down; so memory is counted first, and what is not needed is
//! let go: the role of the DHT, then the kernel's caches, then the copy of the running image for the way back.

use std::fs;
use std::path::Path;
use std::time::Duration;

use upgrade::{Fingerprint, ImageRef, Nic, Place, Prepared, TrialId};

use super::{Fetched, Upgrade, boot_words, small_file};
use crate::children::Role;
use crate::cmdline;
use crate::console::Level;
use crate::kexec::{self, Content, Extra, Rootfs};
use crate::machine::Machine;
use crate::plan::{Refusal, Stop};
use crate::run::own_command_line;
use crate::verify::Handoff;
use crate::{limits, memory, root};

/// What `net` holds, so that the successor's can go on with the same addresses at once.
const LEASE: &str = "/run/phase/net/lease.json";

/// Whether the kernel stops the watchdog when it restarts or jumps.
const STOP_ON_REBOOT: &str = "/sys/module/watchdog/parameters/stop_on_reboot";

/// What was let go or changed for a jump, and comes back when there is none.
#[derive(Debug, Default)]
pub(super) struct LetGo {
    is_dht_ended: bool,
    stop_on_reboot: Option<String>,
}

impl Upgrade {
    /// Loads an image for the jump.
    pub(super) fn prepare(
        &mut self,
        machine: &mut Machine,
        image: &ImageRef,
        trial: TrialId,
    ) -> Result<Prepared, Stop> {
        let fetched = match image.place {
            Place::Memory => self.fetched.take(),
            Place::Golden | Place::A | Place::B => Some(self.read_slot(machine, image)?),
        };
        let gone = || Refusal::new("io", "the image is not in memory any more");
        let Fetched { handoff, roots } = fetched.ok_or_else(gone)?;
        let fingerprint = fingerprint(Path::new("/sys"));
        let mut extras = Extra::roots(&roots);
        extras.extend(bytes_extra(
            "fingerprint.json",
            serde_json::to_vec(&fingerprint).ok(),
        ));
        extras.extend(bytes_extra(
            "network.json",
            small_file(Path::new(LEASE), limits::LEASE_SIZE_MAX),
        ));
        let rootfs = Rootfs::of(image.place);
        let carried = self.previous_extras(image.place);
        let has_room = self.make_room(machine, &handoff, rootfs, &mut extras, carried)?;
        let total = memory::now().total.saturating_add(kexec::crash_memory());
        let reserve = crash_word(image.place, total).filter(|_| has_room);
        let crash_image = reserve.is_some();
        let mut words = boot_words(image.place, Some(trial), self.origin_of(image).as_deref());
        words.extend(reserve);
        let line = self.line_for(&handoff, &words);
        self.let_go.stop_on_reboot = fs::read_to_string(STOP_ON_REBOOT).ok();
        let watchdog = keeps_watching(machine);
        kexec::load(handoff, rootfs, &extras, &line, &mut || {
            machine.turn(Duration::ZERO)
        })?;
        let text = format!("kexec into {} on trial {trial}", image.digest);
        machine.console.say(Level::Info, &text);
        Ok(Prepared {
            watchdog,
            crash_image,
            fingerprint,
        })
    }

    /// There is no jump: what was let go or changed for it is as it was before.
    pub(super) fn take_back(&mut self, machine: &mut Machine) {
        kexec::unload();
        machine.restore_watchdog();
        let LetGo {
            is_dht_ended,
            stop_on_reboot,
        } = std::mem::take(&mut self.let_go);
        if let Some(before) = stop_on_reboot {
            // A restart through firmware that takes long is not cut short by a watchdog that runs on.
            let _stays = fs::write(STOP_ON_REBOOT, before);
        }
        if is_dht_ended && !machine.supervises(Role::Dht) {
            let offer = self.running.as_ref().map(|running| running.offer.clone());
            machine.supervise(Role::Dht, offer.as_ref());
        }
    }

    /// Makes the memory rule hold. Whether the running image travels along for the way back.
    fn make_room(
        &mut self,
        machine: &mut Machine,
        handoff: &Handoff,
        rootfs: Rootfs,
        extras: &mut Vec<Extra>,
        carried: Vec<Extra>,
    ) -> Result<bool, Stop> {
        let without = extras.len();
        extras.extend(carried);
        if kexec::check(handoff, rootfs, extras).is_ok() {
            return Ok(true);
        }
        self.let_go_of_roles(machine);
        // 3: page cache, directory entries and inodes. What is needed again is read again.
        let _less_memory = fs::write("/proc/sys/vm/drop_caches", "3");
        if kexec::check(handoff, rootfs, extras).is_ok() {
            return Ok(true);
        }
        extras.truncate(without);
        kexec::check(handoff, rootfs, extras)?;
        let text = "warning: upgrade: there is no memory for a way back without a restart";
        machine.console.say(Level::Warning, text);
        Ok(false)
    }

    fn let_go_of_roles(&mut self, machine: &mut Machine) {
        for role in [Role::Dht, Role::Report] {
            if machine.supervises(role) {
                machine.dismiss(role);
                // The other one ends by itself when it has told.
                self.let_go.is_dht_ended |= role == Role::Dht;
            }
        }
    }

    /// The successor's command line.
    pub(super) fn line_for(&self, handoff: &Handoff, words: &[String]) -> String {
        let own_signed = self.running.as_ref().map_or("", |running| &running.cmdline);
        cmdline::successor(
            &handoff.manifest.cmdline,
            &own_command_line(),
            own_signed,
            words,
        )
    }

    /// Where an image was fetched, when that is known still.
    fn origin_of(&self, image: &ImageRef) -> Option<String> {
        let mut offered = self.offered.iter();
        let known = offered.find(|one| one.digest == image.digest);
        known.map(|one| one.origin.clone())
    }

    /// The running image, for the way back: which it is, and all of it where there is no disk to read it from. What is
    /// carried is hashed and copied on the way, and makes the jump longer.
    fn previous_extras(&self, target: Place) -> Vec<Extra> {
        let Some(running) = &self.running else {
            return Vec::new();
        };
        let folder = Path::new(root::ARTIFACTS)
            .join(&running.offer.channel)
            .join(&running.offer.arch);
        let manifest = small_file(
            &folder.join("manifest.json"),
            boot_manifest::MANIFEST_SIZE_MAX as u64,
        );
        let place = running.image.place.to_string().into_bytes();
        let mut extras = bytes_extra("previous/manifest.json", manifest);
        extras.extend(bytes_extra("previous/place", Some(place)));
        let roots = Some(&self.identity.roots).filter(|roots| !roots.is_empty());
        extras.extend(bytes_extra("previous/roots.json", roots.cloned()));
        let names = [
            "previous/vmlinuz",
            "previous/initramfs.img",
            "previous/rootfs.squashfs",
        ];
        let wanted = if target == Place::Memory { 3 } else { 0 };
        for (path, file) in names.into_iter().zip(&running.files).take(wanted) {
            let Ok(file) = fs::File::open(folder.join(file)) else {
                return Vec::new();
            };
            let Ok(seen) = file.metadata() else {
                return Vec::new();
            };
            let content = Content::File(file, seen.len());
            extras.push(Extra { path, content });
        }
        extras
    }
}

fn bytes_extra(path: &'static str, bytes: Option<Vec<u8>>) -> Vec<Extra> {
    let content = bytes.map(Content::Bytes);
    content
        .map(|content| Extra { path, content })
        .into_iter()
        .collect()
}

/// Memory that the successor reserves for its predecessor, on machines that can spare it.
fn crash_word(place: Place, total: u64) -> Option<String> {
    let (machine_min, size) = match place {
        // Without a disk the predecessor serves from it: with less it could only fail and restart, as the machine does anyway.
        Place::Memory => (limits::CRASH_MACHINE_LARGE, limits::CRASH_MEMORY_LARGE),
        Place::Golden | Place::A | Place::B => (limits::CRASH_MACHINE_MIN, limits::CRASH_MEMORY),
    };
    (total >= machine_min).then(|| format!("crashkernel={}M", size >> 20))
}

/// Whether the watchdog runs through the jump: it gets its longest time, and the kernel is told not to stop it on the way.
pub(super) fn keeps_watching(machine: &mut Machine) -> bool {
    let _read_back = fs::write(STOP_ON_REBOOT, "N");
    let stops = fs::read_to_string(STOP_ON_REBOOT).unwrap_or_default();
    let seconds = machine.options.watchdog_seconds.saturating_mul(2);
    let runs = machine.arm_watchdog_for_jump(seconds);
    runs && matches!(stops.trim(), "N" | "0")
}

/// What the machine is made of.
pub(super) fn fingerprint(sys: &Path) -> Fingerprint {
    let total = memory::now().total.saturating_add(kexec::crash_memory());
    let online = fs::read_to_string(sys.join("devices/system/cpu/online")).unwrap_or_default();
    Fingerprint {
        cpus: count_cpus(&online),
        memory_mib: u32::try_from(total >> 20).unwrap_or(u32::MAX),
        disks: count_disks(&sys.join("class/block")),
        nics: nics(&sys.join("class/net")),
    }
}

/// `0-3,5` are five processors.
fn count_cpus(online: &str) -> u32 {
    let ranges = online.trim().split(',');
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    ranges.filter_map(count).fold(0, u32::saturating_add)
}

/// Whole disks with hardware behind them.
fn count_disks(class_block: &Path) -> u32 {
    let entries = fs::read_dir(class_block).into_iter().flatten().flatten();
    let is_disk = |path: &Path| path.join("device").exists() && !path.join("partition").exists();
    let disks = entries.filter(|entry| is_disk(&entry.path())).count();
    u32::try_from(disks).unwrap_or(u32::MAX)
}

/// Network cards with hardware behind them, by where they sit.
fn nics(class_net: &Path) -> Vec<Nic> {
    let entries = fs::read_dir(class_net).into_iter().flatten().flatten();
    let nic = |path: &Path| {
        // Without one there is no hardware behind it.
        path.join("device").exists().then_some(())?;
        let device = fs::read_link(path).ok()?;
        let mac = fs::read_to_string(path.join("address")).ok()?;
        Some(Nic {
            path: bus_address(&device),
            mac: parse_mac(mac.trim())?,
        })
    };
    let mut nics: Vec<Nic> = entries.filter_map(|entry| nic(&entry.path())).collect();
    nics.sort_by(|a, b| (&a.path, a.mac).cmp(&(&b.path, b.mac)));
    nics.truncate(upgrade::limits::NICS_MAX);
    nics
}

/// The last PCI address in the path of a card, or what stands before `net`: `.../0000:00:02.0/virtio1/net/eth0` is
/// `0000:00:02.0`.
fn bus_address(device: &Path) -> String {
    let components: Vec<String> = device
        .iter()
        .map(|component| component.to_string_lossy().into_owned())
        .collect();
    let is_pci = |name: &&String| name.len() == 12 && name.matches(':').count() == 2;
    let found = components.iter().rev().find(is_pci);
    let device = components.iter().rev().nth(2);
    let name = found.or(device).cloned().unwrap_or_default();
    name.chars()
        .take(upgrade::limits::NIC_PATH_SIZE_MAX)
        .collect()
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_kept_where_a_predecessor_can_use_it() {
        for (place, mib, word) in [
            (Place::A, 384, None),
            (Place::A, 470, Some("crashkernel=112M")),
            (Place::B, 4000, Some("crashkernel=112M")),
            // It would have to serve from it, and its squashfs and programs do not fit into 112 MiB.
            (Place::Memory, 470, None),
            (Place::Memory, 800, None),
            (Place::Memory, 970, Some("crashkernel=208M")),
        ] {
            assert_eq!(crash_word(place, mib << 20).as_deref(), word, "{mib}");
        }
    }

    #[test]
    fn processors_are_counted() {
        for (online, count) in [
            ("0\n", 1),
            ("0-3", 4),
            ("0-3,5,7-8\n", 7),
            ("", 0),
            ("3-1", 0),
            ("x", 0),
        ] {
            assert_eq!(count_cpus(online), count, "{online:?}");
        }
    }

    #[test]
    fn cards_are_named_by_where_they_sit() {
        for (device, name) in [
            (
                "../../devices/pci0000:00/0000:00:02.0/virtio1/net/eth0",
                "0000:00:02.0",
            ),
            (
                "../../devices/pci0000:00/0000:00:1c.0/0000:03:00.1/net/eno1",
                "0000:03:00.1",
            ),
            (
                "../../devices/platform/soc/fd580000.ethernet/net/eth0",
                "fd580000.ethernet",
            ),
        ] {
            assert_eq!(bus_address(Path::new(device)), name);
        }
        assert_eq!(
            parse_mac("52:54:00:12:34:56"),
            Some([0x52, 0x54, 0, 0x12, 0x34, 0x56])
        );
        for wrong in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:5g",
            "52:54:00:12:34:56:78",
        ] {
            assert_eq!(parse_mac(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn hardware_is_found_below_sys() {
        let sys = tempfile::tempdir().unwrap();
        let pci = sys.path().join("devices/pci0000:00/0000:00:02.0");
        let card = pci.join("net/eth0");
        let class = sys.path().join("class/net");
        let lo = sys.path().join("class/net/lo");
        let disk = sys.path().join("class/block/vda");
        let part = sys.path().join("class/block/vda1");
        for folder in [
            &card.join("device"),
            &lo,
            &disk.join("device"),
            &part.join("device"),
        ] {
            fs::create_dir_all(folder).unwrap();
        }
        fs::write(part.join("partition"), "1").unwrap();
        std::os::unix::fs::symlink(&card, class.join("eth0")).unwrap();
        fs::write(card.join("address"), "52:54:00:00:00:01\n").unwrap();
        fs::write(lo.join("address"), "00:00:00:00:00:00\n").unwrap();
        let found = fingerprint(sys.path());
        assert_eq!((found.disks, found.nics.len()), (1, 1));
        assert_eq!(found.nics[0].path, "0000:00:02.0");
    }

    /// It announces in the DHT again, however often the jump was prepared in vain.
    #[test]
    fn what_was_let_go_for_a_jump_comes_back_without_one() {
        let mut machine = crate::machine::tests::machine();
        let mut upgrade = super::super::driver::tests::upgrade();
        upgrade.take_back(&mut machine);
        assert!(!machine.supervises(Role::Dht), "it never ran");
        for _ in 0..2 {
            if !machine.supervises(Role::Dht) {
                machine.supervise(Role::Dht, None);
            }
            upgrade.let_go_of_roles(&mut machine);
            assert!(!machine.supervises(Role::Dht));
            upgrade.take_back(&mut machine);
            assert!(machine.supervises(Role::Dht));
        }
    }
}
