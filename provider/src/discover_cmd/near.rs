//! How far a provider is: the time a connection to it takes.
//!
//! Nothing is asked of it and nothing it says is read; each address gets two connections, and the shorter time counts, for
//! the first one may include the search for a neighbour's hardware address.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::discover_cmd::table::Near;

/// One attempt to connect. A machine on the same LAN answers within milliseconds, one on the other side of the world
/// within 300, and one packet may get lost, which is sent again after a second.
const CONNECT_TIME_MAX: Duration = Duration::from_millis(1_500);

/// After the first address that answers the others have this long: they are farther, or dead.
const OTHERS_TIME: Duration = Duration::from_millis(30);

/// Connections that are tried at once: half of the descriptors a program has by default is far more than this.
const CONNECTIONS_MAX: usize = 128;

/// Measures, for as long as it is kept.
#[derive(Debug, Clone)]
pub(super) struct Measure(Arc<Semaphore>);

impl Measure {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(CONNECTIONS_MAX)))
    }

    /// The nearest of these addresses of one machine; `None` when none accepts a connection.
    pub(super) async fn nearest(self, addresses: Vec<SocketAddr>) -> Option<Near> {
        let mut attempts = JoinSet::new();
        for address in addresses {
            attempts.spawn(self.clone().one(address));
        }
        let mut nearest: Option<Near> = None;
        let mut end = None;
        loop {
            let next = attempts.join_next();
            let found = match end {
                None => next.await,
                Some(end) => tokio::time::timeout_at(end, next).await.unwrap_or(None),
            };
            let Some(attempt) = found else {
                return nearest;
            };
            let Ok(Some(near)) = attempt else { continue };
            if nearest.is_none_or(|best| near.time < best.time) {
                nearest = Some(near);
            }
            end.get_or_insert_with(|| tokio::time::Instant::now() + OTHERS_TIME);
        }
    }

    async fn one(self, address: SocketAddr) -> Option<Near> {
        // Nobody closes it.
        let _place = self.0.acquire().await.ok()?;
        let first = connect(address).await?;
        let second = connect(address).await.unwrap_or(first);
        let time = first.min(second);
        Some(Near { address, time })
    }
}

async fn connect(address: SocketAddr) -> Option<Duration> {
    let started = Instant::now();
    let connection = tokio::time::timeout(CONNECT_TIME_MAX, TcpStream::connect(address)).await;
    connection.ok()?.ok().map(|_closed| started.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_nearest_is_at_an_address_that_answers() {
        let open = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = vec![closed.local_addr().unwrap(), open.local_addr().unwrap()];
        drop(closed);
        let near = Measure::new().nearest(addresses.clone()).await.unwrap();
        assert_eq!(near.address, addresses[1]);
        drop(open);
        assert_eq!(Measure::new().nearest(addresses).await, None);
        assert_eq!(Measure::new().nearest(Vec::new()).await, None);
    }
}
