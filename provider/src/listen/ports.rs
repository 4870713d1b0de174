//! Which ports of the boot services are open, and what became of the others in words. Opened once, before privileges are
//! dropped.
//!
//! Whoever named `--dhcp` means it: what cannot be had is an error. Otherwise the boot services are a gift: what cannot be had
//! is said in one line, and files are served over HTTP all the same.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use crate::exit::CommandError;
use crate::listen::args::{BootArgs, DhcpMode};
use crate::listen::datagrams::Datagrams;
use crate::listen::dhcp6::{self, Http6, Ports6};
use crate::serve::port_owner::{self, Protocol};

/// Where DHCP servers are asked.
pub(crate) const DHCP_PORT: u16 = 67;
/// Where DHCP clients are answered.
pub(crate) const CLIENT_PORT: u16 = 68;
/// Where PXE clients ask for their boot file once they have an address.
pub(crate) const BINL_PORT: u16 = 4011;

/// Where machines fetch what they boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Http {
    /// The addresses of this machine that are listened on; none means all.
    pub(crate) only: Vec<Ipv4Addr>,
    /// The port.
    pub(crate) port: u16,
}

impl Http {
    /// What other machines connect to over plain HTTP and IPv4, from addresses and port that are listened on.
    pub(crate) fn of(listened: Option<(Vec<IpAddr>, u16)>) -> Option<Self> {
        let (addresses, port) = listened?;
        if addresses.iter().any(IpAddr::is_unspecified) {
            return Some(Self {
                only: Vec::new(),
                port,
            });
        }
        let only: Vec<Ipv4Addr> = addresses
            .iter()
            .filter_map(|ip| match ip {
                IpAddr::V4(ip) => Some(*ip),
                IpAddr::V6(_) => None,
            })
            .collect();
        (!only.is_empty()).then_some(Self { only, port })
    }

    /// The address among those of an interface that answers over HTTP.
    pub(crate) fn reached(&self, addresses: &[Ipv4Addr]) -> Option<Ipv4Addr> {
        addresses
            .iter()
            .find(|ip| self.only.is_empty() || self.only.contains(ip))
            .copied()
    }
}

/// The open ports.
#[derive(Debug)]
pub(crate) struct Ports {
    /// What is done with them.
    pub(crate) mode: DhcpMode,
    /// Why that is not what it could be, for people.
    pub(crate) note: Option<String>,
    /// Port 67.
    pub(crate) dhcp: Option<Datagrams>,
    /// Port 4011.
    pub(crate) binl: Option<Datagrams>,
    /// Port 68, to hear other DHCP servers; when addresses are given.
    pub(crate) rivals: Option<Datagrams>,
    /// Where machines fetch from.
    pub(crate) http: Option<Http>,
    /// The same over IPv6, as far as it can be had.
    pub(crate) ipv6: Option<Ports6>,
}

impl Ports {
    fn none(note: Option<String>) -> Self {
        Self {
            mode: DhcpMode::Off,
            note,
            dhcp: None,
            binl: None,
            rivals: None,
            http: None,
            ipv6: None,
        }
    }

    /// Opens the ports of DHCPv6 too, where `http` answers over IPv6. Without them IPv4 goes on alone.
    #[must_use]
    pub(crate) fn with_ipv6(mut self, http: Option<Http6>) -> Self {
        match dhcp6::open(self.mode, http) {
            Ok(ports) => self.ipv6 = ports,
            Err(why) => tracing::warn!("machines that boot over IPv6 are not answered: {why}"),
        }
        self
    }
}

/// Opens what the flags ask for. `http` is where machines would fetch what they boot.
pub(crate) fn open(args: &BootArgs, http: Option<Http>) -> Result<Ports, CommandError> {
    let mode = args.dhcp.unwrap_or(DhcpMode::Proxy);
    let is_explicit = args.dhcp.is_some();
    if mode == DhcpMode::Off {
        return Ok(Ports::none(None));
    }
    check(args, mode)?;
    let Some(http) = http else {
        let why = "no other machine can fetch anything over plain HTTP";
        return match is_explicit {
            true => Err(
                CommandError::usage(format!("--dhcp {}: {why}", mode.as_str())).hint(
                    "listen on an IPv4 address of the LAN (--bind 0.0.0.0), or leave out --dhcp",
                ),
            ),
            false => Ok(Ports::none(Some(why.to_owned()))),
        };
    };
    match open_for(mode, &http) {
        Ok(ports) => Ok(ports),
        Err((port, error)) if is_explicit => Err(cannot_open(port, &error)),
        Err((DHCP_PORT, error)) if error.kind() == io::ErrorKind::AddrInUse => {
            let owner = port_owner::find(DHCP_PORT, Protocol::Udp);
            let owner = owner.unwrap_or_else(|| "another process".to_owned());
            let note = format!(
                "{owner} has port {DHCP_PORT} for itself, so only clients that it sends to port {BINL_PORT} \
                 are answered (it does that with option 60 PXEClient)"
            );
            let ports = open_for(DhcpMode::Binl, &http);
            Ok(ports.map_or_else(
                |_| Ports::none(Some(format!("{owner} has port {DHCP_PORT} for itself"))),
                |ports| Ports {
                    note: Some(note),
                    ..ports
                },
            ))
        }
        Err((port, error)) => {
            let why = match error.kind() {
                io::ErrorKind::PermissionDenied => "needs root or CAP_NET_BIND_SERVICE".to_owned(),
                _ => error.to_string(),
            };
            Ok(Ports::none(Some(format!("port {port} {why}"))))
        }
    }
}

/// Refuses flags that do not fit the mode.
fn check(args: &BootArgs, mode: DhcpMode) -> Result<(), CommandError> {
    match (mode, args.dhcp_range.is_empty()) {
        (DhcpMode::Server, true) => Err(CommandError::usage(
            "--dhcp server needs the addresses it may give",
        )
        .hint("--dhcp-range 10.0.0.100-10.0.0.199 names some that nobody else uses")),
        (DhcpMode::Server, false) | (_, true) => Ok(()),
        (_, false) => Err(CommandError::usage(format!(
            "--dhcp {} gives no addresses",
            mode.as_str()
        ))
        .hint("leave out --dhcp-range, or say --dhcp server")),
    }
}

/// The ports of a mode; the one that cannot be had.
fn open_for(mode: DhcpMode, http: &Http) -> Result<Ports, (u16, io::Error)> {
    let opened = |port: u16| Datagrams::open(port).map_err(|error| (port, error));
    let shared = |port: u16| {
        Datagrams::open(port)
            .or_else(|_| Datagrams::share(port))
            .map_err(|error| (port, error))
    };
    let mut ports = Ports {
        mode,
        http: Some(http.clone()),
        ..Ports::none(None)
    };
    match mode {
        DhcpMode::Off => return Ok(ports),
        DhcpMode::Binl => {}
        DhcpMode::Proxy => match Datagrams::open(DHCP_PORT) {
            Ok(socket) => ports.dhcp = Some(socket),
            Err(error) => {
                let socket = Datagrams::share(DHCP_PORT).map_err(|_| (DHCP_PORT, error))?;
                ports.dhcp = Some(socket);
                ports.note = Some(format!(
                    "port {DHCP_PORT} is shared with another program of this machine: clients behind a DHCP relay \
                     are heard by that one only"
                ));
            }
        },
        DhcpMode::Server => {
            ports.dhcp = Some(opened(DHCP_PORT)?);
            ports.rivals = Some(shared(CLIENT_PORT)?);
        }
    }
    ports.binl = Some(opened(BINL_PORT)?);
    Ok(ports)
}

fn cannot_open(port: u16, error: &io::Error) -> CommandError {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let owner = port_owner::find(port, Protocol::Udp)
                .unwrap_or_else(|| "another process".to_owned());
            CommandError::local(format!("port {port}/udp is in use by {owner}")).hint(match port {
                DHCP_PORT => "a DHCP server on this machine: use --dhcp binl and let it send option 60 PXEClient, or stop it",
                _ => "stop that process, or leave out --dhcp",
            })
        }
        io::ErrorKind::PermissionDenied => CommandError::local(format!(
            "port {port}/udp: permission denied"
        ))
        .hint("booting machines needs root or CAP_NET_BIND_SERVICE; the installed service has it"),
        _ => CommandError::local(format!("port {port}/udp: {error}"))
            .hint("--dhcp off serves files only"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_fetch_from_where_http_is_spoken() {
        let http = |addresses: &[&str]| {
            Http::of(Some((
                addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
                8080,
            )))
        };
        let (here, there) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 1, 0, 1));
        for all in [&["::"][..], &["0.0.0.0"], &["fd00::1", "0.0.0.0"]] {
            let http = http(all).unwrap();
            assert_eq!(http.reached(&[here, there]), Some(here));
        }
        let one = http(&["10.1.0.1", "fd00::1"]).unwrap();
        assert_eq!(one.reached(&[here, there]), Some(there));
        assert_eq!(one.reached(&[here]), None);
        assert_eq!(http(&["fd00::1"]), None);
        assert_eq!(Http::of(None), None);
    }
}
