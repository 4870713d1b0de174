//! Machines that fetch the same manifest's artifacts find each other while they do, on the local network.
//!
//! So a swarm forms even when the provider is a plain web server that knows nothing of its clients. Never more than
//! [`ANNOUNCERS_MAX`](crate::crowd::ANNOUNCERS_MAX) of them announce themselves ([`crate::crowd`]); a machine that does not
//! share only listens. A [`PeerHint`] is an address and nothing else, like a [`Hint`](crate::Hint).

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use boot_manifest::Digest;
use mdns_sd::{ResolvedService, ServiceInfo};

use crate::advertise::{are_own, own_addresses, set_interfaces};
use crate::browse::INTERFACES_LOOK_SECONDS;
use crate::claim::random;
use crate::crowd::Crowd;
use crate::daemon::Daemon;
use crate::hint::{addresses_of, instance_of, txt};
use crate::watch::{Heard, Watch};
use crate::{DiscoveryError, PEER_SERVICE_TYPE};

/// Before the number in an instance name.
const PREFIX: &str = "peer-";

/// Digits of the number: machines that start at once do not draw the same.
const DIGITS: usize = 16;

/// A machine listens for a moment before it speaks, each another one up to this long: of ten thousand that start at once
/// most hear enough others before it is their turn.
const LISTEN_FIRST_MAX: Duration = Duration::from_millis(300);

/// After a goodbye others forget a name within a second (RFC 6762 section 10.1); what is said before then is lost on some.
const GOODBYE_TIME: Duration = Duration::from_millis(1_200);

/// Where this machine serves what it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The addresses the server listens on, as in [`Advert::listen`](crate::Advert::listen).
    pub listen: Vec<IpAddr>,
    /// Its port.
    pub port: u16,
}

/// A machine that somebody says fetches the same. Nothing in it is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerHint {
    /// Its instance name: `peer-` and 16 hexadecimal digits.
    pub id: String,
    /// Where it serves what it has, best address first; at least one.
    pub addresses: Vec<SocketAddr>,
}

/// Looks for peers, and is one, until it is dropped; then it says goodbye.
pub struct Peers {
    manifest: Digest,
    share: Option<Share>,
    crowd: Crowd,
    /// When this machine may speak.
    speak_at: Instant,
    /// Which of the daemon's lives announces it.
    announced_by: Option<u32>,
    watch: Watch,
    daemon: Daemon,
}

impl Peers {
    /// Asks the network who else fetches what this manifest lists, on every interface but loopback, and announces this
    /// machine if it shares.
    pub fn start(manifest: Digest, share: Option<Share>) -> Result<Self, DiscoveryError> {
        let daemon = Daemon::start(INTERFACES_LOOK_SECONDS)?;
        let number = random();
        let wait = LISTEN_FIRST_MAX.mul_f64(fraction(number));
        Ok(Self {
            manifest,
            share,
            crowd: Crowd::new(format!("{PREFIX}{number:0DIGITS$x}")),
            speak_at: Instant::now() + wait,
            announced_by: None,
            watch: Watch::start(&daemon, PEER_SERVICE_TYPE)?,
            daemon,
        })
    }

    /// Blocks until a peer is heard; `None` after the time limit. The same peer comes again when something about it
    /// changed. Announcements start and end inside this call, so whoever shares calls it again and again.
    ///
    /// An error means that it is over: this machine took its sockets away.
    pub fn next(&mut self, limit: Duration) -> Result<Option<PeerHint>, DiscoveryError> {
        let end = Instant::now() + limit;
        loop {
            let now = Instant::now();
            let is_renewed = self.announced_by.is_some() && !self.is_announced();
            if is_renewed {
                self.announced_by = None;
                self.speak_at = now + GOODBYE_TIME;
            }
            self.announce_or_not()?;
            let pause = match self.speak_at {
                at if at > now && at < end => at,
                _ => end,
            };
            let (crowd, share) = (&mut self.crowd, self.share.as_ref());
            let manifest = &self.manifest;
            let limit = pause.saturating_duration_since(now);
            let found = self
                .watch
                .next(&mut self.daemon, limit, |heard| match heard {
                    Heard::Gone(name) => {
                        crowd.left(instance_of(&name, PEER_SERVICE_TYPE));
                        None
                    }
                    Heard::There(service) => {
                        let hint = PeerHint::from_service(&service, manifest)?;
                        if hint.id == crowd.own() || is_here(&service, share) {
                            return None;
                        }
                        crowd.joined(&hint.id);
                        Some(hint)
                    }
                })?;
            if found.is_some() || Instant::now() >= end {
                return Ok(found);
            }
        }
    }

    /// Whether this machine announces itself now.
    pub fn is_announced(&self) -> bool {
        self.announced_by == Some(self.daemon.renewals())
    }

    fn announce_or_not(&mut self) -> Result<(), DiscoveryError> {
        let Some(share) = &self.share else {
            return Ok(());
        };
        let wanted = self.crowd.is_to_announce() && Instant::now() >= self.speak_at;
        match (self.is_announced(), wanted) {
            (false, true) => {
                let info = service_info(share, &self.manifest, self.crowd.own())?;
                self.daemon.thread().register(info)?;
            }
            (true, false) => {
                let name = format!("{}.{PEER_SERVICE_TYPE}", self.crowd.own());
                // The status comes when the goodbye is out; nothing here depends on it.
                let _status = self.daemon.thread().unregister(&name)?;
            }
            _ => {}
        }
        self.announced_by = wanted.then(|| self.daemon.renewals());
        Ok(())
    }
}

impl PeerHint {
    /// Checks an announcement; `None` when it is of no use, or of somebody who fetches something else.
    fn from_service(service: &ResolvedService, manifest: &Digest) -> Option<Self> {
        let said: Digest = service.get_property_val_str(txt::MANIFEST)?.parse().ok()?;
        let id = instance_of(&service.fullname, PEER_SERVICE_TYPE);
        let number = id.strip_prefix(PREFIX)?;
        let is_number = number.len() == DIGITS
            && number
                .bytes()
                .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        let addresses = addresses_of(service)?;
        (said == *manifest && is_number).then(|| Self {
            id: id.to_owned(),
            addresses,
        })
    }
}

/// Whether an announcement leads to this very program: one of an earlier run with the same port.
fn is_here(service: &ResolvedService, share: Option<&Share>) -> bool {
    share.is_some_and(|share| share.port == service.port)
        && are_own(&service.addresses, &own_addresses())
}

/// From 0 to 1.
fn fraction(number: u64) -> f64 {
    let thousandths = u32::try_from(number % 1_000).unwrap_or_default();
    f64::from(thousandths) / 1_000.0
}

fn service_info(share: &Share, manifest: &Digest, id: &str) -> Result<ServiceInfo, DiscoveryError> {
    let properties = [
        (txt::MANIFEST, manifest.to_string()),
        (txt::HTTP_PORT, share.port.to_string()),
    ];
    let mut info = ServiceInfo::new(
        PEER_SERVICE_TYPE,
        id,
        &format!("{id}.local."),
        "",
        share.port,
        properties.as_slice(),
    )?
    .enable_addr_auto();
    // Nobody else draws the same number.
    info.set_requires_probe(false);
    set_interfaces(&mut info, &share.listen);
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "peer-0123456789abcdef";

    fn check(id: &str, addresses: &str, port: u16, manifest: Option<&str>) -> Option<PeerHint> {
        let txt: Vec<(&str, &str)> = manifest
            .map(|said| ("manifest", said))
            .into_iter()
            .collect();
        let service =
            ServiceInfo::new(PEER_SERVICE_TYPE, id, "a.local.", addresses, port, &txt[..])
                .unwrap()
                .as_resolved_service();
        PeerHint::from_service(&service, &Digest::of(b"wanted"))
    }

    #[test]
    fn only_peers_of_the_same_manifest_count() {
        let (same, other) = (
            Digest::of(b"wanted").to_string(),
            Digest::of(b"x").to_string(),
        );
        let hint = check(ID, "fd00::1,10.0.0.5", 4000, Some(&same)).unwrap();
        assert_eq!(hint.id, ID);
        let listed: Vec<String> = hint.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(listed, ["10.0.0.5:4000", "[fd00::1]:4000"]);
        for (id, addresses, port, manifest) in [
            (ID, "10.0.0.5", 4000, Some(other.as_str())),
            (ID, "10.0.0.5", 4000, Some("sha256:no")),
            (ID, "10.0.0.5", 4000, None),
            (ID, "10.0.0.5", 0, Some(same.as_str())),
            (ID, "127.0.0.1,224.0.0.1", 4000, Some(same.as_str())),
            (
                "peer-0123456789ABCDEF",
                "10.0.0.5",
                4000,
                Some(same.as_str()),
            ),
            ("peer-1", "10.0.0.5", 4000, Some(same.as_str())),
            ("\u{1b}[2J", "10.0.0.5", 4000, Some(same.as_str())),
        ] {
            let found = check(id, addresses, port, manifest);
            assert_eq!(found, None, "{id:?} {addresses} {port} {manifest:?}");
        }
    }

    #[test]
    fn what_is_announced_is_what_is_understood() {
        let share = Share {
            listen: vec!["0.0.0.0".parse().unwrap()],
            port: 8080,
        };
        let info = service_info(&share, &Digest::of(b"wanted"), ID).unwrap();
        assert_eq!(info.get_fullname(), format!("{ID}._phase-peer._tcp.local."));
        assert_eq!(info.get_property_val_str("http_port"), Some("8080"));
        assert!(!info.requires_probe() && info.is_addr_auto());
        let mut service = info.as_resolved_service();
        service.addresses = ["10.0.0.5".parse::<IpAddr>().unwrap().into()].into();
        let hint = PeerHint::from_service(&service, &Digest::of(b"wanted")).unwrap();
        assert_eq!(hint.addresses, ["10.0.0.5:8080".parse().unwrap()]);
    }
}
