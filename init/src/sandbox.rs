//! What a role cannot do even when it is taken over: a Landlock ruleset and a seccomp filter.
//!
//! Landlock: no role writes or makes a file, except `net` below its own directory and in the kernel's network settings; no
//! role starts a program other than its own; TCP is limited to what the role is for; signals and abstract sockets of other
//! processes are out of reach. UDP and raw sockets are beyond Landlock: the capabilities of the role bound those.
//!
//! seccomp: a list of system calls that no role needs and that kernel exploits like. It is a list of what is forbidden, not
//! of what is allowed: an allow-list has to follow every change of the runtime below `plasmd`.
//!
//! [`rules`] and [`filter`] are pure; the kernel may be too old for some of it, and then the rest still holds.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use linux_raw_sys::landlock as ll;

use crate::children::{PROGRAM, Role};
use crate::root;
use crate::sys::{self, Ruleset};

/// What a Landlock ruleset of a role says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rules {
    ruleset: Ruleset,
    /// Allowed in spite of it: rights at and below a path.
    paths: Vec<(&'static str, u64)>,
    /// Allowed in spite of it: rights on a TCP port.
    ports: Vec<(u16, u64)>,
}

const fn bit(right: u32) -> u64 {
    right as u64
}

/// Everything that changes a file system. Reading is not limited: nothing on the machine is secret.
const WRITES: u64 = bit(ll::LANDLOCK_ACCESS_FS_WRITE_FILE
    | ll::LANDLOCK_ACCESS_FS_REMOVE_DIR
    | ll::LANDLOCK_ACCESS_FS_REMOVE_FILE
    | ll::LANDLOCK_ACCESS_FS_MAKE_CHAR
    | ll::LANDLOCK_ACCESS_FS_MAKE_DIR
    | ll::LANDLOCK_ACCESS_FS_MAKE_REG
    | ll::LANDLOCK_ACCESS_FS_MAKE_SOCK
    | ll::LANDLOCK_ACCESS_FS_MAKE_FIFO
    | ll::LANDLOCK_ACCESS_FS_MAKE_BLOCK
    | ll::LANDLOCK_ACCESS_FS_MAKE_SYM);

const EXECUTE: u64 = bit(ll::LANDLOCK_ACCESS_FS_EXECUTE);
const WRITE_FILE: u64 = bit(ll::LANDLOCK_ACCESS_FS_WRITE_FILE);
const BIND: u64 = bit(ll::LANDLOCK_ACCESS_NET_BIND_TCP);
const CONNECT: u64 = bit(ll::LANDLOCK_ACCESS_NET_CONNECT_TCP);

/// The rules of a role for the port that it is about, as far as a kernel with this version of Landlock knows them.
fn rules(role: Role, port: u16, version: i32) -> Rules {
    let since = |needed: i32, rights: u64| if version >= needed { rights } else { 0 };
    let truncate = since(3, bit(ll::LANDLOCK_ACCESS_FS_TRUNCATE));
    let refer = since(2, bit(ll::LANDLOCK_ACCESS_FS_REFER));
    let ioctl = since(5, bit(ll::LANDLOCK_ACCESS_FS_IOCTL_DEV));
    let scopes = bit(ll::LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | ll::LANDLOCK_SCOPE_SIGNAL);
    let handled_net = match role {
        Role::Net | Role::Serve | Role::Report | Role::Probe => BIND | CONNECT,
        // Fetching is connecting, to wherever the provider is; and members of the DHT are anywhere too.
        Role::Stage | Role::Dht | Role::Update => BIND,
    };
    let mut paths = vec![(PROGRAM, EXECUTE)];
    let mut ports = Vec::new();
    match role {
        Role::Net => {
            paths.push((root::NETWORK, WRITES | truncate));
            paths.push(("/proc/sys/net", WRITE_FILE | truncate));
        }
        // `stage` serves what it has so far where `serve` will, while that does not run.
        Role::Serve | Role::Stage | Role::Dht if version >= 4 && port > 0 => {
            ports.push((port, BIND))
        }
        Role::Report | Role::Probe if version >= 4 => ports.push((port, CONNECT)),
        Role::Serve | Role::Stage | Role::Report | Role::Dht | Role::Update | Role::Probe => {}
    }
    Rules {
        ruleset: Ruleset {
            fs: WRITES | EXECUTE | truncate | refer | ioctl,
            net: since(4, handled_net),
            scoped: since(6, scopes),
        },
        paths,
        ports,
    }
}

/// Makes the ruleset of a role; `None` when the kernel has no Landlock. The child applies it with
/// [`sys::restrict`].
pub(crate) fn ruleset(role: Role, port: u16) -> io::Result<Option<OwnedFd>> {
    let Some(version) = sys::landlock_version() else {
        return Ok(None);
    };
    let Rules {
        ruleset,
        paths,
        ports,
    } = rules(role, port, version);
    let fd = sys::new_ruleset(&ruleset)?;
    for (path, rights) in paths {
        let opened = File::options()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(path);
        match opened {
            Ok(file) => sys::allow_path(fd.as_fd(), file.as_fd(), rights)?,
            // What is not there needs no right.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    for (port, rights) in ports {
        sys::allow_port(fd.as_fd(), port, rights)?;
    }
    Ok(Some(fd))
}

/// System calls that no role needs.
const FORBIDDEN: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = linux_raw_sys::ptrace::AUDIT_ARCH_X86_64;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = linux_raw_sys::ptrace::AUDIT_ARCH_AARCH64;

/// Numbers from here on belong to the x32 calls of x86-64: other names for the same things.
const X32: u32 = 0x4000_0000;

/// Offsets in `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;

/// Instructions that look at socket options.
const OPTION_CHECK: usize = 5;

/// The low halves of the second and third argument, which hold an `int`.
const LEVEL_AT: u32 = 24;
const OPTION_AT: u32 = 32;

/// The filter as a BPF program: another architecture ends the process, a forbidden call answers EPERM.
///
/// So does a socket that lingers: passed to `init` beside a report and closed there, it would hold PID 1 in that close for
/// as long as its peer likes.
pub(crate) fn filter() -> Vec<libc::sock_filter> {
    let load = |at| instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, at);
    let answer = |value| instruction(libc::BPF_RET | libc::BPF_K, 0, 0, value);
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let at_least = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
    let mut program = vec![
        load(ARCHITECTURE_AT),
        instruction(equal, 1, 0, ARCHITECTURE),
        answer(libc::SECCOMP_RET_KILL_PROCESS),
        load(NUMBER_AT),
        instruction(at_least, 0, 1, X32),
        answer(libc::SECCOMP_RET_KILL_PROCESS),
    ];
    for (index, call) in FORBIDDEN.iter().enumerate() {
        // Over the calls that follow, over the look at socket options, and over the answer for allowed ones.
        let ahead = u8::try_from(FORBIDDEN.len() - index + OPTION_CHECK).unwrap_or(u8::MAX);
        let number = u32::try_from(*call).unwrap_or(u32::MAX);
        program.push(instruction(equal, ahead, 0, number));
    }
    let set_option = u32::try_from(libc::SYS_setsockopt).unwrap_or(u32::MAX);
    program.extend([
        instruction(equal, 0, 4, set_option),
        load(LEVEL_AT),
        instruction(equal, 0, 2, libc::SOL_SOCKET.unsigned_abs()),
        load(OPTION_AT),
        instruction(equal, 1, 0, libc::SO_LINGER.unsigned_abs()),
    ]);
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    program.push(answer(libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs()));
    program
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: u16::try_from(code).unwrap_or(0),
        jt,
        jf,
        k,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn each_role_may_only_what_it_is_for() {
        let net = rules(Role::Net, 8080, 6);
        let serve = rules(Role::Serve, 8080, 6);
        let stage = rules(Role::Stage, 8080, 6);
        assert_eq!(serve.ports, [(8080, BIND)]);
        assert_eq!(stage.ports, [(8080, BIND)]);
        assert!(net.ports.is_empty());
        assert!(
            rules(Role::Stage, 0, 6).ports.is_empty(),
            "it shares nothing"
        );
        assert_eq!(serve.paths, [(PROGRAM, EXECUTE)]);
        assert_eq!(stage.paths, [(PROGRAM, EXECUTE)]);
        assert_eq!(serve.ruleset.net, BIND | CONNECT);
        assert_eq!(stage.ruleset.net, BIND, "it connects to its provider");
        let report = rules(Role::Report, 8081, 6);
        assert_eq!(report.ports, [(8081, CONNECT)]);
        assert_eq!(report.ruleset.net, BIND | CONNECT);
        let dht = rules(Role::Dht, 4011, 6);
        assert_eq!(
            (&dht.ports[..], dht.ruleset.net),
            (&[(4011, BIND)][..], BIND)
        );
        assert_eq!(dht.paths, [(PROGRAM, EXECUTE)]);
        let update = rules(Role::Update, 0, 6);
        assert!(update.ports.is_empty(), "it listens nowhere");
        assert_eq!(update.ruleset.net, BIND, "it connects to its sources");
        let probe = rules(Role::Probe, 8080, 6);
        assert_eq!(probe.ports, [(8080, CONNECT)]);
        assert_eq!(probe.ruleset.net, BIND | CONNECT);
        for rules in [net, serve, stage, report, dht, update, probe] {
            assert_eq!(rules.ruleset.fs & (WRITES | EXECUTE), WRITES | EXECUTE);
            // The kernel refuses a rule for a right that the ruleset does not handle.
            for (path, rights) in rules.paths {
                assert_eq!(rights & !rules.ruleset.fs, 0, "{path}");
            }
        }
    }

    #[test]
    fn older_kernels_get_what_they_know() {
        let old = rules(Role::Serve, 8080, 1);
        assert_eq!(
            old.ruleset,
            Ruleset {
                fs: WRITES | EXECUTE,
                net: 0,
                scoped: 0
            }
        );
        assert!(old.ports.is_empty());
    }

    /// Runs the filter on one call as the kernel would.
    fn verdict(architecture: u32, number: u32) -> u32 {
        verdict_with(architecture, number, 0, 0)
    }

    fn verdict_with(architecture: u32, number: u32, level: u32, option: u32) -> u32 {
        let program = filter();
        let (mut at, mut value) = (0, 0);
        loop {
            let libc::sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { jt } else { jf });
            match u32::from(code) {
                code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    value = match k {
                        NUMBER_AT => number,
                        ARCHITECTURE_AT => architecture,
                        LEVEL_AT => level,
                        OPTION_AT => option,
                        other => panic!("nothing is read at {other}"),
                    };
                }
                code if code == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => {
                    at += jump(value == k)
                }
                code if code == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K => {
                    at += jump(value >= k)
                }
                _ => return k,
            }
        }
    }

    #[test]
    fn the_filter_forbids_just_the_list() {
        let denied = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
        for number in 0..600 {
            let forbidden = FORBIDDEN.contains(&libc::c_long::from(number));
            let expected = if forbidden {
                denied
            } else {
                libc::SECCOMP_RET_ALLOW
            };
            assert_eq!(verdict(ARCHITECTURE, number), expected, "call {number}");
        }
        assert_eq!(verdict(ARCHITECTURE, X32), libc::SECCOMP_RET_KILL_PROCESS);
        assert_eq!(
            verdict(ARCHITECTURE, u32::MAX),
            libc::SECCOMP_RET_KILL_PROCESS
        );
        assert_eq!(verdict(ARCHITECTURE ^ 1, 0), libc::SECCOMP_RET_KILL_PROCESS);
        assert!(FORBIDDEN.len() < 250, "jumps are one byte");
    }

    #[test]
    fn no_role_makes_a_socket_linger() {
        let denied = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
        let allowed = libc::SECCOMP_RET_ALLOW;
        let (call, other) = (libc::SYS_setsockopt as u32, libc::SYS_getsockopt as u32);
        let (socket, tcp) = (libc::SOL_SOCKET as u32, libc::IPPROTO_TCP as u32);
        let (linger, reuse) = (libc::SO_LINGER as u32, libc::SO_REUSEADDR as u32);
        for (call, level, option, expected) in [
            (call, socket, linger, denied),
            (call, socket, reuse, allowed),
            (call, tcp, linger, allowed),
            (other, socket, linger, allowed),
        ] {
            let found = verdict_with(ARCHITECTURE, call, level, option);
            assert_eq!(found, expected, "{call} {level} {option}");
        }
        // The real kernel agrees.
        let linger = std::thread::spawn(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            sys::install_filter(&filter()).unwrap();
            let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            rustix::net::sockopt::set_socket_linger(
                &socket,
                Some(std::time::Duration::from_secs(9)),
            )
        });
        assert_eq!(linger.join().unwrap(), Err(rustix::io::Errno::PERM));
    }

    /// The real kernel: a shell that may not make files, nor call what is forbidden. Needs a kernel with seccomp.
    #[test]
    fn the_kernel_enforces_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("made");
        let ruleset = sys::landlock_version().map(|_| {
            sys::new_ruleset(&Ruleset {
                fs: WRITES,
                net: 0,
                scoped: 0,
            })
            .unwrap()
        });
        let is_limited = ruleset.is_some();
        let mut command = Command::new("/bin/sh");
        command
            .args([
                "-c",
                "(: > \"$1\") 2>/dev/null && echo wrote; unshare -U true 2>&1; echo end",
                "sh",
            ])
            .arg(&file)
            .stdout(Stdio::piped());
        let child = sys::spawn(&mut command, move || {
            rustix::thread::set_no_new_privs(true)?;
            if let Some(ruleset) = &ruleset {
                sys::restrict(ruleset.as_fd())?;
            }
            sys::install_filter(&filter())
        });
        let output = child.unwrap().wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            text.contains("not permitted") && text.ends_with("end\n"),
            "{text}"
        );
        assert_eq!(file.exists(), !is_limited, "{text}");
    }
}
