//! `cargo appliance upgrade-demo`: one appliance replaces itself while a client keeps downloading from it.
//!
//! Two versions of the image are made, the second one in seconds out of the first. The appliance boots the first from a disk
//! of its own; then the second is published on this host. What the appliance says on its console is shown, and at the end
//! how long nobody was served.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::packages::{self, Purpose};
use crate::paths::{self, Paths};
use crate::progress::{Progress, size};
use crate::qemu::Line;
use crate::run::POWER_OFF_LIMIT;
use crate::{accel, build, cli};

pub mod client;
pub mod stand;

use client::Client;
use stand::{COMMITTED, SERVING_LIMIT, Stand, UPGRADE_LIMIT};

/// The client is to have had something of the old version before the new one appears, and of the new one at the end.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(30);

/// What is aimed at: from the last byte of the old version to the first of the new one. Shown and never judged, because an
/// emulated processor on a busy host takes as long as it takes.
pub const GAP_GOAL: Duration = Duration::from_secs(3);

/// Runs the command.
///
/// # Errors
/// When something does not build or boot, the upgrade fails, or the client got wrong bytes.
pub fn command(
    paths: &Paths,
    arguments: &cli::UpgradeDemo,
    progress: &Progress,
) -> Result<ExitCode> {
    packages::ensure_installed(&[Purpose::Build, Purpose::Run], progress)?;
    let images = build::build(paths, &arguments.options, progress)?;
    let acceleration = accel::choose(paths, arguments.accel, images.path("vmlinuz"), progress)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let mut stand = Stand::set_up(paths, acceleration)?;
    let [old, new] = stand.versions.clone();
    let started = stand.machine.started();
    let show = |line: &Line| {
        if line.text.starts_with("phase:") {
            let at = line.at.saturating_duration_since(started).as_secs_f64();
            eprintln!("  {at:>6.1} s | {}", line.text);
        }
    };
    progress.announce("appliance", &format!("boots version {old}"));
    stand.wait_for("phase: serving ", SERVING_LIMIT, show)?;
    let mut client = stand.client();
    until(&mut client, &stop, |seen| seen.bytes[0] > 0)?;
    stand.publish()?;
    progress.announce("published", &format!("version {new}"));
    let published = Instant::now();
    let committed = stand.wait_for(COMMITTED, UPGRADE_LIMIT, |line| show(line))?;
    until(&mut client, &stop, |seen| seen.bytes[1] > 0)?;
    let seen = client.seen()?.clone();
    drop(client);
    let Some(gap) = seen.gap() else {
        bail!("the old version answered again after the new one had");
    };
    let took = committed.at.saturating_duration_since(published);
    println!(
        "\nVersion {new} committed itself {:.1} s after it was published.",
        took.as_secs_f64()
    );
    println!(
        "  downloaded    {} of version {old}, {} of version {new}, every byte as signed",
        size(seen.bytes[0]),
        size(seen.bytes[1])
    );
    println!(
        "  lost          {} requests while nobody answered",
        seen.lost
    );
    println!(
        "  gap           {:.2} s from the last byte of the old to the first of the new (goal: {:.0} s)",
        gap.as_secs_f64(),
        GAP_GOAL.as_secs_f64()
    );
    println!(
        "  console       {}",
        paths::shown(&stand.machine.serial_log())
    );
    stand.machine.power_off(POWER_OFF_LIMIT, &stop)?;
    Ok(ExitCode::SUCCESS)
}

/// Waits until the client has seen enough.
pub fn until(
    client: &mut Client,
    stop: &AtomicBool,
    enough: impl Fn(&client::Seen) -> bool,
) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(20);
    let deadline = Instant::now() + DOWNLOAD_LIMIT;
    while !enough(client.seen()?) {
        if stop.load(Ordering::Relaxed) {
            bail!("stopped");
        }
        if Instant::now() > deadline {
            bail!("the client got nothing for {} s", DOWNLOAD_LIMIT.as_secs());
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
