//! Kernel settings: hardening, limits, host name and clock. Every write is read back; what did not stick is returned as a
//! warning, never an error, because a machine that serves with a soft spot is better than one that does not serve.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, Rlimit};
use rustix::time::{ClockId, Timespec};

use crate::limits;

/// Names below `/proc/sys`, wanted values. A missing file means the kernel was built without the feature.
const SYSCTLS: &[(&str, &str)] = &[
    ("dev/tty/ldisc_autoload", "0"),
    ("dev/tty/legacy_tiocsti", "0"),
    ("fs/protected_fifos", "2"),
    ("fs/protected_hardlinks", "1"),
    ("fs/protected_regular", "2"),
    ("fs/protected_symlinks", "1"),
    ("fs/suid_dumpable", "0"),
    // Ctrl-alt-del sends SIGINT to PID 1 instead of resetting the machine at once.
    ("kernel/ctrl-alt-del", "0"),
    ("kernel/dmesg_restrict", "1"),
    ("kernel/kexec_load_limit_reboot", limits::KEXEC_LOADS),
    ("kernel/kptr_restrict", "2"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/perf_event_paranoid", "3"),
    ("kernel/sysrq", "0"),
    ("kernel/unprivileged_bpf_disabled", "1"),
    ("kernel/yama/ptrace_scope", "3"),
    ("net/core/bpf_jit_harden", "2"),
    ("user/max_user_namespaces", "0"),
    ("vm/unprivileged_userfaultfd", "0"),
];

/// Applies all sysctls and returns complaints.
pub(crate) fn apply_sysctls(root: &Path) -> Vec<String> {
    SYSCTLS
        .iter()
        .filter_map(|(name, value)| apply_sysctl(root, name, value))
        .chain(panic_timeout(root))
        .collect()
}

fn apply_sysctl(root: &Path, name: &str, value: &str) -> Option<String> {
    let path = root.join(name);
    if !path.exists() {
        return None;
    }
    let written = fs::write(&path, value);
    let found = fs::read_to_string(&path).unwrap_or_default();
    if found.trim() == value {
        return None;
    }
    let cause = written
        .err()
        .map_or_else(String::new, |error| format!(" ({error})"));
    Some(format!(
        "kernel setting {} is {:?}, not {value}{cause}",
        name.replace('/', "."),
        found.trim()
    ))
}

/// Lets a role without capabilities listen on `port`, if it is one that the kernel keeps for root.
pub(crate) fn allow_port(root: &Path, port: u16) -> Option<String> {
    (port < 1024)
        .then(|| {
            apply_sysctl(
                root,
                "net/ipv4/ip_unprivileged_port_start",
                &port.to_string(),
            )
        })
        .flatten()
}

/// A kernel that hangs after a panic serves nobody. `panic=` belongs on the command line, where it also covers the time
/// before `init`; this is the second net.
fn panic_timeout(root: &Path) -> Option<String> {
    let path = root.join("kernel/panic");
    let found = fs::read_to_string(&path).ok()?;
    if found.trim() != "0" {
        return None;
    }
    match fs::write(&path, "10") {
        Ok(()) => {
            Some("panic= is missing on the kernel command line: set to 10 seconds".to_owned())
        }
        Err(error) => Some(format!(
            "the kernel hangs after a panic: panic= is missing and cannot be set: {error}"
        )),
    }
}

/// Limits that children inherit: no core files (they would hold keys and fill memory), enough descriptors for a server.
pub(crate) fn apply_limits() -> Vec<String> {
    let equal = |limit| Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    let limits = [
        (Resource::Core, 0, "core"),
        (Resource::Nofile, 65_536, "nofile"),
    ];
    let complaint = |(resource, limit, name): (Resource, u64, &str)| {
        let error = rustix::process::setrlimit(resource, equal(limit)).err()?;
        Some(format!("limit {name}={limit} cannot be set: {error}"))
    };
    limits.into_iter().filter_map(complaint).collect()
}

/// The host name: given, random in private mode, or made from the first network card's address.
pub(crate) fn choose_host_name(given: Option<&str>, private: bool, mac: Option<&str>) -> String {
    if let Some(name) = given {
        return name.to_owned();
    }
    if private {
        return random_suffix()
            .map_or_else(|| "phase".to_owned(), |suffix| format!("phase-{suffix}"));
    }
    let digits: String = mac
        .unwrap_or_default()
        .chars()
        .filter(char::is_ascii_hexdigit)
        .collect();
    if digits.len() == 12 {
        format!("phase-{}", digits.to_ascii_lowercase())
    } else {
        "phase".to_owned()
    }
}

fn random_suffix() -> Option<String> {
    let mut bytes = [0; 6];
    // Never waits: a name is not worth a stalled boot.
    let read = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::INSECURE).ok()?;
    (read == bytes.len()).then(|| bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The address of the first network card, by name.
pub(crate) fn first_mac(class_net: &Path) -> Option<String> {
    let mut cards: Vec<_> = fs::read_dir(class_net)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    cards.sort();
    let address = |card: &std::path::PathBuf| {
        // Only real cards have a device behind them; bridges and `lo` do not.
        card.join("device")
            .exists()
            .then(|| fs::read_to_string(card.join("address")).ok())
            .flatten()
    };
    let address = cards.iter().find_map(address)?;
    let address = address.trim();
    (address.bytes().any(|b| b.is_ascii_hexdigit() && b != b'0')).then(|| address.to_owned())
}

/// Moves a clock that stands before the image was built to that moment: machines without a battery start in 1970, and
/// nothing that was signed later would be valid yet. Returns by how much it was behind.
pub(crate) fn raise_clock(built_at: u64) -> Option<Duration> {
    let floor = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(built_at))?;
    let behind = floor
        .duration_since(SystemTime::now())
        .ok()
        .filter(|behind| !behind.is_zero())?;
    let time = Timespec {
        tv_sec: i64::try_from(built_at).ok()?,
        tv_nsec: 0,
    };
    rustix::time::clock_settime(ClockId::Realtime, time).ok()?;
    Some(behind)
}

/// Random bytes without waiting; `None` while the kernel has none.
pub(crate) fn random_bytes() -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    let flags = rustix::rand::GetRandomFlags::NONBLOCK;
    let read = rustix::rand::getrandom(&mut bytes, flags).ok()?;
    (read == bytes.len()).then_some(bytes)
}

/// A number that spreads waits. Never waits itself, and is no secret.
pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    let flags = rustix::rand::GetRandomFlags::INSECURE;
    let _zero_is_fine = rustix::rand::getrandom(&mut bytes, flags);
    u64::from_ne_bytes(bytes)
}

/// What the kernel kept of an earlier crash.
pub(crate) fn earlier_crash(pstore: &Path) -> Option<String> {
    let records = fs::read_dir(pstore).ok()?.flatten().count();
    (records > 0).then(|| {
        format!(
            "the kernel crashed earlier: {records} records in {}",
            pstore.display()
        )
    })
}

/// Seconds since the epoch, never less than `built_at`: also right where the clock could not be set.
pub(crate) fn now(built_at: u64) -> i64 {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |now| now.as_secs());
    i64::try_from(now.max(built_at)).unwrap_or(i64::MAX)
}

/// Time since the kernel started, sleep included.
pub(crate) fn uptime() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::Boottime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_back() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, value: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, value).unwrap();
        };
        write("kernel/kptr_restrict", "0\n");
        write("kernel/panic", "10\n");
        assert_eq!(apply_sysctls(root.path()), Vec::<String>::new());
        assert_eq!(
            fs::read_to_string(root.path().join("kernel/kptr_restrict")).unwrap(),
            "2"
        );

        // A directory in the place of the file refuses the write whoever runs the test.
        fs::create_dir_all(root.path().join("kernel/dmesg_restrict")).unwrap();
        let complaints = apply_sysctls(root.path());
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        assert!(
            complaints[0].starts_with("kernel setting kernel.dmesg_restrict is"),
            "{complaints:?}"
        );
    }

    #[test]
    fn a_missing_panic_timeout_is_set_and_said() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("kernel")).unwrap();
        fs::write(root.path().join("kernel/panic"), "0\n").unwrap();
        assert_eq!(apply_sysctls(root.path()).len(), 1);
        assert_eq!(
            fs::read_to_string(root.path().join("kernel/panic")).unwrap(),
            "10"
        );
    }

    #[test]
    fn host_names() {
        assert_eq!(
            choose_host_name(Some("rack-7"), true, Some("52:54:00:12:34:56")),
            "rack-7"
        );
        assert_eq!(
            choose_host_name(None, false, Some("52:54:00:AB:34:56")),
            "phase-525400ab3456"
        );
        assert_eq!(choose_host_name(None, false, None), "phase");
        assert_eq!(choose_host_name(None, false, Some("aa:bb")), "phase");
        let random = choose_host_name(None, true, Some("52:54:00:12:34:56"));
        assert!(
            !random.contains("525400123456") && random.starts_with("phase"),
            "{random}"
        );
    }

    #[test]
    fn the_first_real_card_names_the_machine() {
        let net = tempfile::tempdir().unwrap();
        let card = |name: &str, address: &str, real: bool| {
            fs::create_dir_all(net.path().join(name)).unwrap();
            fs::write(net.path().join(name).join("address"), address).unwrap();
            if real {
                fs::create_dir_all(net.path().join(name).join("device")).unwrap();
            }
        };
        assert_eq!(first_mac(net.path()), None);
        card("bond0", "02:00:00:00:00:09\n", false);
        card("lo", "00:00:00:00:00:00\n", false);
        card("eth1", "02:00:00:00:00:02\n", true);
        card("eth0", "02:00:00:00:00:01\n", true);
        assert_eq!(first_mac(net.path()).as_deref(), Some("02:00:00:00:00:01"));
    }

    #[test]
    fn crashes_are_told() {
        let pstore = tempfile::tempdir().unwrap();
        assert_eq!(earlier_crash(pstore.path()), None);
        assert_eq!(earlier_crash(&pstore.path().join("none")), None);
        fs::write(pstore.path().join("dmesg-efi-1"), "Oops").unwrap();
        assert!(earlier_crash(pstore.path()).is_some_and(|text| text.contains("1 records")));
    }

    #[test]
    fn time_never_stands_before_the_image() {
        assert_eq!(now(u64::MAX), i64::MAX);
        assert_eq!(now(4_000_000_000), 4_000_000_000);
        assert!(now(0) > 1_700_000_000);
        assert_eq!(raise_clock(1), None, "a clock that is ahead is left alone");
    }
}
