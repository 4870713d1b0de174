//! The clock: nothing here knows the right time, but a clock can contradict files, manifests, the hardware and the kernel.

use boot_manifest::Timestamp;

use crate::doctor::finding::{Finding, Machine};
use crate::doctor::limits::{FUTURE_SECONDS_MAX, RTC_DIFFERENCE_MAX};
use crate::doctor::sys;

const ADVICE: &str = "set it: timedatectl set-ntp true, or date -s and hwclock --systohc; manifests are refused as expired or not yet valid by a clock that is wrong";

/// What the clock is compared with.
pub(super) struct Witnesses {
    /// The newest artifact.
    pub(super) file: Option<Timestamp>,
    /// The newest manifest.
    pub(super) manifest: Option<Timestamp>,
    /// Whether the kernel is told the time by somebody; none when it does not say.
    pub(super) is_synchronised: Option<bool>,
}

/// Compares.
pub(super) fn check(machine: &Machine, now: Timestamp, witnesses: &Witnesses) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (what, time) in [
        ("a manifest was created", witnesses.manifest),
        ("an artifact was written", witnesses.file),
    ] {
        if let Some(time) = time.filter(|time| *time > now.plus_seconds(FUTURE_SECONDS_MAX)) {
            let message = format!("the clock says {now}, but {what} at {time}");
            findings.push(Finding::bad("clock", message, ADVICE));
        }
    }
    let hardware = machine.number("sys/class/rtc/rtc0/since_epoch");
    if let (Some(hardware), Ok(now_seconds)) = (hardware, u64::try_from(now.unix()))
        && hardware.abs_diff(now_seconds) > RTC_DIFFERENCE_MAX
    {
        let difference = hardware.abs_diff(now_seconds);
        findings.push(Finding::warn(
            "clock",
            format!("the clock and the hardware clock differ by {difference} s"),
            "after the next start this machine has the hardware's time: hwclock --systohc",
        ));
    }
    if witnesses.is_synchronised == Some(false) {
        findings.push(Finding::warn(
            "clock",
            format!("{now}, not synchronised: no time service corrects it"),
            "timedatectl set-ntp true",
        ));
    }
    if findings.is_empty() {
        let synchronised = match witnesses.is_synchronised {
            Some(true) => ", synchronised",
            _ => "",
        };
        findings.push(Finding::ok("clock", format!("{now}{synchronised}")));
    }
    findings
}

/// Whether a time service keeps the kernel's clock.
pub(super) fn is_synchronised() -> Option<bool> {
    sys::clock_is_synchronised()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    const NOW: Timestamp = Timestamp::from_unix(1_800_000_000);

    #[test]
    fn a_clock_is_contradicted_by_whatever_is_younger() {
        let check = |file, manifest, rtc: &str, is_synchronised| {
            let (_dir, machine) = Machine::of(&[("sys/class/rtc/rtc0/since_epoch", rtc)]);
            let witnesses = Witnesses {
                file,
                manifest,
                is_synchronised,
            };
            let findings = super::check(&machine, NOW, &witnesses);
            findings.iter().map(|one| one.level).max().unwrap()
        };
        let later = Some(NOW.plus_days(2));
        let earlier = Some(NOW.plus_seconds(-400 * 86_400));
        assert_eq!(
            check(earlier, earlier, "1800000010\n", Some(true)),
            Level::Ok
        );
        assert_eq!(check(None, None, "", None), Level::Ok);
        assert_eq!(
            check(later, earlier, "1800000010\n", Some(true)),
            Level::Bad
        );
        assert_eq!(
            check(earlier, later, "1800000010\n", Some(true)),
            Level::Bad
        );
        assert_eq!(
            check(earlier, earlier, "1700000000\n", Some(true)),
            Level::Warn
        );
        assert_eq!(
            check(earlier, earlier, "1800000010\n", Some(false)),
            Level::Warn
        );
    }
}
