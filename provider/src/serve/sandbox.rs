//! What `plasmd serve` cannot do even when it is taken over: a Landlock ruleset and a seccomp filter.
//!
//! *Landlock*: it reads the artifacts directory and the folders of the files it was told to read, writes below what it
//! was told to write, starts no program, listens on no further TCP port (but that of the DHT, if it takes part in it),
//! connects nowhere (but to itself, for a watchdog; a member of the DHT connects to the others, which are anywhere), and
//! reaches neither signals nor abstract sockets of other processes. UDP is beyond Landlock.
//!
//! *seccomp*: system calls that serving never needs and that exploits like answer `EPERM`, among them every way to start
//! a program, to become somebody else, to own or re-label files, to type into a terminal, to make memory executable, and every kind of socket but
//! those of IP, Unix and the kernel's list of addresses. It lists what is forbidden: a list of what is allowed would have
//! to follow every change of the runtime.
//!
//! Both are taken on by the calling thread and inherited by the threads it starts, are never taken off, and stack with
//! what is already in force. This file uses nothing of the rest of the program, so that a test can put itself under
//! exactly these rules.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, NetPort, RestrictionStatus, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, make_bitflags,
    path_beneath_rules,
};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, apply_filter, sock_filter,
};

/// Whether to be confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// As far as the kernel can; what it cannot is said
    Auto,
    /// Not at all
    Off,
    /// Or do not start
    Require,
}

/// What stays possible.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Files, and directories with all that is below, that are read.
    pub(crate) read: Vec<PathBuf>,
    /// Directories below which files are read, made, changed and removed.
    pub(crate) write: Vec<PathBuf>,
    /// What is connected to over TCP.
    pub(crate) connect: Connect,
    /// TCP ports that are listened on later.
    pub(crate) listen: Vec<u16>,
    /// Whether files in memory are made, for another process. Programs cannot be started from them all the same.
    pub(crate) makes_memory_files: bool,
}

/// What may be connected to over TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Connect {
    /// These ports, of whatever machine.
    Only(Vec<u16>),
    /// Everything.
    Anywhere,
}

impl Default for Connect {
    fn default() -> Self {
        Self::Only(Vec::new())
    }
}

/// What is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Confinement {
    landlock: Enforced,
    seccomp: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Enforced {
    No,
    InPart,
    Fully,
}

/// Why this process cannot be confined.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The ruleset cannot be made.
    #[error("Landlock: {0}")]
    Landlock(#[from] RulesetError),
    /// The filter cannot be made.
    #[error("seccomp: {0}")]
    Filter(#[from] BackendError),
    /// The kernel lacks what is required.
    #[error("the kernel enforces only this: {0}")]
    Incomplete(Confinement),
}

impl Confinement {
    /// Nothing is in force.
    pub(crate) const NONE: Self = Self {
        landlock: Enforced::No,
        seccomp: false,
    };

    /// Whether files and system calls are both limited.
    pub(crate) fn is_complete(self) -> bool {
        self.landlock != Enforced::No && self.seccomp
    }
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let landlock = match self.landlock {
            Enforced::No => "no landlock",
            Enforced::InPart => "landlock as far as this kernel has it",
            Enforced::Fully => "landlock",
        };
        let seccomp = if self.seccomp {
            "seccomp"
        } else {
            "no seccomp"
        };
        write!(f, "{landlock}, {seccomp}")
    }
}

/// Confines the calling thread and those it will start, and says what is missing when something cannot be had.
///
/// # Errors
/// In mode `require`, when files or system calls cannot be limited.
pub(crate) fn enter(mode: Mode, plan: &Plan) -> Result<(Confinement, Vec<Error>), Error> {
    let mut missing = Vec::new();
    if mode == Mode::Off {
        return Ok((Confinement::NONE, missing));
    }
    let landlock = restrict(plan).unwrap_or_else(|error| {
        missing.push(error.into());
        Enforced::No
    });
    let seccomp = forbid(plan).unwrap_or_else(|error| {
        missing.push(error.into());
        false
    });
    let confinement = Confinement { landlock, seccomp };
    if mode == Mode::Require && !confinement.is_complete() {
        return Err(missing.pop().unwrap_or(Error::Incomplete(confinement)));
    }
    Ok((confinement, missing))
}

/// The newest version of Landlock whose every right was considered here.
const KNOWN: ABI = ABI::V6;

fn restrict(plan: &Plan) -> Result<Enforced, RulesetError> {
    let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let write: BitFlags<AccessFs> =
        read | make_bitflags!(AccessFs::{WriteFile | MakeReg | MakeSock | RemoveFile | Truncate});
    let (network, connect): (_, &[u16]) = match &plan.connect {
        Connect::Only(ports) => (AccessNet::from_all(KNOWN), ports),
        Connect::Anywhere => (AccessNet::BindTcp.into(), &[]),
    };
    let connect = connect
        .iter()
        .map(|port| NetPort::new(*port, AccessNet::ConnectTcp));
    let listen = plan
        .listen
        .iter()
        .map(|port| NetPort::new(*port, AccessNet::BindTcp));
    let ports = connect.chain(listen).map(Ok::<_, RulesetError>);
    let RestrictionStatus { ruleset, .. } = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(network)?
        .scope(Scope::from_all(KNOWN))?
        .create()?
        // What is not there needs no right.
        .add_rules(path_beneath_rules(&plan.read, read))?
        .add_rules(path_beneath_rules(&plan.write, write))?
        .add_rules(ports)?
        .restrict_self()?;
    Ok(match ruleset {
        RulesetStatus::FullyEnforced => Enforced::Fully,
        RulesetStatus::PartiallyEnforced => Enforced::InPart,
        RulesetStatus::NotEnforced => Enforced::No,
    })
}

/// `false`: the kernel has no filters.
fn forbid(plan: &Plan) -> Result<bool, BackendError> {
    let filter = filter(plan)?;
    let other_names = other_names();
    Ok(apply_filter(&other_names).is_ok() && apply_filter(&filter).is_ok())
}

/// System calls that serving never needs.
const FORBIDDEN: &[libc::c_long] = &[
    // Programs.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    // Other processes.
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_rt_sigqueueinfo,
    // Other identities.
    libc::SYS_capset,
    libc::SYS_setfsgid,
    libc::SYS_setfsuid,
    libc::SYS_setgid,
    libc::SYS_setgroups,
    libc::SYS_setregid,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_setreuid,
    libc::SYS_setuid,
    // What Landlock does not limit about files.
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_lremovexattr,
    libc::SYS_lsetxattr,
    libc::SYS_mknodat,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_removexattr,
    libc::SYS_setxattr,
    libc::SYS_symlinkat,
    libc::SYS_utimensat,
    // The machine.
    libc::SYS_acct,
    libc::SYS_adjtimex,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_pivot_root,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_vhangup,
    // What exploits of the kernel like.
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_fanotify_init,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_mbind,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_request_key,
    libc::SYS_userfaultfd,
];

/// Older names of some of them, which newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const FORBIDDEN_HERE: &[libc::c_long] = &[
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_fork,
    libc::SYS_futimesat,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_lchown,
    libc::SYS_mknod,
    libc::SYS_modify_ldt,
    libc::SYS_symlink,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_vfork,
];
#[cfg(not(target_arch = "x86_64"))]
const FORBIDDEN_HERE: &[libc::c_long] = &[];

/// Requests of `ioctl`: `TIOCSTI` and `TIOCLINUX`, whose type differs between C libraries.
const INTO_TERMINAL: [u64; 2] = [0x5412, 0x541c];

fn filter(plan: &Plan) -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = FORBIDDEN
        .iter()
        .chain(FORBIDDEN_HERE)
        .filter(|call| !plan.makes_memory_files || **call != libc::SYS_memfd_create)
        .map(|call| (*call, Vec::new()))
        .collect();
    rules.insert(libc::SYS_socket, sockets()?);
    // What is put into a terminal is read by the shell that started this.
    let into_terminal = INTO_TERMINAL
        .map(|request| SeccompRule::new(vec![condition(1, SeccompCmpOp::Eq, request)?]));
    rules.insert(
        libc::SYS_ioctl,
        into_terminal.into_iter().collect::<Result<_, _>>()?,
    );
    // Code comes from the program's file, and nowhere else.
    let executable = SeccompCmpOp::MaskedEq(bits(libc::PROT_EXEC));
    for call in [libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_pkey_mprotect] {
        let condition = condition(2, executable.clone(), bits(libc::PROT_EXEC))?;
        rules.insert(call, vec![SeccompRule::new(vec![condition])?]);
    }
    SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        std::env::consts::ARCH.try_into()?,
    )?
    .try_into()
}

/// The sockets that are forbidden: foreign families, and raw ones of IP.
fn sockets() -> Result<Vec<SeccompRule>, BackendError> {
    let known = [
        libc::AF_UNIX,
        libc::AF_INET,
        libc::AF_INET6,
        libc::AF_NETLINK,
    ];
    let foreign = known.map(|family| condition(0, SeccompCmpOp::Ne, bits(family)));
    let mut rules = vec![SeccompRule::new(
        foreign.into_iter().collect::<Result<_, _>>()?,
    )?];
    /// The kind of a socket; above it are flags.
    const KIND: u64 = 0xf;
    for family in [libc::AF_INET, libc::AF_INET6] {
        rules.push(SeccompRule::new(vec![
            condition(0, SeccompCmpOp::Eq, bits(family))?,
            condition(1, SeccompCmpOp::MaskedEq(KIND), bits(libc::SOCK_RAW))?,
        ])?);
    }
    Ok(rules)
}

fn condition(
    argument: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

/// A small constant of the kernel, none of which is negative.
fn bits(constant: libc::c_int) -> u64 {
    u64::from(constant.unsigned_abs())
}

/// Ends the process at a system call by one of its x32 names, which are numbers from 2^30 on and mean the same things.
fn other_names() -> BpfProgram {
    const NUMBER_AT: u32 = 0;
    const X32: u32 = 0x4000_0000;
    let instruction = |code: u32, jt, jf, k| sock_filter {
        code: u16::try_from(code).unwrap_or(0),
        jt,
        jf,
        k,
    };
    vec![
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, NUMBER_AT),
        instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, X32),
        instruction(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_KILL_PROCESS,
        ),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}
