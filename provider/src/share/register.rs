//! Who else fetches the same: the list at `/peers`, with a clock and a lock around it. The same for a provider and for a
//! machine that shares while it fetches.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use boot_manifest::Digest;
use http::Method;
use swarm::peers::{Answer, Question};
use swarm::{Counts, Table};

/// The list.
pub(crate) struct Register {
    started: Instant,
    table: Mutex<Table>,
}

/// What is asked by this method and query; a reader is not registered.
///
/// # Errors
/// What is wrong with it, for people.
pub(crate) fn question(method: &Method, query: &str) -> Result<Question, String> {
    let mut question = Question::parse(query).map_err(|error| format!("the query: {error}"))?;
    if *method != Method::POST {
        question.port = None;
    } else if question.port.is_none() {
        return Err("port=N is missing: where the one that asks serves what it has".to_owned());
    }
    Ok(question)
}

/// What came of a question.
pub(crate) struct Asked {
    /// What is answered.
    pub(crate) answer: Answer,
    /// Where the one who asked is registered, when it wanted to be and there was room.
    pub(crate) registered: Option<SocketAddr>,
}

/// An address as others can be told of it: by which interface of this machine it is reached means nothing to them. Whoever
/// is told of an address of one link by somebody on that link knows by which of its own.
fn told(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

impl Register {
    /// An empty list.
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            table: Mutex::new(Table::new(seed())),
        }
    }

    /// Answers a question of `client`. With a port it is registered first, under the address it came from.
    pub(crate) fn ask(&self, client: IpAddr, question: &Question) -> Asked {
        let own = question
            .port
            .map(|port| SocketAddr::new(client, port.get()));
        let now = self.now();
        let mut table = self.table();
        let registered = own.filter(|own| {
            let entered = table.register(&question.manifest, *own, question.complete, now);
            entered.is_ok()
        });
        let answer = table.sample(&question.manifest, client, own, now);
        Asked { answer, registered }
    }

    /// Enters somebody who is known otherwise. Whether there was room.
    pub(crate) fn enter(&self, manifest: &Digest, peer: SocketAddr, is_complete: bool) -> bool {
        let now = self.now();
        let entered = self
            .table()
            .register(manifest, told(peer), is_complete, now);
        entered.is_ok()
    }

    /// How many are known.
    pub(crate) fn counts(&self) -> Counts {
        let now = self.now();
        self.table().counts(now)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A table that is half changed gives a worse list, never a wrong one.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Chance for the order of answers, which nobody gains from knowing.
fn seed() -> u64 {
    let mut bytes = [0; 8];
    // Without chance everybody gets the same order, which is slower and not wrong.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_is_registered_where_it_came_from_and_not_told_of_itself() {
        let register = Register::new();
        let manifest = Digest::of(b"manifest");
        let ask = |client: [u8; 4], query: &str| {
            let question = Question::parse(&format!("manifest={manifest}{query}")).unwrap();
            register.ask(client.into(), &question)
        };
        let addresses = |asked: &Asked| {
            let peers = asked.answer.peers.iter();
            peers
                .map(|peer| peer.address.to_string())
                .collect::<Vec<_>>()
        };
        let one = ask([10, 0, 0, 1], "&port=80");
        assert_eq!(one.registered, Some("10.0.0.1:80".parse().unwrap()));
        assert!(addresses(&one).is_empty());
        let other = ask([10, 0, 0, 2], "&port=81&complete=true");
        assert_eq!(addresses(&other), ["10.0.0.1:80"]);
        let reader = ask([10, 0, 0, 3], "");
        assert_eq!(reader.registered, None);
        assert_eq!(reader.answer.peers.len(), 2);
        let counts = register.counts();
        assert_eq!((counts.partial, counts.complete), (1, 1));
        let scoped = "[fe80::5%7]:80".parse().unwrap();
        assert!(register.enter(&manifest, scoped, false));
        let third = ask([10, 0, 0, 4], "");
        assert!(addresses(&third).contains(&"[fe80::5]:80".to_owned()));
        let elsewhere = Question::parse(&format!("manifest={}", Digest::of(b"x"))).unwrap();
        let asked = register.ask([10, 0, 0, 1].into(), &elsewhere);
        assert!(asked.answer.peers.is_empty());
    }
}
