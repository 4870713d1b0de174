//! `cargo appliance bench`: sizes, boot times, memory, and `plasmd serve` beside nginx, measured in one run of minutes.
//!
//! Times are of this machine at this moment; compare ratios, not seconds, with another machine's.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use crate::build;
use crate::packages::{self, Purpose};
use crate::paths::Paths;
use crate::progress::{Progress, size};
use crate::{accel, cli};

pub mod machines;
pub mod serving;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Sizes of the outputs in bytes.
    pub sizes: Vec<(&'static str, u64)>,
    /// How QEMU ran the processor.
    pub acceleration: accel::Acceleration,
    /// What the machines took.
    pub machines: machines::Figures,
    /// What the servers gave.
    pub serving: serving::Figures,
}

/// Runs the command.
///
/// # Errors
/// When something does not build, boot, serve or stop.
pub fn command(paths: &Paths, arguments: &cli::Bench, progress: &Progress) -> Result<ExitCode> {
    packages::ensure_installed(&[Purpose::Build, Purpose::Run, Purpose::Bench], progress)?;
    let images = build::build(paths, &arguments.options, progress)?;
    let acceleration = accel::choose(paths, arguments.accel, images.path("vmlinuz"), progress)?;
    let started = Instant::now();
    let machines = machines::measure(paths, &images, acceleration, progress)?;
    let serving = serving::measure(paths, images.path("plasmd"), progress)?;
    progress.end("bench", "complete", started.elapsed());
    let sizes = images
        .outputs
        .iter()
        .map(|output| (output.name, output.size))
        .collect();
    let report = Report {
        sizes,
        acceleration,
        machines,
        serving,
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.table());
    }
    Ok(ExitCode::SUCCESS)
}

impl Report {
    /// The figures as a table for people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let mut row = |name: &str, value: String| text.push_str(&format!("{name:<34} {value}\n"));
        for (name, bytes) in &self.sizes {
            row(name, format!("{:>10}", size(*bytes)));
        }
        let seconds = |value: f64| format!("{value:>8.2} s");
        let machines = &self.machines;
        let how = self.acceleration.as_str();
        row("", String::new());
        row(
            &format!("kernel start -> serving ({how})"),
            seconds(machines.kernel_to_serving_s),
        );
        row(
            "power on -> serving, UEFI disk",
            seconds(machines.power_on_to_serving_s),
        );
        row("  of which firmware", seconds(machines.firmware_s));
        row("kexec -> serving", seconds(machines.kexec_to_serving_s));
        row(
            "power on -> serving, from another",
            seconds(machines.relay_to_serving_s),
        );
        row("power button -> off", seconds(machines.power_off_s));
        row("", String::new());
        for (name, kib) in &machines.resident_kib {
            row(
                &format!("resident memory of {name}"),
                format!("{:>10}", size(kib * 1024)),
            );
        }
        let used = machines
            .memory_total_kib
            .saturating_sub(machines.memory_available_kib);
        row(
            "memory in use",
            format!(
                "{:>10} of {}",
                size(used * 1024),
                size(machines.memory_total_kib * 1024)
            ),
        );
        text.push('\n');
        text.push_str(&self.serving.table());
        text
    }
}

/// The middle value.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
