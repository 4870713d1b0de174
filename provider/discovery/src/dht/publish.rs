//! When each of this node's records is published, and as what. Pure: time and chance are arguments.
//!
//! libp2p republishes values on its own terms, of which one is forgotten easily; here every record has its own timer, well
//! before its end and with jitter, so that machines that started together do not stay together.

use std::time::Duration;

use super::envelope::Record;
use super::limits::{LIFETIME, OWN_RECORDS_MAX, REPLICAS, RETRY_PAUSE_MAX, RETRY_PAUSE_MIN};

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
#[derive(Debug)]
pub(super) struct Publisher {
    pub(super) records: Vec<Published>,
    sequence: u64,
    refresh: Duration,
}

impl Publisher {
    /// Goes on after the last sequence number of an earlier run, and publishes every record again after `refresh`.
    pub(super) fn new(sequence: u64, refresh: Duration) -> Self {
        Self {
            records: Vec::new(),
            sequence,
            refresh,
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
                self.refresh
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

#[cfg(test)]
mod tests {
    use super::super::limits::REFRESH_INTERVAL;
    use super::*;

    const START: Duration = Duration::from_secs(1000);
    const KEY: &str = "/phase/stable/x86_64/manifest";

    fn record(last: u8) -> Record {
        Record {
            channel: "stable".parse().unwrap(),
            arch: boot_manifest::Arch::X86_64,
            version: String::new(),
            manifest: None,
            key_ids: Vec::new(),
            addresses: vec![([10, 0, 0, last], 80).into()],
        }
    }

    /// The pause until something is due again.
    fn pause(publisher: &mut Publisher, peers: usize, after: Duration) -> Duration {
        let second = Duration::from_secs(1);
        let mut now = after;
        while publisher.due(peers, now).is_empty() {
            now += second;
            assert!(now < after + LIFETIME * 2, "never due again");
        }
        now - after
    }

    #[test]
    fn a_record_is_published_again_twice_before_it_ends() {
        let mut publisher = Publisher::new(0, REFRESH_INTERVAL);
        publisher.reconcile(vec![record(1)], START);
        assert!(publisher.due(0, START).is_empty(), "nobody is known");
        assert_eq!(publisher.due(40, START), [record(1)]);
        assert!(
            publisher.due(40, START + LIFETIME).is_empty(),
            "it is under way"
        );
        let mut now = START;
        let mut pauses = Vec::new();
        for chance in 0..200 {
            publisher.finished(KEY, 20, now, None, chance);
            let next = pause(&mut publisher, 40, now);
            assert!(next * 2 < LIFETIME, "{next:?}");
            pauses.push(next);
            now += next;
        }
        pauses.sort_unstable();
        pauses.dedup();
        assert!(pauses.len() > 20, "jitter");
    }

    #[test]
    fn what_nobody_took_is_tried_again_soon_but_ever_less_often() {
        let mut publisher = Publisher::new(0, REFRESH_INTERVAL);
        publisher.reconcile(vec![record(1)], START);
        let (mut now, mut last) = (START, Duration::ZERO);
        assert_eq!(publisher.due(1, now).len(), 1);
        for round in 0..20 {
            publisher.finished(KEY, 0, now, None, 100);
            let next = pause(&mut publisher, 1, now);
            assert!(next >= last && next <= RETRY_PAUSE_MAX + Duration::from_secs(1));
            assert!(round > 0 || next <= 2 * RETRY_PAUSE_MIN, "{next:?}");
            (now, last) = (now + next, next);
        }
    }

    #[test]
    fn news_goes_out_at_once_even_while_something_is_under_way() {
        let mut publisher = Publisher::new(0, REFRESH_INTERVAL);
        publisher.reconcile(vec![record(1)], START);
        assert_eq!(publisher.due(40, START).len(), 1);
        publisher.reconcile(vec![record(2)], START);
        assert!(publisher.due(40, START).is_empty());
        publisher.finished(KEY, 20, START, None, 0);
        assert_eq!(publisher.due(40, START), [record(2)]);
        // The same again is no news.
        publisher.finished(KEY, 20, START, None, 0);
        publisher.reconcile(vec![record(2)], START);
        assert!(publisher.due(40, START).is_empty());
    }

    #[test]
    fn a_network_that_grew_is_told_again() {
        let mut publisher = Publisher::new(0, REFRESH_INTERVAL);
        publisher.reconcile(vec![record(1)], START);
        assert_eq!(publisher.due(1, START).len(), 1);
        publisher.finished(KEY, 1, START, None, 0);
        let later = START + RETRY_PAUSE_MIN;
        assert!(publisher.due(1, later).is_empty());
        assert_eq!(publisher.due(10, later).len(), 1);
    }

    #[test]
    fn what_was_published_and_is_not_wanted_any_more_is_taken_back() {
        let mut publisher = Publisher::new(0, REFRESH_INTERVAL);
        publisher.reconcile(vec![record(1)], START);
        assert!(
            publisher.reconcile(Vec::new(), START).is_empty(),
            "nobody had it"
        );
        publisher.reconcile(vec![record(1)], START);
        publisher.due(40, START);
        publisher.finished(KEY, 20, START, None, 0);
        assert_eq!(publisher.reconcile(Vec::new(), START), [record(1)]);
        assert!(publisher.records.is_empty());
    }

    #[test]
    fn sequence_numbers_only_grow() {
        let mut publisher = Publisher::new(41, REFRESH_INTERVAL);
        assert_eq!(publisher.next_sequence(None), 42);
        assert_eq!(publisher.next_sequence(Some(1000)), 1000);
        assert_eq!(publisher.next_sequence(Some(900)), 1001);
    }

    #[test]
    fn records_are_bounded() {
        let mut publisher = Publisher::new(0, REFRESH_INTERVAL);
        let channels = (0..100).map(|n| Record {
            channel: format!("c{n}").parse().unwrap(),
            ..record(1)
        });
        publisher.reconcile(channels.collect(), START);
        assert_eq!(publisher.due(40, START).len(), OWN_RECORDS_MAX);
    }
}
