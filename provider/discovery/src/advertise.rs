//! Saying what this machine serves.
//!
//! An advertisement never changes: what is to be said next, and also another address, is said by a new one. mdns-sd could
//! add to one that stands, but hears its own answers while it asks whether the new part is taken, takes them for somebody
//! else's, and gives itself one name after the other.

use std::net::IpAddr;

use boot_manifest::{Arch, Channel, Digest, KeyId};
use mdns_sd::ServiceInfo;

use crate::hint::txt;
use crate::{Daemon, DiscoveryError, SERVICE_TYPE};

/// The longest host label (RFC 1035) less the prefix of the instance name.
const HOST_LENGTH_MAX: usize = 63 - INSTANCE_PREFIX.len();

/// Before the host name in the instance name.
const INSTANCE_PREFIX: &str = "plasmd-";

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
    places: Vec<Place>,
}

/// An address of this machine, and the interface that has it.
type Place = (u32, IpAddr);

impl Advertiser {
    /// Starts advertising on every interface but loopback, with the addresses each has now.
    pub fn start(advert: Advert) -> Result<Self, DiscoveryError> {
        let places = places(&advert.listen)?;
        let daemon = Daemon::start()?;
        daemon.0.register(service_info(&advert, &places)?)?;
        Ok(Self {
            daemon,
            current: advert,
            places,
        })
    }

    /// Announces what is new: other facts, for example another manifest, or other addresses of this machine. When nothing
    /// is, it only checks that advertising still works. After an error start anew.
    pub fn update(self, advert: Advert) -> Result<Self, DiscoveryError> {
        if advert == self.current && places(&advert.listen)? == self.places {
            self.daemon.check()?;
            return Ok(self);
        }
        // First the goodbye of the old one: two at once would take each other's names.
        drop(self);
        Self::start(advert)
    }

    /// The instance name others see, unless it was taken and a number was added.
    pub fn instance(&self) -> String {
        instance(&self.current.host)
    }

    /// Says goodbye and stops; returns when both are done, after 2 s at the latest. Dropping does the same.
    pub fn withdraw(self) {
        drop(self);
    }
}

/// The addresses that lead to a server that listens on `listen`, on interfaces that work.
fn places(listen: &[IpAddr]) -> Result<Vec<Place>, DiscoveryError> {
    let interfaces = if_addrs::get_if_addrs().map_err(|error| DiscoveryError(error.to_string()))?;
    let mut places: Vec<Place> = interfaces
        .iter()
        .filter(|interface| interface.is_oper_up())
        .map(|interface| (interface.index.unwrap_or(0), interface.ip()))
        .filter(|(_, address)| listen.iter().any(|one| leads_to(*one, *address)))
        .collect();
    // The kernel lists them in no order that can be relied on.
    places.sort_unstable();
    Ok(places)
}

fn service_info(advert: &Advert, places: &[Place]) -> Result<ServiceInfo, DiscoveryError> {
    let mut properties = vec![
        (txt::CHANNEL, advert.channel.to_string()),
        (txt::ARCH, advert.arch.as_str().to_owned()),
        (
            txt::VERSION,
            printable(&advert.version, txt::VERSION_LENGTH_MAX),
        ),
        (txt::HTTP_PORT, advert.port.to_string()),
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
    let host = host_label(&advert.host);
    let addresses: Vec<IpAddr> = places.iter().map(|(_, address)| *address).collect();
    Ok(ServiceInfo::new(
        SERVICE_TYPE,
        &instance(&advert.host),
        &format!("{host}.local."),
        addresses.as_slice(),
        advert.port,
        properties.as_slice(),
    )?)
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

fn instance(host: &str) -> String {
    format!("{INSTANCE_PREFIX}{}", host_label(host))
}

/// A host name as one DNS label.
fn host_label(host: &str) -> String {
    let label: String = host
        .split('.')
        .next()
        .unwrap_or_default()
        .chars()
        .take(HOST_LENGTH_MAX)
        .map(|letter| match letter.is_ascii_alphanumeric() {
            true => letter.to_ascii_lowercase(),
            false => '-',
        })
        .collect();
    match label.trim_matches('-') {
        "" => "phase".to_owned(),
        label => label.to_owned(),
    }
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
    fn a_host_name_becomes_a_label_whatever_it_is() {
        for (host, label) in [
            ("phase-1", "phase-1"),
            ("Phase_1.example.net", "phase-1"),
            ("", "phase"),
            ("...", "phase"),
            ("ä\u{1b}[2J", "2j"),
        ] {
            assert_eq!(host_label(host), label, "{host:?}");
        }
        assert_eq!(instance(&"a".repeat(200)).len(), 63);
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
        let address: IpAddr = "10.0.0.5".parse().unwrap();
        let info = service_info(&advert("box"), &[(2, address)]).unwrap();
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
        assert!(info.get_addresses().iter().eq([&address]) && !info.is_addr_auto());
    }
}
