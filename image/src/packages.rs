//! The Debian packages each command needs, and how missing ones get installed.
//!
//! The tool itself compiles with Rust and a C compiler only, so that it can say what else is missing. No service is started:
//! packages that bring one are told that the system is offline, and nginx, which is only measured, is unpacked beside the
//! images instead of installed.

use std::collections::{BTreeSet, VecDeque};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::progress::Progress;

/// What packages are needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Kernel, programs, images.
    Build,
    /// Booting them in QEMU.
    Run,
    /// The tests beyond that.
    Test,
    /// The comparison with nginx.
    Bench,
}

const BUILD: &[&str] = &[
    "bc",
    "bison",
    "build-essential",
    "flex",
    "grub-common",
    "grub-pc-bin",
    "ipxe",
    "libelf-dev",
    "linux-source-6.12",
    "systemd-boot-efi",
    "xz-utils",
    "zstd",
];

const RUN: &[&str] = &[
    "ipxe-qemu",
    "ovmf",
    "qemu-efi-aarch64",
    "qemu-system-arm",
    "qemu-system-x86",
];

const TEST: &[&str] = &[
    "atftp",
    "avahi-daemon",
    "avahi-utils",
    "busybox",
    "cpio",
    "curl",
    "dbus",
    "debian-installer-12-netboot-amd64",
    "dnsmasq-base",
    "fdisk",
    "fish",
    "groff-base",
    "iproute2",
    "isc-dhcp-client",
    "isc-dhcp-relay",
    "libclang-dev",
    "libsquashfs-dev",
    "mtools",
    "openssl",
    "procps",
    "python3",
    "python3-prometheus-client",
    "python3-venv",
    "squashfs-tools",
    "strace",
    "systemd",
    "tcpdump",
    "tftp-hpa",
    "udhcpc",
    "wget",
    "zsh",
];

const BENCH: &[&str] = &[
    "curl",
    "dnsmasq-base",
    "iproute2",
    "libpcre2-8-0",
    "libwrap0",
    "openssl",
    "valgrind",
    "wrk",
];

impl Purpose {
    /// The packages for this purpose alone.
    pub fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Build => BUILD,
            Self::Run => RUN,
            Self::Test => TEST,
            Self::Bench => BENCH,
        }
    }
}

/// Installs what is missing for `purposes`.
///
/// # Errors
/// When something is missing and cannot be installed: not root, no Debian, no network.
pub fn ensure_installed(purposes: &[Purpose], progress: &Progress) -> Result<()> {
    let wanted: BTreeSet<&str> = purposes
        .iter()
        .flat_map(|p| p.packages())
        .copied()
        .collect();
    let missing = missing(&wanted)?;
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !rustix::process::geteuid().is_root() {
        bail!(
            "{} Debian packages are missing; install them and try again:\n\n    sudo apt-get update && \
             sudo apt-get install -y --no-install-recommends {list}\n",
            missing.len()
        );
    }
    progress.announce("packages", &format!("installing {list}"));
    let started = Instant::now();
    if !lists_are_there() {
        apt(&["update", "--quiet=2"], progress)?;
    }
    let mut install = vec!["install", "--yes", "--quiet=1", "--no-install-recommends"];
    install.extend(&missing);
    if apt(&install, progress).is_err() {
        // Package lists that are months old name files the mirrors no longer have.
        apt(&["update", "--quiet=2"], progress)?;
        apt(&install, progress)?;
    }
    progress.end(
        "packages",
        &format!("{} installed", missing.len()),
        started.elapsed(),
    );
    Ok(())
}

/// Which of `wanted` are not installed, sorted.
fn missing<'a>(wanted: &BTreeSet<&'a str>) -> Result<Vec<&'a str>> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\n"])
        .args(wanted)
        .stderr(Stdio::null())
        .output()
        .with_context(|| {
            let list = wanted.iter().copied().collect::<Vec<_>>().join(" ");
            format!("this needs Debian 12 (dpkg-query cannot be run) with the packages {list}")
        })?;
    let installed = installed(&String::from_utf8_lossy(&output.stdout));
    Ok(wanted
        .iter()
        .copied()
        .filter(|package| !installed.contains(*package))
        .collect())
}

/// Reads dpkg-query's lines; a package that is removed but configured does not count.
fn installed(listing: &str) -> BTreeSet<String> {
    let lines = listing.lines().filter_map(|line| line.split_once(' '));
    lines
        .filter(|(_, status)| *status == "installed")
        .map(|(package, _)| package.into())
        .collect()
}

fn lists_are_there() -> bool {
    std::fs::read_dir("/var/lib/apt/lists").is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().ends_with("_Packages"))
    })
}

/// Lines of apt's output that are shown when it fails: dpkg names the cause in the last few.
const TAIL_LINES: usize = 20;

/// Time between two signs of life where there is no terminal.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// Runs apt-get. Its output is shown only when it fails; meanwhile the step on screen counts packages.
fn apt(arguments: &[&str], progress: &Progress) -> Result<()> {
    let (reader, writer) = std::io::pipe().context("make a pipe")?;
    let mut child = Command::new("apt-get")
        .args(arguments)
        .args(["-o", "Dpkg::Use-Pty=0"])
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Maintainer scripts start services through systemctl or by run level; neither does so under these.
        .env("SYSTEMD_OFFLINE", "1")
        .env("RUNLEVEL", "1")
        .stdin(Stdio::null())
        .stderr(writer.try_clone().context("copy a pipe")?)
        .stdout(writer)
        .spawn()
        .context("cannot run apt-get")?;
    let mut tail = VecDeque::new();
    let (mut unpacked, mut set_up) = (0_u32, 0_u32);
    let mut told = Instant::now();
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line.context("read apt-get's output")?).into_owned();
        unpacked += u32::from(line.starts_with("Unpacking "));
        set_up += u32::from(line.starts_with("Setting up "));
        if told.elapsed() >= SIGN_OF_LIFE || progress.is_live() {
            progress.note("packages", &format!("{unpacked} unpacked, {set_up} set up"));
            told = Instant::now();
        }
        tail.push_back(line);
        if tail.len() > TAIL_LINES {
            tail.pop_front();
        }
    }
    let status = child.wait().context("wait for apt-get")?;
    if !status.success() {
        let tail: Vec<String> = tail.into();
        bail!(
            "apt-get {} failed ({status}); its last lines:\n{}",
            arguments.join(" "),
            tail.join("\n")
        );
    }
    Ok(())
}

/// Finds `program`, or unpacks it from `package` into `folder` without installing, configuring or starting anything.
///
/// # Errors
/// When the package cannot be downloaded or does not hold the program.
pub fn unpacked(program: &str, package: &str, folder: &Path) -> Result<PathBuf> {
    let candidates = [
        Path::new("/usr/sbin").join(program),
        folder.join("usr/sbin").join(program),
    ];
    if let Some(found) = candidates.iter().find(|path| path.exists()) {
        return Ok(found.clone());
    }
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let run = |command: &mut Command| -> Result<()> {
        let output = command.current_dir(folder).output()?;
        let message = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{package} cannot be unpacked: {}",
            message.trim()
        );
        Ok(())
    };
    run(Command::new("apt-get").args(["download", "--quiet=2", package]))?;
    for entry in std::fs::read_dir(folder)?.flatten() {
        if entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "deb")
        {
            run(Command::new("dpkg-deb")
                .arg("--extract")
                .arg(entry.path())
                .arg("."))?;
        }
    }
    let found = candidates.into_iter().find(|path| path.exists());
    found.with_context(|| format!("the package {package} holds no {program}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_installed_packages_count() {
        let listing = "bc installed\nbison config-files\nflex not-installed\nlibc6 installed\nlibc6 installed\n\nodd\n";
        let expected = BTreeSet::from(["bc".to_owned(), "libc6".to_owned()]);
        assert_eq!(installed(listing), expected);
    }

    #[test]
    fn a_package_that_does_not_exist_is_missing() {
        if Command::new("dpkg-query")
            .arg("--version")
            .output()
            .is_err()
        {
            println!(
                "SKIPPED: a_package_that_does_not_exist_is_missing: no dpkg-query on this machine"
            );
            return;
        }
        let wanted = BTreeSet::from(["dpkg", "surely-no-such-package"]);
        assert_eq!(missing(&wanted).unwrap(), ["surely-no-such-package"]);
    }

    #[test]
    fn every_list_is_sorted_and_names_each_package_once() {
        let lists = [Purpose::Build, Purpose::Run, Purpose::Test, Purpose::Bench];
        let all: Vec<_> = lists
            .iter()
            .flat_map(|purpose| purpose.packages())
            .collect();
        assert!(all.iter().all(|package| !package.is_empty()));
        for purpose in lists {
            assert!(purpose.packages().is_sorted(), "{purpose:?}");
        }
    }
}
