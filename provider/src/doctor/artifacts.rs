//! The artifacts directory: whether it is there, laid out as it should be, readable to the service and to nobody's mischief.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use artifact_store::{OpenError, Store};
use boot_manifest::{Arch, Channel};

use crate::doctor::finding::{Finding, Machine};
use crate::out::printable;

const LAYOUT: &str = "<channel>/<arch>/{vmlinuz,initramfs.img,rootfs.squashfs}";

/// The user of the installed service.
const SERVICE_USER: &str = "plasm";

/// A folder of one channel and architecture.
pub(super) struct Release {
    pub(super) channel: Channel,
    pub(super) arch: Arch,
    pub(super) folder: PathBuf,
}

/// Looks at the directory. Gives the folders in it, too.
pub(super) fn check(machine: &Machine, root: &Path) -> (Vec<Finding>, Vec<Release>) {
    let store = match Store::open(root) {
        Ok(store) => store,
        Err(error) => {
            let advice = match error {
                OpenError::NotFound => {
                    format!("create it with {LAYOUT} in it, or name another with --artifacts")
                }
                OpenError::Permission => "run doctor as the user of the service, or as root".into(),
                _ => "name a directory with --artifacts".into(),
            };
            let message = format!("{}: {error}", root.display());
            return (vec![Finding::bad("artifacts", message, advice)], Vec::new());
        }
    };
    let releases = releases(root);
    let mut findings = Vec::new();
    if releases.is_empty() {
        findings.push(Finding::bad(
            "artifacts",
            format!("{}: no artifacts in it", root.display()),
            format!("put them there as {LAYOUT}"),
        ));
    }
    for release in &releases {
        findings.extend(layout(&store, release));
    }
    findings.push(permissions(machine, root, &releases));
    (findings, releases)
}

/// The folders that are called after a channel and an architecture.
fn releases(root: &Path) -> Vec<Release> {
    let names = |folder: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(folder);
        let mut names: Vec<String> = entries
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let is_folder = entry.file_type().ok()?.is_dir();
                entry.file_name().into_string().ok().filter(|_| is_folder)
            })
            .collect();
        names.sort();
        names
    };
    let mut found = Vec::new();
    for channel_name in names(root) {
        let Ok(channel) = channel_name.parse::<Channel>() else {
            continue;
        };
        for arch_name in names(&root.join(&channel_name)) {
            if let Ok(arch) = arch_name.parse() {
                found.push(Release {
                    channel: channel.clone(),
                    arch,
                    folder: root.join(&channel_name).join(&arch_name),
                });
            }
        }
    }
    found
}

/// What is there of one release, and what is in the way.
fn layout(store: &Store, release: &Release) -> Vec<Finding> {
    let name = format!("{}/{}", release.channel, release.arch);
    let scan = store.scan(&release.channel, release.arch);
    let mut findings: Vec<Finding> = scan
        .problems
        .iter()
        .map(|problem| {
            let text = printable(&problem.to_string());
            if problem.reason.is_fault() {
                Finding::bad("layout", text, "replace the file, or take it away")
            } else {
                Finding::warn("layout", text, "take the file away when nobody needs it")
            }
        })
        .collect();
    let artifacts: Vec<&str> = scan
        .found
        .iter()
        .map(|found| found.artifact.as_str())
        .collect();
    let has = |artifact| artifacts.contains(&artifact);
    findings.push(if !has("kernel") {
        Finding::bad(
            "layout",
            format!("{name}: no kernel, so nothing can boot from it"),
            "add the kernel as vmlinuz",
        )
    } else if !has("initramfs") {
        Finding::warn(
            "layout",
            format!("{name}: {}; no initramfs", artifacts.join(", ")),
            "add it as initramfs.img, unless the kernel contains it",
        )
    } else {
        Finding::ok("layout", format!("{name}: {}", artifacts.join(", ")))
    });
    findings
}

/// Whether the service can read everything, and others can write nothing.
fn permissions(machine: &Machine, root: &Path, releases: &[Release]) -> Finding {
    let mut paths = vec![root.to_owned()];
    for release in releases {
        paths.extend(release.folder.parent().map(Path::to_owned));
        paths.push(release.folder.clone());
        let entries = std::fs::read_dir(&release.folder);
        paths.extend(entries.into_iter().flatten().filter_map(|entry| {
            let entry = entry.ok()?;
            // Links are refused by the store, which says so.
            (!entry.file_type().ok()?.is_symlink()).then(|| entry.path())
        }));
    }
    let service = service(&machine.text("etc/passwd").unwrap_or_default());
    for path in &paths {
        let Ok(seen) = path.symlink_metadata() else {
            continue;
        };
        let (mode, is_folder) = (seen.mode(), seen.is_dir());
        let shown = printable(&path.to_string_lossy());
        if mode & 0o002 != 0 && (!is_folder || mode & 0o1000 == 0) {
            return Finding::bad(
                "permissions",
                format!("{shown}: everybody on this machine can change it"),
                format!("chmod o-w {shown}"),
            );
        }
        if let Some((uid, gid)) = service
            && !may_read(mode, is_folder, seen.uid() == uid, seen.gid() == gid)
        {
            return Finding::bad(
                "permissions",
                format!("{shown}: the user {SERVICE_USER} cannot read it"),
                format!("chmod a+r{} {shown}", if is_folder { "x" } else { "" }),
            );
        }
    }
    Finding::ok("permissions", format!("{} files and folders", paths.len()))
}

/// Numbers of the service's user and group, where the package made them.
fn service(passwd: &str) -> Option<(u32, u32)> {
    let entry = passwd
        .lines()
        .find_map(|line| line.strip_prefix(SERVICE_USER)?.strip_prefix(':'))?;
    let mut fields = entry.split(':').skip(1);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn may_read(mode: u32, is_folder: bool, is_owner: bool, is_group: bool) -> bool {
    let needed = if is_folder { 0o5 } else { 0o4 };
    let granted = match (is_owner, is_group) {
        (true, _) => mode >> 6,
        (false, true) => mode >> 3,
        (false, false) => mode,
    };
    granted & needed == needed
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, create_dir_all, set_permissions, write};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::doctor::finding::Level;

    /// Findings about a directory with these files, after `change`.
    fn found(files: &[&str], change: impl FnOnce(&Path)) -> Vec<Finding> {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("artifacts");
        create_dir_all(root.join("stable/x86_64")).unwrap();
        for file in files {
            write(root.join("stable/x86_64").join(file), b"x").unwrap();
        }
        change(&root);
        let passwd = "root:x:0:0::/root:/bin/sh\nplasm:x:4242:4243::/nonexistent:/bin/false\n";
        let (_machine_dir, machine) = Machine::of(&[("etc/passwd", passwd)]);
        check(&machine, &root).0
    }

    fn worst(findings: &[Finding]) -> &Finding {
        findings.iter().max_by_key(|finding| finding.level).unwrap()
    }

    #[test]
    fn everything_that_can_be_wrong_is_found() {
        type Case<'a> = (&'a [&'a str], &'a dyn Fn(&Path), Level, &'a str);
        let nothing = |_: &Path| {};
        let whole = ["vmlinuz", "initramfs.img", "rootfs.squashfs"];
        let mode = |path: std::path::PathBuf, mode| {
            set_permissions(path, Permissions::from_mode(mode)).unwrap();
        };
        let writable: &dyn Fn(&Path) = &|root| mode(root.join("stable/x86_64/vmlinuz"), 0o666);
        let private: &dyn Fn(&Path) = &|root| mode(root.join("stable/x86_64"), 0o700);
        let secret: &dyn Fn(&Path) = &|root| mode(root.join("stable/x86_64/vmlinuz"), 0o640);
        let cases: [Case<'_>; 8] = [
            (&whole, &nothing, Level::Ok, ""),
            (&["initramfs.img"], &nothing, Level::Bad, "no kernel"),
            (&["vmlinuz"], &nothing, Level::Warn, "no initramfs"),
            (
                &["vmlinuz-1", "vmlinuz-2"],
                &nothing,
                Level::Bad,
                "could all be it",
            ),
            (&whole, writable, Level::Bad, "everybody on this machine"),
            (&whole, private, Level::Bad, "the user plasm cannot read"),
            (&whole, secret, Level::Bad, "the user plasm cannot read"),
            (
                &[],
                &|root| std::fs::remove_dir_all(root.join("stable")).unwrap(),
                Level::Bad,
                "no artifacts in it",
            ),
        ];
        for (files, change, level, text) in cases {
            let findings = found(files, change);
            let worst = worst(&findings);
            let told: String = findings.iter().map(|one| one.message.clone()).collect();
            assert_eq!(worst.level, level, "{files:?}: {findings:?}");
            assert!(told.contains(text), "{text:?} is missing: {findings:?}");
        }
        let gone = found(&whole, |root| std::fs::remove_dir_all(root).unwrap());
        assert_eq!(gone[0].level, Level::Bad, "{gone:?}");
    }

    #[test]
    fn groups_count() {
        assert!(may_read(0o750, true, false, true));
        assert!(!may_read(0o750, true, false, false));
        assert!(
            !may_read(0o044, false, true, true),
            "the owner's bits decide"
        );
    }
}
