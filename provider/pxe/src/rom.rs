//! The other side: boot ROMs as they are, each with its habits, without a socket. Tests and benches boot them by the hundred,
//! and a machine that tests itself boots one; nothing that serves uses them.
//!
//! ```text
//! DISCOVER ──▶ offers are collected ──▶ an address: REQUEST, ACK ──▶ the file is named: booted
//!     ▲              │ none it can use       (a known address          │ only the server is named
//!     └──────────────┘ again after 4, 8, 16, 32 s  needs none)         ▼
//!                                                     REQUEST at 4011, 4 tries ──▶ ACK with a file: booted
//! ```

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::Mac;
use crate::dhcp::options::{self, nested};
use crate::dhcp::{BOOT_PORT, Kind, Message, Operation, SERVER_PORT};

/// How long each round of offers lasts (C17).
const LADDER: [Duration; 4] = [
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
    Duration::from_secs(32),
];

/// How long an answer of a boot server, or to a REQUEST, is waited for, and how often it is asked (C3).
const WAIT: Duration = Duration::from_secs(1);
const TRIES: usize = 4;

/// What a ROM believes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// UEFI's PXE driver: takes discovery options first, goes to port 4011 otherwise (C3, C4).
    Edk2,
    /// The same before it kept proxies' offers with discovery options.
    OldEdk2,
    /// UEFI's HTTP driver: only offers of its own class (C2).
    Edk2Http,
    /// A BIOS ROM that keeps to the standard: whatever PXE 2.1 knows.
    Bios,
    /// A BIOS ROM that takes the file from the offer, if the offer says so, and never asks at port 4011 (C5).
    DirectBios,
    /// A BIOS ROM that asks at port 4011 and ignores every offer with discovery options (C5, C6).
    BinlBios,
    /// A BIOS ROM that wants a menu (C7).
    MenuBios,
    /// iPXE with HTTP in a network card (C9, C13).
    Ipxe,
}

impl Model {
    /// Every model.
    pub const ALL: [Self; 8] = [
        Self::Edk2,
        Self::OldEdk2,
        Self::Edk2Http,
        Self::Bios,
        Self::DirectBios,
        Self::BinlBios,
        Self::MenuBios,
        Self::Ipxe,
    ];

    const fn class(self) -> &'static str {
        match self {
            Self::Edk2 | Self::OldEdk2 => "PXEClient:Arch:00007:UNDI:003016",
            Self::Edk2Http => "HTTPClient:Arch:00016:UNDI:003016",
            Self::Bios | Self::DirectBios | Self::BinlBios | Self::MenuBios | Self::Ipxe => {
                "PXEClient:Arch:00000:UNDI:002001"
            }
        }
    }

    const fn arch(self) -> u16 {
        match self {
            Self::Edk2 | Self::OldEdk2 => 7,
            Self::Edk2Http => 16,
            Self::Bios | Self::DirectBios | Self::BinlBios | Self::MenuBios | Self::Ipxe => 0,
        }
    }

    /// What the ROM does with an offer, or nothing if it cannot use it.
    fn judge(self, offer: &Offered) -> Option<Next> {
        let file = offer.file.clone();
        let direct = || Some(Next::Boot(file.clone()?));
        let binl = Some(Next::Ask(None));
        match self {
            Self::Edk2Http => direct().filter(|_| offer.class == Some(Class::Http)),
            Self::Ipxe => direct().filter(|_| offer.class == Some(Class::Pxe) || offer.has_address),
            Self::Edk2 | Self::OldEdk2 | Self::Bios => match offer.class {
                Some(Class::Pxe) if offer.discovers() => {
                    let drops = self == Self::OldEdk2 && !offer.has_address;
                    offer.discovery().filter(|_| !drops)
                }
                Some(Class::Pxe) => binl,
                Some(Class::Http) => None,
                None => direct().filter(|_| offer.has_address),
            },
            Self::DirectBios => match offer.class {
                Some(Class::Pxe) if offer.uses_this_file() => direct(),
                None => direct().filter(|_| offer.has_address),
                _ => None,
            },
            Self::BinlBios => match offer.class {
                Some(Class::Pxe) if !offer.discovers() => binl,
                None => direct().filter(|_| offer.has_address),
                _ => None,
            },
            Self::MenuBios => match offer.class {
                Some(Class::Pxe) => offer.menu.map(|item| Next::Ask(Some(item))),
                _ => None,
            },
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Pxe,
    Http,
}

/// What a ROM sees in an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Offered {
    server: Ipv4Addr,
    has_address: bool,
    class: Option<Class>,
    file: Option<String>,
    /// Discovery control, if there is one.
    control: Option<u8>,
    /// The first entry of the menu.
    menu: Option<[u8; 2]>,
}

impl Offered {
    /// Nothing if the answer does not say who speaks, which makes every ROM drop it (C17).
    fn read(message: &Message) -> Option<Self> {
        let speaker = message.server_id()?;
        let class = message.options.text(options::CLASS);
        let class = class.and_then(|class| match class {
            class if class.starts_with("PXEClient") => Some(Class::Pxe),
            class if class.starts_with("HTTPClient") => Some(Class::Http),
            _ => None,
        });
        let vendor = message.options.get(options::VENDOR).unwrap_or_default();
        let inside = |wanted: u8| nested(vendor).find(|(code, _)| *code == wanted);
        let named = [message.siaddr, speaker].into_iter();
        Some(Self {
            server: named.clone().find(|server| !server.is_unspecified())?,
            has_address: !message.yiaddr.is_unspecified(),
            class,
            file: message.boot_file(),
            control: inside(6).and_then(|(_, value)| value.first().copied()),
            menu: inside(9).and_then(|(_, value)| value.first_chunk().copied()),
        })
    }

    const fn discovers(&self) -> bool {
        self.control.is_some() || self.menu.is_some()
    }

    fn uses_this_file(&self) -> bool {
        self.control.is_some_and(|control| control & 8 != 0) && self.file.is_some()
    }

    fn discovery(&self) -> Option<Next> {
        match (self.uses_this_file(), self.menu) {
            (true, _) => Some(Next::Boot(self.file.clone()?)),
            (false, Some([0, 0])) => Some(Next::LocalDisk),
            (false, Some(item)) => Some(Next::Ask(Some(item))),
            (false, None) => None,
        }
    }
}

/// What a ROM will do with the offer it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Next {
    Boot(String),
    /// Ask at port 4011, for this entry of a menu.
    Ask(Option<[u8; 2]>),
    LocalDisk,
}

/// A datagram to be sent from port 68 of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// To this address.
    pub to: Ipv4Addr,
    /// To this port.
    pub port: u16,
    /// These bytes.
    pub bytes: Vec<u8>,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It fetches this from there: a name for TFTP, or a URL.
    Boots {
        /// The server.
        server: Ipv4Addr,
        /// The name or URL.
        file: String,
    },
    /// It goes on with its disk.
    LocalDisk,
    /// It gives up.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Discovering {
        round: usize,
        offers: Vec<(Offered, Next)>,
    },
    Asking {
        server: Ipv4Addr,
        item: Option<[u8; 2]>,
        tries: usize,
    },
    Ended(End),
}

/// A ROM in front of a server. Its address is known from the beginning, as if another server had given it at once, unless
/// that is left to the server itself ([`Rom::without_address`]).
#[derive(Debug, Clone)]
pub struct Rom {
    model: Model,
    mac: Mac,
    xid: u32,
    address: Option<Ipv4Addr>,
    /// The only server that is asked, if there is one.
    only: Option<Ipv4Addr>,
    /// Whether the first offer it can use is taken at once, where real ones let the round end (C17).
    hasty: bool,
    state: State,
    deadline: Duration,
}

impl Rom {
    /// A ROM whose address another server gives.
    pub const fn new(model: Model, mac: Mac, xid: u32, address: Ipv4Addr) -> Self {
        Self {
            model,
            mac,
            xid,
            address: Some(address),
            only: None,
            hasty: false,
            state: State::Discovering {
                round: 0,
                offers: Vec::new(),
            },
            deadline: Duration::ZERO,
        }
    }

    /// The same, but the server has to give the address.
    #[must_use]
    pub const fn without_address(mut self) -> Self {
        self.address = None;
        self
    }

    /// The same, but it waits for nothing once it has what it needs.
    #[must_use]
    pub const fn hasty(mut self) -> Self {
        self.hasty = true;
        self
    }

    /// The same, but it asks this server alone, from its own address, and is answered there: nobody else on the network hears
    /// of it. No firmware does that; a machine that tests itself does.
    #[must_use]
    pub const fn asking_only(mut self, server: Ipv4Addr) -> Self {
        self.only = Some(server);
        self
    }

    /// The number of its questions.
    pub const fn xid(&self) -> u32 {
        self.xid
    }

    /// When [`Rom::expired`] is to be called.
    pub const fn deadline(&self) -> Duration {
        self.deadline
    }

    /// How it ended, once it did.
    pub const fn end(&self) -> Option<&End> {
        match &self.state {
            State::Ended(end) => Some(end),
            State::Discovering { .. } | State::Asking { .. } => None,
        }
    }

    /// It is switched on: its first question.
    pub fn start(&mut self, now: Duration) -> Sent {
        self.state = State::Discovering {
            round: 0,
            offers: Vec::new(),
        };
        self.deadline = now + LADDER[0];
        self.discover()
    }

    /// An answer came; perhaps there is something to send.
    pub fn received(&mut self, message: &Message, now: Duration) -> Option<Sent> {
        let for_me = message.operation == Operation::Reply
            && message.mac == self.mac
            && message.xid == self.xid;
        let offered = Offered::read(message).filter(|_| for_me)?;
        match &mut self.state {
            State::Discovering { offers, .. } if message.kind == Kind::Offer => {
                let usable = self.address.is_some() || offered.has_address;
                if let Some(next) = self.model.judge(&offered).filter(|_| usable) {
                    if self.address.is_none() {
                        self.address = Some(message.yiaddr);
                    }
                    offers.push((offered, next));
                }
                if self.hasty { self.choose(now) } else { None }
            }
            State::Asking { item, .. } if message.kind == Kind::Ack => {
                let named = match (self.model.judge(&offered), &offered.file) {
                    (Some(Next::LocalDisk), _) => Some(End::LocalDisk),
                    (_, Some(file)) => Some(End::Boots {
                        server: offered.server,
                        file: file.clone(),
                    }),
                    (_, None) => None,
                };
                // The chosen entry must come back (C7).
                let vendor = message.options.get(options::VENDOR).unwrap_or_default();
                let echoed = nested(vendor).find(|(code, _)| *code == 71);
                let echoed = echoed.and_then(|(_, value)| value.first_chunk::<2>().copied());
                if let Some(end) = named.filter(|_| item.is_none() || echoed == *item) {
                    self.state = State::Ended(end);
                }
                None
            }
            State::Discovering { .. } | State::Asking { .. } | State::Ended(_) => None,
        }
    }

    /// The deadline passed.
    pub fn expired(&mut self, now: Duration) -> Option<Sent> {
        match &mut self.state {
            State::Discovering { offers, .. } if !offers.is_empty() => self.choose(now),
            State::Discovering { round, .. } => {
                *round += 1;
                let Some(wait) = LADDER.get(*round) else {
                    self.state = State::Ended(End::Failed);
                    return None;
                };
                self.deadline = now + *wait;
                Some(self.discover())
            }
            State::Asking {
                server,
                item,
                tries,
            } => {
                *tries += 1;
                let (server, item, tries) = (*server, *item, *tries);
                if tries == TRIES {
                    self.state = State::Ended(End::Failed);
                    return None;
                }
                self.deadline = now + WAIT;
                Some(self.ask(server, item))
            }
            State::Ended(_) => None,
        }
    }

    /// Takes the best of the offers: those that need no further question first (C4).
    fn choose(&mut self, now: Duration) -> Option<Sent> {
        let State::Discovering { offers, .. } = &self.state else {
            return None;
        };
        let at_once = offers
            .iter()
            .find(|(_, next)| !matches!(next, Next::Ask(_)));
        let (offered, next) = at_once.or(offers.first())?.clone();
        match next {
            Next::Boot(file) => {
                let server = offered.server;
                self.state = State::Ended(End::Boots { server, file });
                None
            }
            Next::LocalDisk => {
                self.state = State::Ended(End::LocalDisk);
                None
            }
            Next::Ask(item) => {
                self.deadline = now + WAIT;
                self.state = State::Asking {
                    server: offered.server,
                    item,
                    tries: 0,
                };
                Some(self.ask(offered.server, item))
            }
        }
    }

    fn discover(&self) -> Sent {
        let own = self.address.filter(|_| self.only.is_some());
        let own = own.unwrap_or(Ipv4Addr::UNSPECIFIED);
        Sent {
            to: self.only.unwrap_or(Ipv4Addr::BROADCAST),
            port: SERVER_PORT,
            bytes: self.message(Kind::Discover, own, &[]),
        }
    }

    fn ask(&self, server: Ipv4Addr, item: Option<[u8; 2]>) -> Sent {
        let own = self.address.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let vendor = item.map(|[high, low]| vec![71, 4, high, low, 0, 0, 255]);
        let vendor: Vec<(u8, Vec<u8>)> = vendor
            .map(|vendor| (options::VENDOR, vendor))
            .into_iter()
            .collect();
        Sent {
            to: server,
            port: BOOT_PORT,
            bytes: self.message(Kind::Request, own, &vendor),
        }
    }

    /// A message as ROMs send it: padded to the smallest size, with the options that all of them have.
    fn message(&self, kind: Kind, own: Ipv4Addr, more: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = vec![0; 236];
        bytes[..3].copy_from_slice(&[1, 1, 6]);
        bytes[4..8].copy_from_slice(&self.xid.to_be_bytes());
        bytes[10] = 0x80;
        bytes[12..16].copy_from_slice(&own.octets());
        bytes[28..34].copy_from_slice(&self.mac.octets());
        bytes.extend([0x63, 0x82, 0x53, 0x63]);
        let mut put = |code: u8, value: &[u8]| {
            bytes.push(code);
            bytes.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
            bytes.extend(value.iter().take(usize::from(u8::MAX)));
        };
        put(options::MESSAGE_TYPE, &[kind.number()]);
        put(options::CLASS, self.model.class().as_bytes());
        put(options::ARCH, &self.model.arch().to_be_bytes());
        put(options::UNDI, &[1, 3, 16]);
        put(options::MAX_SIZE, &1472_u16.to_be_bytes());
        let [a, b, c, d, e, f] = self.mac.octets();
        put(
            options::UUID,
            &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, a, b, c, d, e, f],
        );
        if self.model == Model::Ipxe {
            put(options::USER_CLASS, b"iPXE");
            put(options::IPXE, &[0x13, 1, 1]);
        }
        for (code, value) in more {
            put(*code, value);
        }
        bytes.push(255);
        bytes.resize(bytes.len().max(crate::limits::REPLY_SIZE_MIN), 0);
        bytes
    }
}
