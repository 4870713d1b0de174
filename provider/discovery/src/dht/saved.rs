//! Peers that were good, kept in a file for the next start, so that a node comes back without its bootstrap peers.
//!
//! Line by line text: a header with the format's version and the last sequence number used, then one address a line. It is
//! written anew as a whole and renamed into place; after a power cut there is the old one or the new one. Whatever else is
//! in it costs a warning and a fresh start, never more.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::Path;

use libp2p::{Multiaddr, PeerId};

use super::identity::write_private;
use super::limits::{SAVED_PEERS_MAX, SAVED_SIZE_MAX};
use super::net::{multiaddr, split};

/// The file in the state folder.
const PEERS_FILE: &str = "peers";

/// Its first words.
const HEADER: &str = "phase-dht-peers 1 sequence";

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Saved {
    /// The last sequence number this node signed with.
    pub(super) sequence: u64,
    pub(super) peers: Vec<(PeerId, SocketAddr)>,
}

impl Saved {
    /// What the last run left in a folder; nothing when there is nothing, or nothing good.
    pub(super) fn load(folder: &Path) -> Self {
        let path = folder.join(PEERS_FILE);
        let text = match read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::default(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "known peers cannot be read");
                return Self::default();
            }
        };
        Self::parse(&text).unwrap_or_else(|| {
            tracing::warn!(path = %path.display(), "the file of known peers is damaged: starting without");
            Self::default()
        })
    }

    /// Writes it; blocks until it is on the disk.
    pub(super) fn store(&self, folder: &Path) -> io::Result<()> {
        write_private(&folder.join(PEERS_FILE), self.text().as_bytes())
    }

    fn text(&self) -> String {
        let mut text = format!("{HEADER} {}\n", self.sequence);
        for (peer, address) in self.peers.iter().take(SAVED_PEERS_MAX) {
            text.push_str(&format!("{}/p2p/{peer}\n", multiaddr(*address)));
        }
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let (header, lines) = text
            .strip_suffix('\n')?
            .split_once('\n')
            .unwrap_or((text.trim_end(), ""));
        let sequence = header
            .strip_prefix(HEADER)?
            .strip_prefix(' ')?
            .parse()
            .ok()?;
        let peers = lines.lines().map(|line| {
            let address: Multiaddr = line.parse().ok()?;
            let (address, peer) = split(&address)?;
            Some((peer?, address))
        });
        let peers: Vec<_> = peers.collect::<Option<_>>()?;
        (peers.len() <= SAVED_PEERS_MAX).then_some(Self { sequence, peers })
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let mut file = File::open(path)?.take(SAVED_SIZE_MAX + 1);
    let size = file.read_to_string(&mut text)?;
    match u64::try_from(size).is_ok_and(|size| size <= SAVED_SIZE_MAX) {
        true => Ok(text),
        false => Err(io::Error::other("larger than it ever is")),
    }
}
