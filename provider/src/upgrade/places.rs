//! Who may have something newer: those that were named, and those that announce themselves. Pure: time is an argument.
//!
//! Anybody on the wire can announce anything, so announcements are bounded, nobody's place among them is safe, and who was
//! named is asked in every look whatever else there is. Each source is known by its instance name and asked at one of its
//! addresses, so that a machine with four cards is one neighbour. Never decides what is believed.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use fetch::Url;

use super::limits::{ASKED_MAX, HEARD_MAX, HEARD_TIME, NAMED_MAX, URLS_MAX};

/// Somebody to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The manifest there; addresses of one machine, best first.
    pub(super) urls: Vec<Url>,
    /// Somebody decided for this machine that it is to be asked.
    pub(super) is_named: bool,
    /// It announces itself on a network of this machine.
    pub(super) is_heard: bool,
}

/// One that announces itself.
#[derive(Debug)]
struct Heard {
    id: String,
    urls: Vec<Url>,
    at: Instant,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Places {
    named: Vec<Url>,
    heard: Vec<Heard>,
    chance: u64,
}

impl Places {
    /// Those that were named; `seed` decides who leaves a table that is full, and who is asked of too many.
    pub(super) fn new(named: Vec<Url>, seed: u64) -> Self {
        let mut known: Vec<Url> = Vec::new();
        for url in named {
            if known.len() < NAMED_MAX && !known.contains(&url) {
                known.push(url);
            }
        }
        Self {
            named: known,
            heard: Vec::new(),
            chance: seed | 1,
        }
    }

    /// Somebody announces itself.
    pub(super) fn heard(&mut self, id: String, urls: Vec<Url>, now: Instant) {
        if urls.is_empty() {
            return;
        }
        self.forget(now);
        let (urls, at) = (urls.into_iter().take(URLS_MAX).collect(), now);
        if let Some(known) = self.heard.iter_mut().find(|known| known.id == id) {
            *known = Heard { id, urls, at };
            return;
        }
        if self.heard.len() >= HEARD_MAX {
            let leaves = self.any_of(self.heard.len());
            self.heard.swap_remove(leaves);
        }
        self.heard.push(Heard { id, urls, at });
    }

    /// It said goodbye.
    pub(super) fn gone(&mut self, id: &str) {
        self.heard.retain(|known| known.id != id);
    }

    /// Whom to ask now: all that were named, and those that are heard, or as many of them as are asked at most. What
    /// `is_own` says to be this machine is left out.
    pub(super) fn round(&mut self, is_own: impl Fn(&Url) -> bool, now: Instant) -> Vec<Place> {
        self.forget(now);
        let mut others: Vec<usize> = (0..self.heard.len()).collect();
        others.retain(|at| !self.heard[*at].urls.iter().any(&is_own));
        let mut places: Vec<Place> = Vec::new();
        for url in self.named.iter().filter(|url| !is_own(url)) {
            let is_it = |at: &usize| self.heard[*at].urls.iter().any(|one| one.same_origin(url));
            let same = others.iter().position(is_it);
            // One that is named and heard is asked once.
            let is_heard = same.map(|at| others.remove(at)).is_some();
            places.push(Place {
                urls: vec![url.clone()],
                is_named: true,
                is_heard,
            });
        }
        while places.len() < ASKED_MAX && !others.is_empty() {
            let next = self.any_of(others.len());
            let at = others.swap_remove(next);
            places.push(Place {
                urls: self.heard[at].urls.clone(),
                is_named: false,
                is_heard: true,
            });
        }
        places
    }

    fn forget(&mut self, now: Instant) {
        self.heard
            .retain(|known| now.saturating_duration_since(known.at) < HEARD_TIME);
    }

    /// A number below `count`, which is not 0, that a flood cannot foresee: xorshift.
    fn any_of(&mut self, count: usize) -> usize {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        usize::try_from(self.chance % count.max(1) as u64).unwrap_or_default()
    }
}

/// An address of this machine, with the length of its network's prefix.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own {
    pub(super) address: IpAddr,
    pub(super) prefix: u8,
}

/// Whether a URL leads to this machine's own server.
pub(super) fn is_own(own: &[Own], port: u16, url: &Url) -> bool {
    let address = address(url);
    let here = |address: IpAddr| {
        address.is_loopback() || own.iter().any(|own| own.address.to_canonical() == address)
    };
    url.port() == port && address.is_some_and(here)
}

/// Whether a URL leads to a network that this machine is in.
pub(super) fn is_near(own: &[Own], url: &Url) -> bool {
    let Some(address) = address(url) else {
        return false;
    };
    own.iter().any(|own| match (own.address, address) {
        (IpAddr::V4(own_v4), IpAddr::V4(other)) => {
            let shift = 32_u32.saturating_sub(own.prefix.into());
            let network = |ip: u32| ip.checked_shr(shift).unwrap_or(0);
            network(own_v4.into()) == network(other.into())
        }
        (IpAddr::V6(own_v6), IpAddr::V6(other)) => {
            let shift = 128_u32.saturating_sub(own.prefix.into());
            let network = |ip: u128| ip.checked_shr(shift).unwrap_or(0);
            network(own_v6.into()) == network(other.into())
        }
        _ => false,
    })
}

fn address(url: &Url) -> Option<IpAddr> {
    let host = url.host();
    let host = host.split('%').next().unwrap_or(host);
    let address: SocketAddr = SocketAddr::new(host.parse().ok()?, 0);
    Some(address.ip().to_canonical())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn url(host: &str) -> Url {
        format!("http://{host}/stable/x86_64/manifest.json")
            .parse()
            .unwrap()
    }

    fn hosts(places: &[Place]) -> Vec<String> {
        let hosts = places.iter().map(|place| place.urls[0].host_header());
        hosts.collect()
    }

    #[test]
    fn who_was_named_is_asked_whatever_others_announce() {
        let now = Instant::now();
        let mut places = Places::new(vec![url("10.0.0.1:80"), url("10.0.0.1:80")], 7);
        for number in 0..1000 {
            places.heard(format!("flood-{number}"), vec![url("10.66.6.6:1")], now);
        }
        assert_eq!(places.heard.len(), HEARD_MAX);
        let round = places.round(|_| false, now);
        assert_eq!(round.len(), ASKED_MAX);
        assert!(round[0].is_named && !round[0].is_heard);
        assert_eq!(round[0].urls, [url("10.0.0.1:80")]);
        assert!(round[1..].iter().all(|place| !place.is_named));
    }

    #[test]
    fn a_machine_is_one_place_with_its_best_addresses() {
        let now = Instant::now();
        let mut places = Places::new(vec![url("10.0.0.1:8080")], 7);
        let all = ["10.0.0.1:8080", "[fd00::1]:8080", "10.9.9.9:8080"].map(url);
        places.heard("a".to_owned(), all.to_vec(), now);
        places.heard("b".to_owned(), vec![url("10.0.0.2:8080")], now);
        places.heard("b".to_owned(), vec![url("10.0.0.3:8080")], now);
        places.heard("me".to_owned(), vec![url("10.0.0.9:8080")], now);
        let is_me = |url: &Url| url.host() == "10.0.0.9";
        let round = places.round(is_me, now);
        assert_eq!(hosts(&round), ["10.0.0.1:8080", "10.0.0.3:8080"]);
        assert!(round[0].is_heard && round[0].is_named);
        places.gone("b");
        assert_eq!(places.round(is_me, now).len(), 1);
    }

    #[test]
    fn who_is_silent_is_forgotten() {
        let now = Instant::now();
        let mut places = Places::new(Vec::new(), 7);
        places.heard("a".to_owned(), vec![url("10.0.0.1:80")], now);
        let later = now + HEARD_TIME - Duration::from_secs(1);
        assert_eq!(places.round(|_| false, later).len(), 1);
        assert!(places.round(|_| false, now + HEARD_TIME).is_empty());
    }

    #[test]
    fn what_is_own_and_what_is_near() {
        let own = |address: &str, prefix| Own {
            address: address.parse().unwrap(),
            prefix,
        };
        let all = [own("10.0.0.9", 24), own("fd00::9", 64)];
        for (host, port, here, near) in [
            ("10.0.0.9:8080", 8080, true, true),
            ("10.0.0.9:8081", 8080, false, true),
            ("127.0.0.1:8080", 8080, true, false),
            ("[::ffff:10.0.0.9]:8080", 8080, true, true),
            ("[fd00::9]:8080", 8080, true, true),
            ("[fd00::7]:8080", 8080, false, true),
            ("[fd01::7]:8080", 8080, false, false),
            ("10.0.1.9:8080", 8080, false, false),
            ("provider.example:8080", 8080, false, false),
        ] {
            let url = url(host);
            assert_eq!(is_own(&all, port, &url), here, "{host}");
            assert_eq!(is_near(&all, &url), near, "{host}");
        }
        assert!(
            is_near(&[own("10.0.0.9", 0)], &url("8.8.8.8")),
            "all is one network"
        );
    }
}
