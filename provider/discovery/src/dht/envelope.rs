//! What a provider says of itself, signed by its own key, and the set of such envelopes that is one value of the DHT.
//!
//! Pure: no clock, no network. Nothing in an envelope is proven but that the holder of the peer key wrote it.
//!
//! ```text
//! value     magic "PHP1", then envelopes until the end, at most 32, each u16 length + bytes
//! envelope  public key 32 | signature 64 | body
//! signature Ed25519 over "phase-dht-provider-v1\0" | public key | body
//! body      sequence u64 | created u64 | lifetime u32 | channel | arch | version | manifest | key ids | addresses
//! ```
//! Numbers are big-endian. `created` is in Unix seconds, 0 from a machine whose clock was never set; `lifetime` in seconds,
//! at most 3600. Channel, arch and version are u8 length + ASCII; the manifest is u8 0, or u8 1 + 32 bytes of SHA-256; key
//! ids are u8 count + 8 bytes each; addresses u8 count, each u8 4 or 6 + address + u16 port. No address means that the
//! provider went away. There is exactly one way to write a record, and nothing may follow.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use boot_manifest::{Arch, Channel, Digest, KeyId};
use libp2p::PeerId;
use libp2p::identity::{PublicKey, ed25519};

use super::identity::Identity;
use super::limits::{
    ADDRESSES_MAX, ENVELOPE_SIZE_MAX, KEY_IDS_MAX, LIFETIME, LIFETIME_MIN, RECORDS_PER_KEY_MAX,
    VALUE_SIZE_MAX, VERSION_SIZE_MAX,
};
use super::net::is_http_address;
use crate::hint::{Hint, key_id};

/// What makes a value ours, with the version of the format.
const MAGIC: &[u8; 4] = b"PHP1";

/// Keeps these signatures from meaning anything anywhere else.
const DOMAIN: &[u8] = b"phase-dht-provider-v1\0";

const PUBLIC_KEY_SIZE: usize = 32;
const SIGNATURE_SIZE: usize = 64;

/// Facts about a provider, as it publishes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The channel it serves.
    pub channel: Channel,
    /// The architecture it serves.
    pub arch: Arch,
    /// The version of the image, printable ASCII; what is too long or not printable is left out.
    pub version: String,
    /// Digest of the manifest it serves.
    pub manifest: Option<Digest>,
    /// Keys that signed it.
    pub key_ids: Vec<KeyId>,
    /// Where its HTTP server is, best address first. What others cannot use (loopback, link-local, multicast, port 0) and
    /// what is beyond eight is left out; with none left nothing is published.
    pub addresses: Vec<SocketAddr>,
}

/// The key under which providers of a channel and an architecture are found.
pub(super) fn key(channel: &Channel, arch: Arch) -> String {
    format!("/phase/{channel}/{arch}/manifest")
}

impl Record {
    /// The key it is published under.
    pub fn key(&self) -> String {
        key(&self.channel, self.arch)
    }

    /// The same with only what may be published.
    pub(super) fn cleaned(mut self) -> Self {
        let mut seen = Vec::new();
        self.addresses.retain(|address| {
            let is_kept = is_http_address(address) && !seen.contains(address);
            seen.push(*address);
            is_kept
        });
        self.addresses.truncate(ADDRESSES_MAX);
        self.key_ids.truncate(KEY_IDS_MAX);
        self.version.retain(is_printable);
        self.version.truncate(VERSION_SIZE_MAX);
        self
    }
}

fn is_printable(letter: char) -> bool {
    letter.is_ascii_graphic() || letter == ' '
}

/// When an envelope was made, and for how long it is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// The newest of one provider counts.
    pub(super) sequence: u64,
    /// Unix seconds, if the provider knows them.
    pub(super) created: Option<u64>,
    /// At most [`LIFETIME`].
    pub(super) lifetime: Duration,
}

/// An envelope whose signature and contents were checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    bytes: Vec<u8>,
    pub(super) signer: PeerId,
    pub(super) span: Span,
    pub(super) record: Record,
}

/// Why bytes are no envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Larger than anything honest, or than the format allows.
    #[error("too large")]
    Size,
    /// It does not begin as our values do.
    #[error("of another kind or version")]
    Magic,
    /// It ends too early, goes on too long, or a field is not what it must be.
    #[error("malformed")]
    Malformed,
    /// The signature does not fit.
    #[error("wrong signature")]
    Signature,
    /// An address that no client must ever be sent to.
    #[error("unusable address")]
    Address,
}

impl Envelope {
    /// Signs a record, which must be [`Record::cleaned`].
    pub(super) fn seal(identity: &Identity, record: Record, span: Span) -> Self {
        let body = body(&record, span);
        let public_key = identity.ed25519().public().to_bytes();
        let signature = identity.ed25519().sign(&signed(&public_key, &body));
        let bytes = [&public_key[..], &signature, &body].concat();
        debug_assert!(bytes.len() <= ENVELOPE_SIZE_MAX);
        Self {
            bytes,
            signer: identity.peer(),
            span,
            record,
        }
    }

    /// One that nobody signed, where signatures do not matter and would take long.
    #[cfg(test)]
    pub(super) fn unsigned(signer: PeerId, record: Record, span: Span) -> Self {
        Self {
            bytes: body(&record, span),
            signer,
            span,
            record,
        }
    }

    /// Reads one; the signature is checked before anything is parsed.
    pub fn open(bytes: &[u8]) -> Result<Self, Invalid> {
        if bytes.len() > ENVELOPE_SIZE_MAX {
            return Err(Invalid::Size);
        }
        let mut input = Input(bytes);
        let public_key: &[u8; PUBLIC_KEY_SIZE] = input.array()?;
        let signature: &[u8; SIGNATURE_SIZE] = input.array()?;
        let body = input.0;
        let key = ed25519::PublicKey::try_from_bytes(public_key).map_err(|_| Invalid::Signature)?;
        if !key.verify(&signed(public_key, body), signature) {
            return Err(Invalid::Signature);
        }
        let (record, span) = parse(body)?;
        debug_assert_eq!(self::body(&record, span), body, "one way to write it");
        Ok(Self {
            bytes: bytes.to_vec(),
            signer: PublicKey::from(key).to_peer_id(),
            span,
            record,
        })
    }

    /// The bytes that were signed and everything around them.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The key it belongs under.
    pub(super) fn key(&self) -> String {
        self.record.key()
    }

    /// Whether the provider says goodbye.
    pub(super) fn is_goodbye(&self) -> bool {
        self.record.addresses.is_empty()
    }

    /// What it is for a client: an address to ask, and nothing more.
    pub fn hint(&self) -> Option<Hint> {
        let record = self.record.clone();
        (!self.is_goodbye()).then(|| Hint {
            id: self.signer.to_base58(),
            addresses: record.addresses,
            channel: record.channel,
            arch: record.arch,
            version: record.version,
            manifest: record.manifest,
            key_ids: record.key_ids,
        })
    }
}

/// One value out of envelopes; what is beyond the limit is left out.
pub(super) fn join<'a>(envelopes: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut value = MAGIC.to_vec();
    for bytes in envelopes.take(RECORDS_PER_KEY_MAX) {
        let length = u16::try_from(bytes.len()).unwrap_or_default();
        if usize::from(length) == bytes.len() {
            value.extend(length.to_be_bytes());
            value.extend(bytes);
        }
    }
    value
}

/// The envelopes of a value, not yet looked at.
pub fn split(value: &[u8]) -> Result<Vec<&[u8]>, Invalid> {
    if value.len() > VALUE_SIZE_MAX {
        return Err(Invalid::Size);
    }
    let mut input = Input(value.strip_prefix(MAGIC).ok_or(Invalid::Magic)?);
    let mut envelopes = Vec::new();
    while !input.0.is_empty() {
        let length = usize::from(u16::from_be_bytes(*input.array()?));
        if length > ENVELOPE_SIZE_MAX || envelopes.len() == RECORDS_PER_KEY_MAX {
            return Err(Invalid::Size);
        }
        envelopes.push(input.take(length)?);
    }
    Ok(envelopes)
}

fn signed(public_key: &[u8; PUBLIC_KEY_SIZE], body: &[u8]) -> Vec<u8> {
    [DOMAIN, public_key, body].concat()
}

fn body(record: &Record, span: Span) -> Vec<u8> {
    let mut out = Vec::with_capacity(ENVELOPE_SIZE_MAX);
    out.extend(span.sequence.to_be_bytes());
    out.extend(span.created.unwrap_or_default().to_be_bytes());
    let lifetime = u32::try_from(span.lifetime.as_secs()).unwrap_or(u32::MAX);
    out.extend(lifetime.to_be_bytes());
    for text in [
        record.channel.as_str(),
        record.arch.as_str(),
        &record.version,
    ] {
        out.push(count(text.len()));
        out.extend(text.as_bytes());
    }
    out.push(count(record.manifest.iter().len()));
    out.extend(record.manifest.iter().flat_map(Digest::as_bytes));
    out.push(count(record.key_ids.len()));
    for key_id in &record.key_ids {
        out.extend(key_id_bytes(*key_id));
    }
    out.push(count(record.addresses.len()));
    for address in &record.addresses {
        match address.ip() {
            IpAddr::V4(ip) => {
                out.push(4);
                out.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                out.push(6);
                out.extend(ip.octets());
            }
        }
        out.extend(address.port().to_be_bytes());
    }
    out
}

/// All counts are bounded far below this.
fn count(number: usize) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

fn key_id_bytes(key_id: KeyId) -> [u8; 8] {
    let number = u64::from_str_radix(&key_id.to_string(), 16);
    number.unwrap_or_default().to_be_bytes()
}

fn parse(body: &[u8]) -> Result<(Record, Span), Invalid> {
    let mut input = Input(body);
    let sequence = u64::from_be_bytes(*input.array()?);
    let created = u64::from_be_bytes(*input.array()?);
    let lifetime = Duration::from_secs(u32::from_be_bytes(*input.array()?).into());
    if lifetime > LIFETIME || lifetime < LIFETIME_MIN {
        return Err(Invalid::Malformed);
    }
    let channel = input.text()?.parse().map_err(|_| Invalid::Malformed)?;
    let arch_text = input.text()?;
    let arch: Arch = arch_text.parse().map_err(|_| Invalid::Malformed)?;
    let version = input.text()?;
    if arch.as_str() != arch_text
        || version.len() > VERSION_SIZE_MAX
        || !version.chars().all(is_printable)
    {
        return Err(Invalid::Malformed);
    }
    let manifest = match input.byte()? {
        0 => None,
        1 => Some(Digest::from_bytes(*input.array()?)),
        _ => return Err(Invalid::Malformed),
    };
    let key_ids = input.list(KEY_IDS_MAX, |input| {
        let number = u64::from_be_bytes(*input.array()?);
        key_id(&format!("{number:016x}")).ok_or(Invalid::Malformed)
    })?;
    let addresses = input.list(ADDRESSES_MAX, Input::address)?;
    if !input.0.is_empty() {
        return Err(Invalid::Malformed);
    }
    let record = Record {
        channel,
        arch,
        version: version.to_owned(),
        manifest,
        key_ids,
        addresses,
    };
    let span = Span {
        sequence,
        created: (created != 0).then_some(created),
        lifetime,
    };
    Ok((record, span))
}

/// What is left to read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Invalid> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Invalid::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], Invalid> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Invalid::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Invalid> {
        self.array().map(|[byte]| *byte)
    }

    fn text(&mut self) -> Result<&'a str, Invalid> {
        let length = usize::from(self.byte()?);
        std::str::from_utf8(self.take(length)?).map_err(|_| Invalid::Malformed)
    }

    fn list<T>(
        &mut self,
        count_max: usize,
        read: impl Fn(&mut Self) -> Result<T, Invalid>,
    ) -> Result<Vec<T>, Invalid> {
        let count = usize::from(self.byte()?);
        if count > count_max {
            return Err(Invalid::Size);
        }
        (0..count).map(|_| read(self)).collect()
    }

    fn address(&mut self) -> Result<SocketAddr, Invalid> {
        let ip = match self.byte()? {
            4 => IpAddr::from(Ipv4Addr::from(*self.array::<4>()?)),
            6 => IpAddr::from(Ipv6Addr::from(*self.array::<16>()?)),
            _ => return Err(Invalid::Malformed),
        };
        let address = SocketAddr::new(ip, u16::from_be_bytes(*self.array()?));
        is_http_address(&address)
            .then_some(address)
            .ok_or(Invalid::Address)
    }
}

#[cfg(test)]
mod tests;
