//! What is published, what is kept for others, and what is looked for.

use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::kad::{
    GetRecordOk, InboundRequest, PutRecordError, QueryId, QueryResult, Quorum, Record as KadRecord,
};
use libp2p::swarm::ConnectionId;
use tokio::sync::mpsc;

use super::super::envelope::{Envelope, Record, Span, join, split};
use super::super::limits::{JOIN_PAUSE_MIN, SEARCH_PAUSE_MAX, SEARCH_PAUSE_MIN, SEARCHES_MAX};
use super::super::search::{Query, Search, check_time};
use super::super::shelf::{Place, Refused};
use super::super::store::unix_now;
use super::super::{Refusal, lock};
use super::{Node, chance};
use crate::hint::Hint;

/// A search under way.
#[derive(Debug)]
pub(super) struct Active {
    search: Search,
    hints: mpsc::Sender<Hint>,
    until: Instant,
    lookup: Option<QueryId>,
    next_at: Instant,
    pause: Duration,
}

impl Node {
    /// Publishes what is wanted now, and takes back what is not.
    pub(super) fn reconcile(&mut self) {
        let wanted = lock(&self.shared.wanted).clone();
        let wanted = wanted.into_iter().map(Record::cleaned);
        let wanted = wanted
            .filter(|record| !record.addresses.is_empty())
            .collect();
        let now = self.now();
        for record in self.publisher.reconcile(wanted, now) {
            let goodbye = Record {
                addresses: Vec::new(),
                ..record
            };
            self.swarm
                .behaviour_mut()
                .kad
                .store_mut()
                .forget_own(&goodbye.key());
            let put = self.put(goodbye);
            self.goodbyes.extend(put);
        }
        self.publish();
    }

    /// Publishes what is due.
    pub(super) fn publish(&mut self) {
        let (peers, now) = (self.table_size(), self.now());
        for record in self.publisher.due(peers, now) {
            let key = record.key();
            match self.put(record) {
                Some(query) => {
                    self.publications.insert(query, key);
                }
                None => self.publisher.finished(&key, 0, now, None, chance()),
            }
        }
    }

    fn put(&mut self, record: Record) -> Option<QueryId> {
        let key = record.key();
        let unix = unix_now();
        let span = Span {
            sequence: self.publisher.next_sequence(unix),
            created: unix,
            lifetime: self.timing.lifetime,
        };
        let envelope = Envelope::seal(&self.config.identity, record, span);
        let value = join(std::iter::once(envelope.bytes()));
        let record = KadRecord::new(key.into_bytes(), value);
        // All of them, because only then it is told how many there were.
        let put = self
            .swarm
            .behaviour_mut()
            .kad
            .put_record(record, Quorum::All);
        put.inspect_err(|error| tracing::warn!(%error, "not published in the DHT"))
            .ok()
    }

    pub(super) fn on_progress(&mut self, id: QueryId, result: QueryResult, is_last: bool) {
        match result {
            QueryResult::PutRecord(result) => {
                self.goodbyes.remove(&id);
                let Some(key) = self.publications.remove(&id) else {
                    return;
                };
                let stored_at = match result {
                    Ok(_) => super::REPLICAS.get(),
                    Err(
                        PutRecordError::QuorumFailed { success, .. }
                        | PutRecordError::Timeout { success, .. },
                    ) => success.len(),
                };
                let now = self.now();
                self.publisher
                    .finished(&key, stored_at, now, unix_now(), chance());
            }
            QueryResult::GetRecord(result) => {
                if let Ok(GetRecordOk::FoundRecord(found)) = result {
                    self.on_answer(id, &found.record.value);
                }
                if is_last {
                    self.on_lookup_end(id);
                }
            }
            _ => {}
        }
    }

    /// Others ask libp2p, which answers from the store; only what is to be kept comes here.
    pub(super) fn on_request(&mut self, request: InboundRequest) {
        match request {
            InboundRequest::PutRecord {
                source,
                connection,
                record: Some(record),
            } => match self.take(source, connection, &record) {
                Ok(()) => self.counts.stored += 1,
                Err(refusal) => self.on_refused(source, connection, refusal),
            },
            InboundRequest::AddProvider { .. } => self.refuse(Refusal::Unsigned),
            _ => {}
        }
    }

    /// Keeps a record that its signer brought.
    fn take(
        &mut self,
        source: PeerId,
        connection: ConnectionId,
        record: &KadRecord,
    ) -> Result<(), Refusal> {
        let gate = &mut self.swarm.behaviour_mut().gate;
        // It went away meanwhile.
        let ip = gate.ip(connection).ok_or(Refusal::NotTheSigner)?;
        if !gate.may_put(ip) {
            return Err(Refusal::TooOften);
        }
        let [bytes] = split(&record.value)?[..] else {
            return Err(Refusal::TooMany);
        };
        let envelope = Envelope::open(bytes)?;
        if envelope.signer != source {
            return Err(Refusal::NotTheSigner);
        }
        if envelope.key().as_bytes() != record.key.as_ref() {
            return Err(Refusal::OtherKey);
        }
        check_time(envelope.span, unix_now())?;
        let store = self.swarm.behaviour_mut().kad.store_mut();
        store
            .add(envelope, Place::From(ip))
            .map_err(|refused| match refused {
                Refused::Stale => Refusal::Stale,
                Refused::Full => Refusal::Full,
            })
    }

    fn on_refused(&mut self, source: PeerId, connection: ConnectionId, refusal: Refusal) {
        self.refuse(refusal);
        tracing::debug!(%source, ?refusal, "a record was not kept");
        let gate = &mut self.swarm.behaviour_mut().gate;
        if let Some(ip) = gate.ip(connection).filter(|_| refusal.is_fault())
            && gate.fault(ip)
        {
            tracing::debug!(%ip, "blocked for a while: it sends what is no record");
            for connection in gate.connections_of(ip) {
                self.swarm.close_connection(connection);
            }
        }
    }

    /// Begins a search.
    pub(super) fn search(&mut self, query: Query, hints: mpsc::Sender<Hint>) {
        if self.searches.len() >= SEARCHES_MAX {
            tracing::warn!("too many searches in the DHT at the same time");
            return;
        }
        self.counts.searches += 1;
        let now = Instant::now();
        self.searches.push(Active {
            search: Search::new(&query, self.config.identity.peer()),
            hints,
            until: now + query.time_max,
            lookup: None,
            next_at: now,
            pause: SEARCH_PAUSE_MIN,
        });
        if self.table_size() == 0 {
            // Not after the long pause of a node that nobody waited for.
            self.join_at = self.join_at.min(now + JOIN_PAUSE_MIN);
        }
        self.advance_searches();
    }

    /// Starts what can be started, and ends what is over.
    pub(super) fn advance_searches(&mut self) {
        let now = Instant::now();
        let is_known = self.table_size() > 0;
        let kad = &mut self.swarm.behaviour_mut().kad;
        self.searches.retain_mut(|active| {
            let is_over =
                now >= active.until || active.hints.is_closed() || active.search.is_satisfied();
            if is_over && let Some(mut query) = active.lookup.and_then(|id| kad.query_mut(&id)) {
                query.finish();
            }
            if !is_over && is_known && active.lookup.is_none() && now >= active.next_at {
                let key = active.search.key().as_bytes();
                active.lookup = Some(kad.get_record(key.to_vec().into()));
            }
            !is_over
        });
    }

    fn on_answer(&mut self, id: QueryId, value: &[u8]) {
        let mut searches = self.searches.iter_mut();
        let Some(active) = searches.find(|active| active.lookup == Some(id)) else {
            return;
        };
        let (hints, refused) = active.search.answer(value, unix_now());
        let given = active.give(hints);
        let is_satisfied = active.search.is_satisfied();
        self.note_found(given);
        for refusal in refused {
            self.refuse(refusal);
        }
        if is_satisfied {
            self.advance_searches();
        }
    }

    fn on_lookup_end(&mut self, id: QueryId) {
        let now = Instant::now();
        let mut searches = self.searches.iter_mut().enumerate();
        let found = searches.find(|(_, active)| active.lookup == Some(id));
        let Some((index, active)) = found else { return };
        let hints = active.search.finish();
        let given = active.give(hints);
        if active.search.has_found() {
            self.searches.swap_remove(index);
        } else {
            active.lookup = None;
            active.next_at = now + active.pause;
            active.pause = (active.pause * 2).min(SEARCH_PAUSE_MAX);
        }
        self.note_found(given);
    }

    fn note_found(&mut self, given: u64) {
        if given > 0 {
            self.counts.found += given;
            self.counts.last_found = unix_now();
        }
    }
}

impl Active {
    /// How many were given out.
    fn give(&self, hints: Vec<Hint>) -> u64 {
        // A reader that went away, or is slower than any provider list is long, does without.
        let given = hints
            .into_iter()
            .filter(|hint| self.hints.try_send(hint.clone()).is_ok());
        u64::try_from(given.count()).unwrap_or(u64::MAX)
    }
}
