//! The line from a role to init: one packet per report over the socket whose number is in `PHASE_INIT_FD`.
//!
//! Outside the appliance the variable is absent and every report goes nowhere. Nothing is ever read from the socket
//! here. Frequent reports (requests, progress) are dropped when init is busy; the others wait a bounded time.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use boot_manifest::handoff::{self, Report};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketType, sendmsg, sockopt,
};

/// How long a report that must arrive waits for room in the socket. Init reads in a loop; if it has not for this long
/// it never will, and the role must not hang with it.
const SEND_WAIT_MAX: Duration = Duration::from_secs(5);

/// Descriptors in one packet: a manifest and the artifacts of one image. The kernel's own limit is 253.
const FDS_MAX: usize = 16;

/// Where reports go.
#[derive(Debug)]
pub(crate) struct InitLink(Option<OwnedFd>);

impl InitLink {
    /// The socket init gave this process, or a link to nowhere when there is none. Call at most once in a process.
    pub(crate) fn from_env() -> io::Result<Self> {
        let Some(value) = std::env::var_os(handoff::ENV) else {
            return Ok(Self(None));
        };
        let invalid = |what: &str| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{}={}: {what}", handoff::ENV, value.display()),
            )
        };
        let number = value
            .to_str()
            .and_then(|text| text.parse::<i32>().ok())
            .filter(|&number| number > 2)
            .ok_or_else(|| invalid("not the number of a file descriptor"))?;
        let fd = adopt(number);
        match sockopt::socket_type(&fd) {
            Ok(SocketType::SEQPACKET) => {}
            Ok(_) => return Err(invalid("not a SOCK_SEQPACKET socket")),
            Err(error) => {
                // Whatever the number is, it is not ours to close.
                std::mem::forget(fd);
                return Err(invalid(&error.to_string()));
            }
        }
        fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
        Ok(Self(Some(fd)))
    }

    /// A link to nowhere.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Self {
        Self(None)
    }

    /// Sends a report. `Ok(false)`: it went nowhere, or it was a frequent one and init is busy.
    pub(crate) fn send(&self, report: &Report) -> io::Result<bool> {
        self.send_with_fds(report, &[])
    }

    /// Sends a report and descriptors with it, in the given order.
    pub(crate) fn send_with_fds(
        &self,
        report: &Report,
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<bool> {
        let Some(socket) = &self.0 else {
            return Ok(false);
        };
        let packet = report.encode();
        if fds.len() > FDS_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "too many descriptors",
            ));
        }
        let droppable = matches!(report, Report::Request { .. } | Report::Progress { .. });
        let deadline = Instant::now() + SEND_WAIT_MAX;
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(io::Error::other(
                    "the descriptors do not fit into one packet",
                ));
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(socket, &[IoSlice::new(&packet)], &mut control, flags) {
                Ok(_) => return Ok(true),
                Err(Errno::AGAIN) if droppable => return Ok(false),
                Err(Errno::AGAIN) => wait_writable(socket, deadline)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn wait_writable(socket: &OwnedFd, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "init does not read its reports",
        ));
    }
    let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[expect(
    unsafe_code,
    reason = "the descriptor is inherited and known by its number only"
)]
fn adopt(number: i32) -> OwnedFd {
    // SAFETY: init opened this descriptor for this process alone and named it in PHASE_INIT_FD; nothing else in the
    // process knows the number, and `from_env` is called once. A wrong number is noticed by the caller's first use.
    unsafe { OwnedFd::from_raw_fd(number) }
}
