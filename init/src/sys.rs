//! The system calls that no safe wrapper offers: signals, loop devices, watchdog, interface flags, kexec, sandboxes, and
//! the moment between fork and exec.
//!
//! This is the only file of `init` with unsafe code. Every function is safe to call and does one thing; it never decides.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use linux_raw_sys::landlock::{
    LANDLOCK_CREATE_RULESET_VERSION, landlock_net_port_attr, landlock_path_beneath_attr,
    landlock_rule_type, landlock_ruleset_attr,
};
use linux_raw_sys::loop_device::{LO_FLAGS_AUTOCLEAR, LO_FLAGS_READ_ONLY, loop_config};
use rustix::process::Pid;

const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const WDIOC_GETSUPPORT: libc::c_ulong = 0x8028_5700;
const WDIOC_GETBOOTSTATUS: libc::c_ulong = 0x8004_5702;
const WDIOC_KEEPALIVE: libc::c_ulong = 0x8004_5705;
const WDIOC_SETTIMEOUT: libc::c_ulong = 0xC004_5706;
const WDIOF_CARDRESET: libc::c_int = 0x20;
const KEXEC_FILE_UNLOAD: libc::c_ulong = 1;
const KEXEC_FILE_ON_CRASH: libc::c_ulong = 2;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Blocks every signal and returns a non-blocking descriptor on which they arrive.
#[expect(unsafe_code, reason = "rustix has no signalfd")]
pub(crate) fn signals() -> io::Result<OwnedFd> {
    // SAFETY: `set` is a valid signal set before anything reads it; the descriptor that signalfd returns is new and owned
    // by nobody else.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        check(libc::sigfillset(&raw mut set).into())?;
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()).into())?;
        let fd = check(
            libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK).into(),
        )?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// The next signal that arrived, if any.
#[expect(unsafe_code, reason = "a signalfd is read as a C structure")]
pub(crate) fn next_signal(fd: BorrowedFd<'_>) -> Option<i32> {
    // SAFETY: all-zero is a valid signalfd_siginfo, and the kernel writes at most its size into it.
    unsafe {
        let mut info = std::mem::zeroed::<libc::signalfd_siginfo>();
        let size = size_of::<libc::signalfd_siginfo>();
        let read = libc::read(fd.as_raw_fd(), (&raw mut info).cast(), size);
        (usize::try_from(read) == Ok(size)).then_some(info.ssi_signo as i32)
    }
}

/// Lets `setup` run in the child between fork and exec, then starts the program.
///
/// The signal mask of the child is empty and SIGPIPE has its default action (`std` resets both before `setup`).
#[expect(unsafe_code, reason = "pre_exec is unsafe")]
pub(crate) fn spawn(
    command: &mut Command,
    setup: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<Child> {
    // SAFETY: `init` has one thread, so no lock (that of the allocator included) can be held by another thread at the
    // fork, and `setup` may do whatever the parent may.
    unsafe { command.pre_exec(setup) };
    command.spawn()
}

/// Does `work` in a copy of this process, which then ends. Returns the copy's number.
#[expect(unsafe_code, reason = "rustix does not fork")]
pub(crate) fn fork(work: impl FnOnce()) -> io::Result<Pid> {
    // SAFETY: `init` has one thread, so no lock (that of the allocator included) can be held by another thread at the
    // fork, and the copy may do whatever this process may. (Tests have more threads; glibc takes care of its allocator,
    // and the work takes no other lock.)
    let pid = check(unsafe { libc::fork() }.into())?;
    if pid != 0 {
        let pid = Pid::from_raw(pid as libc::pid_t);
        return pid.ok_or_else(|| io::Error::other("a child without a number"));
    }
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    // SAFETY: ends this process at once: nothing of what it shares with its parent is flushed or undone.
    unsafe { libc::_exit(result.is_err().into()) }
}

/// Closes every descriptor except those in `keep`.
#[expect(unsafe_code, reason = "rustix has no close_range")]
pub(crate) fn close_all_but(keep: &[RawFd]) {
    let mut keep = keep.to_vec();
    keep.sort_unstable();
    let mut first = 0;
    for fd in keep.into_iter().map(Some).chain([None]) {
        let last = fd.map_or(i64::from(u32::MAX), |fd| i64::from(fd) - 1);
        if first <= last {
            // SAFETY: called in a copy of this process that uses none of the closed descriptors: it ends without running
            // any of their destructors.
            let _older_kernels_keep_them =
                unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
        first = fd.map_or(first, |fd| i64::from(fd) + 1);
    }
}

/// In the child: makes `fd` available under the number `number`, inherited over exec.
///
/// `number` must not be in use by `std` for its own pipe: the caller keeps it occupied in the parent.
#[expect(
    unsafe_code,
    reason = "the number of the descriptor matters, which OwnedFd cannot say"
)]
pub(crate) fn place_fd(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: dup2 touches no memory. The descriptor that `number` named before belongs to the parent's placeholder,
    // which this child never uses.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into()).map(drop)
}

/// Clears the mask of blocked signals of the caller.
#[expect(unsafe_code, reason = "rustix has no sigprocmask")]
pub(crate) fn unblock_signals() -> io::Result<()> {
    // SAFETY: `set` is initialised by sigemptyset before sigprocmask reads it.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        check(libc::sigemptyset(&raw mut set).into())?;
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()).into())
            .map(drop)
    }
}

/// The number of an unused loop device.
#[expect(unsafe_code, reason = "an ioctl")]
pub(crate) fn free_loop_device(control: &File) -> io::Result<u32> {
    // SAFETY: LOOP_CTL_GET_FREE takes no argument.
    let number = check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) }.into())?;
    u32::try_from(number).map_err(io::Error::other)
}

/// Binds a file to a loop device, read-only, until the last user of the device closes it.
#[expect(unsafe_code, reason = "an ioctl")]
pub(crate) fn configure_loop(device: &File, backing: &File) -> io::Result<()> {
    // SAFETY: all-zero is a valid loop_config; the kernel only reads it during the call.
    unsafe {
        let mut config = std::mem::zeroed::<loop_config>();
        config.fd = backing.as_raw_fd().unsigned_abs();
        config.info.lo_flags = LO_FLAGS_READ_ONLY as u32 | LO_FLAGS_AUTOCLEAR as u32;
        check(libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config).into()).map(drop)
    }
}

/// Sets the watchdog's timeout and returns the one the hardware chose.
#[expect(unsafe_code, reason = "an ioctl")]
pub(crate) fn set_watchdog_timeout(device: &File, seconds: u32) -> io::Result<u32> {
    let mut timeout = libc::c_int::try_from(seconds).unwrap_or(libc::c_int::MAX);
    // SAFETY: the kernel reads and writes one int during the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), WDIOC_SETTIMEOUT, &raw mut timeout) }.into())?;
    u32::try_from(timeout).map_err(io::Error::other)
}

/// Feeds the watchdog.
#[expect(unsafe_code, reason = "an ioctl")]
pub(crate) fn feed_watchdog(device: &File) -> io::Result<()> {
    let mut unused: libc::c_int = 0;
    // SAFETY: the kernel writes at most one int during the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), WDIOC_KEEPALIVE, &raw mut unused) }.into())
        .map(drop)
}

/// Whether the last reset was the watchdog's.
#[expect(unsafe_code, reason = "an ioctl")]
pub(crate) fn watchdog_caused_reset(device: &File) -> bool {
    let mut status: libc::c_int = 0;
    // SAFETY: the kernel writes one int during the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), WDIOC_GETBOOTSTATUS, &raw mut status) };
    result == 0 && status & WDIOF_CARDRESET != 0
}

/// Whether the watchdog's driver can tell that it caused a reset.
#[expect(unsafe_code, reason = "an ioctl")]
pub(crate) fn watchdog_tells_resets(device: &File) -> bool {
    // struct watchdog_info: options, firmware version, 32 bytes of name.
    let mut info = [0_u32; 10];
    // SAFETY: the kernel writes 40 bytes during the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), WDIOC_GETSUPPORT, info.as_mut_ptr()) };
    result == 0 && info[0] & WDIOF_CARDRESET.unsigned_abs() != 0
}

/// Takes a network interface down.
#[expect(unsafe_code, reason = "an ioctl with a C union")]
pub(crate) fn link_down(socket: BorrowedFd<'_>, interface: &str) -> io::Result<()> {
    // SAFETY: all-zero is a valid ifreq; the name is copied with its terminating zero; SIOCGIFFLAGS fills the flags before
    // they are read as flags.
    unsafe {
        let mut request = std::mem::zeroed::<libc::ifreq>();
        let room = request.ifr_name.len() - 1;
        for (to, from) in request
            .ifr_name
            .iter_mut()
            .zip(interface.bytes().take(room))
        {
            *to = from as libc::c_char;
        }
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request).into())?;
        request.ifr_ifru.ifru_flags &= !(libc::IFF_UP as libc::c_short);
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request).into())
            .map(drop)
    }
}

/// When a loaded kernel is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// By `reboot(KEXEC)`.
    Asked,
    /// By a panic of the kernel that runs, in the memory that was reserved for it.
    Crash,
}

impl Start {
    fn flags(self) -> libc::c_ulong {
        match self {
            Self::Asked => 0,
            Self::Crash => KEXEC_FILE_ON_CRASH,
        }
    }
}

/// Loads a kernel.
#[expect(unsafe_code, reason = "neither rustix nor libc wraps kexec_file_load")]
pub(crate) fn kexec_file_load(
    kernel: &File,
    initrd: &File,
    command_line: &CStr,
    start: Start,
) -> io::Result<()> {
    let bytes = command_line.to_bytes_with_nul();
    // SAFETY: the kernel reads the two descriptors and `bytes.len()` bytes of the command line during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initrd.as_raw_fd(),
            bytes.len(),
            bytes.as_ptr(),
            start.flags(),
        )
    };
    check(result).map(drop)
}

/// Forgets a loaded kernel. A failed load leaves an earlier one armed.
#[expect(unsafe_code, reason = "neither rustix nor libc wraps kexec_file_load")]
pub(crate) fn kexec_file_unload(start: Start) -> io::Result<()> {
    // SAFETY: with KEXEC_FILE_UNLOAD the kernel looks at no other argument.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            -1,
            -1,
            0,
            std::ptr::null::<u8>(),
            KEXEC_FILE_UNLOAD | start.flags(),
        )
    };
    check(result).map(drop)
}

/// A command line as the kernel takes it.
pub(crate) fn c_string(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(io::Error::other)
}

/// What a Landlock ruleset takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ruleset {
    /// Rights on files.
    pub(crate) fs: u64,
    /// Rights on TCP ports.
    pub(crate) net: u64,
    /// Kinds of contact with other processes.
    pub(crate) scoped: u64,
}

/// The version of Landlock in this kernel, if any.
#[expect(unsafe_code, reason = "neither rustix nor libc wraps Landlock")]
pub(crate) fn landlock_version() -> Option<i32> {
    // SAFETY: with this flag the kernel reads no structure.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0_usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    i32::try_from(version).ok().filter(|version| *version > 0)
}

/// A ruleset to which exceptions are added before it is applied.
#[expect(unsafe_code, reason = "neither rustix nor libc wraps Landlock")]
pub(crate) fn new_ruleset(ruleset: &Ruleset) -> io::Result<OwnedFd> {
    let attributes = landlock_ruleset_attr {
        handled_access_fs: ruleset.fs,
        handled_access_net: ruleset.net,
        scoped: ruleset.scoped,
    };
    // SAFETY: the kernel reads `attributes` during the call (an older one accepts the longer structure when what it does
    // not know is zero); the descriptor that it returns is new and owned by nobody else.
    unsafe {
        let fd = check(libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attributes,
            size_of::<landlock_ruleset_attr>(),
            0,
        ))?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Grants rights at and below a path.
#[expect(unsafe_code, reason = "neither rustix nor libc wraps Landlock")]
pub(crate) fn allow_path(
    ruleset: BorrowedFd<'_>,
    path: BorrowedFd<'_>,
    rights: u64,
) -> io::Result<()> {
    let attributes = landlock_path_beneath_attr {
        allowed_access: rights,
        parent_fd: path.as_raw_fd(),
    };
    // SAFETY: the kernel reads `attributes` during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            landlock_rule_type::LANDLOCK_RULE_PATH_BENEATH as libc::c_int,
            &raw const attributes,
            0,
        )
    };
    check(result).map(drop)
}

/// Grants rights on a TCP port.
#[expect(unsafe_code, reason = "neither rustix nor libc wraps Landlock")]
pub(crate) fn allow_port(ruleset: BorrowedFd<'_>, port: u16, rights: u64) -> io::Result<()> {
    let attributes = landlock_net_port_attr {
        allowed_access: rights,
        port: port.into(),
    };
    // SAFETY: the kernel reads `attributes` during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            landlock_rule_type::LANDLOCK_RULE_NET_PORT as libc::c_int,
            &raw const attributes,
            0,
        )
    };
    check(result).map(drop)
}

/// Applies a ruleset to the caller and everything it becomes. It must have given up new privileges before.
#[expect(unsafe_code, reason = "neither rustix nor libc wraps Landlock")]
pub(crate) fn restrict(ruleset: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the call takes a descriptor and no pointer.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) })
        .map(drop)
}

/// Installs a seccomp filter in the caller and everything it becomes. It must have given up new privileges before.
#[expect(unsafe_code, reason = "rustix has no seccomp")]
pub(crate) fn install_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    let length = libc::c_ushort::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog {
        len: length,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: `filter` points to `len` instructions, which the kernel copies during the call and never writes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    check(result).map(drop)
}
