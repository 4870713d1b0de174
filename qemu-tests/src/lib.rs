//! Black-box tests of the built images: whole machines under QEMU on a private LAN.
//!
//! A test here is a [`Story`]: it makes a [`Lan`] (a network namespace with a bridge and a real DHCP
//! server), boots [`Machine`]s on it, waits for what they print and for what they answer over the
//! network, and leaves a short timeline behind that reads like a transcript. The host side of the LAN
//! plays the other people: `curl`, `phase-fetch`, `phase-verify`, and providers that lie
//! ([`hostile::Provider`]). A boot server that does not ([`Provider`]) runs on a host of its own on the LAN.
//!
//! Nothing here looks inside `init` or `plasmd`: the tests start what `cargo appliance build` wrote and
//! link `boot-manifest` only, to sign what a liar would serve. They never sleep where they can wait for
//! a condition, never change a built output (disks are opened copy-on-write), and never send a packet
//! outside the namespace they made, which goes away with its [`Lan`].

pub mod artifacts;
pub mod efi;
pub mod firmware;
pub mod hostile;
pub mod journey;
pub mod lan;
pub mod ledger;
pub mod machine;
pub mod nbd;
pub mod paper;
pub mod power;
pub mod proc;
pub mod provider;
pub mod qmp;
pub mod recorder;
pub mod release;
pub mod rogue;
pub mod serial;
pub mod slots;
pub mod story;
pub mod timeline;
pub mod variant;
mod veil;

pub use artifacts::Images;
pub use firmware::{Disk, Firmware};
pub use journey::Journey;
pub use lan::Lan;
pub use machine::{Machine, Spec};
pub use provider::Provider;
pub use recorder::Recorder;
pub use release::Release;
pub use rogue::Rogue;
pub use story::Story;
pub use timeline::Timeline;
