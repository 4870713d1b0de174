//! What an advertisement says, after every part of it was checked.

use std::net::{IpAddr, SocketAddr};

use boot_manifest::{Arch, Channel, Digest, KeyId};
use mdns_sd::ResolvedService;
use serde::Deserialize as _;
use serde::de::value::StrDeserializer;

use crate::SERVICE_TYPE;

/// The keys of the TXT record.
pub(crate) mod txt {
    pub(crate) const CHANNEL: &str = "channel";
    pub(crate) const ARCH: &str = "arch";
    pub(crate) const VERSION: &str = "version";
    pub(crate) const HTTP_PORT: &str = "http_port";
    pub(crate) const MANIFEST: &str = "manifest";
    pub(crate) const KEY_ID: &str = "key_id";
    /// Which run of the program says it, so that it knows its own announcements.
    pub(crate) const RUN: &str = "run";
    /// The longest version kept.
    pub(crate) const VERSION_LENGTH_MAX: usize = 64;
}

/// Addresses kept of one provider: more than any honest machine needs.
const ADDRESSES_MAX: usize = 8;

/// Key ids kept of one provider.
const KEY_IDS_MAX: usize = 8;

/// The longest instance name kept (RFC 6763 section 4.1.1 allows 63 bytes).
const ID_LENGTH_MAX: usize = 63;

/// A provider that somebody says exists. Nothing in it is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// Its instance name, printable ASCII.
    pub id: String,
    /// Where it listens, best address first: IPv4, then IPv6, then link-local IPv4. IPv6 link-local addresses are left
    /// out: they come without a scope that could be relied on.
    pub addresses: Vec<SocketAddr>,
    /// The channel it serves.
    pub channel: Channel,
    /// The architecture it serves.
    pub arch: Arch,
    /// The version it serves, printable ASCII; may be empty.
    pub version: String,
    /// Digest of the manifest it serves.
    pub manifest: Option<Digest>,
    /// Keys that are said to have signed it.
    pub key_ids: Vec<KeyId>,
}

impl Hint {
    /// The manifest's URL at each address, best first.
    pub fn urls(&self) -> Vec<String> {
        self.addresses
            .iter()
            .map(|address| self.url_at(*address))
            .collect()
    }

    /// The manifest's URL at one of the addresses.
    pub fn url_at(&self, address: SocketAddr) -> String {
        let Self { channel, arch, .. } = self;
        format!("http://{address}/{channel}/{arch}/manifest.json")
    }

    /// The id of the provider with this full name.
    pub(crate) fn id_of(name: &str) -> String {
        printable(instance_of(name, SERVICE_TYPE), ID_LENGTH_MAX)
    }

    /// Checks an advertisement; `None` when it is of no use.
    pub(crate) fn from_service(service: &ResolvedService) -> Option<Self> {
        let value = |key: &str| service.get_property_val_str(key);
        Some(Self {
            id: Self::id_of(&service.fullname),
            addresses: addresses_of(service)?,
            channel: value(txt::CHANNEL)?.parse().ok()?,
            arch: value(txt::ARCH)?.parse().ok()?,
            version: printable(
                value(txt::VERSION).unwrap_or_default(),
                txt::VERSION_LENGTH_MAX,
            ),
            manifest: value(txt::MANIFEST).and_then(|text| text.parse().ok()),
            key_ids: value(txt::KEY_ID)
                .unwrap_or_default()
                .split(',')
                .take(KEY_IDS_MAX)
                .filter_map(key_id)
                .collect(),
        })
    }
}

/// The instance in a full name.
pub(crate) fn instance_of<'a>(name: &'a str, service_type: &str) -> &'a str {
    name.strip_suffix(service_type)
        .and_then(|name| name.strip_suffix('.'))
        .unwrap_or(name)
}

/// Where something that is announced listens, best address first; `None` when that is nowhere.
pub(crate) fn addresses_of(service: &ResolvedService) -> Option<Vec<SocketAddr>> {
    let addresses = best_first(service.addresses.iter().map(mdns_sd::ScopedIp::to_ip_addr));
    let is_somewhere = service.port != 0 && !addresses.is_empty();
    is_somewhere.then(|| {
        addresses
            .into_iter()
            .map(|address| SocketAddr::new(address, service.port))
            .collect()
    })
}

/// A key id as manifests spell it.
pub(crate) fn key_id(text: &str) -> Option<KeyId> {
    KeyId::deserialize(StrDeserializer::<serde::de::value::Error>::new(text)).ok()
}

/// Usable addresses in the order to try them.
pub(crate) fn best_first(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let rank = |address: &IpAddr| match address {
        IpAddr::V4(v4) if v4.is_link_local() => Some(2),
        IpAddr::V4(v4) => {
            let first = v4.octets()[0];
            (first != 0 && first < 224 && !v4.is_loopback()).then_some(0)
        }
        IpAddr::V6(v6) => {
            let never = v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
                || v6.to_ipv4_mapped().is_some();
            (!never).then_some(1)
        }
    };
    let mut ranked: Vec<(u8, IpAddr)> = addresses
        .filter_map(|address| rank(&address).map(|rank| (rank, address)))
        .collect();
    // The addresses themselves decide ties, so that every run shows the same order.
    ranked.sort_unstable();
    ranked.dedup();
    ranked
        .into_iter()
        .take(ADDRESSES_MAX)
        .map(|(_, address)| address)
        .collect()
}

fn printable(text: &str, length_max: usize) -> String {
    text.chars()
        .take(length_max)
        .map(|letter| match letter.is_ascii_graphic() || letter == ' ' {
            true => letter,
            false => '?',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use mdns_sd::ServiceInfo;

    use super::*;

    const KEY_ID: &str = "0123456789abcdef";

    fn service(
        instance: &str,
        addresses: &str,
        port: u16,
        txt: &[(&str, &str)],
    ) -> ResolvedService {
        ServiceInfo::new(SERVICE_TYPE, instance, "box.local.", addresses, port, txt)
            .unwrap()
            .as_resolved_service()
    }

    const GOOD: [(&str, &str); 3] = [("channel", "stable"), ("arch", "amd64"), ("version", "1.2")];

    #[test]
    fn a_good_advertisement_gives_urls_that_work_as_they_stand() {
        let digest = Digest::of(b"manifest").to_string();
        let mut txt = GOOD.to_vec();
        txt.extend([("manifest", digest.as_str()), ("key_id", KEY_ID)]);
        let hint =
            Hint::from_service(&service("plasmd-box", "fd00::1,10.0.0.5", 8080, &txt)).unwrap();
        assert_eq!(hint.id, "plasmd-box");
        assert_eq!(
            hint.urls(),
            [
                "http://10.0.0.5:8080/stable/x86_64/manifest.json",
                "http://[fd00::1]:8080/stable/x86_64/manifest.json"
            ]
        );
        assert_eq!(hint.manifest, Some(Digest::of(b"manifest")));
        assert_eq!(hint.key_ids.len(), 1);
        assert_eq!((hint.arch, hint.version.as_str()), (Arch::X86_64, "1.2"));
    }

    #[test]
    fn what_cannot_be_used_gives_no_hint() {
        let address = "10.0.0.5";
        for (addresses, port, txt) in [
            (address, 0, GOOD.to_vec()),
            ("127.0.0.1", 80, GOOD.to_vec()),
            ("fe80::1,::1", 80, GOOD.to_vec()),
            (address, 80, vec![]),
            (address, 80, vec![("channel", "stable")]),
            (address, 80, vec![("channel", "../etc"), ("arch", "x86_64")]),
            (address, 80, vec![("channel", "stable"), ("arch", "vax")]),
        ] {
            let service = service("plasmd-box", addresses, port, &txt);
            assert_eq!(Hint::from_service(&service), None, "{service:?}");
        }
    }

    #[test]
    fn strings_of_strangers_are_cut_and_cleaned() {
        let long = "v".repeat(200);
        let txt = [
            ("channel", "stable"),
            ("arch", "x86_64"),
            ("version", long.as_str()),
            ("manifest", "sha256:no"),
            ("key_id", "x,\u{1b}[2J,0123456789abcdef"),
        ];
        let hint = Hint::from_service(&service("a\u{1b}[2Jb", "10.0.0.5", 80, &txt)).unwrap();
        assert_eq!(hint.id, "a?[2Jb");
        assert_eq!(hint.version.len(), txt::VERSION_LENGTH_MAX);
        assert_eq!(hint.manifest, None);
        assert_eq!(hint.key_ids.len(), 1);
    }

    #[test]
    fn addresses_are_ordered_and_bounded() {
        let listed: Vec<IpAddr> = [
            "169.254.3.4",
            "fd00::1",
            "10.0.0.9",
            "10.0.0.5",
            "fe80::1",
            "0.0.0.0",
            "255.255.255.255",
            "::ffff:10.0.0.5",
        ]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
        let expected: Vec<IpAddr> = ["10.0.0.5", "10.0.0.9", "fd00::1", "169.254.3.4"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        assert_eq!(best_first(listed.into_iter()), expected);
        let many = (1..100).map(|last| IpAddr::from([10, 0, 0, last]));
        assert_eq!(best_first(many).len(), ADDRESSES_MAX);
    }
}
