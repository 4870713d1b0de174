//! Waiting until the other side has what went to it by reference. Nothing tells when that is: it is looked at, less and
//! less often the longer it takes.

use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::net::TcpStream;

use crate::http::limits::{DRAIN_LOOK, DRAIN_LOOK_MAX};

/// One such wait.
#[derive(Debug)]
pub(crate) struct Draining {
    began: Instant,
    unacknowledged: u64,
}

/// What a look at it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Drained {
    /// Bytes that arrived since the look before.
    pub(crate) acknowledged: u64,
    /// When to look again.
    pub(crate) again: Duration,
}

impl Draining {
    /// Looks, for the first time or once more; nothing when the other side has everything but the last `behind` bytes.
    ///
    /// # Errors
    /// When the connection is gone: nobody acknowledges anything any more.
    pub(crate) fn look(
        wait: &mut Option<Self>,
        socket: &TcpStream,
        behind: u64,
    ) -> io::Result<Option<Drained>> {
        let unacknowledged = unacknowledged(socket)?;
        if unacknowledged <= behind {
            *wait = None;
            return Ok(None);
        }
        if is_gone(socket) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let wait = wait.get_or_insert_with(|| Self {
            began: Instant::now(),
            unacknowledged,
        });
        let before = std::mem::replace(&mut wait.unacknowledged, unacknowledged);
        Ok(Some(Drained {
            acknowledged: before.saturating_sub(unacknowledged),
            // The wait becomes a quarter longer than it must be, at most.
            again: (wait.began.elapsed() / 4).clamp(DRAIN_LOOK, DRAIN_LOOK_MAX),
        }))
    }
}

/// Bytes that the other side has not acknowledged.
#[expect(unsafe_code, reason = "an ioctl for which there is no safe function")]
pub(crate) fn unacknowledged(socket: &TcpStream) -> io::Result<u64> {
    type Outgoing = rustix::ioctl::Getter<{ libc::TIOCOUTQ as rustix::ioctl::Opcode }, libc::c_int>;
    // SAFETY: SIOCOUTQ, which has this number, writes one int.
    let count = unsafe { rustix::ioctl::ioctl(socket, Outgoing::new()) }?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// Whether the connection was reset or timed out. The count above stays what it was then.
fn is_gone(socket: &TcpStream) -> bool {
    let mut asked = [PollFd::new(socket, PollFlags::empty())];
    // Asked for or not, these two are told.
    rustix::event::poll(&mut asked, Some(&Timespec::default())).is_ok()
        && asked[0]
            .revents()
            .intersects(PollFlags::HUP | PollFlags::ERR)
}
