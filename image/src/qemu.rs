//! One QEMU machine: its command line, its serial console as lines, its power button.
//!
//! A machine never outlives its [`Machine`]: dropping it kills QEMU, and so does the kernel when the thread that started it
//! ends in any other way. The disk image is attached read-only, except to a machine that upgrades itself.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::accel::Acceleration;

/// The emulator.
pub const QEMU: &str = "qemu-system-x86_64";

const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// What the machine starts from.
#[derive(Debug, Clone)]
pub enum Boot {
    /// UEFI firmware finds the EFI program on a disk image.
    Disk(PathBuf),
    /// QEMU puts kernel and initramfs into memory itself; the disk may hold the artifacts.
    Kernel {
        /// bzImage.
        kernel: PathBuf,
        /// initramfs, when there is one.
        initramfs: Option<PathBuf>,
        /// Command line.
        cmdline: String,
        /// A disk image beside them.
        disk: Option<PathBuf>,
    },
}

/// What a machine's network card is connected to.
#[derive(Debug, Clone)]
pub enum Network {
    /// QEMU's own network, where the machine is alone. A port on 127.0.0.1 may lead to the machine's port 8080.
    Alone(Option<u16>),
    /// A switch, where others are.
    Switch {
        /// The network namespace of the port.
        space: String,
        /// The port: a tap device.
        port: &'static str,
        /// The machine's address on it, unlike all others'.
        mac: String,
    },
}

/// A machine to start.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// What it starts from.
    pub boot: Boot,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// How the processor is run.
    pub acceleration: Acceleration,
    /// How it is connected.
    pub network: Network,
    /// It may replace itself: it keeps what it writes to its disk, a watchdog resets it when it hangs, and a restart is a
    /// restart. Other machines end where they would restart.
    pub upgrades: bool,
    /// Folder for its serial log, its UEFI variables and its control socket.
    pub folder: PathBuf,
}

/// A line of the serial console with the moment it was complete.
#[derive(Debug, Clone)]
pub struct Line {
    /// When it came.
    pub at: Instant,
    /// The text without control sequences.
    pub text: String,
}

/// A running machine.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    lines: Receiver<Line>,
    folder: PathBuf,
    started: Instant,
}

impl Machine {
    /// Starts a machine.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub fn start(recipe: &Recipe) -> Result<Self> {
        std::fs::create_dir_all(&recipe.folder)
            .with_context(|| format!("create {}", recipe.folder.display()))?;
        // Killed with this tool, however it ends: a second Ctrl-C, a closed terminal, a crash.
        let setpriv = Command::new("setpriv");
        let mut command = match &recipe.network {
            Network::Alone(_) => setpriv,
            Network::Switch { space, .. } => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", space]);
                command.arg(setpriv.get_program());
                command
            }
        };
        command.args(["--pdeathsig", "KILL", QEMU]);
        command.args(arguments(recipe)?);
        let errors = File::create(recipe.folder.join("qemu.log"))?;
        let started = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            // Its own group: Ctrl-C is for this tool, which presses the power button first.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run {QEMU}"))?;
        let serial = child.stdout.take().context("QEMU has a standard output")?;
        let log = File::create(recipe.folder.join("serial.log"))?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || follow(serial, log, &sender));
        Ok(Self {
            child,
            lines,
            folder: recipe.folder.clone(),
            started,
        })
    }

    /// When QEMU was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The next line of the console, if one comes within `limit`.
    pub fn line(&self, limit: Duration) -> Option<Line> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                // The console is closed: QEMU is ending, and the caller polls for that.
                std::thread::sleep(limit.min(Duration::from_millis(50)));
                None
            }
        }
    }

    /// Whether it has ended, and how.
    ///
    /// # Errors
    /// When the process cannot be asked.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits up to `limit` for the machine to end by itself.
    ///
    /// # Errors
    /// When the process cannot be asked.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            self.line(Duration::from_millis(50));
        }
    }

    /// Presses the power button and waits for the machine to switch itself off; after `limit`, or when `hurry` is
    /// set, it is killed. Returns whether it went by itself.
    ///
    /// # Errors
    /// When the process cannot be asked.
    pub fn power_off(&mut self, limit: Duration, hurry: &AtomicBool) -> Result<bool> {
        if self.ended()?.is_some() {
            return Ok(true);
        }
        let deadline = Instant::now() + limit;
        if self.control("system_powerdown").is_ok() {
            while Instant::now() < deadline && !hurry.load(Ordering::Relaxed) {
                if self.wait(Duration::from_millis(100))?.is_some() {
                    return Ok(true);
                }
            }
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(false)
    }

    /// Sends one command over the control socket and waits for its answer.
    fn control(&self, command: &str) -> Result<()> {
        let mut stream = UnixStream::connect(self.folder.join("qmp"))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut answers = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        answers.read_line(&mut line)?;
        for command in ["qmp_capabilities", command] {
            writeln!(stream, "{{\"execute\":\"{command}\"}}")?;
            loop {
                line.clear();
                if answers.read_line(&mut line)? == 0 {
                    bail!("QEMU closed its control socket");
                }
                if line.contains("\"return\"") {
                    break;
                }
                if line.contains("\"error\"") {
                    bail!("QEMU refused {command}: {}", line.trim());
                }
            }
        }
        Ok(())
    }

    /// What QEMU itself had to say, for error messages.
    pub fn complaint(&self) -> String {
        std::fs::read_to_string(self.folder.join("qemu.log"))
            .unwrap_or_default()
            .trim()
            .to_owned()
    }

    /// The serial log's path.
    pub fn serial_log(&self) -> PathBuf {
        self.folder.join("serial.log")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn arguments(recipe: &Recipe) -> Result<Vec<String>> {
    let mut arguments: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
    let folder = &recipe.folder;
    let processor = match recipe.acceleration {
        Acceleration::Kvm => "host",
        Acceleration::Tcg => "max",
    };
    add(&[
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-vga",
        "none",
    ]);
    if recipe.upgrades {
        add(&["-device", "i6300esb", "-action", "watchdog=reset"]);
    } else {
        add(&["-no-reboot"]);
    }
    add(&[
        "-machine",
        "q35",
        "-accel",
        recipe.acceleration.option(),
        "-cpu",
        processor,
        "-smp",
        "2",
        "-m",
        &format!("{}M", recipe.memory_mib),
    ]);
    add(&[
        "-chardev",
        "stdio,id=console,signal=off",
        "-serial",
        "chardev:console",
    ]);
    add(&[
        "-qmp",
        &format!("unix:{},server=on,wait=off", option(&folder.join("qmp"))?),
    ]);
    add(&["-device", "virtio-rng-pci"]);
    let disk = match &recipe.boot {
        Boot::Disk(image) => {
            let variables = folder.join("uefi-variables.fd");
            std::fs::copy(OVMF_VARS, &variables).with_context(|| format!("copy {OVMF_VARS}"))?;
            let code = format!("if=pflash,unit=0,format=raw,readonly=on,file={OVMF_CODE}");
            let variables = format!("if=pflash,unit=1,format=raw,file={}", option(&variables)?);
            add(&["-drive", &code, "-drive", &variables]);
            Some(image)
        }
        Boot::Kernel {
            kernel,
            initramfs,
            cmdline,
            disk,
        } => {
            add(&["-kernel", &kernel.to_string_lossy(), "-append", cmdline]);
            if let Some(initramfs) = initramfs {
                add(&["-initrd", &initramfs.to_string_lossy()]);
            }
            disk.as_ref()
        }
    };
    if let Some(image) = disk {
        add(&[
            "-drive",
            &format!(
                "if=none,id=disk,format=raw,{}file={}",
                if recipe.upgrades { "" } else { "readonly=on," },
                option(image)?
            ),
        ]);
        // Behind a kernel given by `-kernel`, which QEMU puts first.
        add(&["-device", "virtio-blk-pci,drive=disk,bootindex=1"]);
    }
    match &recipe.network {
        Network::Alone(port) => {
            let forward = port.map(|port| format!(",hostfwd=tcp:127.0.0.1:{port}-:8080"));
            add(&[
                "-netdev",
                &format!("user,id=net{}", forward.unwrap_or_default()),
                "-device",
                "virtio-net-pci,netdev=net,romfile=",
            ]);
        }
        Network::Switch { port, mac, .. } => add(&[
            "-netdev",
            &format!("tap,id=net,ifname={port},script=no,downscript=no"),
            "-device",
            &format!("virtio-net-pci,netdev=net,romfile=,mac={mac}"),
        ]),
    }
    Ok(arguments)
}

/// A path inside a list of QEMU options, where a comma is written twice.
fn option(path: &Path) -> Result<String> {
    let text = path
        .to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))?;
    Ok(text.replace(',', ",,"))
}

/// Copies the console to the log and sends its lines on. Ends when QEMU closes the console.
fn follow(serial: impl Read, mut log: File, lines: &mpsc::Sender<Line>) {
    /// A console that never ends its line must not fill our memory.
    const LINE_BYTES_MAX: usize = 4096;
    let mut serial = BufReader::new(serial);
    let mut line = Vec::new();
    loop {
        let (used, complete) = match serial.fill_buf() {
            Ok([]) | Err(_) => break,
            Ok(bytes) => {
                let end = bytes.iter().position(|byte| *byte == b'\n');
                let used = end.map_or(bytes.len(), |end| end + 1);
                // A full disk must not stop the machine: the log is for reading later.
                let _ = log.write_all(&bytes[..used]);
                line.extend_from_slice(&bytes[..used]);
                (used, end.is_some() || line.len() > LINE_BYTES_MAX)
            }
        };
        serial.consume(used);
        if complete {
            let text = plain(&String::from_utf8_lossy(&line));
            line.clear();
            if lines
                .send(Line {
                    at: Instant::now(),
                    text,
                })
                .is_err()
            {
                // Nobody reads lines any more; the log is still worth having.
                let _ = std::io::copy(&mut serial, &mut log);
                return;
            }
        }
    }
}

/// Removes escape sequences and other control characters.
pub fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            if characters.next_if_eq(&'[').is_some() {
                while characters
                    .next()
                    .is_some_and(|next| !('@'..='~').contains(&next))
                {}
            } else {
                characters.next();
            }
        } else if !character.is_control() {
            plain.push(character);
        }
    }
    plain.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_line_is_shown_without_its_control_sequences() {
        let check = |text: &str, expected: &str| assert_eq!(plain(text), expected);
        check("plain\r\n", "plain");
        check(
            "\u{1b}[2J\u{1b}[01;01H\u{1b}[=3hBdsDxe: loading",
            "BdsDxe: loading",
        );
        check("\u{1b}[1;32mgreen\u{1b}[0m  ", "green");
        check("cut \u{1b}[", "cut");
        check("cut \u{1b}", "cut");
        check("\u{1b}creset", "reset");
        check("bell\u{7}", "bell");
    }

    #[test]
    fn a_disk_beside_a_kernel_leaves_it_the_first_place() {
        let boot = Boot::Kernel {
            kernel: "vmlinuz".into(),
            initramfs: Some("initramfs.img".into()),
            cmdline: "quiet".into(),
            disk: Some("phase.img".into()),
        };
        let arguments = arguments(&Recipe {
            boot,
            memory_mib: 256,
            acceleration: Acceleration::Tcg,
            network: Network::Alone(None),
            upgrades: false,
            folder: "run".into(),
        });
        let arguments = arguments.unwrap().join(" ");
        // QEMU gives the kernel index 0 and refuses a second one.
        assert!(arguments.contains("-kernel vmlinuz"), "{arguments}");
        assert!(arguments.contains("drive=disk,bootindex=1"), "{arguments}");
        assert!(!arguments.contains("bootindex=0"), "{arguments}");
    }

    #[test]
    fn a_machine_on_a_switch_has_its_port_and_its_address() {
        let arguments = arguments(&Recipe {
            boot: Boot::Kernel {
                kernel: "vmlinuz".into(),
                initramfs: None,
                cmdline: "quiet".into(),
                disk: None,
            },
            memory_mib: 256,
            acceleration: Acceleration::Tcg,
            network: Network::Switch {
                space: "space".into(),
                port: "port",
                mac: "52:54:00:00:00:01".into(),
            },
            upgrades: false,
            folder: "run".into(),
        });
        let arguments = arguments.unwrap().join(" ");
        let expected = "-netdev tap,id=net,ifname=port,script=no,downscript=no -device \
            virtio-net-pci,netdev=net,romfile=,mac=52:54:00:00:00:01";
        assert!(arguments.ends_with(expected), "{arguments}");
    }

    #[test]
    fn a_console_that_never_ends_its_line_is_cut() {
        let log = tempfile::tempfile().unwrap();
        let (sender, lines) = mpsc::channel();
        follow(&[b'x'; 20_000][..], log, &sender);
        drop(sender);
        assert!(lines.iter().all(|line| line.text.len() <= 16 * 1024));
    }

    #[test]
    fn commas_in_paths_do_not_become_options() {
        assert_eq!(option(Path::new("/a,b/c")).unwrap(), "/a,,b/c");
    }
}
