//! The leases of this machine as a file, so that its successor after a kexec has its addresses at once.
//!
//! ```text
//! predecessor: lease in use ──> lease.json ──(init carries it over)──> successor: --resume ──> address in use
//!                                                                        DHCP confirms it behind ──> leased, or lost
//! ```
//!
//! The machine is the same, and had the address until a moment ago, so it is neither probed nor waited for; other stations
//! are told by an announcement, and an objection counts as ever. What is in the file was checked when it came from a
//! server, and is checked again: it says nothing that a DHCP server could not have said. The wall clock goes on over a
//! kexec and may be wrong; a lease is resumed for no longer than it lasts in all. Holds no secret and decides no upgrade.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use smoltcp::time::Duration;
use smoltcp::wire::EthernetAddress;

use super::lease::Lease;
use super::limits::{
    INTERFACES_MAX, LEASE_SECONDS_MAX, LEASE_SECONDS_MIN, NAME_SERVERS_MAX, TIME_SERVERS_MAX,
};

/// The file has one lease for each interface, of some 300 bytes.
pub(super) const FILE_SIZE_MAX: usize = 16 << 10;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    leases: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    mac: [u8; 6],
    address: Ipv4Addr,
    prefix: u8,
    router: Option<Ipv4Addr>,
    name_servers: Vec<Ipv4Addr>,
    domain: Option<String>,
    time_servers: Vec<Ipv4Addr>,
    server: Ipv4Addr,
    station: [u8; 6],
    /// How long it lasted when it was given, in seconds.
    seconds: u64,
    /// When it ends, in seconds since 1970 by this machine's clock.
    expires_at: u64,
}

/// A lease of one interface, and when it ends by the wall clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// Of the interface.
    pub(super) mac: EthernetAddress,
    /// With the time it has left when it was read, and all of its time when it is written.
    pub(super) lease: Lease,
    /// Seconds since 1970.
    pub(super) expires_at: u64,
}

/// The file for these leases; empty without one.
pub(super) fn text(kept: &[Kept]) -> String {
    if kept.is_empty() {
        return String::new();
    }
    let entry = |kept: &Kept| {
        let lease = kept.lease.clone();
        Entry {
            mac: kept.mac.0,
            address: lease.address,
            prefix: lease.prefix,
            router: lease.router,
            name_servers: lease.name_servers,
            domain: lease.domain,
            time_servers: lease.time_servers,
            server: lease.server,
            station: lease.station.0,
            seconds: lease.lifetime.secs(),
            expires_at: kept.expires_at,
        }
    };
    let document = Document {
        leases: kept.iter().take(INTERFACES_MAX).map(entry).collect(),
    };
    serde_json::to_string(&document).expect("addresses and numbers are JSON") + "\n"
}

/// The leases of a file that still last at `now` (seconds since 1970). What makes no sense is left out: DHCP gives it anew.
pub(super) fn parse(bytes: &[u8], now: u64) -> Vec<Kept> {
    let within = Some(bytes).filter(|bytes| bytes.len() <= FILE_SIZE_MAX);
    let document = within.and_then(|bytes| serde_json::from_slice::<Document>(bytes).ok());
    let entries = document.map_or_else(Vec::new, |document| document.leases);
    let kept = entries.into_iter().take(INTERFACES_MAX);
    kept.filter_map(|entry| entry.kept(now)).collect()
}

impl Entry {
    fn kept(self, now: u64) -> Option<Kept> {
        let all = self.seconds.min(u64::from(LEASE_SECONDS_MAX));
        let left = self.expires_at.checked_sub(now)?.min(all);
        let lease = Lease {
            address: self.address,
            prefix: self.prefix,
            router: self.router,
            name_servers: self.name_servers,
            domain: self.domain,
            time_servers: self.time_servers,
            server: self.server,
            station: EthernetAddress(self.station),
            lifetime: Duration::from_secs(left),
        };
        let fine = left >= u64::from(LEASE_SECONDS_MIN)
            && lease.name_servers.len() <= NAME_SERVERS_MAX
            && lease.time_servers.len() <= TIME_SERVERS_MAX
            && lease.is_sensible();
        fine.then_some(Kept {
            mac: EthernetAddress(self.mac),
            lease,
            expires_at: self.expires_at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{MAC, Reply, ack};
    use super::super::wire::parse_server_message;
    use super::*;

    const NOW: u64 = 1_795_000_000;

    fn kept() -> Kept {
        let frame = ack(&Reply {
            extra: vec![
                (3, vec![10, 0, 0, 1]),
                (6, vec![10, 0, 0, 2]),
                (15, b"example.net".to_vec()),
            ],
            ..Reply::default()
        });
        Kept {
            mac: MAC,
            lease: Lease::from_message(&parse_server_message(&frame).unwrap()).unwrap(),
            expires_at: NOW + 3600,
        }
    }

    #[test]
    fn a_lease_survives_the_way_with_the_time_it_has_left() {
        let text = text(&[kept()]);
        assert_eq!(parse(text.as_bytes(), NOW), [kept()]);
        let later = parse(text.as_bytes(), NOW + 600);
        assert_eq!(later[0].lease.lifetime.secs(), 3000);
        // A clock that went back gives no more than the whole lease.
        let earlier = parse(text.as_bytes(), 0);
        assert_eq!(earlier[0].lease.lifetime.secs(), 3600);
        for over in [NOW + 3600, NOW + 3590, u64::MAX] {
            assert!(parse(text.as_bytes(), over).is_empty(), "{over}");
        }
        assert_eq!(super::text(&[]), "");
    }

    #[test]
    fn what_no_server_could_have_said_is_left_out() {
        let fine = text(&[kept()]);
        for (from, to) in [
            ("10.0.0.50", "127.0.0.1"),
            ("10.0.0.50", "10.0.0.255"),
            ("\"prefix\":24", "\"prefix\":0"),
            ("\"prefix\":24", "\"prefix\":33"),
            ("example.net", "a\\nnameserver 6.6.6.6"),
            ("\"router\":\"10.0.0.1\"", "\"router\":\"224.0.0.1\""),
            ("\"10.0.0.2\"", "\"0.0.0.0\""),
            ("\"server\":", "\"more\":1,\"server\":"),
            ("{", "["),
        ] {
            let changed = fine.replace(from, to);
            assert_ne!(changed, fine);
            assert!(parse(changed.as_bytes(), NOW).is_empty(), "{from} {to}");
        }
        assert!(parse(b"", NOW).is_empty());
        let long = fine.replace('{', &" ".repeat(FILE_SIZE_MAX));
        assert!(parse(long.as_bytes(), NOW).is_empty());
    }
}
