//! The stand for the demo and the bench: one appliance that runs the old version from a disk of its own, and a provider on
//! this host that publishes the new one.
//!
//! QEMU's own network connects them, so nobody needs to be root and nothing is reachable from outside. The appliance is the
//! only one in its segment, which it would not leave unserved by itself: it is told that it may.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::client::{Client, Known};
use crate::accel::Acceleration;
use crate::bench::machines::free_port;
use crate::paths::{self, Paths};
use crate::qemu::{Boot, Line, Machine, Network, Recipe};
use crate::release::{self, Released};
use crate::{facts, http};

/// Memory of the machine in MiB: with it, the old version stays in memory as a way back.
const MEMORY_MIB: u32 = 512;

/// Emulated machines on a busy host: to serve, and to find, fetch, prove and commit a version.
pub const SERVING_LIMIT: Duration = Duration::from_secs(180);
/// The same for a whole upgrade.
pub const UPGRADE_LIMIT: Duration = Duration::from_secs(300);

/// How often the appliance looks for a new version, and how long it proves one: as short as it lets itself be told.
const POLL_S: u32 = 5;
const SOAK_S: u32 = 10;

/// What PID 1 says when a version has proved itself.
pub const COMMITTED: &str = "upgrade: committed ";

/// What PID 1 says when it gives one up.
const GIVEN_UP: [&str; 2] = ["upgrade: refused ", "upgrade: failed "];

/// The appliance and its provider. Dropping it ends both.
#[derive(Debug)]
pub struct Stand {
    /// The appliance.
    pub machine: Machine,
    /// Where it serves on 127.0.0.1.
    pub port: u16,
    provider: Provider,
    known: Known,
    next: PathBuf,
    /// The version that it runs, and the one that it will.
    pub versions: [String; 2],
}

impl Stand {
    /// Makes the new version out of the images in `from`, starts a provider with the old one, and an appliance that runs it.
    ///
    /// # Errors
    /// When something is missing or does not start.
    pub fn set_up(paths: &Paths, acceleration: Acceleration) -> Result<Self> {
        let folder = paths.output("upgrade");
        let next = folder.join("next");
        let versions = [
            facts::VERSION.to_owned(),
            format!("{}-next", facts::VERSION),
        ];
        let options = release::Options::new(paths.out(), &next, &versions[1]);
        let Released { .. } = release::release(paths, &options)?;

        let provider = Provider::start(paths, &folder)?;
        provider.publish(paths.out())?;
        let disk = folder.join("disk.img");
        // A copy of its own: it writes to it.
        std::fs::copy(paths.output("phase.img"), &disk)
            .with_context(|| format!("write {}", paths::shown(&disk)))?;
        let port = free_port()?;
        let cmdline = format!(
            "{} phase.upgrade=auto phase.upgrade.from=http://10.0.2.2:{} phase.upgrade.poll={POLL_S} \
             phase.upgrade.soak={SOAK_S} phase.upgrade.alone=yes",
            facts::CMDLINE,
            provider.port
        );
        let machine = Machine::start(&Recipe {
            boot: Boot::Kernel {
                kernel: paths.output("vmlinuz"),
                initramfs: Some(paths.output("initramfs.img")),
                cmdline,
                disk: Some(disk),
            },
            memory_mib: MEMORY_MIB,
            acceleration,
            network: Network::Alone(Some(port)),
            upgrades: true,
            folder: folder.join("machine"),
        })?;
        let read = |folder: &Path| {
            let file = folder.join("rootfs.squashfs");
            std::fs::read(&file).with_context(|| format!("read {}", file.display()))
        };
        Ok(Self {
            machine,
            port,
            provider,
            known: Known::new(read(paths.out())?, read(&next)?),
            next,
            versions,
        })
    }

    /// Starts to download from the appliance.
    pub fn client(&self) -> Client {
        Client::start(self.port, self.known.clone())
    }

    /// Publishes the new version.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn publish(&self) -> Result<()> {
        self.provider.publish(&self.next)
    }

    /// Waits until the machine says a line with `wanted`, and gives every line to `show` meanwhile.
    ///
    /// # Errors
    /// When it says that it gives up, ends, or takes longer than `limit`.
    pub fn wait_for(
        &mut self,
        wanted: &str,
        limit: Duration,
        mut show: impl FnMut(&Line),
    ) -> Result<Line> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(line) = self.machine.line(Duration::from_millis(100)) {
                show(&line);
                if line.text.contains(wanted) {
                    return Ok(line);
                }
                if GIVEN_UP.iter().any(|word| line.text.contains(word)) {
                    bail!("{}{}", line.text, self.log());
                }
            }
            if let Some(status) = self.machine.ended()? {
                let why = self.machine.complaint();
                bail!("the machine ended ({status}) {why}{}", self.log());
            }
        }
        let seconds = limit.as_secs();
        bail!(
            "the machine did not say {wanted:?} within {seconds} s{}",
            self.log()
        )
    }

    fn log(&self) -> String {
        format!(
            "; its console is in {}",
            paths::shown(&self.machine.serial_log())
        )
    }
}

/// `plasmd serve` on this host.
#[derive(Debug)]
struct Provider {
    child: Child,
    port: u16,
    artifacts: PathBuf,
}

impl Provider {
    fn start(paths: &Paths, folder: &Path) -> Result<Self> {
        let artifacts = folder.join("published");
        let own = artifacts.join(facts::CHANNEL).join(facts::ARCH.as_str());
        // What an earlier run published is not what this one begins with.
        match std::fs::remove_dir_all(&artifacts) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        std::fs::create_dir_all(&own)?;
        let port = free_port()?;
        let log = folder.join("provider.log");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(paths.output("plasmd"))
            .args(["serve", "--bind", "127.0.0.1", "--control-socket", "off"])
            .args(["--no-mdns", "--no-dht", "--port", &port.to_string()])
            .arg("--artifacts")
            .arg(&artifacts)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("start plasmd")?;
        let mut provider = Self {
            child,
            port,
            artifacts: own,
        };
        provider.wait(&log)?;
        Ok(provider)
    }

    fn wait(&mut self, log: &Path) -> Result<()> {
        const ANSWER_LIMIT: Duration = Duration::from_millis(500);
        const PAUSE: Duration = Duration::from_millis(50);
        const START_LIMIT: Duration = Duration::from_secs(30);
        let started = Instant::now();
        while http::get(self.port, "/", ANSWER_LIMIT).is_err() {
            if self.child.try_wait()?.is_some() || started.elapsed() > START_LIMIT {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                bail!("the provider does not serve: {}", said.trim());
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Puts a version in the place of the one before: its parts first, then the manifest that names them.
    fn publish(&self, images: &Path) -> Result<()> {
        let names = [
            "vmlinuz",
            "initramfs.img",
            "phase.efi",
            "rootfs.squashfs",
            "manifest.json",
        ];
        for name in names {
            let (from, to) = (images.join(name), self.artifacts.join(name));
            let new = self.artifacts.join(format!(".{name}.new"));
            std::fs::copy(&from, &new).with_context(|| format!("copy {}", from.display()))?;
            std::fs::rename(&new, &to)?;
        }
        Ok(())
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
