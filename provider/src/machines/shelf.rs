//! What there is to boot: a look at the folders of the artifacts directory, as far as it matters for machines.
//!
//! ```text
//! <channel>/<arch>/phase.efi                  a UKI: UEFI firmware starts it by itself
//! <channel>/<arch>/vmlinuz, initramfs.img     what iPXE starts; with rootfs.squashfs it is an image of ours, which fetches
//!                                             that by itself, verified; without, it is somebody else's
//! <channel>/<arch>/boot.toml                  what else there is to say about somebody else's payload
//! ```
//!
//! Folders are looked at once in a second at most, however many machines ask. Never gives out a byte: whoever sends a file
//! opens it again and checks it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use artifact_store::{OpenFile, Store};
use boot_manifest::{Arch, Channel, FileName};

use crate::config::file::{self, Value};
use crate::machines::limits::{BOOT_TOML_MAX, FOLDER_LOOK, FOLDERS_MAX, INITRDS_MAX, TEXT_MAX};
use crate::machines::profiles::cmdline;
use crate::machines::record::shortened;
use crate::serve::ready::read_whole;

/// The UKI of an image.
pub(crate) const UKI: &str = "phase.efi";

/// What is said about a payload.
pub(crate) const BOOT_TOML: &str = "boot.toml";

/// Names of kernels that the artifact store knows by no other name.
const KERNELS: [&str; 2] = ["linux", "linux.efi"];

/// What a `boot.toml` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BootToml {
    /// The line of the menu.
    pub(crate) title: Option<String>,
    /// The kernel.
    pub(crate) kernel: Option<FileName>,
    /// The initial ramdisks, in order.
    pub(crate) initrd: Option<Vec<FileName>>,
    /// The kernel's arguments.
    pub(crate) cmdline: Option<String>,
    /// Whether a machine boots it once and then from its disk: installers.
    pub(crate) once: bool,
}

/// A folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Folder {
    /// The UKI, when there is one.
    pub(crate) uki: Option<FileName>,
    /// The kernel.
    pub(crate) kernel: Option<FileName>,
    /// The initial ramdisks, in order.
    pub(crate) initrds: Vec<FileName>,
    /// Whether it is an image of ours, which needs to be told its provider.
    pub(crate) is_phase: bool,
    /// What its `boot.toml` says.
    pub(crate) boot: BootToml,
    /// What is wrong with it, for people.
    pub(crate) problem: Option<String>,
}

impl Folder {
    /// Whether iPXE can boot something of it.
    pub(crate) fn has_kernel(&self) -> bool {
        self.kernel.is_some()
    }

    /// The file after which a machine that boots by iPXE has everything.
    pub(crate) fn last_file(&self) -> Option<&FileName> {
        self.initrds.last().or(self.kernel.as_ref())
    }
}

/// Whether a file of a folder is served, also when it comes from elsewhere.
pub(crate) type Has = Box<dyn Fn(&Channel, Arch, &str) -> bool + Send + Sync>;

/// The folders, each with when it was looked at.
type Looked = HashMap<(Channel, Arch), (Instant, Arc<Folder>)>;

/// The folders.
pub(crate) struct Shelf {
    store: Arc<Store>,
    has: Has,
    looked: Mutex<Looked>,
    seen: Mutex<Seen>,
}

/// Files that were there, and when.
type Seen = BTreeMap<(Channel, Arch, String), Instant>;

impl Shelf {
    /// Of an artifacts directory, in which `has` knows what is served.
    pub(crate) fn new(store: Arc<Store>, has: Has) -> Self {
        Self {
            store,
            has,
            looked: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    /// Whether a file is served, or was a second ago: a thousand machines ask for the same one in the same moment.
    pub(crate) fn has(&self, channel: &Channel, arch: Arch, file: &str) -> bool {
        let key = (channel.clone(), arch, file.to_owned());
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.get(&key).is_some_and(|at| at.elapsed() < FOLDER_LOOK) {
            return true;
        }
        let has = (self.has)(channel, arch, file);
        if seen.len() >= FOLDERS_MAX {
            seen.clear();
        }
        if has {
            seen.insert(key, Instant::now());
        }
        has
    }

    /// The size of a file of a folder.
    pub(crate) fn size(&self, channel: &Channel, arch: Arch, file: &str) -> Option<u64> {
        let file = self.store.find(channel, arch.as_str(), &file.parse().ok()?);
        file.ok().map(|file| file.size())
    }

    /// What is in a folder. At most a second old.
    pub(crate) fn folder(&self, channel: &Channel, arch: Arch) -> Arc<Folder> {
        let key = (channel.clone(), arch);
        // Whole at every unlock. Held while looking: others want to know the same.
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, folder)) = looked.get(&key)
            && at.elapsed() < FOLDER_LOOK
        {
            return Arc::clone(folder);
        }
        let folder = Arc::new(look(&self.store, channel, arch));
        if looked.len() >= FOLDERS_MAX {
            looked.clear();
        }
        looked.insert(key, (Instant::now(), Arc::clone(&folder)));
        folder
    }

    /// The channels that iPXE can boot on this architecture, `first` first.
    pub(crate) fn channels(&self, first: &Channel, arch: Arch) -> Vec<(Channel, Arc<Folder>)> {
        let mut channels = self.store.channels();
        channels.sort_by_key(|channel| channel != first);
        channels
            .into_iter()
            .map(|channel| {
                let folder = self.folder(&channel, arch);
                (channel, folder)
            })
            .filter(|(_, folder)| folder.has_kernel())
            .collect()
    }
}

fn look(store: &Store, channel: &Channel, arch: Arch) -> Folder {
    let scan = store.scan(channel, arch);
    let named = |artifact: &str| {
        scan.found
            .iter()
            .find(|found| found.artifact.as_str() == artifact)
            .map(|found| &found.file)
    };
    let mut folder = Folder::default();
    let toml = named(BOOT_TOML);
    match toml.map(read_boot_toml) {
        None => {}
        Some(Ok(boot)) => folder.boot = boot,
        Some(Err(problem)) => {
            folder.problem = Some(format!("{channel}/{arch}/{BOOT_TOML}: {problem}"));
        }
    }
    let is_there = |name: &FileName| store.find(channel, arch.as_str(), name).is_ok();
    let name = |file: &OpenFile| file.name().clone();
    let usual = || {
        named("kernel").map(name).or_else(|| {
            let names = KERNELS.iter().filter_map(|name| name.parse().ok());
            names.into_iter().find(&is_there)
        })
    };
    folder.kernel = match &folder.boot.kernel {
        Some(kernel) => Some(kernel.clone()),
        None => usual(),
    };
    folder.initrds = match &folder.boot.initrd {
        Some(initrds) => initrds.clone(),
        None => named("initramfs").map(name).into_iter().collect(),
    };
    let missing = folder
        .kernel
        .iter()
        .chain(&folder.initrds)
        .find(|name| !is_there(name));
    if let Some(missing) = missing {
        folder.problem = Some(format!("{channel}/{arch}: {missing} is missing"));
        folder.kernel = None;
    }
    folder.uki = UKI.parse().ok().filter(is_there);
    folder.is_phase = toml.is_none() && named("rootfs").is_some();
    folder
}

fn read_boot_toml(file: &OpenFile) -> Result<BootToml, String> {
    if file.size() > BOOT_TOML_MAX {
        return Err(format!("has more than {BOOT_TOML_MAX} bytes"));
    }
    let bytes = read_whole(file).map_err(|error| error.to_string())?;
    let bytes = bytes.ok_or("is being written")?;
    let text = std::str::from_utf8(&bytes).map_err(|_| "is not UTF-8")?;
    boot_toml(text)
}

fn boot_toml(text: &str) -> Result<BootToml, String> {
    let parsed = file::parse(text);
    if let Some(problem) = parsed.problems.first() {
        return Err(problem.to_string());
    }
    if let Some(section) = parsed.sections.first() {
        return Err(format!("line {}: there are no sections", section.line));
    }
    let mut boot = BootToml::default();
    for entry in parsed.entries {
        let done = match (entry.key.as_str(), entry.value) {
            ("title", Value::One(text)) => {
                boot.title = Some(shortened(&text, TEXT_MAX));
                Ok(())
            }
            ("kernel", Value::One(name)) => file_name(&name).map(|name| boot.kernel = Some(name)),
            ("initrd", Value::One(name)) => {
                file_name(&name).map(|name| boot.initrd = Some(vec![name]))
            }
            ("initrd", Value::Several(names)) if names.len() <= INITRDS_MAX => names
                .iter()
                .map(|name| file_name(name))
                .collect::<Result<_, _>>()
                .map(|names| boot.initrd = Some(names)),
            ("cmdline", Value::One(text)) => cmdline(&text).map(|text| boot.cmdline = Some(text)),
            ("once", Value::Switch(switch)) => {
                boot.once = switch;
                Ok(())
            }
            _ => Err("there are title, kernel, initrd (a name or a list), cmdline and once (true or false)".to_owned()),
        };
        done.map_err(|reason| {
            let key = entry.key.escape_debug();
            format!("line {}: {key}: {reason}", entry.line)
        })?;
    }
    Ok(boot)
}

fn file_name(text: &str) -> Result<FileName, String> {
    text.parse()
        .map_err(|error: boot_manifest::InvalidName| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shelf(files: &[(&str, &str)]) -> (tempfile::TempDir, Shelf) {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let store = Arc::new(Store::open(root.path()).unwrap());
        let shelf = Shelf::new(store, Box::new(|_, _, file| file == "undionly.kpxe"));
        (root, shelf)
    }

    #[test]
    fn a_file_is_looked_for_once_in_a_storm_and_a_new_one_is_seen_at_once() {
        use std::sync::atomic::{AtomicU32, Ordering};

        let (root, _) = shelf(&[]);
        let store = Arc::new(Store::open(root.path()).unwrap());
        let looks = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&looks);
        let has: Has = Box::new(move |_, _, _| counted.fetch_add(1, Ordering::Relaxed) > 0);
        let shelf = Shelf::new(store, has);
        let stable: Channel = "stable".parse().unwrap();
        let ask = || shelf.has(&stable, Arch::X86_64, "undionly.kpxe");
        assert!(!ask(), "it is not there yet");
        assert!((0..1000).all(|_| ask()), "now it is");
        // More than one look only where a second has passed.
        assert!(looks.load(Ordering::Relaxed) < 100);
    }

    fn names(files: &[FileName]) -> Vec<&str> {
        files.iter().map(FileName::as_str).collect()
    }

    #[test]
    fn what_is_in_a_folder() {
        let toml = "title = \"Debian 12\"\nkernel = \"linux\"\ninitrd = [\"a.gz\", \"b.gz\"]\ncmdline = \"quiet\"\nonce = true\n";
        let (_root, shelf) = shelf(&[
            ("stable/x86_64/vmlinuz", "k"),
            ("stable/x86_64/initramfs.img", "i"),
            ("stable/x86_64/rootfs.squashfs", "r"),
            ("stable/x86_64/phase.efi", "u"),
            ("debian/amd64/linux", "k"),
            ("debian/amd64/a.gz", "i"),
            ("debian/amd64/b.gz", "i"),
            ("debian/amd64/boot.toml", toml),
            ("plain/x86_64/linux", "k"),
            ("plain/x86_64/initrd.gz", "i"),
            ("broken/x86_64/vmlinuz", "k"),
            ("broken/x86_64/boot.toml", "initrd = \"gone\""),
            ("typo/x86_64/vmlinuz", "k"),
            ("typo/x86_64/boot.toml", "cmd = \"x\""),
            ("arm/arm64/vmlinuz", "k"),
        ]);
        let folder = |channel: &str| shelf.folder(&channel.parse().unwrap(), Arch::X86_64);
        let stable = folder("stable");
        assert!(stable.is_phase && stable.uki.is_some());
        assert_eq!(stable.last_file().unwrap().as_str(), "initramfs.img");
        let debian = folder("debian");
        assert!(!debian.is_phase && debian.boot.once);
        assert_eq!(debian.boot.title.as_deref(), Some("Debian 12"));
        assert_eq!(names(&debian.initrds), ["a.gz", "b.gz"]);
        let plain = folder("plain");
        assert_eq!(plain.kernel.as_ref().unwrap().as_str(), "linux");
        assert_eq!(names(&plain.initrds), ["initrd.gz"]);
        assert!(!plain.is_phase);
        assert_eq!(
            folder("broken").problem.as_deref(),
            Some("broken/x86_64: gone is missing")
        );
        assert!(!folder("broken").has_kernel());
        let typo = folder("typo").problem.clone().unwrap();
        assert!(
            typo.starts_with("typo/x86_64/boot.toml: line 1: cmd: there are title"),
            "{typo}"
        );
        assert_eq!(*folder("none"), Folder::default());
        let stable = "stable".parse().unwrap();
        let all = shelf.channels(&stable, Arch::X86_64);
        let all: Vec<&str> = all.iter().map(|(channel, _)| channel.as_str()).collect();
        assert_eq!(all, ["stable", "debian", "plain", "typo"]);
        assert!(shelf.has(&stable, Arch::X86_64, "undionly.kpxe"));
    }

    #[test]
    fn what_is_wrong_with_a_boot_toml_is_said() {
        for (text, expected) in [
            ("once = 1", "line 1: once: there are title"),
            ("\nkernel = \"../x\"", "line 2: kernel: "),
            (
                "cmdline = \"a\\nb\"",
                "line 1: cmdline: kernel arguments are",
            ),
            (
                "cmdline = \"a && b\"",
                "line 1: cmdline: iPXE takes no word",
            ),
            ("[[profile]]\nname = \"x\"", "line 1: there are no sections"),
            ("x", "line 1: "),
        ] {
            let error = boot_toml(text).unwrap_err();
            assert!(error.starts_with(expected), "{text:?}: {error}");
        }
    }
}
