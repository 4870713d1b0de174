//! The flags of the DHT, and what they ask for.
//!
//! Whoever named one of them means it: what cannot be had is an error. Otherwise being found by the DHT is a gift, and what
//! is missing is said in one line.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use discovery::dht::{Bootstrap, BootstrapError, Config, DEFAULT_PORT, Identity, Serving};

use crate::exit::CommandError;
use crate::held_folder::HeldFolder;
use crate::serve::port_owner::{self, Protocol};

/// Being found beyond the local network.
#[derive(clap::Args, Debug, Clone, Default)]
pub(crate) struct DhtArgs {
    /// Take no part in the DHT, by which machines of other networks find this provider
    #[arg(long)]
    pub(crate) no_dht: bool,
    /// A member of the DHT to begin with: HOST[:PORT], a multiaddress, or @FILE with one a line (may be repeated)
    #[arg(long, value_name = "ADDR")]
    pub(crate) bootstrap: Vec<String>,
    /// The TCP port for other members of the DHT [default: 4011]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) dht_port: Option<u16>,
    /// An address by which other networks reach this machine, at the same ports (may be repeated)
    #[arg(long, value_name = "IP")]
    pub(crate) dht_external: Vec<IpAddr>,
}

/// Taking part, as far as it could be looked at before anything runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Where other members connect.
    pub(crate) listen: Vec<SocketAddr>,
    /// Where they do from other networks.
    pub(crate) external: Vec<SocketAddr>,
    /// Whether somebody asked for it.
    pub(crate) is_explicit: bool,
}

impl Wanted {
    /// The same for the library: who this member is, whom it begins with, and where it keeps what it learns.
    pub(crate) fn config(
        self,
        identity: Identity,
        bootstrap: Vec<Bootstrap>,
        place: Option<&HeldFolder>,
    ) -> Config {
        Config {
            identity,
            listen: self.listen,
            external: self.external,
            bootstrap,
            serving: Serving::default(),
            folder: place.map(|place| place.folder().to_owned()),
        }
    }
}

impl DhtArgs {
    /// The members to begin with; files are read now.
    pub(crate) fn members(&self) -> Result<Vec<Bootstrap>, CommandError> {
        Bootstrap::parse_all(&self.bootstrap).map_err(|error| match error {
            BootstrapError::File { .. } => CommandError::local(format!("--bootstrap: {error}")),
            _ => CommandError::usage(format!("--bootstrap: {error}")),
        })
    }

    /// Whether somebody asked for the DHT.
    fn is_explicit(&self) -> bool {
        !self.bootstrap.is_empty() || self.dht_port.is_some() || !self.dht_external.is_empty()
    }

    /// The port for other members.
    pub(crate) fn port(&self) -> u16 {
        self.dht_port.unwrap_or(DEFAULT_PORT)
    }

    /// What is wanted on a machine whose provider listens at these addresses for other machines; the inner error says why
    /// there is no DHT. The port is free when this returns.
    pub(crate) fn wanted(
        &self,
        http: Option<&[IpAddr]>,
    ) -> Result<Result<Wanted, String>, CommandError> {
        if self.no_dht {
            return Ok(Err("--no-dht".to_owned()));
        }
        let is_explicit = self.is_explicit();
        let Some(http) = http else {
            let why = "no other machine can connect over plain HTTP";
            return match is_explicit {
                false => Ok(Err(why.to_owned())),
                true => Err(
                    CommandError::usage(format!("the DHT is asked for, but {why}"))
                        .hint("listen on an address of the LAN (--bind 0.0.0.0), or say --no-dht"),
                ),
            };
        };
        let listen = listened(http, self.port());
        if let Some((address, error)) = listen.iter().find_map(taken) {
            let why = cannot(address, &error);
            return match is_explicit {
                false => Ok(Err(why)),
                true => Err(CommandError::local(why)
                    .hint("--dht-port N chooses another port, --no-dht does without")),
            };
        }
        let external = self.dht_external.iter();
        Ok(Ok(Wanted {
            listen,
            external: external
                .map(|ip| SocketAddr::new(*ip, self.port()))
                .collect(),
            is_explicit,
        }))
    }
}

/// The addresses where members are listened to: those of the provider, and what `::` means is said twice.
fn listened(http: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    let mut all: Vec<IpAddr> = http.to_vec();
    let has_all = all.iter().any(|ip| ip.is_ipv6() && ip.is_unspecified());
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    if has_all && !all.contains(&any) {
        all.push(any);
    }
    all.into_iter()
        .map(|ip| SocketAddr::new(ip, port))
        .collect()
}

/// Why a port cannot be listened on. The library that does it later would share the port with another process of this
/// user, and each would get a part of the connections.
fn taken(address: &SocketAddr) -> Option<(SocketAddr, io::Error)> {
    TcpListener::bind(address)
        .err()
        .map(|error| (*address, error))
}

fn cannot(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let owner = port_owner::find(address.port(), Protocol::Tcp)
                .unwrap_or_else(|| "another process".to_owned());
            format!("port {}/tcp is in use by {owner}", address.port())
        }
        _ => format!("cannot listen on {address}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(port: u16) -> DhtArgs {
        DhtArgs {
            dht_port: Some(port),
            ..DhtArgs::default()
        }
    }

    #[test]
    fn members_are_listened_to_where_the_provider_is() {
        let said = |http: &[&str]| -> Vec<String> {
            let http: Vec<IpAddr> = http.iter().map(|ip| ip.parse().unwrap()).collect();
            let all = listened(&http, 4011);
            all.iter().map(ToString::to_string).collect()
        };
        assert_eq!(said(&["0.0.0.0"]), ["0.0.0.0:4011"]);
        assert_eq!(said(&["::"]), ["[::]:4011", "0.0.0.0:4011"]);
        assert_eq!(
            said(&["10.0.0.1", "fd00::1"]),
            ["10.0.0.1:4011", "[fd00::1]:4011"]
        );
    }

    #[test]
    fn what_cannot_be_had_is_an_error_for_those_who_asked() {
        let here = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let other = TcpListener::bind((here[0], 0)).unwrap();
        let port = other.local_addr().unwrap().port();
        assert!(args(port).wanted(Some(&here)).is_err());
        assert!(args(port).wanted(None).is_err());
        let off = DhtArgs {
            no_dht: true,
            ..args(port)
        };
        assert_eq!(off.wanted(Some(&here)).unwrap(), Err("--no-dht".to_owned()));
        assert!(DhtArgs::default().wanted(None).unwrap().is_err());
        drop(other);
        let wanted = args(port).wanted(Some(&here)).unwrap().unwrap();
        assert_eq!(wanted.listen, [SocketAddr::new(here[0], port)]);
        assert!(wanted.is_explicit);
    }
}
