//! One machine: a QEMU process in a LAN's namespace, its console and its power button.
//!
//! ```text
//! boot --> runs --power_off--> ended          (the appliance shuts down in order)
//!            |----kill------> ended          (the plug is pulled)
//!            `---reset by the guest--> ended (QEMU runs with -no-reboot unless the spec allows resets; a kexec is none)
//! ```
//! Dropping a machine pulls the plug.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::firmware::{Bus, Disk, Firmware};
use crate::lan::{self, Lan};
use crate::proc;
use crate::qmp::Qmp;
use crate::serial::{Line, Transcript};
use crate::timeline::Timeline;
use crate::veil::Veil;

/// The smallest machine the appliance promises to run, serve and boot others on.
pub const MEMORY_MIB: u32 = 256;
/// QEMU's own start, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(20);
/// As much of a console line as the timeline shows: the rest is digests, and in the log.
const MARK_CHARS_MAX: usize = 110;
/// How a processor is emulated when nobody said otherwise: with QEMU's 1 GiB for translated code, a kexec takes twice as long
/// as with this, because a write to a page that holds translated code is slow until that code is forgotten.
const TRANSLATION: &str = "tcg,tb-size=64";
/// Lines after which nothing good comes.
const HOPELESS: &[&str] = &["phase: refused:", "phase: fatal:", "Kernel panic"];

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    /// How it starts.
    pub firmware: Firmware,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Disks, first first.
    pub disks: Vec<Disk>,
    /// Network cards, each with a cable to the LAN.
    pub cards: u8,
    /// The ROM of the first card hides on the wire that it is iPXE and knows HTTP, until it asks for the boot
    /// file with this in its name (see [`crate::veil`]).
    pub plain_rom_until: Option<&'static str>,
    /// QEMU's name of their model.
    pub card_model: &'static str,
    /// What the battery-backed clock says at power-on, if not the time.
    pub clock: Option<&'static str>,
    /// A serial port. Without it the machine has no console at all.
    pub serial: bool,
    /// An i6300esb watchdog that resets the machine when nobody feeds it.
    pub watchdog: bool,
    /// A reset starts the machine again, as it would a real one, instead of ending it.
    pub resets: bool,
    /// More arguments for QEMU, for what only some test needs.
    pub extra: Vec<String>,
}

impl Spec {
    /// The smallest machine: one card, a serial port, nothing else.
    #[must_use]
    pub fn new(firmware: Firmware) -> Self {
        Self {
            firmware,
            memory_mib: MEMORY_MIB,
            disks: Vec::new(),
            cards: 1,
            plain_rom_until: None,
            card_model: "virtio-net-pci",
            clock: None,
            serial: true,
            watchdog: false,
            resets: false,
            extra: Vec::new(),
        }
    }

    /// The same with one more disk.
    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }
}

/// What a machine says when it begins to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serving {
    /// Where, without a slash at the end: the base of its URLs.
    pub url: String,
    /// The digest of the manifest it serves, as it names it.
    pub manifest: String,
}

impl Serving {
    /// Reads `phase: serving <url of the manifest> manifest sha256:<64 hex> after <seconds> s`.
    fn parse(line: &str) -> Result<Self> {
        let (_, rest) = line
            .split_once("phase: serving ")
            .context("not a serving line")?;
        let words: Vec<&str> = rest.split_whitespace().collect();
        let url = words
            .first()
            .and_then(|url| url.strip_suffix("/manifest.json"));
        let manifest = words.iter().find(|word| word.starts_with("sha256:"));
        Ok(Self {
            url: url
                .context("no manifest URL in the serving line")?
                .to_owned(),
            manifest: (*manifest.context("no digest in the serving line")?).to_owned(),
        })
    }
}

/// A machine that was switched on.
#[derive(Debug)]
pub struct Machine {
    name: String,
    /// The number of its first network card on the LAN.
    card: u8,
    taps: Vec<String>,
    child: Child,
    qmp: RefCell<Qmp>,
    serial: Option<Transcript>,
    timeline: Timeline,
    powered_on: Instant,
    screenshot: PathBuf,
    _veil: Option<Veil>,
    _scratch: tempfile::TempDir,
}

impl Machine {
    /// Switches a machine on. Its cards get the hardware addresses [`lan::mac`]`(card)` and following.
    ///
    /// # Errors
    /// When QEMU cannot be started or ends at once; the text has what it said.
    pub fn boot(lan: &Lan, timeline: &Timeline, name: &str, card: u8, spec: &Spec) -> Result<Self> {
        let scratch = tempfile::tempdir()?;
        let socket = scratch.path().join("qmp");
        let taps = (0..spec.cards)
            .map(|_| lan.add_tap())
            .collect::<Result<Vec<_>>>()?;
        let veil = spec
            .plain_rom_until
            .map(|program| Veil::hang(scratch.path(), program))
            .transpose()?;
        let mut args: Vec<String> = lan.enter().map(str::to_owned).to_vec();
        args.extend(machine_args(spec, &socket));
        args.extend(spec.firmware.args(scratch.path())?);
        args.extend(
            spec.disks
                .iter()
                .enumerate()
                .flat_map(|(number, disk)| disk.args(number)),
        );
        for (number, tap) in (0u8..).zip(&taps) {
            let mac = lan::mac(card + number);
            let properties = if number == 0 {
                spec.firmware.card_properties()
            } else {
                ",romfile="
            };
            if number == 0 && veil.is_some() {
                args.extend(Veil::args(scratch.path(), "net0", tap));
            } else {
                args.extend([
                    "-netdev".to_owned(),
                    format!("tap,id=net{number},ifname={tap},script=no,downscript=no"),
                ]);
            }
            args.extend([
                "-device".to_owned(),
                format!(
                    "{},netdev=net{number},mac={mac}{properties}",
                    spec.card_model
                ),
            ]);
        }
        let errors = lan.logs().join(format!("{name}.qemu.log"));
        let mut child = proc::leashed("ip", &args)
            .stdout(if spec.serial {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stderr(std::fs::File::create(&errors)?)
            .spawn()
            .context("start QEMU")?;
        let powered_on = Instant::now();
        timeline.mark(
            name,
            format!("power on, {} MiB, {}", spec.memory_mib, how(spec)),
        );
        let serial = child.stdout.take();
        let serial = serial
            .map(|pipe| Transcript::of(name, pipe, &lan.logs().join(format!("{name}.serial.log"))))
            .transpose()?;
        let qmp = Qmp::connect(&socket, START_LIMIT).inspect_err(|_| {
            // It is useless now, and its exit is no news.
            let _ = child.kill().and_then(|()| child.wait());
        });
        let qmp = qmp.with_context(|| std::fs::read_to_string(&errors).unwrap_or_default())?;
        Ok(Self {
            name: name.to_owned(),
            card,
            taps,
            child,
            qmp: RefCell::new(qmp),
            serial,
            timeline: timeline.clone(),
            powered_on,
            _veil: veil,
            screenshot: lan.logs().join(format!("{name}.screen.png")),
            _scratch: scratch,
        })
    }

    /// The address the LAN's DHCP server keeps for this machine.
    #[must_use]
    pub fn address(&self) -> String {
        lan::address(self.card)
    }

    /// The taps its cards are connected to.
    #[must_use]
    pub fn taps(&self) -> &[String] {
        &self.taps
    }

    /// When it was switched on.
    #[must_use]
    pub fn powered_on(&self) -> Instant {
        self.powered_on
    }

    /// Its console.
    ///
    /// # Errors
    /// When it has none.
    pub fn serial(&self) -> Result<&Transcript> {
        self.serial
            .as_ref()
            .with_context(|| format!("{} has no console", self.name))
    }

    /// Waits for the next console line with `wanted`, marks it on the timeline and returns it. A refusal,
    /// a fatal error or a panic ends the wait at once, unless it is what is waited for.
    ///
    /// # Errors
    /// When the line does not come within `limit`; the text has the end of the console.
    pub fn wait_for(&self, wanted: &str, limit: Duration) -> Result<Line> {
        self.wait_for_unless(wanted, HOPELESS, limit)
    }

    /// Like [`Self::wait_for`], but what ends the wait is a line with one of `never`.
    ///
    /// # Errors
    /// As [`Self::wait_for`].
    pub fn wait_for_unless(&self, wanted: &str, never: &[&str], limit: Duration) -> Result<Line> {
        let found = self.serial()?.wait_for_unless(wanted, never, limit);
        let line = found.inspect_err(|_| self.look())?;
        self.mark(&line);
        Ok(line)
    }

    /// Waits until the machine says that it serves.
    ///
    /// # Errors
    /// As [`Self::wait_for`].
    pub fn wait_until_serving(&self, limit: Duration) -> Result<Serving> {
        self.serving_line(limit).map(|(_, serving)| serving)
    }

    /// The same with the line and its time.
    ///
    /// # Errors
    /// As [`Self::wait_for`].
    pub fn serving_line(&self, limit: Duration) -> Result<(Line, Serving)> {
        let line = self.wait_for("phase: serving ", limit)?;
        let serving =
            Serving::parse(&line.text).with_context(|| format!("{}: {}", self.name, line.text))?;
        Ok((line, serving))
    }

    /// Waits until the machine says that it refused what it was offered, by the check `code`, and that it
    /// gives up; then makes sure that nothing was mounted, served or booted.
    ///
    /// # Errors
    /// When it refused for another reason, went on, or did not refuse within `limit`.
    pub fn must_refuse(&self, code: &str, limit: Duration) -> Result<()> {
        self.wait_for(&format!("phase: refused: {code}:"), limit)?;
        // The refusal may be repeated in the kernel's log before.
        self.wait_for_unless("phase: fatal:", &[], limit)?;
        self.must_not_have_used_anything()
    }

    /// Makes sure that nothing was mounted, served or booted so far.
    ///
    /// # Errors
    /// What was.
    pub fn must_not_have_used_anything(&self) -> Result<()> {
        for done in ["phase: mounted", "phase: serving", "phase: kexec"] {
            ensure!(
                !self.said(done)?,
                "{} had nothing to trust, and yet: {done}",
                self.name
            );
        }
        Ok(())
    }

    /// Whether the console has said `text`.
    ///
    /// # Errors
    /// When the machine has no console.
    pub fn said(&self, text: &str) -> Result<bool> {
        Ok(self.serial()?.said(text))
    }

    /// Presses the power button and waits until the machine is off.
    ///
    /// # Errors
    /// When it is not off within `limit`, or ended in another way than by switching itself off.
    pub fn power_off(&self, limit: Duration) -> Result<()> {
        self.timeline.mark(&self.name, "power button");
        self.qmp.borrow_mut().power_button()?;
        match self.wait_for_end(limit)?.as_str() {
            "guest-shutdown" => Ok(()),
            other => bail!(
                "{} ended by {other} instead of switching itself off",
                self.name
            ),
        }
    }

    /// Waits until the machine has ended, and says why in QEMU's words (see [`Qmp::wait_for_end`]).
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub fn wait_for_end(&self, limit: Duration) -> Result<String> {
        let ended = self
            .qmp
            .borrow_mut()
            .wait_for_end(limit)
            .with_context(|| self.name.clone());
        let reason = ended.inspect_err(|_| self.look())?;
        self.timeline.mark(&self.name, format!("off ({reason})"));
        Ok(reason)
    }

    /// Pulls the plug.
    pub fn kill(mut self) {
        self.timeline.mark(&self.name, "plug pulled");
        self.pull_plug();
    }

    /// Pulls the cable out of a network card, or puts it back.
    ///
    /// # Errors
    /// When there is no such card.
    pub fn cable(&self, card: u8, plugged: bool) -> Result<()> {
        let what = if plugged { "into" } else { "out of" };
        self.timeline
            .mark(&self.name, format!("cable {what} card {card}"));
        let arguments = json!({ "name": format!("net{card}"), "up": plugged });
        self.qmp("set_link", arguments).map(|_| ())
    }

    /// Presses the reset button.
    ///
    /// # Errors
    /// When QEMU is gone.
    pub fn reset(&self) -> Result<()> {
        self.timeline.mark(&self.name, "reset button");
        self.qmp("system_reset", json!({})).map(|_| ())
    }

    /// How often it was reset so far, by itself (also by its watchdog) or by the button; a kexec is no reset.
    ///
    /// # Errors
    /// When QEMU is gone.
    pub fn resets(&self) -> Result<usize> {
        let mut qmp = self.qmp.borrow_mut();
        // What has happened meanwhile is told before the answer.
        qmp.run("query-status", json!({}))?;
        Ok(qmp.resets())
    }

    /// Runs a QMP command, for what only some test needs.
    ///
    /// # Errors
    /// What QEMU says against it.
    pub fn qmp(&self, command: &str, arguments: serde_json::Value) -> Result<serde_json::Value> {
        self.qmp.borrow_mut().run(command, arguments)
    }

    /// Makes sure that the machine does not end by itself for so long.
    ///
    /// # Errors
    /// Why it ended.
    pub fn must_live(&self, time: Duration) -> Result<()> {
        let ended = self.qmp.borrow_mut().wait_for_end(time);
        if let Ok(reason) = ended {
            bail!("{} ended by {reason}", self.name);
        }
        let seconds = time.as_secs();
        self.timeline
            .mark(&self.name, format!("still running {seconds} s later"));
        Ok(())
    }

    fn mark(&self, line: &Line) {
        let text: String = line.text.chars().take(MARK_CHARS_MAX).collect();
        self.timeline.mark_at(line.at, &self.name, text);
    }

    /// Notes where a wait failed, and keeps a picture of the screen beside the logs if there is one.
    fn look(&self) {
        let target = json!({ "filename": self.screenshot, "format": "png" });
        let picture = self.qmp.borrow_mut().run("screendump", target);
        let note = if picture.is_ok() {
            ", see its screen.png"
        } else {
            ""
        };
        self.timeline
            .mark(&self.name, format!("waited in vain{note}"));
    }

    fn pull_plug(&mut self) {
        // Already ended is as good; `wait` takes the exit status either way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.pull_plug();
    }
}

fn how(spec: &Spec) -> String {
    let disk = match (spec.firmware.boots_from_network(), spec.disks.first()) {
        (_, None) => ", no disk",
        (true, Some(_)) => ", a disk beside it",
        (false, Some(disk)) => match disk.bus {
            Bus::Usb => ", a USB stick",
            Bus::Virtio | Bus::Nvme | Bus::Sata => ", a disk",
        },
    };
    format!("{}{disk}", spec.firmware.name())
}

fn machine_args(spec: &Spec, socket: &Path) -> Vec<String> {
    let accelerator = std::env::var("PHASE_ACCEL").unwrap_or_else(|_| TRANSLATION.to_owned());
    let memory = spec.memory_mib.to_string();
    let qmp = format!("unix:{},server=on,wait=off", socket.display());
    let serial = if spec.serial { "stdio" } else { "none" };
    let board = spec.firmware.board();
    let mut args: Vec<String> = [
        board.program,
        "-machine",
        board.model,
        "-accel",
        &accelerator,
        "-cpu",
        board.processor,
        "-smp",
        "1",
        "-m",
        &memory,
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-serial",
        serial,
        "-qmp",
        &qmp,
        "-device",
        "virtio-rng-pci",
    ]
    .map(str::to_owned)
    .to_vec();
    if !spec.resets {
        args.push("-no-reboot".to_owned());
    }
    args.extend(spec.extra.iter().cloned());
    if let Some(clock) = spec.clock {
        args.extend(["-rtc".to_owned(), format!("base={clock}")]);
    }
    if spec.watchdog {
        args.extend(["-device", "i6300esb", "-action", "watchdog=reset"].map(str::to_owned));
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serving_line_is_read() {
        let line =
            "phase: serving http://10.0.0.5:8080/manifest.json manifest sha256:ab after 3.1 s";
        let serving = Serving {
            url: "http://10.0.0.5:8080".into(),
            manifest: "sha256:ab".into(),
        };
        assert_eq!(Serving::parse(line).unwrap(), serving);
        assert!(Serving::parse("phase: serving nothing").is_err());
    }
}
