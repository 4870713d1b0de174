//! Peers to begin with, as people name them.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::str::FromStr;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::Semaphore;

use super::DEFAULT_PORT;
use super::limits::{
    BOOTSTRAP_ADDRESSES_MAX, BOOTSTRAP_FILE_SIZE_MAX, BOOTSTRAP_MAX, NAME_TIME_MAX,
};

/// The longest host name (RFC 1035).
const NAME_LENGTH_MAX: usize = 253;

/// A peer to begin with: `/ip4/A/tcp/N`, `/ip6/A/tcp/N`, `/dns/NAME/tcp/N` (also dns4, dns6), each with `/p2p/ID` or
/// without, or `HOST[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    host: Host,
    port: u16,
    /// Who must be there. Without it anybody who answers there is believed to be a peer, and no more than that.
    pub(super) peer: Option<PeerId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Address(IpAddr),
    Name(String, Family),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Any,
    V4,
    V6,
}

/// A text that names no peer.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// None of the forms.
    #[error(
        "{0:?} names no peer: write HOST, HOST:PORT, /ip4/ADDRESS/tcp/PORT or /dns/NAME/tcp/PORT, \
         with /p2p/ID at the end or without"
    )]
    Form(String),
    /// The file of peers cannot be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A line of the file names no peer.
    #[error("{path}, line {line}: {source}")]
    Line {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        source: Box<BootstrapError>,
    },
    /// More peers than are ever used.
    #[error("more than {BOOTSTRAP_MAX} bootstrap peers")]
    TooMany,
}

impl Bootstrap {
    /// Peers as they are given on a command line: each one peer, or `@FILE` with one a line, where `#` begins a comment.
    pub fn parse_all<T: AsRef<str>>(texts: &[T]) -> Result<Vec<Self>, BootstrapError> {
        let mut all = Vec::new();
        for text in texts {
            match text.as_ref().strip_prefix('@') {
                Some(path) => all.extend(from_file(path)?),
                None => all.push(text.as_ref().parse()?),
            }
        }
        match all.len() > BOOTSTRAP_MAX {
            true => Err(BootstrapError::TooMany),
            false => Ok(all),
        }
    }

    /// Where it is now; a name is looked up each time. Nothing when that fails.
    pub(super) async fn addresses(&self) -> Vec<SocketAddr> {
        let (name, family) = match &self.host {
            Host::Address(ip) => return vec![SocketAddr::new(*ip, self.port)],
            Host::Name(name, family) => (name, *family),
        };
        let asked = (name.clone(), self.port);
        match in_turn(move || asked.to_socket_addrs()).await {
            Ok(addresses) => addresses
                .filter(|address| match family {
                    Family::Any => true,
                    Family::V4 => address.is_ipv4(),
                    Family::V6 => address.is_ipv6(),
                })
                .take(BOOTSTRAP_ADDRESSES_MAX)
                .collect(),
            Err(error) => {
                tracing::debug!(%name, %error, "a bootstrap peer's name leads nowhere");
                Vec::new()
            }
        }
    }
}

/// Whoever looks a name up.
static TURN: Semaphore = Semaphore::const_new(1);

/// Looks one name up after the other. Each holds one of the runtime's blocking threads for as long as the resolver likes, and
/// the process needs the others: with a resolver that is down, a list of names must not hold up what is served.
async fn in_turn<T: Send + 'static>(
    look: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let turn = TURN.acquire().await.map_err(io::Error::other)?;
    let looking = tokio::task::spawn_blocking(move || {
        let looked_up = look();
        // Not before: a look-up that nobody waits for any more holds its thread all the same.
        drop(turn);
        looked_up
    });
    match tokio::time::timeout(NAME_TIME_MAX, looking).await {
        Ok(looked_up) => looked_up.map_err(io::Error::other)?,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

fn from_file(path: &str) -> Result<Vec<Bootstrap>, BootstrapError> {
    let failed = |source| BootstrapError::File {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    let mut file = File::open(path)
        .map_err(failed)?
        .take(BOOTSTRAP_FILE_SIZE_MAX + 1);
    let size = file.read_to_string(&mut text).map_err(failed)?;
    if u64::try_from(size).is_ok_and(|size| size > BOOTSTRAP_FILE_SIZE_MAX) {
        return Err(BootstrapError::TooMany);
    }
    let lines = text.lines().enumerate().map(|(number, line)| {
        let peer = line.split('#').next().unwrap_or_default().trim();
        (number + 1, peer)
    });
    lines
        .filter(|(_, peer)| !peer.is_empty())
        .map(|(line, peer)| {
            peer.parse().map_err(|source| BootstrapError::Line {
                path: path.to_owned(),
                line,
                source: Box::new(source),
            })
        })
        .collect()
}

impl FromStr for Bootstrap {
    type Err = BootstrapError;

    fn from_str(text: &str) -> Result<Self, BootstrapError> {
        let parsed = match text.starts_with('/') {
            true => from_multiaddr(text),
            false => from_host(text),
        };
        parsed.ok_or_else(|| BootstrapError::Form(text.chars().take(80).collect()))
    }
}

impl fmt::Display for Bootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V4(ip)) => write!(f, "/ip4/{ip}")?,
            Host::Address(IpAddr::V6(ip)) => write!(f, "/ip6/{ip}")?,
            Host::Name(name, Family::Any) => write!(f, "/dns/{name}")?,
            Host::Name(name, Family::V4) => write!(f, "/dns4/{name}")?,
            Host::Name(name, Family::V6) => write!(f, "/dns6/{name}")?,
        }
        write!(f, "/tcp/{}", self.port)?;
        match self.peer {
            Some(peer) => write!(f, "/p2p/{peer}"),
            None => Ok(()),
        }
    }
}

fn from_multiaddr(text: &str) -> Option<Bootstrap> {
    let address: Multiaddr = text.parse().ok()?;
    let mut parts = address.iter();
    let name = |name: &str, family| {
        let is_name = is_host_name(name);
        is_name.then(|| Host::Name(name.to_owned(), family))
    };
    let host = match parts.next()? {
        Protocol::Ip4(ip) => Host::Address(ip.into()),
        Protocol::Ip6(ip) => Host::Address(ip.into()),
        Protocol::Dns(text) => name(&text, Family::Any)?,
        Protocol::Dns4(text) => name(&text, Family::V4)?,
        Protocol::Dns6(text) => name(&text, Family::V6)?,
        _ => return None,
    };
    let Some(Protocol::Tcp(port @ 1..)) = parts.next() else {
        return None;
    };
    let peer = match parts.next() {
        None => None,
        Some(Protocol::P2p(peer)) => Some(peer),
        Some(_) => return None,
    };
    let bootstrap = Bootstrap { host, port, peer };
    parts.next().is_none().then_some(bootstrap)
}

fn from_host(text: &str) -> Option<Bootstrap> {
    let at = |host, port| {
        let peer = None;
        Some(Bootstrap { host, port, peer })
    };
    if let Ok(ip) = text.parse() {
        return at(Host::Address(ip), DEFAULT_PORT);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        let port = Some(address.port()).filter(|port| *port != 0)?;
        return at(Host::Address(address.ip()), port);
    }
    if let Some(ip) = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        return at(Host::Address(IpAddr::V6(ip.parse().ok()?)), DEFAULT_PORT);
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().ok().filter(|port| *port != 0)?),
        None => (text, DEFAULT_PORT),
    };
    is_host_name(name)
        .then(|| Host::Name(name.to_owned(), Family::Any))
        .and_then(|host| at(host, port))
}

fn is_host_name(name: &str) -> bool {
    // A label of digits only at the end would be a mistyped address.
    let last = name.trim_end_matches('.').rsplit('.').next();
    (1..=NAME_LENGTH_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        && last.is_some_and(|label| label.bytes().any(|byte| !byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::*;

    const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

    #[test]
    fn peers_are_named_in_the_ways_people_name_them() {
        for (text, expected) in [
            ("10.0.0.5", "/ip4/10.0.0.5/tcp/4011".to_owned()),
            ("10.0.0.5:99", "/ip4/10.0.0.5/tcp/99".to_owned()),
            ("fd00::1", "/ip6/fd00::1/tcp/4011".to_owned()),
            ("[fd00::1]", "/ip6/fd00::1/tcp/4011".to_owned()),
            ("[fd00::1]:99", "/ip6/fd00::1/tcp/99".to_owned()),
            (
                "boot.example.net",
                "/dns/boot.example.net/tcp/4011".to_owned(),
            ),
            ("boot:99", "/dns/boot/tcp/99".to_owned()),
            ("/ip4/10.0.0.5/tcp/99", "/ip4/10.0.0.5/tcp/99".to_owned()),
            ("/dns6/boot/tcp/99", "/dns6/boot/tcp/99".to_owned()),
            (
                &format!("/dns4/boot/tcp/99/p2p/{PEER}"),
                format!("/dns4/boot/tcp/99/p2p/{PEER}"),
            ),
        ] {
            let peer: Bootstrap = text.parse().unwrap();
            assert_eq!(peer.to_string(), expected, "{text}");
            assert_eq!(expected.parse::<Bootstrap>().unwrap(), peer, "{text}");
        }
    }

    #[tokio::test]
    async fn a_resolver_that_is_down_holds_one_thread_and_not_all() {
        let (waiting, ends) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (release, released) = std::sync::mpsc::channel::<()>();
        let released = Arc::new(Mutex::new(released));
        let lookups: Vec<_> = (0..5)
            .map(|_| {
                let (waiting, ends) = (Arc::clone(&waiting), Arc::clone(&ends));
                let released = Arc::clone(&released);
                tokio::spawn(in_turn(move || {
                    waiting.fetch_add(1, Ordering::SeqCst);
                    let _gone = released.lock().unwrap().recv();
                    ends.fetch_add(1, Ordering::SeqCst);
                    Ok(())
                }))
            })
            .collect();
        for n in 0..lookups.len() {
            while waiting.load(Ordering::SeqCst) == n {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // Whatever else the process has to do on these threads gets its turn.
            tokio::task::spawn_blocking(|| ()).await.unwrap();
            let now = (waiting.load(Ordering::SeqCst), ends.load(Ordering::SeqCst));
            assert_eq!(now, (n + 1, n), "one after the other");
            release.send(()).unwrap();
        }
        for lookup in lookups {
            lookup.await.unwrap().unwrap();
        }
    }

    #[test]
    fn what_names_no_peer_is_refused_with_the_forms_there_are() {
        for text in [
            "",
            ":99",
            "10.0.0.300",
            "10.0.0.5:0",
            "10.0.0.5:99999",
            "a b",
            "/ip4/10.0.0.5",
            "/ip4/10.0.0.5/udp/99",
            "/ip4/10.0.0.5/tcp/0",
            "/ip4/10.0.0.5/udp/99/quic-v1",
            "/ip4/10.0.0.5/tcp/99/ws",
            "/ip4/10.0.0.5/tcp/99/p2p/nobody",
            "/dns/a b/tcp/99",
            "http://10.0.0.5:99",
        ] {
            let error = text.parse::<Bootstrap>().unwrap_err();
            assert!(error.to_string().contains("HOST:PORT"), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_has_one_peer_a_line_and_says_where_it_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peers");
        let at = format!("@{}", path.display());
        std::fs::write(&path, "# ours\n10.0.0.5\n\n boot:99 # the other\n").unwrap();
        let peers = Bootstrap::parse_all(&["10.0.0.9", &at]).unwrap();
        let texts: Vec<_> = peers.iter().map(ToString::to_string).collect();
        let expected = [
            "/ip4/10.0.0.9/tcp/4011",
            "/ip4/10.0.0.5/tcp/4011",
            "/dns/boot/tcp/99",
        ];
        assert_eq!(texts, expected);

        std::fs::write(&path, "10.0.0.5\n10.0.0.5:x\n").unwrap();
        let error = Bootstrap::parse_all(&[&at]).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        std::fs::write(&path, "10.0.0.5\n".repeat(BOOTSTRAP_MAX + 1)).unwrap();
        let error = Bootstrap::parse_all(&[&at]).unwrap_err();
        assert!(matches!(error, BootstrapError::TooMany), "{error}");
        std::fs::write(&path, "#".repeat(1 << 20)).unwrap();
        assert!(Bootstrap::parse_all(&[&at]).is_err());
        assert!(Bootstrap::parse_all(&["@/nowhere"]).is_err());
    }
}
