//! Saying what this machine serves.
//!
//! mdns-sd's own look for others with the same name is not used: when an address appears while it looks, it takes this
//! machine's answers, which come back to it, for somebody else's, and then renames for ever. `claim` does it instead.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use boot_manifest::{Arch, Channel, Digest, KeyId};
use mdns_sd::{
    IfKind, IfPredicate, Receiver, ResolvedService, ScopedIp, ServiceEvent, ServiceInfo,
};

use crate::claim::{Claim, Seen, Verdict};
use crate::daemon::Daemon;
use crate::hint::{instance_of, txt};
use crate::{DiscoveryError, SERVICE_TYPE};

/// Addresses are looked at again this often, in seconds: a lease that came later is announced soon after.
const ADDRESS_CHECK_SECONDS: u32 = 2;

/// How long others are listened to before a name is used, as RFC 6762 section 8.1 has it.
const LISTEN_FIRST: Duration = Duration::from_millis(750);

/// Things heard that are looked at in one go; the rest waits for the next one.
const HEARD_MAX: usize = 256;

/// Others that are counted: somebody may make names up.
const OTHERS_MAX: usize = 256;

/// Key ids in one advertisement: more do not fit into one TXT string.
const KEY_IDS_MAX: usize = 8;

/// What is advertised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advert {
    /// Name of this machine; characters that are not of host names become hyphens.
    pub host: String,
    /// The addresses the HTTP server listens on. Only those of this machine that lead there are announced: those of IPv4
    /// for 0.0.0.0, all for `::`, or just the one.
    pub listen: Vec<IpAddr>,
    /// Its port, the same on each of them.
    pub port: u16,
    /// Channel served.
    pub channel: Channel,
    /// Architecture served.
    pub arch: Arch,
    /// Version of the image.
    pub version: String,
    /// Digest of the manifest served, when there is one.
    pub manifest: Option<Digest>,
    /// Keys that signed it.
    pub key_ids: Vec<KeyId>,
}

/// Advertises until it is withdrawn or dropped.
pub struct Advertiser {
    daemon: Daemon,
    current: Advert,
    claim: Claim,
    heard: Receiver<ServiceEvent>,
    /// Names of others that were heard and did not say goodbye.
    others: HashSet<String>,
    /// A goodbye for our name is on its way, and may come after what we say now.
    is_to_repeat: bool,
}

impl Advertiser {
    /// Starts advertising on every interface but loopback, with the addresses each has now or gets later. Listens for
    /// a moment first whether others have the name.
    pub fn start(advert: Advert) -> Result<Self, DiscoveryError> {
        let daemon = Daemon::start(ADDRESS_CHECK_SECONDS)?;
        let mut advertiser = Self {
            heard: daemon.thread().browse(SERVICE_TYPE)?,
            claim: Claim::new(&advert.host),
            daemon,
            current: advert,
            others: HashSet::new(),
            is_to_repeat: false,
        };
        advertiser.listen_first()?;
        advertiser.announce()?;
        Ok(advertiser)
    }

    /// Announces new facts, for example another manifest. The same facts again check that advertising still works, and
    /// whether somebody else came with the same name; after an error start anew.
    pub fn update(mut self, advert: Advert) -> Result<Self, DiscoveryError> {
        let before = self.claim.instance();
        if advert.host != self.current.host {
            self.claim = Claim::new(&advert.host);
        }
        let renewals = self.daemon.renewals();
        self.daemon.look_after()?;
        let is_renewed = self.daemon.renewals() != renewals;
        if is_renewed {
            self.heard = self.daemon.thread().browse(SERVICE_TYPE)?;
            // The old one said goodbye. Who hears that first, and the new announcement before the goodbye took effect a
            // second later, notices neither: so it comes with the next call.
            self.is_to_repeat = true;
            self.current = advert;
            return Ok(self);
        }
        let is_new = advert != self.current;
        self.current = advert;
        let verdict = self.listen()?;
        if self.claim.instance() != before {
            // The status comes when the goodbye is out; nothing here depends on it.
            let name = format!("{before}.{SERVICE_TYPE}");
            let _status = self.daemon.thread().unregister(&name)?;
        }
        let was_to_repeat = std::mem::replace(&mut self.is_to_repeat, verdict == Verdict::Repeat);
        match verdict {
            Verdict::Fine if !is_new && !was_to_repeat => {}
            _ => self.announce()?,
        }
        Ok(self)
    }

    /// The instance name others see.
    pub fn instance(&self) -> String {
        self.claim.instance()
    }

    /// How many other providers there are, as far as they say so; counting ends somewhere.
    pub fn others(&self) -> usize {
        self.others.len()
    }

    fn announce(&self) -> Result<(), DiscoveryError> {
        let info = service_info(&self.current, &self.claim)?;
        Ok(self.daemon.thread().register(info)?)
    }

    /// Takes another name when the first choice is somebody's already.
    fn listen_first(&mut self) -> Result<(), DiscoveryError> {
        std::thread::sleep(LISTEN_FIRST);
        let own = own_addresses();
        let heard: Vec<ServiceEvent> = self.heard.try_iter().take(HEARD_MAX).collect();
        heard.iter().for_each(|event| self.count(event, &own));
        let has_name = heard.iter().any(|event| {
            matches!(event, ServiceEvent::ServiceResolved(service)
                if self.claim.is_others(&seen(service, &self.current, &own)))
        });
        if has_name {
            self.claim.rename(Instant::now());
        }
        Ok(())
    }

    /// What others said since the last time, and what is to be done about it.
    fn listen(&mut self) -> Result<Verdict, DiscoveryError> {
        let own = own_addresses();
        let name = format!("{}.{SERVICE_TYPE}", self.claim.instance());
        let mut verdict = Verdict::Fine;
        let heard: Vec<ServiceEvent> = self.heard.try_iter().take(HEARD_MAX).collect();
        heard.iter().for_each(|event| self.count(event, &own));
        for event in heard {
            let found = match event {
                ServiceEvent::ServiceResolved(service) => {
                    let seen = seen(&service, &self.current, &own);
                    self.claim.judge(&seen, Instant::now())
                }
                // Whoever gave the name up took our entry out of everybody's memory as well.
                ServiceEvent::ServiceRemoved(_, gone) if gone.eq_ignore_ascii_case(&name) => {
                    Verdict::Repeat
                }
                _ => Verdict::Fine,
            };
            match found {
                Verdict::Fine => {}
                Verdict::Repeat => verdict = found,
                // Whatever else there is was said before anybody could know the new name.
                Verdict::Renamed => return Ok(found),
            }
        }
        if self.heard.is_disconnected() {
            // mdns-sd ends a subscription whose reader was too slow for a flood; what it knows comes again.
            self.heard = self.daemon.thread().browse(SERVICE_TYPE)?;
        }
        Ok(verdict)
    }

    /// Keeps count of the others.
    fn count(&mut self, event: &ServiceEvent, own: &[IpAddr]) {
        match event {
            ServiceEvent::ServiceResolved(service) => {
                let seen = seen(service, &self.current, own);
                let is_self = seen.is_this_machine || seen.run == Some(self.claim.run());
                if !is_self && self.others.len() < OTHERS_MAX {
                    self.others.insert(service.fullname.to_ascii_lowercase());
                }
            }
            ServiceEvent::ServiceRemoved(_, gone) => {
                self.others.remove(&gone.to_ascii_lowercase());
            }
            _ => {}
        }
    }

    /// Says goodbye and stops; returns when both are done, after 2 s at the latest. Dropping does the same.
    pub fn withdraw(self) {
        drop(self);
    }
}

/// What somebody says, which may be this machine itself.
fn seen<'a>(service: &'a ResolvedService, advert: &Advert, own: &[IpAddr]) -> Seen<'a> {
    Seen {
        instance: instance_of(&service.fullname, SERVICE_TYPE),
        run: service.get_property_val_str(txt::RUN),
        is_this_machine: service.port == advert.port && are_own(&service.addresses, own),
    }
}

pub(crate) fn are_own<'a>(found: impl IntoIterator<Item = &'a ScopedIp>, own: &[IpAddr]) -> bool {
    found
        .into_iter()
        .all(|address| own.contains(&address.to_ip_addr()))
}

/// The addresses of this machine. One that cannot tell has none, and takes another name too readily.
pub(crate) fn own_addresses() -> Vec<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    interfaces.iter().map(if_addrs::Interface::ip).collect()
}

fn service_info(advert: &Advert, claim: &Claim) -> Result<ServiceInfo, DiscoveryError> {
    let mut properties = vec![
        (txt::CHANNEL, advert.channel.to_string()),
        (txt::ARCH, advert.arch.as_str().to_owned()),
        (
            txt::VERSION,
            printable(&advert.version, txt::VERSION_LENGTH_MAX),
        ),
        (txt::HTTP_PORT, advert.port.to_string()),
        (txt::RUN, claim.run().to_owned()),
    ];
    if let Some(digest) = &advert.manifest {
        properties.push((txt::MANIFEST, digest.to_string()));
    }
    if !advert.key_ids.is_empty() {
        let ids: Vec<String> = advert
            .key_ids
            .iter()
            .take(KEY_IDS_MAX)
            .map(ToString::to_string)
            .collect();
        properties.push((txt::KEY_ID, ids.join(",")));
    }
    let mut info = ServiceInfo::new(
        SERVICE_TYPE,
        &claim.instance(),
        // A name of its own: the name of the machine is for its system to announce.
        &format!("{}.local.", claim.instance()),
        "",
        advert.port,
        properties.as_slice(),
    )?
    .enable_addr_auto();
    info.set_requires_probe(false);
    set_interfaces(&mut info, &advert.listen);
    Ok(info)
}

/// Has those addresses of this machine announced that lead to a server which listens on `listen`.
pub(crate) fn set_interfaces(info: &mut ServiceInfo, listen: &[IpAddr]) {
    let listen = listen.to_vec();
    info.set_interfaces(vec![IfKind::Predicate(IfPredicate::new(
        move |interface| listen.iter().any(|one| leads_to(*one, interface.ip())),
    ))]);
}

/// Whether a connection to `address` of this machine reaches a server that listens on `listen`.
fn leads_to(listen: IpAddr, address: IpAddr) -> bool {
    let listens = match listen {
        IpAddr::V4(any) if any.is_unspecified() => address.is_ipv4(),
        IpAddr::V6(any) if any.is_unspecified() => true,
        one => one == address,
    };
    listens && !address.is_loopback()
}

fn printable(text: &str, length_max: usize) -> String {
    text.chars()
        .filter(|letter| letter.is_ascii_graphic() || *letter == ' ')
        .take(length_max)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advert(host: &str) -> Advert {
        Advert {
            host: host.to_owned(),
            listen: vec!["0.0.0.0".parse().unwrap()],
            port: 8080,
            channel: "stable".parse().unwrap(),
            arch: Arch::X86_64,
            version: "1.2\n3".to_owned(),
            manifest: Some(Digest::of(b"x")),
            key_ids: Vec::new(),
        }
    }

    #[test]
    fn only_addresses_that_lead_to_the_server_are_announced() {
        for (listen, address, expected) in [
            ("0.0.0.0", "10.0.0.5", true),
            ("0.0.0.0", "fd00::1", false),
            ("0.0.0.0", "127.0.0.1", false),
            ("::", "10.0.0.5", true),
            ("::", "fd00::1", true),
            ("::", "::1", false),
            ("10.0.0.5", "10.0.0.5", true),
            ("10.0.0.5", "10.0.0.6", false),
            ("127.0.0.1", "127.0.0.1", false),
        ] {
            let found = leads_to(listen.parse().unwrap(), address.parse().unwrap());
            assert_eq!(found, expected, "{listen} {address}");
        }
    }

    #[test]
    fn the_advertisement_has_the_names_users_know() {
        let claim = Claim::new("box");
        let info = service_info(&advert("box"), &claim).unwrap();
        assert_eq!(info.get_fullname(), "plasmd-box._phase-image._tcp.local.");
        let value = |key| info.get_property_val_str(key);
        assert_eq!(value("channel"), Some("stable"));
        assert_eq!(value("arch"), Some("x86_64"));
        assert_eq!(value("version"), Some("1.23"));
        assert_eq!(value("http_port"), Some("8080"));
        assert_eq!(
            value("manifest"),
            Some(Digest::of(b"x").to_string().as_str())
        );
        assert_eq!(value("key_id"), None);
        assert_eq!(value("run"), Some(claim.run()));
        assert!(!info.requires_probe());
        assert!(info.is_addr_auto());
    }
}
