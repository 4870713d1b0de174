//! The record store that libp2p asks: [`Shelves`] with a clock. It never stores what libp2p brings by itself; the node
//! checks every record first and puts it here.

use std::borrow::Cow;
use std::iter;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use libp2p::PeerId;
use libp2p::kad::store::{Error, RecordStore};
use libp2p::kad::{ProviderRecord, Record, RecordKey};

use super::envelope::{Envelope, split};
use super::limits::CLOCK_EARLIEST;
use super::shelf::{Place, Refused, Shelves};

/// See the module.
#[derive(Debug)]
pub(super) struct Store {
    shelves: Shelves,
    started: Instant,
    own: PeerId,
}

impl Store {
    pub(super) fn new(own: PeerId) -> Self {
        Self {
            shelves: Shelves::default(),
            started: Instant::now(),
            own,
        }
    }

    pub(super) fn add(&mut self, envelope: Envelope, place: Place) -> Result<(), Refused> {
        let now = self.started.elapsed();
        self.shelves.put(envelope, place, now)
    }

    /// Takes this node's own record away.
    pub(super) fn forget_own(&mut self, key: &str) {
        self.shelves.forget(key, &self.own);
    }

    /// Lets go of what is over.
    pub(super) fn expire(&mut self) {
        self.shelves.expire(self.started.elapsed());
    }

    /// How many records are kept.
    pub(super) fn len(&self) -> usize {
        self.shelves.len()
    }
}

/// Unix seconds, if the clock was ever set.
pub(super) fn unix_now() -> Option<u64> {
    let since_epoch: Duration = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(since_epoch.as_secs()).filter(|seconds| *seconds >= CLOCK_EARLIEST)
}

impl RecordStore for Store {
    type RecordsIter<'a> = iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = iter::Empty<Cow<'a, ProviderRecord>>;

    fn get(&self, key: &RecordKey) -> Option<Cow<'_, Record>> {
        let name = std::str::from_utf8(key.as_ref()).ok()?;
        let value = self.shelves.value(name, self.started.elapsed())?;
        Some(Cow::Owned(Record::new(key.clone(), value)))
    }

    /// Only what this node publishes comes this way.
    fn put(&mut self, record: Record) -> Result<(), Error> {
        for bytes in split(&record.value).map_err(|_| Error::ValueTooLarge)? {
            let envelope = Envelope::open(bytes).map_err(|_| Error::ValueTooLarge)?;
            if envelope.signer == self.own {
                // One as new is there: the same, put again.
                let _stale = self.add(envelope, Place::Own);
            }
        }
        Ok(())
    }

    /// Sets end by themselves; nobody takes one away.
    fn remove(&mut self, _key: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        iter::empty()
    }

    /// Provider records are unsigned: none are kept.
    fn add_provider(&mut self, _record: ProviderRecord) -> Result<(), Error> {
        Err(Error::MaxProvidedKeys)
    }

    fn providers(&self, _key: &RecordKey) -> Vec<ProviderRecord> {
        Vec::new()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        iter::empty()
    }

    fn remove_provider(&mut self, _key: &RecordKey, _provider: &PeerId) {}
}
