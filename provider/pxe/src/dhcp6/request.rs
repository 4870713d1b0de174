//! A client's message, out of the relays it came through.

use std::net::Ipv6Addr;

use super::{ENTERPRISE, Kind, RELAY_FORWARD, code};
use crate::Mac;
use crate::client::{Client, ClientArch, Firmware, HTTP_CLASS, IPXE_USER_CLASS, PXE_CLASS};
use crate::limits::{
    ARCHS_MAX, DUID_SIZE_MAX, IDENTITIES_MAX, MESSAGE_SIZE_MAX, OPTIONS_MAX, RELAYS_MAX,
    TEXT_SIZE_MAX, USER_CLASSES_MAX,
};

/// A relay's message before its options: kind, hops, two addresses.
const RELAY_HEAD_SIZE: usize = 34;

/// Why bytes are no DHCPv6 message of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The fixed part is not whole.
    #[error("shorter than a DHCPv6 message")]
    Short,
    /// Longer than anything that boots a machine.
    #[error("longer than any DHCPv6 message")]
    Long,
    /// A server's message, or one that nobody knows.
    #[error("not a client's message")]
    Kind,
    /// More relays than there may be, or one without a message.
    #[error("relays that pass on nothing")]
    Relays,
}

/// A relay that a message came through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// How many relays there were before it.
    pub hops: u8,
    /// An address of the link it heard the message on, or zero.
    pub link: Ipv6Addr,
    /// Who it heard it from.
    pub peer: Ipv6Addr,
    /// What it wants back (option 18).
    pub interface_id: Option<Vec<u8>>,
}

/// What a client wants an address for (IA_NA).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The client's number for it.
    pub number: [u8; 4],
    /// The addresses it has or would like.
    pub addresses: Vec<Ipv6Addr>,
}

/// A client's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What kind it is.
    pub kind: Kind,
    /// The number that joins question and answer.
    pub xid: [u8; 3],
    /// The relays it came through, the last one first.
    pub relays: Vec<Relay>,
    /// The client's identifier (option 1).
    pub client_id: Option<Vec<u8>>,
    /// The server it is meant for (option 2).
    pub server_id: Option<Vec<u8>>,
    /// What it wants addresses for.
    pub identities: Vec<Identity>,
    /// The options it asks for (option 6).
    pub wanted: Vec<u16>,
    /// What kinds of machine it is (option 61).
    pub archs: Vec<u16>,
    /// Its class, if it is firmware's (option 16).
    pub class: Option<String>,
    /// What its user says of it (option 15).
    pub user_classes: Vec<String>,
    /// Its Ethernet address as the first relay saw it (option 79).
    pub link_mac: Option<Mac>,
}

impl Request {
    /// Reads a client's message.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > MESSAGE_SIZE_MAX {
            return Err(Malformed::Long);
        }
        let mut relays = Vec::new();
        let mut link_mac = None;
        let mut message = bytes;
        while message.first() == Some(&RELAY_FORWARD) {
            if relays.len() >= RELAYS_MAX {
                return Err(Malformed::Relays);
            }
            let (relay, mac, inner) = unpack(message)?;
            relays.push(relay);
            // The first relay stands last here, and it alone heard the client itself.
            link_mac = mac;
            message = inner;
        }
        let ([kind, xid @ ..], rest) = message.split_first_chunk::<4>().ok_or(Malformed::Short)?;
        let kind = Kind::from_number(*kind)
            .filter(|kind| !matches!(kind, Kind::Advertise | Kind::Reply))
            .ok_or(Malformed::Kind)?;
        let mut request = Self {
            kind,
            xid: *xid,
            relays,
            client_id: None,
            server_id: None,
            identities: Vec::new(),
            wanted: Vec::new(),
            archs: Vec::new(),
            class: None,
            user_classes: Vec::new(),
            link_mac,
        };
        for (code, value) in options(rest) {
            request.take(code, value);
        }
        Ok(request)
    }

    fn take(&mut self, code: u16, value: &[u8]) {
        let duid = || (value.len() <= DUID_SIZE_MAX).then(|| value.to_vec());
        match code {
            code::CLIENT_ID => self.client_id = duid(),
            code::SERVER_ID => self.server_id = duid(),
            code::IA_NA if self.identities.len() < IDENTITIES_MAX => {
                self.identities.extend(identity(value));
            }
            code::REQUESTED => self.wanted = numbers(value).take(OPTIONS_MAX).collect(),
            code::ARCH => self.archs = numbers(value).take(ARCHS_MAX).collect(),
            code::VENDOR_CLASS => self.class = class(value).or(self.class.take()),
            code::USER_CLASS => self.user_classes = user_classes(value),
            _ => (),
        }
    }

    /// The address of the link the client is on, as a relay names it.
    pub fn relayed_link(&self) -> Option<Ipv6Addr> {
        let links = self.relays.iter().rev().map(|relay| relay.link);
        links.into_iter().find(|link| !link.is_unspecified())
    }

    /// The card that asks: as a relay saw it, else as its link-local address has it, else as its identifier has it (which
    /// may be another card of the same machine). `peer` is who sent the datagram.
    pub fn mac(&self, peer: Ipv6Addr) -> Option<Mac> {
        let peer = self.relays.last().map_or(peer, |relay| relay.peer);
        let found = self.link_mac.or_else(|| mac_of_address(peer));
        let found = found.or_else(|| mac_of_duid(self.client_id.as_deref()?));
        found.filter(|mac| mac.is_machine())
    }

    /// Who asks, if it boots over the network.
    pub fn client(&self, peer: Ipv6Addr) -> Option<Client> {
        let class = self.class.as_deref()?;
        let http = class.starts_with(HTTP_CLASS);
        if !http && !class.starts_with(PXE_CLASS) {
            return None;
        }
        let archs = self.archs.iter().map(|arch| ClientArch(*arch));
        let arch = archs.clone().find(|arch| arch.is_known());
        let arch = arch.or(archs.clone().next())?;
        let ipxe = self.user_classes.iter().any(|one| one == IPXE_USER_CLASS);
        let firmware = match (ipxe, http) {
            // Over IPv6 it does not say what it can; every build that speaks IPv6 has HTTP.
            (true, _) => Firmware::Ipxe {
                http: true,
                efi: arch.is_efi(),
            },
            (false, true) => Firmware::UefiHttp,
            (false, false) if arch == ClientArch::RPIBOOT => Firmware::RaspberryPi,
            (false, false) if arch.is_uboot() => Firmware::UBoot,
            (false, false) if arch.is_efi() => Firmware::UefiPxe,
            (false, false) => Firmware::BiosPxe,
        };
        Some(Client {
            mac: self.mac(peer)?,
            firmware,
            arch,
            uuid: uuid_of_duid(self.client_id.as_deref().unwrap_or_default()),
            class: class.to_owned(),
        })
    }
}

/// One relay, the Ethernet address it saw, and the message it passes on.
fn unpack(bytes: &[u8]) -> Result<(Relay, Option<Mac>, &[u8]), Malformed> {
    let (head, rest) = bytes
        .split_first_chunk::<RELAY_HEAD_SIZE>()
        .ok_or(Malformed::Short)?;
    let address = |at: usize| -> Ipv6Addr {
        let octets = head.get(at..at + 16).and_then(|part| part.try_into().ok());
        octets.map_or(Ipv6Addr::UNSPECIFIED, |octets: [u8; 16]| octets.into())
    };
    let mut relay = Relay {
        hops: head[1],
        link: address(2),
        peer: address(18),
        interface_id: None,
    };
    let (mut mac, mut inner) = (None, None);
    for (code, value) in options(rest) {
        match code {
            code::INTERFACE_ID => relay.interface_id = Some(value.to_vec()),
            code::RELAY_MESSAGE => inner = Some(value),
            // Two bytes say that it is Ethernet.
            code::LINK_ADDRESS => {
                let octets = value.strip_prefix(&[0, 1]);
                mac = octets.and_then(|octets| Some(Mac(octets.try_into().ok()?)));
            }
            _ => (),
        }
    }
    Ok((relay, mac, inner.ok_or(Malformed::Relays)?))
}

/// The options of a message, as far as they are whole.
fn options(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    let next = move || {
        let ([a, b, c, d], after) = rest.split_first_chunk::<4>()?;
        let size = usize::from(u16::from_be_bytes([*c, *d]));
        let value = after.get(..size)?;
        rest = after.get(size..)?;
        Some((u16::from_be_bytes([*a, *b]), value))
    };
    std::iter::from_fn(next).take(OPTIONS_MAX)
}

fn numbers(value: &[u8]) -> impl Iterator<Item = u16> {
    let pairs = value.chunks_exact(2);
    pairs.filter_map(|pair| Some(u16::from_be_bytes(pair.try_into().ok()?)))
}

fn identity(value: &[u8]) -> Option<Identity> {
    let (number, rest) = value.split_first_chunk::<4>()?;
    // Two times, which the server decides.
    let inner = options(rest.get(8..)?);
    let addresses = inner.filter(|(code, _)| *code == code::IA_ADDRESS);
    let addresses = addresses.filter_map(|(_, value)| value.first_chunk::<16>().copied());
    Some(Identity {
        number: *number,
        addresses: addresses.map(Ipv6Addr::from).take(IDENTITIES_MAX).collect(),
    })
}

/// The class that firmware writes: enterprise, then texts with their length. Old firmware left the length out or wrong, so
/// what follows the enterprise is looked at too (edk2 #10114 is the same mistake made by servers).
fn class(value: &[u8]) -> Option<String> {
    let (enterprise, rest) = value.split_first_chunk::<4>()?;
    if u32::from_be_bytes(*enterprise) != ENTERPRISE {
        return None;
    }
    let known = |text: &&[u8]| {
        [PXE_CLASS, HTTP_CLASS]
            .iter()
            .any(|class| text.starts_with(class.as_bytes()))
    };
    let mut candidates = [rest.get(2..).unwrap_or_default(), rest].into_iter();
    candidates.find(known).map(text)
}

fn user_classes(value: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = value;
    while let Some(([a, b], after)) = rest.split_first_chunk::<2>()
        && found.len() < USER_CLASSES_MAX
    {
        let size = usize::from(u16::from_be_bytes([*a, *b]));
        let Some(class) = after.get(..size) else {
            break;
        };
        found.push(text(class));
        rest = after.get(size..).unwrap_or_default();
    }
    found
}

/// What of `bytes` people can read, up to the first byte that is none.
fn text(bytes: &[u8]) -> String {
    let readable = bytes
        .iter()
        .take(TEXT_SIZE_MAX)
        .take_while(|byte| byte.is_ascii_graphic() || **byte == b' ');
    readable.map(|byte| char::from(*byte)).collect()
}

/// The card behind a link-local address that was made of it (RFC 4291, appendix A).
fn mac_of_address(address: Ipv6Addr) -> Option<Mac> {
    let [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a, b, c, 0xff, 0xfe, d, e, f] = address.octets() else {
        return None;
    };
    Some(Mac([a ^ 0b10, b, c, d, e, f]))
}

/// The card that an identifier was made of: kinds 1 (with a time) and 3, of Ethernet.
fn mac_of_duid(duid: &[u8]) -> Option<Mac> {
    let octets = match duid {
        [0, 1, 0, 1, _, _, _, _, octets @ ..] | [0, 3, 0, 1, octets @ ..] => octets,
        _ => return None,
    };
    Some(Mac(octets.try_into().ok()?))
}

/// The machine's identity, which is an identifier of kind 4.
fn uuid_of_duid(duid: &[u8]) -> Option<[u8; 16]> {
    let uuid: [u8; 16] = duid.strip_prefix(&[0, 4])?.try_into().ok()?;
    (uuid != [0; 16] && uuid != [0xff; 16]).then_some(uuid)
}
