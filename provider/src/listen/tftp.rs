//! Boot files over TFTP: ports, transfers, and the one thread that moves them.
//!
//! | module | holds |
//! | --- | --- |
//! | `ports` | where requests come in |
//! | `engine` | the thread: requests, packets, silences |
//! | `places` | who gives up a place, and who is answered once only |
//! | `transfer` | one transfer's file and socket |
//! | `waiting` | how the thread waits |
//! | `telling` | what becomes of transfers, for counters and logs |
//!
//! What to send after which packet is decided in [`pxe::tftp`]; which name is which file in [`files`](super::files). A thread
//! of its own, because a transfer of one block at a time is as fast as the wait between two packets is short: here nothing
//! stands between the kernel and the answer. It never hashes and never looks for files; that is done by the runtime, and the
//! result handed over.
//!
//! Memory: one window for all transfers together, and less than a kilobyte for each. A file that several fetch is open once.

mod engine;
mod places;
mod ports;
pub(crate) mod telling;
mod transfer;
mod waiting;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::EventfdFlags;
use tokio::runtime::Handle;

use crate::exit::CommandError;
use crate::listen::files::Library;
use crate::listen::tftp::engine::{Engine, Found};
pub(crate) use crate::listen::tftp::ports::Ports;
use crate::serve::port_owner::{self, Protocol};

/// Where firmware asks.
const PORT: u16 = 69;

/// The flags of TFTP.
#[derive(clap::Args)]
pub(crate) struct TftpArgs {
    /// The port for TFTP; 0 takes a free one [default: 69, when machines are answered that boot from the network]
    #[arg(long, value_name = "PORT", conflicts_with = "no_tftp")]
    tftp_port: Option<u16>,
    /// No TFTP: machines are only offered what they can fetch over HTTP
    #[arg(long)]
    no_tftp: bool,
    /// Answer all TFTP clients from the one port: for firewalls and address translation in between
    #[arg(long)]
    tftp_single_port: bool,
}

/// What became of a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// It begins.
    Started {
        /// The file as the client calls it.
        name: String,
        /// Its size.
        size: u64,
    },
    /// The client has everything.
    Sent {
        /// The file.
        name: String,
        /// Its size.
        bytes: u64,
        /// From the request to the last acknowledgement.
        took: Duration,
        /// Blocks that were sent more than once.
        resent: u64,
    },
    /// The client asked for the size and left, as firmware does.
    SizeOnly {
        /// The file.
        name: String,
    },
    /// It broke off.
    Aborted {
        /// The file.
        name: String,
        /// What the client has of it.
        bytes: u64,
        /// Blocks that were sent more than once.
        resent: u64,
        /// What happened, for people.
        why: String,
    },
    /// The request was refused.
    Refused {
        /// What was asked for.
        name: String,
        /// Why not.
        why: String,
    },
}

/// Who is told what becomes of transfers. Called by the thread: it must not wait.
pub(crate) type Teller = Arc<dyn Fn(SocketAddr, &Told) + Send + Sync>;

/// The ports that the flags ask for, and why there are none. `is_wanted`: machines are answered that boot from the network.
pub(crate) fn open(
    args: &TftpArgs,
    addresses: &[IpAddr],
    is_wanted: bool,
) -> Result<(Option<Ports>, Option<String>), CommandError> {
    if args.no_tftp || (args.tftp_port.is_none() && !is_wanted) {
        return Ok((None, None));
    }
    let port = args.tftp_port.unwrap_or(PORT);
    let error = match Ports::open(addresses, port, args.tftp_single_port) {
        Ok(ports) => return Ok((Some(ports), None)),
        Err(error) => error,
    };
    let owner =
        || port_owner::find(port, Protocol::Udp).unwrap_or_else(|| "another process".to_owned());
    let (why, hint) = match error.kind() {
        io::ErrorKind::AddrInUse => (
            format!("port {port}/udp is in use by {}", owner()),
            "stop that process, name another port with --tftp-port, or say --no-tftp",
        ),
        io::ErrorKind::PermissionDenied => (
            format!("port {port}/udp: permission denied"),
            "ports below 1024 need root or CAP_NET_BIND_SERVICE; the installed service has it",
        ),
        _ => (
            format!("port {port}/udp: {error}"),
            "--no-tftp serves over HTTP only",
        ),
    };
    match args.tftp_port {
        Some(_) => Err(CommandError::local(why).hint(hint)),
        None => Ok((None, Some(format!("no TFTP: {why}")))),
    }
}

/// The running thread. Dropping it ends it, and tells the clients.
pub(crate) struct Tftp {
    mailbox: Arc<Mailbox>,
    thread: Option<JoinHandle<()>>,
}

/// What others put before the thread.
struct Mailbox {
    /// Wakes it.
    bell: OwnedFd,
    found: Mutex<Vec<Found>>,
    is_over: AtomicBool,
}

impl Mailbox {
    fn put(&self, found: Found) {
        self.lock().push(found);
        self.ring();
    }

    fn take(&self) -> Vec<Found> {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Found>> {
        // Whole at every unlock.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        // It fails when it rings already.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }
}

impl Tftp {
    /// Starts the thread. Files are opened on `runtime`.
    pub(crate) fn start(
        ports: Ports,
        library: Arc<dyn Library>,
        teller: Teller,
        runtime: Handle,
    ) -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let mailbox = Arc::new(Mailbox {
            bell: rustix::event::eventfd(0, flags)?,
            found: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        let engine = Engine::new(ports, library, teller, runtime, Arc::clone(&mailbox))?;
        let thread = std::thread::Builder::new()
            .name("tftp".to_owned())
            .spawn(move || engine.run())?;
        Ok(Self {
            mailbox,
            thread: Some(thread),
        })
    }
}

impl Drop for Tftp {
    fn drop(&mut self) {
        self.mailbox.is_over.store(true, Ordering::Release);
        self.mailbox.ring();
        if let Some(thread) = self.thread.take() {
            // Its panic was logged where it happened.
            let _ = thread.join();
        }
    }
}
