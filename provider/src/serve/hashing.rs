//! Digests for the async side: hashing runs on threads of its own, once per content however many requests wait for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use artifact_store::{HashError, Hashed, Identity, OpenFile, Store};
use tokio::sync::{Semaphore, watch};

/// The outcome of hashing one file, shared by all who asked.
pub(crate) type Outcome = Result<Arc<Hashed>, Arc<HashError>>;

/// Hashes files of one store.
pub(crate) struct Hashing {
    store: Arc<Store>,
    running: Mutex<HashMap<Identity, watch::Receiver<Option<Outcome>>>>,
    places: Semaphore,
}

impl Hashing {
    /// Hashes at most `threads` files at once.
    pub(crate) fn new(store: Arc<Store>, threads: usize) -> Self {
        Self {
            store,
            running: Mutex::default(),
            places: Semaphore::new(threads),
        }
    }

    /// The digest of `file`. Hashing goes on when the caller goes away, so that the next one finds it.
    pub(crate) async fn digest(self: &Arc<Self>, file: &OpenFile) -> Outcome {
        let identity = file.identity();
        if let Some(hashed) = self.store.hashes().peek(&identity) {
            return Ok(hashed);
        }
        if identity.settles_in(SystemTime::now()).is_some() {
            // A hashing that began now could not be shared: the file may still change without showing it.
            return self.work(file.clone()).await;
        }
        let mut outcome = self.join_or_start(file);
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(gone())),
            Err(_) => Err(gone()),
        }
    }

    fn join_or_start(self: &Arc<Self>, file: &OpenFile) -> watch::Receiver<Option<Outcome>> {
        let identity = file.identity();
        let mut running = self.running();
        if let Some(outcome) = running.get(&identity) {
            return outcome.clone();
        }
        let (sender, outcome) = watch::channel(None);
        running.insert(identity, outcome.clone());
        let (this, file) = (Arc::clone(self), file.clone());
        tokio::spawn(async move {
            let outcome = this.work(file).await;
            this.running().remove(&identity);
            // Nobody may be waiting any more.
            let _ = sender.send(Some(outcome));
        });
        outcome
    }

    async fn work(self: &Arc<Self>, file: OpenFile) -> Outcome {
        // The semaphore is never closed.
        let _place = self.places.acquire().await;
        let store = Arc::clone(&self.store);
        let hashed = tokio::task::spawn_blocking(move || store.hashes().hash(&file)).await;
        hashed
            .unwrap_or_else(|_| Err(HashError::Io(std::io::Error::other("hashing broke off"))))
            .map_err(Arc::new)
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Identity, watch::Receiver<Option<Outcome>>>> {
        // Whole at every unlock.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gone() -> Arc<HashError> {
    Arc::new(HashError::Io(std::io::Error::other("hashing broke off")))
}
