//! Boots two appliances, the second one from the first, and reads their times and memory off their consoles.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Bench;
use super::figure::{Figure, Samples, Unit};
use crate::accel::{self, Acceleration};
use crate::build::Images;
use crate::paths::Paths;
use crate::progress::Progress;
use crate::qemu::{Boot, Line, Machine, Network, Recipe};
use crate::run::POWER_OFF_LIMIT;
use crate::{cli, facts};

/// Memory of the machines in MiB: what an appliance must get along with.
pub(super) const MEMORY_MIB: u32 = 256;

/// One machine may take this long to serve.
pub(super) const SERVING_LIMIT: Duration = Duration::from_secs(90);

/// The appliance tells its memory some seconds after it serves.
const MEMORY_LIMIT: Duration = Duration::from_secs(15);

/// What init prints when the manifest can be fetched.
pub(super) const SERVING: &str = "phase: serving ";

/// What the machines took.
#[derive(Debug)]
struct Figures {
    /// From the kernel's start to serving, by the machine's own clock. Under emulation on a busy machine that clock may be
    /// wrong; the other figures are by this machine's clock.
    kernel_to_serving_s: f64,
    /// From the start of QEMU to serving, with the kernel put into memory by QEMU.
    direct_to_serving_s: f64,
    /// From the start of QEMU to serving, through UEFI firmware and the disk image.
    power_on_to_serving_s: f64,
    /// The part of it before the firmware started our EFI program.
    firmware_s: f64,
    /// From the jump into the fetched kernel to serving.
    kexec_to_serving_s: f64,
    /// From the start of QEMU to serving, with everything fetched from another appliance.
    relay_to_serving_s: f64,
    /// From the power button to QEMU's end.
    power_off_s: f64,
    /// The appliance's own account of its memory.
    memory: Memory,
}

impl Figures {
    fn rows(&self, how: Acceleration) -> Vec<Figure> {
        let mut rows: Vec<Figure> = [
            (
                "kernel start to serving, by its own clock",
                self.kernel_to_serving_s,
            ),
            ("kernel in memory to serving", self.direct_to_serving_s),
            (
                "power on to serving, UEFI and disk",
                self.power_on_to_serving_s,
            ),
            ("  of which firmware", self.firmware_s),
            ("kexec to serving", self.kexec_to_serving_s),
            (
                "power on to serving, all from another",
                self.relay_to_serving_s,
            ),
            ("power button to off", self.power_off_s),
        ]
        .map(|(name, value)| alone(&format!("{name} ({})", how.as_str()), Unit::Seconds, value))
        .into();
        let memory = &self.memory;
        rows.extend(memory.resident_kib.iter().map(|(name, kib)| {
            alone(
                &format!("resident memory of {name}"),
                Unit::Bytes,
                (kib * 1024) as f64,
            )
        }));
        let used = memory.total_kib.saturating_sub(memory.available_kib);
        rows.push(alone(
            "memory of the machine in use",
            Unit::Bytes,
            (used * 1024) as f64,
        ));
        rows
    }
}

/// A row without rivals and rounds.
pub(super) fn alone(name: &str, unit: Unit, value: f64) -> Figure {
    Figure {
        name: name.to_owned(),
        unit,
        ours: Samples {
            name: "appliance".into(),
            values: vec![value],
        },
        rivals: Vec::new(),
        goal: None,
    }
}

/// Sizes of the outputs, and what booting them takes.
///
/// # Errors
/// When a machine does not get as far as it should.
pub fn measure(
    bench: &Bench,
    images: Option<&Images>,
    accel: cli::Accel,
    notes: &mut Vec<String>,
) -> Result<Vec<Figure>> {
    let images = images.context("the images were not built")?;
    let acceleration = accel::choose(bench.paths, accel, images.path("vmlinuz"), bench.progress)?;
    let sizes = images.outputs.iter().map(|output| {
        alone(
            &format!("size of {}", output.name),
            Unit::Bytes,
            output.size as f64,
        )
    });
    let mut rows: Vec<Figure> = sizes.collect();
    let figures = boot(bench.paths, images, acceleration, bench.progress)?;
    rows.extend(figures.rows(acceleration));
    notes.push("machines are booted once, whatever the rounds".into());
    Ok(rows)
}

/// Boots and measures.
fn boot(
    paths: &Paths,
    images: &Images,
    acceleration: Acceleration,
    progress: &Progress,
) -> Result<Figures> {
    let (first_port, second_port) = (free_port()?, free_port()?);
    let recipe = |name: &str, port, boot| Recipe {
        boot,
        memory_mib: MEMORY_MIB,
        acceleration,
        network: Network::Alone(Some(port)),
        upgrades: false,
        folder: folder(paths, name),
    };
    let file = |name: &str| images.path(name).to_owned();
    let started = Instant::now();
    progress.begin("direct boot");
    let direct = Boot::Kernel {
        kernel: file("vmlinuz"),
        initramfs: Some(file("initramfs.img")),
        cmdline: facts::CMDLINE.into(),
        disk: Some(file("phase.img")),
    };
    let mut machine = Machine::start(&recipe("direct", second_port, direct))?;
    let served = wait_for(&mut machine, SERVING, SERVING_LIMIT)?;
    let direct_to_serving_s = (served.at - machine.started()).as_secs_f64();
    let kernel_to_serving_s =
        uptime(&served.text).context("the machine does not say how long it took")?;
    drop(machine);
    progress.end("direct boot", "done", started.elapsed());

    let started = Instant::now();
    progress.begin("disk boot");
    let disk = Boot::Disk(file("phase.img"));
    let mut first = Machine::start(&recipe("first", first_port, disk))?;
    let handed_over = wait_for(&mut first, "BdsDxe: starting ", SERVING_LIMIT)?;
    let firmware_s = (handed_over.at - first.started()).as_secs_f64();
    let served = wait_for(&mut first, SERVING, SERVING_LIMIT)?;
    let power_on_to_serving_s = (served.at - first.started()).as_secs_f64();
    let memory = wait_for(&mut first, "phase: memory ", MEMORY_LIMIT)?;
    let memory = Memory::parse(&memory.text).with_context(|| {
        format!(
            "the machine tells its memory in other words: {}",
            memory.text
        )
    })?;
    progress.end("disk boot", "done", started.elapsed());

    let started = Instant::now();
    progress.begin("relay boot");
    let relay = Boot::Kernel {
        kernel: file("vmlinuz"),
        initramfs: Some(file("initramfs.img")),
        // QEMU's user network shows this host, and with it the first machine's port, as 10.0.2.2.
        cmdline: format!(
            "console=ttyS0,115200 panic=10 quiet no_timer_check phase.provider=http://10.0.2.2:{first_port}"
        ),
        disk: None,
    };
    let mut second = Machine::start(&recipe("second", second_port, relay))?;
    let jumped = wait_for(&mut second, "phase: kexec into ", SERVING_LIMIT)?;
    let relayed = wait_for(&mut second, SERVING, SERVING_LIMIT)?;
    progress.end("relay boot", "done", started.elapsed());

    let pressed = Instant::now();
    let hurry = AtomicBool::new(false);
    for machine in [&mut first, &mut second] {
        if !machine.power_off(POWER_OFF_LIMIT, &hurry)? {
            bail!(
                "a machine did not switch itself off in {} s",
                POWER_OFF_LIMIT.as_secs()
            );
        }
    }
    Ok(Figures {
        kernel_to_serving_s,
        direct_to_serving_s,
        power_on_to_serving_s,
        firmware_s,
        kexec_to_serving_s: (relayed.at - jumped.at).as_secs_f64(),
        relay_to_serving_s: (relayed.at - second.started()).as_secs_f64(),
        power_off_s: pressed.elapsed().as_secs_f64() / 2.0,
        memory,
    })
}

pub(super) fn folder(paths: &Paths, name: &str) -> PathBuf {
    paths.logs().join("bench").join(name)
}

/// A port nobody listens on at this moment.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// Waits for a line of the console that starts with `start`.
pub(super) fn wait_for(machine: &mut Machine, start: &str, limit: Duration) -> Result<Line> {
    let deadline = Instant::now() + limit;
    let log = machine.serial_log();
    loop {
        if let Some(line) = machine.line(Duration::from_millis(100))
            && line.text.starts_with(start)
        {
            return Ok(line);
        }
        if machine.ended()?.is_some() {
            bail!(
                "a machine ended before it said {start:?}; its serial log is {}\n{}",
                log.display(),
                machine.complaint()
            );
        }
        if Instant::now() > deadline {
            let seconds = limit.as_secs();
            bail!(
                "a machine did not say {start:?} in {seconds} s; its serial log is {}",
                log.display()
            );
        }
    }
}

/// The seconds in `... after 2.84 s`.
fn uptime(line: &str) -> Option<f64> {
    line.rsplit_once(" after ")?
        .1
        .strip_suffix(" s")?
        .parse()
        .ok()
}

/// The appliance's own account of its memory.
#[derive(Debug, PartialEq)]
struct Memory {
    resident_kib: Vec<(String, u64)>,
    available_kib: u64,
    total_kib: u64,
}

impl Memory {
    /// Reads `phase: memory init 900 KiB net 3000 KiB serve 4000 KiB available 150000 of 220000 KiB`.
    fn parse(line: &str) -> Option<Self> {
        let (_, account) = line.split_once("memory ")?;
        let (programs, machine) = account.split_once(" available ")?;
        let (available, total) = machine.strip_suffix(" KiB")?.split_once(" of ")?;
        let words: Vec<&str> = programs.split(' ').collect();
        let resident = words.chunks(3).map(|words| match words {
            [name, number, "KiB"] => Some(((*name).to_owned(), number.parse().ok()?)),
            _ => None,
        });
        Some(Self {
            resident_kib: resident.collect::<Option<_>>()?,
            available_kib: available.parse().ok()?,
            total_kib: total.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_appliances_lines_are_understood() {
        assert_eq!(
            uptime("phase: serving http://10.0.2.15:8080/manifest.json after 2.84 s"),
            Some(2.84)
        );
        assert_eq!(uptime("phase: serving"), None);
        let memory =
            Memory::parse("phase: memory init 900 KiB net 3000 KiB available 15 of 22 KiB");
        let resident_kib = vec![("init".to_owned(), 900), ("net".to_owned(), 3000)];
        assert_eq!(
            memory,
            Some(Memory {
                resident_kib,
                available_kib: 15,
                total_kib: 22
            })
        );
        assert_eq!(
            Memory::parse("phase: memory init KiB available 15 of 22 KiB"),
            None
        );
        assert_eq!(Memory::parse("phase: memory"), None);
    }
}
