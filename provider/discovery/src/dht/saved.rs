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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::identity::Identity;
    use super::*;

    fn saved(count: u8) -> Saved {
        let peers = (0..count).map(|last| {
            let address = SocketAddr::from(([10, 0, 0, last], 4011));
            (Identity::generate().peer(), address)
        });
        Saved {
            sequence: 7,
            peers: peers.collect(),
        }
    }

    #[test]
    fn what_is_kept_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Saved::load(folder.path()), Saved::default());
        for count in [0, 1, 100] {
            let saved = saved(count);
            saved.store(folder.path()).unwrap();
            assert_eq!(Saved::load(folder.path()), saved);
        }
        let mode = fs::metadata(folder.path().join(PEERS_FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        // What an interrupted write left does not matter.
        fs::write(folder.path().join("peers.new"), "half").unwrap();
        saved(3).store(folder.path()).unwrap();
        assert_eq!(Saved::load(folder.path()).peers.len(), 3);
    }

    #[test]
    fn anything_else_is_a_fresh_start() {
        let folder = tempfile::tempdir().unwrap();
        let good = saved(2).text();
        let too_many = format!("{HEADER} 1\n{}", "/ip4/10.0.0.1/tcp/1\n".repeat(200));
        for text in [
            "",
            "\n",
            "no",
            &good[..good.len() - 1],
            &good[..good.len() / 2],
            &good.replace(" 1 ", " 2 "),
            &good.replace("/p2p/", "/p2q/"),
            &good.replace("tcp", "udp"),
            &good.replace("sequence 7", "sequence -7"),
            &too_many,
            &"x".repeat(1 << 20),
        ] {
            fs::write(folder.path().join(PEERS_FILE), text).unwrap();
            let shown: String = text.chars().take(200).collect();
            assert_eq!(Saved::load(folder.path()), Saved::default(), "{shown:?}");
        }
        fs::write(folder.path().join(PEERS_FILE), [0xff; 99]).unwrap();
        assert_eq!(Saved::load(folder.path()), Saved::default());
    }

    #[test]
    fn the_file_of_a_full_table_is_not_too_large_to_be_read() {
        let peer = Identity::generate().peer();
        let longest: SocketAddr = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"
            .parse()
            .unwrap();
        let full = Saved {
            sequence: u64::MAX,
            peers: vec![(peer, longest); SAVED_PEERS_MAX],
        };
        let folder = tempfile::tempdir().unwrap();
        full.store(folder.path()).unwrap();
        assert_eq!(Saved::load(folder.path()), full);
    }
}
