//! Says in the DHT what is served here, for as long as it is, with the addresses that this machine has just then.
//!
//! What is said is a hint; clients verify what they fetch. The library renews what was said; here only changes are told.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use boot_manifest::{Arch, Channel, Digest, KeyId};
use discovery::dht::{Config, Dht, Record};
use tokio::sync::watch;

use crate::dht::membership::Membership;

/// How often the addresses of this machine and the manifest are looked at: a lease that came later is announced soon after.
const LOOK_PERIOD: Duration = Duration::from_secs(2);

/// What is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Served {
    /// The channel.
    pub(crate) channel: Channel,
    /// The architecture.
    pub(crate) arch: Arch,
    /// The version of its manifest.
    pub(crate) version: String,
    /// The digest of its manifest.
    pub(crate) manifest: Digest,
    /// The keys that signed it.
    pub(crate) key_ids: Vec<KeyId>,
}

/// Where clients fetch.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    /// The addresses that are listened on.
    pub(crate) listen: Vec<IpAddr>,
    /// The port of all of them.
    pub(crate) port: u16,
    /// Addresses of this machine that only others see.
    pub(crate) external: Vec<IpAddr>,
}

impl Http {
    /// Where clients can connect, the addresses for other networks first.
    fn addresses(&self) -> Vec<SocketAddr> {
        let own = self.listen.iter().flat_map(|ip| reached(*ip));
        let own = own.collect::<Vec<_>>();
        let (public, local): (Vec<IpAddr>, Vec<IpAddr>) = own.into_iter().partition(is_public);
        let mut all: Vec<SocketAddr> = Vec::new();
        for ip in self.external.iter().copied().chain(public).chain(local) {
            let address = SocketAddr::new(ip, self.port);
            if !all.contains(&address) {
                all.push(address);
            }
        }
        all
    }
}

/// The addresses by which other machines reach a socket that listens on `ip`, in order; none where it is for this machine.
pub(crate) fn reached(ip: IpAddr) -> Vec<IpAddr> {
    if !ip.is_unspecified() {
        return vec![ip];
    }
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let is_useful = |own: &IpAddr| match own {
        IpAddr::V4(own) => !own.is_loopback(),
        IpAddr::V6(own) => ip.is_ipv6() && !own.is_loopback() && !own.is_unicast_link_local(),
    };
    let mut addresses: Vec<IpAddr> = interfaces
        .iter()
        .map(if_addrs::Interface::ip)
        .filter(is_useful)
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

/// Whether it leads here from everywhere, as far as one can tell by looking.
fn is_public(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_private() && !ip.is_link_local() && !ip.is_loopback(),
        IpAddr::V6(ip) => !ip.is_unique_local() && !ip.is_unicast_link_local() && !ip.is_loopback(),
    }
}

/// Takes part in the DHT until `stop` says so, then says goodbye. `served` is asked again and again what is served; its
/// error is why nothing is.
pub(crate) async fn run<S, F>(
    config: Config,
    http: Http,
    membership: Arc<Membership>,
    served: S,
    mut stop: watch::Receiver<bool>,
) where
    S: Fn() -> F,
    F: Future<Output = Result<Served, String>>,
{
    let dht = match Dht::start(config) {
        Ok(dht) => dht,
        Err(error) => return membership.failed(&error.to_string()),
    };
    membership.joined(dht.watcher());
    let mut said = None;
    let mut period = tokio::time::interval(LOOK_PERIOD);
    loop {
        tokio::select! {
            _ = period.tick() => {}
            // An error means that the server is gone, which is a stop as well.
            _ = stop.wait_for(|stop| *stop) => break,
        }
        let record = served().await.map(|served| record(served, &http));
        if said.as_ref() == Some(&record) {
            continue;
        }
        match &record {
            Ok(record) => dht.announce(record.clone()),
            Err(_) => dht.withdraw(),
        }
        membership.says(record.as_ref().map(|_| ()).map_err(String::as_str));
        said = Some(record);
    }
    dht.shutdown().await;
}

fn record(served: Served, http: &Http) -> Record {
    Record {
        channel: served.channel,
        arch: served.arch,
        version: served.version,
        manifest: Some(served.manifest),
        key_ids: served.key_ids,
        addresses: http.addresses(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_for_other_networks_come_first() {
        let http = Http {
            listen: [
                "10.0.0.5",
                "203.0.113.5",
                "fd00::1",
                "2001:db8::1",
                "10.0.0.5",
            ]
            .map(|ip| ip.parse().unwrap())
            .to_vec(),
            port: 8080,
            external: vec!["198.51.100.7".parse().unwrap()],
        };
        let said: Vec<String> = http.addresses().iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "198.51.100.7:8080",
                "203.0.113.5:8080",
                "[2001:db8::1]:8080",
                "10.0.0.5:8080",
                "[fd00::1]:8080"
            ]
        );
    }

    #[test]
    fn this_machine_alone_is_not_said_to_others() {
        let all = reached(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
        assert!(
            all.iter().all(|ip| ip.is_ipv4() && !ip.is_loopback()),
            "{all:?}"
        );
    }
}
