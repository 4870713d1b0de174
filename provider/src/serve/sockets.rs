//! The listening sockets: those that the service manager passed (`LISTEN_FDS`), or those that the flags ask for.
//!
//! Opened once, before privileges are dropped. `::` alone is all of IPv6 and IPv4, so whatever it covers is not opened again.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::exit::CommandError;
use crate::http::server;
use crate::init_link;
use crate::serve::setup::cannot_listen;

/// Name of a passed socket that speaks TLS (`FileDescriptorName=`); every other one speaks plain HTTP.
const HTTPS: &str = "https";

/// What clients speak on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    /// As in a URL.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// A socket that listens.
#[derive(Debug)]
pub(super) struct Listener {
    /// Not blocking.
    pub(super) socket: TcpListener,
    /// What is spoken.
    pub(super) scheme: Scheme,
    /// Where it is.
    pub(super) address: SocketAddr,
}

/// Which sockets are wanted.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    /// Addresses of this machine.
    pub(super) addresses: &'a [IpAddr],
    /// For plain HTTP; 0 takes a free one.
    pub(super) port: u16,
    /// For TLS, if at all.
    pub(super) tls_port: Option<u16>,
}

/// The passed sockets, or else the wanted ones. A TLS port is opened beside passed sockets that lack one.
pub(super) fn open(wanted: &Wanted<'_>) -> Result<Vec<Listener>, CommandError> {
    let mut listeners = passed()?;
    let is_passed = !listeners.is_empty();
    let has_tls = listeners
        .iter()
        .any(|listener| listener.scheme == Scheme::Https);
    let addresses = uncovered(wanted.addresses);
    if !is_passed {
        listeners.extend(listen(&addresses, wanted.port, Scheme::Http)?);
    }
    if let Some(port) = wanted.tls_port.filter(|_| !has_tls) {
        let is_taken = |listener: &Listener| port != 0 && listener.address.port() == port;
        if listeners.iter().any(is_taken) {
            return Err(CommandError::usage(format!(
                "port {port} cannot speak both HTTP and HTTPS"
            ))
            .hint("give --port and --tls-port different numbers"));
        }
        listeners.extend(listen(&addresses, port, Scheme::Https)?);
    }
    Ok(listeners)
}

fn listen(
    addresses: &[IpAddr],
    mut port: u16,
    scheme: Scheme,
) -> Result<Vec<Listener>, CommandError> {
    let mut listeners = Vec::new();
    for ip in addresses {
        let wanted = SocketAddr::new(*ip, port);
        let failed = |error: io::Error| cannot_listen(wanted, &error);
        let socket = server::listen(wanted).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        // One free port for all of them.
        port = address.port();
        listeners.push(Listener {
            socket,
            scheme,
            address,
        });
    }
    Ok(listeners)
}

/// What other machines are told about: the port of the first plain HTTP listener that they reach, and all addresses where
/// that port is listened on. One announcement has one port.
pub(super) fn announced(listeners: &[Listener]) -> Option<(Vec<IpAddr>, u16)> {
    let mut reached = listeners
        .iter()
        .filter(|listener| listener.scheme == Scheme::Http)
        .map(|listener| listener.address)
        .filter(|address| !address.ip().is_loopback())
        .peekable();
    let port = reached.peek()?.port();
    let same_port = reached.filter(|address| address.port() == port);
    Some((same_port.map(|address| address.ip()).collect(), port))
}

/// `addresses` as they are written best, each once, without those that another one covers.
fn uncovered(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let all = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let mut found: Vec<IpAddr> = Vec::new();
    let addresses: Vec<IpAddr> = addresses.iter().map(IpAddr::to_canonical).collect();
    for ip in &addresses {
        let is_covered = addresses.iter().any(|other| {
            other != ip && (*other == all || (other.is_unspecified() && ip.is_ipv4()))
        });
        if !is_covered && !found.contains(ip) {
            found.push(*ip);
        }
    }
    found
}

/// The sockets of the service manager, none when there is none.
fn passed() -> Result<Vec<Listener>, CommandError> {
    let failed = |error: &dyn std::fmt::Display| {
        CommandError::local(format!("the sockets of the service manager: {error}")).hint(
            "LISTEN_FDS must name listening TCP sockets (ListenStream=), `https` those for TLS",
        )
    };
    let passed = sd_notify::listen_fds_with_names().map_err(|error| failed(&error))?;
    passed
        .map(|(number, name)| {
            let scheme = if name == HTTPS {
                Scheme::Https
            } else {
                Scheme::Http
            };
            adopt(init_link::adopt(number), scheme)
                .map_err(|error| failed(&format_args!("{number} ({name}): {error}")))
        })
        .collect()
}

/// Checks that a descriptor is what it is said to be.
fn adopt(fd: OwnedFd, scheme: Scheme) -> io::Result<Listener> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
    if sockopt::socket_type(&fd)? != SocketType::STREAM || !sockopt::socket_acceptconn(&fd)? {
        return Err(invalid("does not listen"));
    }
    let family = sockopt::socket_domain(fd.as_fd())?;
    if family != AddressFamily::INET && family != AddressFamily::INET6 {
        return Err(invalid("is no TCP socket"));
    }
    let socket = TcpListener::from(fd);
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    Ok(Listener {
        socket,
        scheme,
        address,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_opened_twice() {
        for (given, expected) in [
            (&["0.0.0.0"][..], &["0.0.0.0"][..]),
            (&["::"], &["::"]),
            (&["0.0.0.0", "::", "10.0.0.1", "fe80::1"], &["::"]),
            (&["10.0.0.1", "0.0.0.0", "::1"], &["0.0.0.0", "::1"]),
            (&["::ffff:10.0.0.1", "10.0.0.1"], &["10.0.0.1"]),
            (&["127.0.0.1", "::1"], &["127.0.0.1", "::1"]),
        ] {
            let parse = |list: &[&str]| -> Vec<IpAddr> {
                list.iter().map(|ip| ip.parse().unwrap()).collect()
            };
            assert_eq!(uncovered(&parse(given)), parse(expected), "{given:?}");
        }
    }

    #[test]
    fn all_addresses_of_one_port_are_announced() {
        let listener = |scheme, address: &str| Listener {
            socket: TcpListener::bind("127.0.0.1:0").unwrap(),
            scheme,
            address: address.parse().unwrap(),
        };
        let http = |address| listener(Scheme::Http, address);
        let said = |listeners: &[Listener]| {
            let (addresses, port) = announced(listeners)?;
            let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
            Some(format!("{} {port}", addresses.join(" ")))
        };
        let all = [
            listener(Scheme::Https, "10.0.0.9:443"),
            http("127.0.0.1:80"),
            http("10.0.0.1:80"),
            http("10.0.0.3:8080"),
            http("[fd00::1]:80"),
        ];
        assert_eq!(said(&all).as_deref(), Some("10.0.0.1 fd00::1 80"));
        assert_eq!(said(&all[..2]), None);
    }

    #[test]
    fn only_listening_tcp_sockets_are_adopted() {
        let refused = |fd: OwnedFd| adopt(fd, Scheme::Http).unwrap_err().to_string();
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(refused(file.into()).contains("ocket"));
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(refused(udp.into()), "does not listen");
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listening.local_addr().unwrap();
        let connected = std::net::TcpStream::connect(address).unwrap();
        assert_eq!(refused(connected.into()), "does not listen");
        let folder = tempfile::tempdir().unwrap();
        let unix = std::os::unix::net::UnixListener::bind(folder.path().join("s")).unwrap();
        assert_eq!(refused(unix.into()), "is no TCP socket");
        let adopted = adopt(listening.into(), Scheme::Https).unwrap();
        assert_eq!((adopted.address, adopted.scheme), (address, Scheme::Https));
    }
}
