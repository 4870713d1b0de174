//! Digests for the async side: hashing runs on threads of its own, several files at a time, once per content however many
//! requests wait for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use artifact_store::{Depth, HashError, Hashed, Identity, OpenFile, Store};
use tokio::sync::{Semaphore, watch};

use crate::serve::metrics::{Metrics, add};

/// The outcome of hashing one file, shared by all who asked.
pub(crate) type Outcome = Result<Arc<Hashed>, Arc<HashError>>;

/// What is being hashed, and where the outcome will be.
type Running = HashMap<(Identity, Depth), watch::Receiver<Option<Outcome>>>;

/// Hashes files of one store.
pub(crate) struct Hashing {
    store: Arc<Store>,
    running: Mutex<Running>,
    places: Semaphore,
    metrics: Arc<Metrics>,
}

/// Counts a file for as long as it waits or is hashed, also when whoever waits for it goes away.
struct Queued<'a>(&'a AtomicU64);

impl<'a> Queued<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        add(count, 1);
        Self(count)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Hashing {
    /// Hashes at most `threads` files at once.
    pub(crate) fn new(store: Arc<Store>, threads: usize, metrics: Arc<Metrics>) -> Self {
        Self {
            store,
            running: Mutex::default(),
            places: Semaphore::new(threads),
            metrics,
        }
    }

    /// What `depth` asks for. Hashing goes on when the caller goes away, so that the next one finds it.
    pub(crate) async fn hash(self: &Arc<Self>, file: &OpenFile, depth: Depth) -> Outcome {
        let identity = file.identity();
        if let Some(hashed) = self.store.hashes().peek(&identity, depth) {
            return Ok(hashed);
        }
        if identity.settles_in(SystemTime::now()).is_some() {
            // A hashing that began now could not be shared: the file may still change without showing it.
            return self.work(file.clone(), depth).await;
        }
        let mut outcome = self.join_or_start(file, depth);
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(gone())),
            Err(_) => Err(gone()),
        }
    }

    fn join_or_start(
        self: &Arc<Self>,
        file: &OpenFile,
        depth: Depth,
    ) -> watch::Receiver<Option<Outcome>> {
        let what = (file.identity(), depth);
        let mut running = self.running();
        if let Some(outcome) = running.get(&what) {
            return outcome.clone();
        }
        let (sender, outcome) = watch::channel(None);
        running.insert(what, outcome.clone());
        let (this, file) = (Arc::clone(self), file.clone());
        tokio::spawn(async move {
            let outcome = this.work(file, depth).await;
            this.running().remove(&what);
            // Nobody may be waiting any more.
            let _ = sender.send(Some(outcome));
        });
        outcome
    }

    async fn work(self: &Arc<Self>, file: OpenFile, depth: Depth) -> Outcome {
        let _queued = Queued::new(&self.metrics.hashing_queue_files);
        // The semaphore is never closed.
        let _place = self.places.acquire().await;
        let (store, size) = (Arc::clone(&self.store), file.size());
        let started = Instant::now();
        let hashed = tokio::task::spawn_blocking(move || store.hashes().hash(&file, depth)).await;
        let hashed = hashed
            .unwrap_or_else(|_| Err(HashError::Io(std::io::Error::other("hashing broke off"))));
        let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        add(&self.metrics.hashing_nanos_total, nanos);
        match &hashed {
            Ok(_) => add(&self.metrics.hashed_bytes_total, size),
            Err(_) => add(&self.metrics.hashing_failures_total, 1),
        }
        hashed.map_err(Arc::new)
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        // Whole at every unlock.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gone() -> Arc<HashError> {
    Arc::new(HashError::Io(std::io::Error::other("hashing broke off")))
}
