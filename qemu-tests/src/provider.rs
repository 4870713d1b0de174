//! `plasmd serve` on a host of the LAN: the boot server under test, as an operator would start it. What is
//! looked at is what an operator has: its console, its commands and its HTTP side.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::artifacts::Images;
use crate::lan::{Lan, Station};
use crate::proc;
use crate::serial::Transcript;

/// Reading the artifacts and opening the sockets, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);
/// A command that asks the provider and takes longer than this is stuck.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// Where it serves HTTP.
const PORT: u16 = 8080;
/// What lies in its artifacts folder, as far as it was built.
const ARTIFACTS: &[&str] = &[
    "manifest.json",
    "vmlinuz",
    "initramfs.img",
    "rootfs.squashfs",
    "phase.efi",
    "undionly.kpxe",
    "snponly.efi",
    "ipxe.efi",
];

/// How a provider is started.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// More flags of `plasmd serve`: how it answers DHCP, for one.
    pub flags: Vec<String>,
    /// Its configuration file.
    pub config: Option<String>,
    /// More files below its artifacts folder: where each goes, and where it is.
    pub files: Vec<(String, PathBuf)>,
}

impl Settings {
    /// With these flags of `plasmd serve`.
    #[must_use]
    pub fn flags(flags: &[&str]) -> Self {
        Self {
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            ..Self::default()
        }
    }

    /// The same with this configuration file.
    #[must_use]
    pub fn config(mut self, text: impl Into<String>) -> Self {
        self.config = Some(text.into());
        self
    }

    /// The same with the file `from` at `place` in the artifacts folder.
    #[must_use]
    pub fn file(mut self, place: impl Into<String>, from: impl Into<PathBuf>) -> Self {
        self.files.push((place.into(), from.into()));
        self
    }
}

/// A running provider. Dropping it ends it.
#[derive(Debug)]
pub struct Provider {
    child: Child,
    log: Transcript,
    station: Station,
    plasmd: PathBuf,
    folder: tempfile::TempDir,
}

impl Provider {
    /// Starts one on the LAN's boot server host, with the built images in its artifacts folder.
    ///
    /// # Errors
    /// When it does not serve; the text has what it said.
    pub fn start(lan: &Lan, images: &Images, settings: &Settings) -> Result<Self> {
        Self::launch(lan.boot_server()?.clone(), "plasmd", lan, images, settings)
    }

    /// Starts one on another host, whose address is in the name of its log.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_on(
        station: Station,
        lan: &Lan,
        images: &Images,
        settings: &Settings,
    ) -> Result<Self> {
        let name = format!("plasmd-{}", station.address);
        Self::launch(station, &name, lan, images, settings)
    }

    fn launch(
        station: Station,
        name: &str,
        lan: &Lan,
        images: &Images,
        settings: &Settings,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let artifacts = folder.path().join("artifacts");
        lay_out(&artifacts, images, settings)?;
        let control = folder.path().join("control.sock");
        let state = folder.path().join("state");
        let config = folder.path().join("plasmd.toml");
        std::fs::create_dir(&state)?;
        std::fs::write(&config, settings.config.as_deref().unwrap_or_default())?;
        let plasmd = images.path("plasmd");

        let mut args: Vec<_> = ["netns", "exec", &station.namespace]
            .map(Into::into)
            .to_vec();
        args.push(plasmd.clone().into_os_string());
        args.push("serve".into());
        for (flag, value) in [
            ("--artifacts", &artifacts),
            ("--state-dir", &state),
            ("--control-socket", &control),
            ("--config", &config),
            ("--trust-root", &images.path("trust-root.json")),
        ] {
            args.extend([flag.into(), value.clone().into_os_string()]);
        }
        args.extend(["--port".into(), PORT.to_string().into()]);
        args.extend(settings.flags.iter().map(Into::into));
        let (reader, writer) = io::pipe()?;
        let mut command = proc::leashed("ip", args);
        let child = command
            .stdout(Stdio::from(writer.try_clone()?))
            .stderr(Stdio::from(writer))
            .spawn()
            .context("start plasmd")?;
        drop(command);
        let log = lan.logs().join(format!("{name}.log"));
        let log = Transcript::of(name, reader, &log)?;
        let provider = Self {
            child,
            log,
            station,
            plasmd,
            folder,
        };
        provider.log.wait_for("serving", START_LIMIT)?;
        Ok(provider)
    }

    /// Where it serves, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}:{PORT}", self.station.address)
    }

    /// Puts other images into its artifacts folder while it runs, as an operator does who publishes a new version: each file
    /// whole or not at all, and the manifest last.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn publish(&self, images: &Images) -> Result<()> {
        lay_out(
            &self.folder.path().join("artifacts"),
            images,
            &Settings::default(),
        )
    }

    /// Everything it has printed.
    #[must_use]
    pub fn log(&self) -> &Transcript {
        &self.log
    }

    /// The host it runs on.
    #[must_use]
    pub fn station(&self) -> &Station {
        &self.station
    }

    /// Runs `plasmd` on its host, with the environment that leads to its control socket.
    ///
    /// # Errors
    /// When it cannot be started or hangs. A failing exit status is the caller's to judge.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Output> {
        let mut all: Vec<_> = ["netns", "exec", &self.station.namespace]
            .map(Into::into)
            .to_vec();
        all.push(self.plasmd.clone().into_os_string());
        all.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        proc::output("ip", all, COMMAND_LIMIT)
    }

    /// What `plasmd clients` prints with these arguments.
    ///
    /// # Errors
    /// When it fails; the text has what it said.
    pub fn clients(&self, args: &[&str]) -> Result<String> {
        let control = self.folder.path().join("control.sock");
        let mut all = vec![OsStr::new("clients")];
        all.extend(args.iter().map(OsStr::new));
        all.extend([OsStr::new("--control-socket"), control.as_os_str()]);
        let output = self.run(all)?;
        ensure!(
            output.status.success(),
            "plasmd clients {args:?}: {}",
            proc::describe(&output)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        // Already ended is as good; `wait` takes the exit status either way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lay_out(artifacts: &Path, images: &Images, settings: &Settings) -> Result<()> {
    let manifest = images.manifest()?;
    let own = artifacts
        .join(manifest.channel.as_str())
        .join(manifest.arch.as_str());
    std::fs::create_dir_all(&own)?;
    let built = ARTIFACTS
        .iter()
        .map(|name| (own.join(name), images.path(name)))
        .filter(|(_, from)| from.exists());
    let more = settings
        .files
        .iter()
        .map(|(place, from)| (artifacts.join(place), from.clone()));
    let mut all: Vec<_> = built.chain(more).collect();
    all.sort_by_key(|(to, _)| to.ends_with("manifest.json"));
    for (to, from) in all {
        if let Some(folder) = to.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let aside = to.with_extension("new");
        std::fs::copy(&from, &aside)
            .and_then(|_| std::fs::rename(&aside, &to))
            .with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}
