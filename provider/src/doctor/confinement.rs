//! What the kernel offers to confine the service with.

use crate::doctor::finding::{Finding, Machine};
use crate::doctor::sys;

/// Looks for Landlock and seccomp.
pub(super) fn check(machine: &Machine) -> Vec<Finding> {
    vec![landlock(sys::landlock_version()), seccomp(machine)]
}

/// The version that limits files; later ones limit more.
fn landlock(version: Option<u32>) -> Finding {
    match version {
        Some(version) => Finding::ok("landlock", format!("version {version}")),
        None => Finding::warn(
            "landlock",
            "this kernel does not confine processes with Landlock",
            "the service runs with less protection: Linux 5.13 or newer, with landlock in lsm= of its command line, has it",
        ),
    }
}

fn seccomp(machine: &Machine) -> Finding {
    let actions = machine.text("proc/sys/kernel/seccomp/actions_avail");
    let has_filter = actions.is_some_and(|text| text.split_whitespace().any(|one| one == "errno"));
    if has_filter {
        Finding::ok("seccomp", "filters are available")
    } else {
        Finding::warn(
            "seccomp",
            "this kernel has no system call filters",
            "the service runs with less protection: use a kernel with CONFIG_SECCOMP_FILTER",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    #[test]
    fn kernels_with_and_without() {
        assert_eq!(landlock(Some(4)).level, Level::Ok);
        assert_eq!(landlock(None).level, Level::Warn);
        let avail = "proc/sys/kernel/seccomp/actions_avail";
        let (_dir, machine) = Machine::of(&[(avail, "kill_process errno allow\n")]);
        assert_eq!(seccomp(&machine).level, Level::Ok);
        let (_dir, machine) = Machine::of(&[]);
        assert_eq!(seccomp(&machine).level, Level::Warn);
    }
}
