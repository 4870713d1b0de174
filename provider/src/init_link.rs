//! The line from a role to init: one packet per report over the socket whose number is in `PHASE_INIT_FD`.
//!
//! Outside the appliance the variable is absent and every report goes nowhere. Frequent reports (requests, progress) are
//! dropped when init is busy; the others wait a bounded time. The role `update` also reads what init asks of it
//! ([`InitLink::commands`]); the others never read.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use boot_manifest::handoff::{self, Command, Report};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketType, sendmsg, sockopt,
};
use tokio::net::UnixDatagram;

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

    /// What init asks of this role, on the runtime of the caller.
    pub(crate) fn commands(&self) -> io::Result<Commands> {
        let Some(socket) = &self.0 else {
            return Ok(Commands(None));
        };
        // To the runtime, a socket that keeps packets apart is like one of datagrams. Sending does not depend on whether the
        // socket blocks.
        let socket = std::os::unix::net::UnixDatagram::from(socket.try_clone()?);
        socket.set_nonblocking(true)?;
        Ok(Commands(Some(UnixDatagram::from_std(socket)?)))
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

/// What init asks, one after the other.
#[derive(Debug)]
pub(crate) struct Commands(Option<UnixDatagram>);

impl Commands {
    /// The next command; `None` when init has closed its end. Never comes back without an init. What cannot be read as a
    /// command is logged and passed over: init is newer than this program, or older.
    pub(crate) async fn next(&mut self) -> Option<Command> {
        let Some(socket) = &self.0 else {
            return std::future::pending().await;
        };
        let mut packet = [0; handoff::REPORT_SIZE_MAX];
        loop {
            let length = match socket.recv(&mut packet).await {
                Ok(0) => return None,
                Ok(length) => length,
                Err(error) => {
                    tracing::error!(%error, "init cannot be heard");
                    return None;
                }
            };
            match Command::decode(packet.get(..length).unwrap_or_default()) {
                Ok(command) => return Some(command),
                Err(error) => tracing::warn!(%error, "init asks something else"),
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

/// Takes a descriptor that was named in the environment. Call at most once for each.
#[expect(
    unsafe_code,
    reason = "the descriptor is inherited and known by its number only"
)]
pub(crate) fn adopt(number: i32) -> OwnedFd {
    // SAFETY: who started this process opened this descriptor for it alone and named it in the environment; nothing else
    // in the process knows the number, and each variable is read once. A wrong number is noticed by the caller's first use.
    unsafe { OwnedFd::from_raw_fd(number) }
}

#[cfg(test)]
mod tests {
    use std::io::IoSliceMut;

    use boot_manifest::handoff::HandoffRecord;
    use rustix::net::{
        AddressFamily, RecvAncillaryBuffer, RecvFlags, SocketFlags, recvmsg, socketpair,
    };
    use std::os::fd::AsFd as _;

    use super::*;

    fn pair() -> (InitLink, OwnedFd) {
        let (theirs, ours) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        (InitLink(Some(theirs)), ours)
    }

    /// The next report that init would see, and how many descriptors came with it.
    fn receive(socket: &OwnedFd) -> (Report, usize) {
        let mut packet = [0; handoff::REPORT_SIZE_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut packet)];
        let message = recvmsg(socket, &mut slices, &mut control, RecvFlags::empty()).unwrap();
        let fds = control.drain().map(|message| match message {
            rustix::net::RecvAncillaryMessage::ScmRights(fds) => fds.count(),
            _ => 0,
        });
        let fds = fds.sum();
        (Report::decode(&packet[..message.bytes]).unwrap(), fds)
    }

    fn progress() -> Report {
        Report::Progress {
            what: "kernel".to_owned(),
            done: 1,
            total: 2,
        }
    }

    #[test]
    fn reports_and_descriptors_arrive() {
        let (link, init) = pair();
        let record = HandoffRecord {
            origin: "http://a".to_owned(),
            fds: vec!["manifest".to_owned(), "kernel".to_owned()],
        };
        let report = Report::Handoff(record);
        let fds = [init.as_fd(), init.as_fd()];
        assert!(link.send_with_fds(&report, &fds).unwrap());
        assert_eq!(receive(&init), (report, 2));
        assert!(link.send(&Report::Ready {}).unwrap());
        assert_eq!(receive(&init), (Report::Ready {}, 0));
        assert!(
            link.send_with_fds(&progress(), &[init.as_fd(); FDS_MAX + 1])
                .is_err()
        );
        assert!(!InitLink(None).send(&Report::Ready {}).unwrap());
    }

    #[test]
    fn a_busy_init_costs_frequent_reports_only() {
        let (link, init) = pair();
        let mut sent = 0;
        while link.send(&progress()).unwrap() {
            sent += 1;
        }
        assert!(sent > 0);
        let reader =
            std::thread::spawn(move || (0..=sent).fold(progress(), |_, _| receive(&init).0));
        // Waits for room, which the reader makes.
        assert!(link.send(&Report::Ready {}).unwrap());
        assert_eq!(reader.join().unwrap(), Report::Ready {});
    }

    #[tokio::test]
    async fn commands_arrive_until_init_is_gone() {
        let (link, init) = pair();
        let mut commands = link.commands().unwrap();
        let say = |packet: &[u8]| {
            rustix::net::send(&init, packet, SendFlags::empty()).unwrap();
        };
        say(b"nonsense");
        say(&Command::CheckNow {}.encode());
        say(&Command::ReleaseTurn {}.encode());
        assert_eq!(commands.next().await, Some(Command::CheckNow {}));
        // Reports go the other way meanwhile.
        assert!(link.send(&Report::Ready {}).unwrap());
        assert_eq!(commands.next().await, Some(Command::ReleaseTurn {}));
        assert_eq!(receive(&init), (Report::Ready {}, 0));
        drop(init);
        assert_eq!(commands.next().await, None);
    }

    #[test]
    fn an_init_that_is_gone_is_an_error() {
        let (link, init) = pair();
        drop(init);
        let error = link.send(&Report::Ready {}).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
