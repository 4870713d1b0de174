//! Every number of the boot protocols, with its reason.

use std::time::Duration;

/// Bytes of one datagram that is looked at. Ethernet carries 1472 of UDP; a jumbo frame brings nothing that is needed.
pub const MESSAGE_SIZE_MAX: usize = 2048;

/// Options of one message. Firmware sends under 20, a server's answer under 40.
pub const OPTIONS_MAX: usize = 96;

/// Bytes of one option put together from its parts (RFC 3396). Nothing that boots needs more.
pub const OPTION_SIZE_MAX: usize = 1024;

/// Values of option 93 that are looked at. RFC 4578 allows several; firmware sends one, seldom two.
pub const ARCHS_MAX: usize = 8;

/// Entries of the user class (option 77) that are looked at.
pub const USER_CLASSES_MAX: usize = 8;

/// Bytes of a name or class taken from a client that are kept for people to read.
pub const TEXT_SIZE_MAX: usize = 128;

/// A message is never shorter (RFC 1542, 2.1: the BOOTP minimum), because relays and old ROMs drop shorter ones.
pub const REPLY_SIZE_MIN: usize = 300;

/// Bytes of a whole datagram with its IP and UDP heads that every client takes (RFC 2131, 2; C21).
pub const DATAGRAM_SIZE_DEFAULT: usize = 576;

/// Bytes of a whole datagram however much the client says it takes: what Ethernet carries unfragmented.
pub const DATAGRAM_SIZE_MAX: usize = 1500;

/// Heads of IPv4 and UDP, which option 57 counts.
pub const HEADS_SIZE: usize = 28;

/// Bytes of a relay's option that are sent back. It must leave room for the answer (RFC 3046, 2.2: else it is left out);
/// switches send under 60.
pub const RELAY_SIZE_MAX: usize = 160;

/// How long an offered address waits for its client to take it. EDK2 collects offers for up to 32 s before it chooses.
pub const OFFER_TIME: Duration = Duration::from_secs(60);

/// How long an address is left alone that somebody uses. Whoever took it by hand will still be there, and then it is found
/// to be used again.
pub const AVOID_TIME: Duration = Duration::from_secs(600);

/// How long an address is left alone about which the kernel is not sure: it asks a neighbour that was there once after 5 s,
/// three times, and then knows.
pub const DOUBT_TIME: Duration = Duration::from_secs(10);

/// Bits of a subnet behind a relay, where nobody said and no interface shows it.
pub const RELAYED_PREFIX: u8 = 24;
/// Bytes of a DHCPv6 identifier: two for its kind and at most 128 (RFC 8415, 11.1).
pub const DUID_SIZE_MAX: usize = 130;

/// Uses that one client wants addresses for, and addresses of one use. Firmware has one of each.
pub const IDENTITIES_MAX: usize = 4;

/// Relays a DHCPv6 message comes through (RFC 8415, 7.6: `HOP_COUNT_LIMIT`).
pub const RELAYS_MAX: usize = 8;

/// Other addresses tried for a client that found its own taken. Twice is an accident, eight times is an attack.
pub const ADDRESS_TRIES_MAX: u8 = 8;

/// Addresses remembered that somebody found taken: far more than honest networks have, four KiB.
pub const DECLINED_MAX: usize = 256;

/// Seconds after which a client asks its server to keep an address: half of the preferred time, as RFC 8415 advises.
pub const ADDRESS_RENEW_SECONDS: u32 = 1800;

/// Seconds after which it asks any server: four fifths of the preferred time.
pub const ADDRESS_REBIND_SECONDS: u32 = 2880;

/// Seconds an address is used for new connections. Firmware needs minutes; a longer boot renews.
pub const ADDRESS_PREFERRED_SECONDS: u32 = 3600;

/// Seconds until an address is gone.
pub const ADDRESS_VALID_SECONDS: u32 = 7200;

/// Machines whose way of booting is remembered. A row of racks has some hundred; each takes about 100 bytes.
pub const BOOK_MACHINES_MAX: usize = 4096;

/// A request this soon after the last is the same one on another way, or sent again because it may be lost. Firmware that
/// found no offer it can use waits 4 s and more (C17).
pub const REPEAT_GAP: Duration = Duration::from_secs(2);

/// A request this long after the last belongs to a new attempt: the longest rung of the ladder is 32 s (C17).
pub const ATTEMPT_GAP: Duration = Duration::from_secs(90);

/// Times that a client may take a file in part and begin again before it is offered it in another way. Once can be a person
/// at the keyboard.
pub const STOPS_MAX: u32 = 2;

/// Times that an iPXE without HTTP may take ours and come back still without: the second time could be another card.
pub const CHAINS_MAX: u32 = 2;
