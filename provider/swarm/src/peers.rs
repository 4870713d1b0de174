//! The list of machines that fetch the same: what is asked of `/peers`, and the answer.
//!
//! ```text
//! POST /peers?manifest=sha256:HEX&port=8080[&complete=true]
//! GET  /peers?manifest=sha256:HEX
//! {"manifest":"sha256:..","refresh_seconds":1,"peers":[{"address":"10.0.0.5:8080","complete":false}]}
//! ```
//!
//! Who asks by POST is registered under the address it asks from, never under another one: nobody can aim others at a
//! victim. An address in an answer is a hint and nothing else.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use boot_manifest::Digest;
use serde::{Deserialize, Serialize};

use crate::have::{FormatError, read};
use crate::limits::{PEERS_MAX, PEERS_SIZE_MAX, QUESTION_SIZE_MAX, REFRESH_MAX, REFRESH_MIN};

/// What is asked of `/peers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Which manifest's artifacts it is about.
    pub manifest: Digest,
    /// The port where the asker serves what it has; only a `POST` has one.
    pub port: Option<NonZeroU16>,
    /// The asker has all of it.
    pub complete: bool,
}

/// A machine that fetches the same, or has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where it serves what it has.
    pub address: SocketAddr,
    /// It has all of it.
    pub complete: bool,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Which manifest's artifacts it is about.
    pub manifest: Digest,
    /// When to ask again, in whole seconds.
    pub refresh: Duration,
    /// Some of those that are known.
    pub peers: Vec<Peer>,
}

impl Question {
    /// Reads the query of a request, without the question mark. Parameters that mean nothing here are passed over; one
    /// that occurs twice is an error.
    pub fn parse(query: &str) -> Result<Self, FormatError> {
        if query.len() > QUESTION_SIZE_MAX {
            let (found, limit) = (query.len(), QUESTION_SIZE_MAX);
            return Err(FormatError::TooLong { found, limit });
        }
        let malformed = |reason: &str| FormatError::Malformed(reason.to_owned());
        let (mut manifest, mut port, mut complete) = (None, None, None);
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let is_new = match name {
                "manifest" => {
                    // A colon may be written as it is or encoded.
                    let value = value.replace("%3A", ":").replace("%3a", ":");
                    let digest: Result<Digest, _> = value.parse();
                    let digest =
                        digest.map_err(|error| FormatError::Malformed(error.to_string()))?;
                    manifest.replace(digest).is_none()
                }
                "port" => {
                    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
                    let number = value.parse::<NonZeroU16>().ok().filter(|_| digits);
                    let number =
                        number.ok_or_else(|| malformed("port is a number from 1 to 65535"))?;
                    port.replace(number).is_none()
                }
                "complete" => {
                    let is_complete = value
                        .parse::<bool>()
                        .map_err(|_| malformed("complete is true or false"))?;
                    complete.replace(is_complete).is_none()
                }
                _ => true,
            };
            if !is_new {
                return Err(malformed("a parameter occurs twice"));
            }
        }
        Ok(Self {
            manifest: manifest.ok_or_else(|| malformed("manifest=sha256:HEX is missing"))?,
            port,
            complete: complete.unwrap_or(false),
        })
    }
}

/// The query, without the question mark.
impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "manifest={}", self.manifest)?;
        if let Some(port) = self.port {
            write!(f, "&port={port}")?;
        }
        if self.complete {
            f.write_str("&complete=true")?;
        }
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Text {
    manifest: Digest,
    refresh_seconds: u64,
    peers: Vec<PeerText>,
}

#[derive(Serialize, Deserialize)]
struct PeerText {
    address: SocketAddr,
    #[serde(default)]
    complete: bool,
}

impl Answer {
    /// The answer as text.
    pub fn to_json(&self) -> String {
        let peer = |peer: &Peer| PeerText {
            address: peer.address,
            complete: peer.complete,
        };
        let text = Text {
            manifest: self.manifest,
            refresh_seconds: self.refresh.as_secs(),
            peers: self.peers.iter().map(peer).collect(),
        };
        serde_json::to_string(&text).expect("addresses and numbers are JSON")
    }

    /// Reads an answer about `manifest`. Addresses at which nothing can be asked are left out, and the time until the next
    /// question is kept within bounds.
    pub fn parse(text: &[u8], manifest: &Digest) -> Result<Self, FormatError> {
        let text: Text = read(text, PEERS_SIZE_MAX)?;
        if text.manifest != *manifest {
            return Err(FormatError::OtherManifest(text.manifest));
        }
        if text.peers.len() > PEERS_MAX {
            return Err(FormatError::TooMany(PEERS_MAX));
        }
        let peer = |peer: &PeerText| Peer {
            address: plain(peer.address),
            complete: peer.complete,
        };
        Ok(Self {
            manifest: text.manifest,
            refresh: Duration::from_secs(text.refresh_seconds).clamp(REFRESH_MIN, REFRESH_MAX),
            peers: text
                .peers
                .iter()
                .map(peer)
                .filter(|peer| is_askable(peer.address))
                .collect(),
        })
    }
}

/// An address in its own family: IPv4 within IPv6 is IPv4, and flow labels are dropped.
pub(crate) fn plain(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V6(_) => address,
        ip => SocketAddr::new(ip, address.port()),
    }
}

fn is_askable(address: SocketAddr) -> bool {
    let everybody = matches!(address.ip(), IpAddr::V4(ip) if ip.is_broadcast());
    let unspecified = address.ip().is_unspecified();
    address.port() != 0 && !everybody && !unspecified && !address.ip().is_multicast()
}

/// Whether an address that somebody at `told_by` tells may be asked: loopback and link-local ones mean another machine here
/// than there, and some of them are services that must not be asked by accident (169.254.169.254). Whoever is at such an
/// address itself may tell of others there.
pub fn is_usable(address: SocketAddr, told_by: IpAddr) -> bool {
    let (ip, told_by) = (plain(address).ip(), told_by.to_canonical());
    let is_link_local = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let at_home = |is: &dyn Fn(IpAddr) -> bool| !is(ip) || is(told_by);
    is_askable(plain(address)) && at_home(&|ip| ip.is_loopback()) && at_home(&is_link_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Digest {
        Digest::of(b"manifest")
    }

    #[test]
    fn questions() {
        let manifest = manifest();
        let question = |port, complete| {
            Some(Question {
                manifest,
                port: NonZeroU16::new(port),
                complete,
            })
        };
        let m = format!("manifest={manifest}");
        for (query, expected) in [
            (m.clone(), question(0, false)),
            (m.replace(':', "%3A"), question(0, false)),
            (format!("{m}&port=8080"), question(8080, false)),
            (format!("&port=1&&{m}&later=x"), question(1, false)),
            (format!("{m}&port=80&complete=true"), question(80, true)),
            (format!("{m}&complete=false"), question(0, false)),
            (format!("{m}&{m}"), None),
            (format!("{m}&port=80&port=81"), None),
            (format!("{m}&port=0"), None),
            (format!("{m}&port=65536"), None),
            (format!("{m}&port=+80"), None),
            (format!("{m}&port="), None),
            (format!("{m}&complete=1"), None),
            ("port=80".into(), None),
            ("manifest=sha256:00".into(), None),
            (format!("{m}&{}", "x".repeat(QUESTION_SIZE_MAX)), None),
            (String::new(), None),
        ] {
            let parsed = Question::parse(&query);
            assert_eq!(parsed.as_ref().ok(), expected.as_ref(), "{query}");
            if let Ok(question) = parsed {
                assert_eq!(Question::parse(&question.to_string()), Ok(question));
            }
        }
    }

    #[test]
    fn answers() {
        let manifest = manifest();
        let text = format!(
            r#"{{"manifest":"{manifest}","refresh_seconds":2,"peers":[{{"address":"10.0.0.5:8080","complete":false}},{{"address":"[fd00::1]:80","complete":true}}]}}"#
        );
        let answer = Answer::parse(text.as_bytes(), &manifest).expect("an answer");
        assert_eq!(answer.to_json(), text);
        let refresh = |seconds: &str| {
            let text = text.replace(":2,", &format!(":{seconds},"));
            Answer::parse(text.as_bytes(), &manifest).map(|answer| answer.refresh)
        };
        assert_eq!(refresh("0"), Ok(REFRESH_MIN));
        assert_eq!(refresh("18446744073709551615"), Ok(REFRESH_MAX));
        for (from, to) in [
            (":2,", ":-1,"),
            ("10.0.0.5:8080", "10.0.0.5"),
            ("10.0.0.5:8080", "host:80"),
            ("10.0.0.5:8080", "10.0.0.5:80800"),
        ] {
            let text = text.replace(from, to);
            let parsed = Answer::parse(text.as_bytes(), &manifest);
            assert!(matches!(parsed, Err(FormatError::Malformed(_))), "{text}");
        }
        let other = Digest::of(b"other");
        let parsed = Answer::parse(text.as_bytes(), &other);
        assert_eq!(parsed, Err(FormatError::OtherManifest(manifest)));
        for nowhere in [
            "0.0.0.0:80",
            "[::]:80",
            "10.0.0.5:0",
            "224.0.0.1:80",
            "255.255.255.255:80",
        ] {
            let text = text.replace("10.0.0.5:8080", nowhere);
            let parsed = Answer::parse(text.as_bytes(), &manifest).expect("an answer");
            assert_eq!(parsed.peers.len(), 1, "{nowhere}");
        }
        let mapped = text.replace("10.0.0.5:8080", "[::ffff:10.0.0.5]:8080");
        assert_eq!(Answer::parse(mapped.as_bytes(), &manifest), Ok(answer));
    }

    #[test]
    fn the_longest_answer_fits_the_limit_and_longer_ones_are_refused() {
        let peer = Peer {
            address: "[1111:2222:3333:4444:5555:6666:7777:8888%4294967295]:65535"
                .parse()
                .expect("an address"),
            complete: false,
        };
        let mut answer = Answer {
            manifest: manifest(),
            refresh: REFRESH_MAX,
            peers: vec![peer; PEERS_MAX],
        };
        let text = answer.to_json();
        assert!(text.len() <= PEERS_SIZE_MAX, "{}", text.len());
        assert_eq!(
            Answer::parse(text.as_bytes(), &manifest()),
            Ok(answer.clone())
        );
        answer.peers[0].address.set_port(1);
        answer.peers.push(peer);
        let parsed = Answer::parse(answer.to_json().as_bytes(), &manifest());
        assert!(parsed.is_err(), "{parsed:?}");
    }

    #[test]
    fn nobody_is_sent_to_itself_or_to_its_own_link() {
        for (address, told_by, expected) in [
            ("10.0.0.5:80", "192.0.2.1", true),
            ("127.0.0.1:80", "192.0.2.1", false),
            ("127.0.0.1:80", "127.0.0.1", true),
            ("[::1]:80", "fd00::1", false),
            ("[::1]:80", "::1", true),
            ("[::ffff:127.0.0.1]:80", "10.0.0.1", false),
            ("169.254.169.254:80", "10.0.0.1", false),
            ("169.254.1.2:80", "169.254.3.4", true),
            ("[fe80::1]:80", "fd00::1", false),
            ("[fe80::1]:80", "fe80::2", true),
            ("10.0.0.5:0", "10.0.0.1", false),
            ("224.0.0.251:80", "10.0.0.1", false),
        ] {
            let (address, told_by) = (address.parse().unwrap(), told_by.parse().unwrap());
            assert_eq!(is_usable(address, told_by), expected, "{address} {told_by}");
        }
    }
}
