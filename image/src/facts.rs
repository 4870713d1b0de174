//! The facts of the image: names, versions, command line, and the moment its source was last changed.

use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use boot_manifest::{Arch, Timestamp};

/// Name of the product, as machines and people see it.
pub const NAME: &str = "phase";

/// Version of the image.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Channel the image is published in.
pub const CHANNEL: &str = "stable";

/// The machines it runs on.
pub const ARCH: Arch = Arch::X86_64;

/// Raised only when older images must no longer be accepted by newer ones.
pub const SECURITY_VERSION: u64 = 1;

/// Days a manifest is valid.
pub const VALIDITY_DAYS: u32 = 30;

/// A manifest with fewer days left is signed anew by the next build.
pub const RENEWAL_DAYS: u32 = 7;

/// Kernel command line. Both consoles; whatever dies restarts the machine after 10 s instead of hanging, and the watchdog
/// goes on during kexec, so that a successor that hangs is reset. Where its driver finds it running, the kernel feeds it for
/// two minutes until PID 1 does, and not for ever; the i6300esb's driver would stop it instead, so that one is locked.
/// The kernel's check of the timer counts its ticks against the processor's clock, and ends with a panic in an emulated
/// machine whose host is busy: no machine of this century needs it.
pub const CMDLINE: &str = "console=tty0 console=ttyS0,115200 panic=10 oops=panic quiet loglevel=4 no_timer_check \
                           watchdog.stop_on_reboot=0 watchdog.open_timeout=120 i6300esb.nowayout=1";

/// What `image.json` carries when neither SOURCE_DATE_EPOCH nor git knows better: 2026-11-01.
const SOURCE_DATE: i64 = 1_793_491_200;

/// The parts of the tree that end up in an image.
const SOURCES: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "init",
    "provider",
    "image",
    "kernel-config",
];

/// os-release of the image, which boot menus show.
pub fn os_release() -> String {
    format!("NAME=\"Phase\"\nID={NAME}\nVERSION_ID={VERSION}\nPRETTY_NAME=\"Phase {VERSION}\"\n")
}

/// `image.json`: what a running appliance knows of its own image.
pub fn image_info(built_at: Timestamp) -> Vec<u8> {
    let info = serde_json::json!({
        "name": NAME,
        "version": VERSION,
        "built_at": built_at.unix(),
        "floor": { "security_version": SECURITY_VERSION, "sequence": 0 },
    });
    format!("{info}\n").into_bytes()
}

/// The time to sign at: SOURCE_DATE_EPOCH, or now.
///
/// # Errors
/// When SOURCE_DATE_EPOCH is no number.
pub fn signing_time() -> Result<Timestamp> {
    if let Some(epoch) = source_date_epoch()? {
        return Ok(epoch);
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Ok(Timestamp::from_unix(
        i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
    ))
}

/// SOURCE_DATE_EPOCH, when it is set.
///
/// # Errors
/// When it is no number.
pub fn source_date_epoch() -> Result<Option<Timestamp>> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") else {
        return Ok(None);
    };
    let seconds = text.to_str().and_then(|text| text.trim().parse().ok());
    let seconds = seconds
        .with_context(|| format!("SOURCE_DATE_EPOCH is {text:?}, not a number of seconds"))?;
    Ok(Some(Timestamp::from_unix(seconds)))
}

/// When the source of the image last changed. It is the same for everybody who builds the same source, and the appliance
/// takes it for the earliest time its clock can be right about.
///
/// # Errors
/// When SOURCE_DATE_EPOCH is no number.
pub fn built_at(root: &Path) -> Result<Timestamp> {
    if let Some(epoch) = source_date_epoch()? {
        return Ok(epoch);
    }
    let output = Command::new("git")
        .args(["log", "-1", "--format=%ct", "--"])
        .args(SOURCES)
        .current_dir(root)
        .output();
    let committed = output.ok().filter(|output| output.status.success());
    let committed = committed.and_then(|output| String::from_utf8(output.stdout).ok());
    let seconds = committed
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(SOURCE_DATE);
    Ok(Timestamp::from_unix(seconds))
}
