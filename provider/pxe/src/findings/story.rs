//! What is known of one machine: what it asked, what it was answered, what it fetched. Only keeps; the rules judge.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::http::Fetch;
use super::limits::RETURN_WAIT;
use super::tftp::Transfer;
use crate::Mac;
use crate::client::{Client, Firmware};
use crate::dhcp::{Kind, Message, Request, options};

/// Sub-options of option 43 that make an offer complete by itself (C3).
const PXE_COMPLETE: std::ops::RangeInclusive<u8> = 6..=10;

/// One machine.
#[derive(Clone, Debug)]
pub struct Story {
    /// Its address.
    pub mac: Mac,
    /// When it was first seen.
    pub begun: Duration,
    /// When it was last seen.
    pub last: Duration,
    pub(super) asks: Vec<Ask>,
    pub(super) answers: Vec<Answer>,
    pub(super) transfers: Vec<Transfer>,
    pub(super) fetches: Vec<Fetch>,
    pub(super) addresses: Vec<IpAddr>,
    /// What it was told that cannot be reached.
    pub(super) refused: Vec<(Duration, SocketAddr)>,
    /// Whom it looked for by ARP, how often nobody answered, and when it last tried.
    pub(super) unanswered_arp: BTreeMap<IpAddr, (u32, Duration)>,
    /// Parts of packets too large for the line, sent to it.
    pub(super) fragments: u32,
    /// Whether what it and its servers say to each other alone is seen here.
    pub(super) is_seen_whole: bool,
    /// Questions over IPv6, with what was said to them.
    pub(super) six: super::six::Six,
}

/// A message of the machine.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) at: Duration,
    pub(super) target: SocketAddr,
    pub(super) request: Request,
    /// Who asks; none when this message does not tell.
    pub(super) client: Option<Client>,
}

/// A message to the machine.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) at: Duration,
    pub(super) source: SocketAddr,
    pub(super) target: SocketAddr,
    pub(super) message: Message,
    /// The size of its datagram.
    pub(super) size: usize,
}

impl Story {
    pub(super) fn new(mac: Mac, at: Duration) -> Self {
        Self {
            mac,
            begun: at,
            last: at,
            asks: Vec::new(),
            answers: Vec::new(),
            transfers: Vec::new(),
            fetches: Vec::new(),
            addresses: Vec::new(),
            refused: Vec::new(),
            unanswered_arp: BTreeMap::new(),
            fragments: 0,
            is_seen_whole: false,
            six: super::six::Six::default(),
        }
    }

    /// Whether what it and its servers say to each other alone is seen, and not only what is sent to all.
    pub fn is_seen_whole(&self) -> bool {
        self.is_seen_whole
    }

    /// Who asks, as its last message that tells says; iPXE and Linux come after the firmware.
    pub fn client(&self) -> Option<&Client> {
        self.asks.iter().rev().find_map(|ask| ask.client.as_ref())
    }

    /// Who asked first: the firmware.
    pub fn first_client(&self) -> Option<&Client> {
        self.asks.iter().find_map(|ask| ask.client.as_ref())
    }

    pub(super) fn discovers(&self) -> impl DoubleEndedIterator<Item = &Ask> {
        let asks = self.asks.iter();
        asks.filter(|ask| ask.request.kind == Kind::Discover)
    }

    /// What it sent to boot servers on their own port.
    pub(super) fn binl_asks(&self) -> impl Iterator<Item = &Ask> {
        let asks = self.asks.iter();
        asks.filter(|ask| ask.target.port() == crate::dhcp::BOOT_PORT)
    }

    /// Answers that carry something to boot, or come from somebody who speaks as a boot server.
    pub(super) fn boot_answers(&self) -> impl Iterator<Item = &Answer> {
        self.answers.iter().filter(|answer| answer.is_boot())
    }

    /// Offers and acknowledgements of addresses.
    pub(super) fn address_answers(&self) -> impl Iterator<Item = &Answer> {
        let answers = self.answers.iter();
        answers.filter(|answer| answer.gives_address())
    }

    /// The questions that one answer is to: those with its number, before it.
    pub(super) fn questions(&self, answer: &Answer) -> impl DoubleEndedIterator<Item = &Ask> {
        let (at, xid) = (answer.at, answer.message.xid);
        let asks = self.asks.iter();
        asks.filter(move |ask| ask.request.xid == xid && ask.at <= at)
    }

    /// Who asked what this answers.
    pub(super) fn asker(&self, answer: &Answer) -> Option<&Client> {
        self.questions(answer)
            .rev()
            .find_map(|ask| ask.client.as_ref())
    }

    /// Whether all of some file arrived.
    pub fn took_a_file(&self) -> bool {
        self.transfers.iter().any(|transfer| transfer.whole)
            || self.fetches.iter().any(Fetch::is_answered)
    }

    /// Whether it went on to a boot file, or tried to, after this moment.
    pub(super) fn fetched_after(&self, at: Duration) -> bool {
        self.transfers.iter().any(|transfer| transfer.at >= at)
            || self.fetches.iter().any(|fetch| fetch.at >= at)
    }

    /// Whether it fetched anything between these moments.
    pub(super) fn fetched_between(&self, from: Duration, to: Duration) -> bool {
        let within = |at: Duration| at > from && at < to;
        self.transfers.iter().any(|transfer| within(transfer.at))
            || self.fetches.iter().any(|fetch| within(fetch.at))
    }

    /// Whether it took a whole file after this moment or shortly before.
    pub(super) fn succeeded_near(&self, at: Duration) -> bool {
        self.succeeded_after(at.saturating_sub(RETURN_WAIT))
    }

    /// Whether it took a whole file after this moment.
    pub(super) fn succeeded_after(&self, at: Duration) -> bool {
        let transfers = self.transfers.iter();
        transfers
            .filter(|transfer| transfer.whole)
            .any(|transfer| transfer.last >= at)
            || self
                .fetches
                .iter()
                .any(|fetch| fetch.is_answered() && fetch.last >= at)
    }
}

impl Ask {
    pub(super) fn firmware(&self) -> Option<Firmware> {
        self.client.as_ref().map(|client| client.firmware)
    }
}

impl Answer {
    pub(super) fn gives_address(&self) -> bool {
        !self.message.yiaddr.is_unspecified() && self.message.kind != Kind::Nak
    }

    pub(super) fn class(&self) -> Option<String> {
        self.message.options.text(options::CLASS)
    }

    /// The boot file or URL.
    pub(super) fn file(&self) -> Option<String> {
        self.message.boot_file()
    }

    pub(super) fn is_boot(&self) -> bool {
        let class = self.class().unwrap_or_default();
        self.file().is_some()
            || ["PXEClient", "HTTPClient", "PhaseClient"]
                .iter()
                .any(|known| class.starts_with(known))
    }

    /// A boot answer beside the LAN's address server.
    pub(super) fn is_proxy(&self) -> bool {
        self.is_boot() && self.message.yiaddr.is_unspecified()
    }

    pub(super) fn vendor(&self) -> impl Iterator<Item = (u8, &[u8])> {
        let vendor = self.message.options.get(options::VENDOR);
        options::nested(vendor.unwrap_or_default())
    }

    /// Whether option 43 says all by itself (PXE 1.0), so that port 4011 need not be asked (C3).
    pub(super) fn is_complete(&self) -> bool {
        self.vendor().any(|(code, _)| PXE_COMPLETE.contains(&code))
    }

    /// The server a boot file is fetched from, as firmware works it out (C9).
    pub(super) fn boot_server(&self) -> Option<Ipv4Addr> {
        match self.message.siaddr.is_unspecified() {
            false => Some(self.message.siaddr),
            true => self.message.server_id(),
        }
    }

    /// The server that spoke: what it calls itself, else where it came from.
    pub(super) fn server(&self) -> IpAddr {
        let named = self.message.server_id().filter(|id| !id.is_unspecified());
        named.map_or(self.source.ip(), IpAddr::V4)
    }
}
