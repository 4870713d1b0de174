//! What the service manager is told (`NOTIFY_SOCKET`): ready, reloading, stopping, and that requests are still answered.
//! Without one nobody is told, and nothing here fails for it.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::serve::limits::TELL_WAIT_MAX;

/// Where the service manager listens. Connected once, before the process gives up what it needs for that.
#[derive(Debug)]
pub(crate) struct Notifier(Option<UnixDatagram>);

impl Notifier {
    /// The service manager that started this process, if one did.
    pub(super) fn from_env() -> Self {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
            return Self(None);
        };
        let connected = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path)),
        }
        .and_then(connect);
        match connected {
            Ok(socket) => Self(Some(socket)),
            Err(error) => {
                tracing::warn!(%error, socket = %name.display(), "the service manager cannot be told");
                Self(None)
            }
        }
    }

    /// Requests are answered.
    pub(crate) fn ready(&self, status: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// Files are being read again; [`Notifier::ready`] ends it.
    pub(crate) fn reloading(&self) {
        let mut states = vec![NotifyState::Reloading];
        // The service manager orders the beginning and the end of a reload by it.
        states.extend(NotifyState::monotonic_usec_now());
        self.tell(&states);
    }

    /// No more connections are accepted, and the process ends `within` this time: a service manager that would wait for less
    /// is asked to wait for as long.
    pub(crate) fn stopping(&self, status: &str, within: Duration) {
        let micros = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
        self.tell(&[
            NotifyState::Stopping,
            NotifyState::Status(status),
            NotifyState::ExtendTimeoutUsec(micros),
        ]);
    }

    /// An answer was seen just now.
    pub(crate) fn alive(&self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        let Some(socket) = &self.0 else { return };
        let lines: String = states.iter().map(|state| format!("{state}\n")).collect();
        if let Err(error) = socket.send(lines.as_bytes()) {
            tracing::warn!(%error, "the service manager was not told");
        }
    }
}

fn connect(address: SocketAddr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    // A service manager that is busy gets some time, and one that does not read at all must not stop requests for long.
    socket.set_write_timeout(Some(TELL_WAIT_MAX))?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

/// How often the service manager wants to hear [`Notifier::alive`], at the least.
pub(super) fn watchdog_period() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|period| !period.is_zero())
}
