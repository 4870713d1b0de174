//! When each of this node's records is published, and as what. Pure: time and chance are arguments.
//!
//! libp2p republishes values on its own terms, of which one is forgotten easily; here every record has its own timer, well
//! before its end and with jitter, so that machines that started together do not stay together.

use std::time::Duration;

use super::envelope::Record;
use super::limits::{
    LIFETIME, OWN_RECORDS_MAX, REFRESH_INTERVAL, REPLICAS, RETRY_PAUSE_MAX, RETRY_PAUSE_MIN,
};

/// One record and how it fares.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) record: Record,
    due: Duration,
    failures: u32,
    /// Nodes known when it was published last: with many more, others are nearer to the key.
    peers: usize,
    /// Nodes that took it the last time, and when.
    pub(super) stored_at: usize,
    pub(super) succeeded: Option<Duration>,
    /// The same in Unix seconds, for people.
    pub(super) published_at: Option<u64>,
    pub(super) is_under_way: bool,
}

/// All records of this node.
#[derive(Debug, Default)]
pub(super) struct Publisher {
    pub(super) records: Vec<Published>,
    sequence: u64,
}

impl Publisher {
    /// Goes on after the last sequence number of an earlier run.
    pub(super) fn new(sequence: u64) -> Self {
        Self {
            records: Vec::new(),
            sequence,
        }
    }

    /// Publishes these from now on, each in the place of the last one under the same key; gives those that were published
    /// and are wanted no more.
    pub(super) fn reconcile(&mut self, wanted: Vec<Record>, now: Duration) -> Vec<Record> {
        let is_gone = |old: &mut Published| {
            let key = old.record.key();
            !wanted.iter().any(|record| record.key() == key)
        };
        let gone = self.records.extract_if(.., is_gone);
        let gone = gone.filter(|old| old.succeeded.is_some() || old.is_under_way);
        let gone = gone.map(|old| old.record).collect();
        for record in wanted {
            self.announce(record, now);
        }
        gone
    }

    fn announce(&mut self, record: Record, now: Duration) {
        let key = record.key();
        if let Some(old) = self.records.iter_mut().find(|old| old.record.key() == key) {
            if old.record != record {
                old.record = record;
                old.due = now;
                old.failures = 0;
            }
            return;
        }
        if self.records.len() >= OWN_RECORDS_MAX {
            tracing::warn!(%key, "not published in the DHT: {OWN_RECORDS_MAX} channels are already");
            return;
        }
        self.records.push(Published {
            record,
            due: now,
            failures: 0,
            peers: 0,
            stored_at: 0,
            succeeded: None,
            published_at: None,
            is_under_way: false,
        });
    }

    /// A number higher than all before, in this run and as far as the clock goes in others.
    pub(super) fn next_sequence(&mut self, unix_now: Option<u64>) -> u64 {
        let next = self.sequence.saturating_add(1);
        self.sequence = next.max(unix_now.unwrap_or_default());
        self.sequence
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The records to publish now, if anybody is known.
    pub(super) fn due(&mut self, peers: usize, now: Duration) -> Vec<Record> {
        let mut due = Vec::new();
        for published in &mut self.records {
            // A network that was small when it took the record may be another one now.
            let has_grown = published.peers < REPLICAS.get() && peers >= 2 * published.peers.max(1);
            let settled = published
                .succeeded
                .is_some_and(|at| now >= at + RETRY_PAUSE_MIN);
            if peers > 0
                && !published.is_under_way
                && (now >= published.due || (has_grown && settled))
            {
                published.is_under_way = true;
                published.peers = peers;
                // Something new may be announced while this is under way.
                published.due = now + LIFETIME;
                due.push(published.record.clone());
            }
        }
        due
    }

    /// A publication ended; so many nodes took it. `chance` is any number.
    pub(super) fn finished(
        &mut self,
        key: &str,
        stored_at: usize,
        now: Duration,
        unix_now: Option<u64>,
        chance: u64,
    ) {
        let found = self.records.iter_mut().find(|old| old.record.key() == key);
        let Some(published) = found else { return };
        published.is_under_way = false;
        published.stored_at = stored_at;
        let pause = match stored_at {
            0 => {
                published.failures = published.failures.saturating_add(1);
                let doubled = RETRY_PAUSE_MIN
                    .saturating_mul(1 << published.failures.min(10).saturating_sub(1));
                doubled.min(RETRY_PAUSE_MAX)
            }
            _ => {
                published.failures = 0;
                published.succeeded = Some(now);
                published.published_at = unix_now;
                REFRESH_INTERVAL
            }
        };
        published.due = published.due.min(now + jittered(pause, chance));
    }
}

/// Nine to eleven tenths of it.
fn jittered(pause: Duration, chance: u64) -> Duration {
    let permille = 900 + u32::try_from(chance % 201).unwrap_or_default();
    pause * permille / 1000
}
