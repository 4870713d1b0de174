//! The boot services of `plasmd serve`: whoever asks this LAN for something to boot is answered.
//!
//! | module | holds |
//! | --- | --- |
//! | `args`, `range` | the flags |
//! | `ports` | which ports are open, and why not others |
//! | `datagrams`, `datagrams6`, `sys` | UDP that knows its interface, and the address that was asked |
//! | `interfaces`, `neighbours` | the addresses of this machine, and who is near |
//! | `desk` | the one task that answers DHCP |
//! | `dhcp6` | the one that answers DHCPv6 |
//! | `addresses`, `keep`, `conflict`, `rival` | giving addresses, where no other server does |
//! | `files` | boot files by the names that firmware asks for |
//! | `later` | answers that are due later |
//! | `shared`, `metrics` | what the rest of the provider sees of it |
//! | `tftp` | boot files over TFTP |
//! | `limits` | every number with its reason |
//!
//! What clients are told is decided in the crate `pxe`, what each machine boots elsewhere; here are the sockets, the clock
//! and the files. Runs beside the HTTP server, in the same process and the same sandbox, and no request waits for it.

mod addresses;
pub(crate) mod args;
mod conflict;
mod control_message;
pub(crate) mod datagrams;
mod datagrams6;
mod desk;
pub(crate) mod dhcp6;
pub(crate) mod files;
pub(crate) mod interfaces;
pub(crate) mod keep;
mod later;
pub(crate) mod limits;
pub(crate) mod metrics;
mod neighbours;
pub(crate) mod ports;
pub(crate) mod range;
mod rival;
pub(crate) mod shared;
mod sys;
pub(crate) mod tftp;

use std::sync::Arc;

use pxe::leases::{Leases, Pool};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::exit::CommandError;
use crate::listen::addresses::{Addresses, Told};
use crate::listen::args::{BootArgs, DhcpMode};
use crate::listen::datagrams::{Datagrams, Watched};
use crate::listen::desk::{Desk, Open};
use crate::listen::dhcp6::Dhcp6;
use crate::listen::interfaces::Interfaces;
use crate::listen::keep::LeaseFile;
use crate::listen::limits::HINTS_MAX;
use crate::listen::ports::Ports;
use crate::listen::range::Range;
use crate::listen::shared::{Hint, Shared};

/// What is said about it by flags, kept until the runtime is there.
#[derive(Debug)]
pub(crate) struct Setup {
    only: Vec<String>,
    ranges: Vec<Range>,
    told: Told,
    file: Option<LeaseFile>,
    /// On the appliance nothing is refused: a role that ends is started again and again.
    is_lenient: bool,
}

impl Setup {
    /// From the flags, with the file that leases are kept in.
    pub(crate) fn new(args: &BootArgs, file: Option<LeaseFile>, is_lenient: bool) -> Self {
        Self {
            only: args.dhcp_interface.clone(),
            ranges: args.dhcp_range.clone(),
            told: Told {
                router: args.dhcp_router,
                dns: args.dhcp_dns.clone(),
            },
            file,
            is_lenient,
        }
    }
}

/// The running services. They end with it.
#[derive(Debug)]
pub(crate) struct Listen {
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Listen {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Begins to answer; nothing when there is nothing to answer with.
pub(crate) async fn start(
    ports: Ports,
    setup: Setup,
    shared: Arc<Shared>,
) -> Result<Option<Listen>, CommandError> {
    let Some(http) = ports.http else {
        return Ok(None);
    };
    let open = Open {
        dhcp: watched(ports.dhcp)?,
        binl: watched(ports.binl)?,
        rivals: watched(ports.rivals)?,
    };
    let mut interfaces = Interfaces::new(&setup.only);
    let mut addresses = None;
    if ports.mode == DhcpMode::Server {
        addresses = Some(addresses_of(&setup, &shared));
        if let Some(socket) = &open.rivals {
            refuse_beside_a_rival(socket, &mut interfaces, setup.is_lenient, &mut addresses)
                .await?;
        }
    }
    let (hints, told) = mpsc::channel(HINTS_MAX);
    let mut tasks = Vec::new();
    if let Some(ports) = ports.ipv6 {
        let mode = match addresses {
            Some(_) => dhcp6::Mode::Server,
            None => dhcp6::Mode::Proxy,
        };
        let service =
            Dhcp6::new(ports, mode, &setup.only, Arc::clone(&shared)).map_err(|error| {
                CommandError::local(format!("cannot watch the boot ports: {error}"))
            })?;
        tasks.push(tokio::spawn(service.run()));
    }
    // What TFTP and HTTP see of a machine is known there. In a storm some of it is lost, and found out again.
    shared
        .machines
        .tell_everything_to(Box::new(move |mac, heard| {
            let _ = hints.try_send(Hint { mac, heard });
        }));
    let desk = Desk::new(open, http, interfaces, addresses, shared, told);
    tasks.push(tokio::spawn(desk.run()));
    Ok(Some(Listen { tasks }))
}

fn watched(socket: Option<Datagrams>) -> Result<Option<Watched>, CommandError> {
    socket
        .map(Datagrams::watched)
        .transpose()
        .map_err(|error| CommandError::local(format!("cannot watch the boot ports: {error}")))
}

/// The addresses that are given, with those that were given before.
fn addresses_of(setup: &Setup, shared: &Shared) -> Addresses {
    let pools = setup.ranges.iter().map(|range| Pool {
        first: range.first,
        last: range.last,
        prefix: range.prefix,
        lease: range.lease,
    });
    let mut leases = Leases::new(pools.collect());
    if let Some(file) = &setup.file {
        let (kept, problem) = file.read();
        if let Some(problem) = problem {
            tracing::error!("leases: {problem}");
        }
        leases.restore(kept, addresses::now());
    }
    Addresses::new(
        leases,
        setup.told.clone(),
        setup.file.clone(),
        Arc::clone(&shared.metrics),
    )
}

/// Two servers that give addresses on one LAN give the same one twice.
async fn refuse_beside_a_rival(
    socket: &Watched,
    interfaces: &mut Interfaces,
    is_lenient: bool,
    addresses: &mut Option<Addresses>,
) -> Result<(), CommandError> {
    let found = rival::find(socket, interfaces).await.map_err(|error| {
        CommandError::local(format!("cannot ask for other DHCP servers: {error}"))
    })?;
    let Some(rival) = found else {
        return Ok(());
    };
    if !is_lenient {
        return Err(CommandError::local(format!(
            "--dhcp server: {} already gives addresses on {}",
            rival.server, rival.interface
        ))
        .hint("use --dhcp proxy beside it, or switch that one off"));
    }
    tracing::error!(
        server = %rival.server, interface = rival.interface,
        "another DHCP server gives addresses here, so this one gives none: machines are booted beside it"
    );
    *addresses = None;
    Ok(())
}
