//! How firmware boots over a network, decided over bytes and values: what a client asked, what kind of firmware it is,
//! and what it must be answered so that it boots. A crate of its own because it does no I/O and is fuzzed by itself.
//!
//! | module | holds |
//! | --- | --- |
//! | `mac` | the address by which a machine is known |
//! | `dhcp` | DHCPv4 messages: parsed leniently, written strictly |
//! | `dhcp6` | DHCPv6: messages, answers and addresses |
//! | `client` | which firmware a request comes from |
//! | `boot` | what a machine is to be given, decided by others |
//! | `strategy` | how that is put into an answer for this firmware, and what follows when it was not taken |
//! | `ipxe` | scripts for iPXE |
//! | `packet` | one packet of boot traffic, from a capture or a test |
//! | `frame` | takes packets out of captured frames |
//! | `tftp` | a TFTP server's side of a transfer: requests, names, windows, waits |
//! | `transcript` | packets as text: golden tests, recordings, what people write by hand |
//! | `leases` | which machine has which address, where no other server gives any |
//! | `rom` | boot ROMs with their habits, for tests and benches |
//! | `findings` | the packet doctor: packets in, what went wrong in words out |
//! | `limits` | every number with its reason |
//!
//! Never opens a socket or a file, asks no clock (time is an argument, counted from any fixed start), and nothing here
//! panics on input.

pub mod boot;
pub mod client;
pub mod dhcp;
pub mod dhcp6;
pub mod findings;
pub mod frame;
pub mod ipxe;
pub mod leases;
pub mod limits;
pub mod mac;
pub mod packet;
pub mod rom;
pub mod strategy;
pub mod tftp;
pub mod transcript;

pub use mac::Mac;
