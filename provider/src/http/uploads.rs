//! The right to send an artifact that is only in part there: for few at once, and for a bounded time.
//!
//! A machine that shares while it fetches has few rights to give. Whoever gets one must take the bytes at a rate that
//! anybody on its network has, or its answer is cut: otherwise a handful of clients that ask and do not read would keep
//! the others from everything. No client gets more than its part of the rights, this machine's own ones excepted.

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many may be sent something at once, and how long that may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// All together.
    pub(crate) uploads_max: usize,
    /// For one address.
    pub(crate) per_address_max: usize,
    /// Bytes a second that one must take on average.
    pub(crate) rate_min: NonZeroU64,
    /// Time that is given besides.
    pub(crate) grace: Duration,
}

/// All rights.
#[derive(Debug)]
pub(crate) struct Uploads {
    pace: Pace,
    running: Arc<Mutex<Vec<IpAddr>>>,
}

/// One right, until it is dropped.
#[derive(Debug)]
pub(crate) struct Right {
    running: Arc<Mutex<Vec<IpAddr>>>,
    client: IpAddr,
}

impl Uploads {
    /// Nobody is sent anything yet.
    pub(crate) fn new(pace: Pace) -> Self {
        Self {
            pace,
            running: Arc::default(),
        }
    }

    /// A right for `client`, when there is one.
    pub(crate) fn take(&self, client: IpAddr) -> Option<Right> {
        let mut running = lock(&self.running);
        let own = running.iter().filter(|other| **other == client).count();
        let is_own_part = client.is_loopback() || own < self.pace.per_address_max;
        if running.len() >= self.pace.uploads_max || !is_own_part {
            return None;
        }
        running.push(client);
        Some(Right {
            running: Arc::clone(&self.running),
            client,
        })
    }

    /// Until when so many bytes must have been taken, from now on.
    pub(crate) fn until(&self, size: u64) -> Instant {
        Instant::now() + self.pace.grace + Duration::from_secs(size / self.pace.rate_min)
    }

    /// How many are given.
    pub(crate) fn running(&self) -> usize {
        lock(&self.running).len()
    }
}

impl Drop for Right {
    fn drop(&mut self) {
        let mut running = lock(&self.running);
        if let Some(at) = running.iter().position(|other| *other == self.client) {
            running.swap_remove(at);
        }
    }
}

fn lock(running: &Mutex<Vec<IpAddr>>) -> MutexGuard<'_, Vec<IpAddr>> {
    // Whole at every unlock.
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::body::{Body, Upload};

    #[test]
    fn nobody_has_all_rights_but_this_machine() {
        let uploads = Uploads::new(Pace {
            uploads_max: 4,
            per_address_max: 2,
            rate_min: NonZeroU64::MIN,
            grace: Duration::ZERO,
        });
        let take = |client: &str| uploads.take(client.parse().unwrap());
        let first = take("10.0.0.1");
        let rights = [take("10.0.0.1"), take("10.0.0.2")];
        assert!(take("10.0.0.1").is_none(), "that is more than its part");
        let last = take("fe80::1");
        assert!(
            last.is_some() && take("10.0.0.3").is_none(),
            "all are given"
        );
        assert_eq!(uploads.running(), 4);
        drop(first);
        assert!(take("10.0.0.1").is_some());
        drop((rights, last));
        let own = [(); 4].map(|()| take("127.0.0.1"));
        assert!(own.iter().all(Option::is_some));
    }

    #[test]
    fn who_takes_too_little_is_cut_when_its_time_is_over() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        file.set_len(10).unwrap();
        let read = |until| {
            let file = Arc::clone(&file);
            let _right = None;
            match Body::upload(
                Upload {
                    file,
                    until,
                    _right,
                },
                0,
                10,
            ) {
                Body::File(part) => part.read(&mut [0; 4]),
                body => panic!("{body:?}"),
            }
        };
        let uploads = Uploads::new(Pace {
            uploads_max: 1,
            per_address_max: 1,
            rate_min: NonZeroU64::new(1_000).unwrap(),
            grace: Duration::from_secs(10),
        });
        let until = uploads.until(60_000);
        let left = until.saturating_duration_since(Instant::now());
        assert!(left > Duration::from_secs(60) && left <= Duration::from_secs(70));
        assert_eq!(read(until).unwrap(), 4);
        let over = Instant::now() - Duration::from_millis(1);
        assert_eq!(read(over).unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    }
}
