//! Memory for requests that have begun and not ended: one budget for all connections.
//!
//! Every connection may hold [`HEAD_FREE_SIZE`] bytes; only what it holds beyond them counts. When the budget is used up,
//! whoever wants more is refused, and all others go on. A share goes back when it is dropped, however its connection ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::http::limits::HEAD_FREE_SIZE;

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Budget {
    left: AtomicUsize,
}

/// What one connection has of it.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    /// Changed by its connection only.
    counted: AtomicUsize,
}

impl Budget {
    /// A budget of so many bytes.
    pub(crate) fn new(size: usize) -> Arc<Self> {
        Arc::new(Self { left: size.into() })
    }

    /// An empty share.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        Share {
            budget: Arc::clone(self),
            counted: AtomicUsize::new(0),
        }
    }
}

impl Share {
    /// Makes it large enough for `size` bytes, or smaller. `false`, and nothing changed, when there are not so many.
    pub(crate) fn resize(&self, size: usize) -> bool {
        let wanted = size.saturating_sub(HEAD_FREE_SIZE);
        let counted = self.counted.load(Ordering::Relaxed);
        if wanted > counted {
            let more = wanted - counted;
            let take = |left: usize| left.checked_sub(more);
            let left = &self.budget.left;
            if left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .is_err()
            {
                return false;
            }
        } else if wanted < counted {
            self.budget
                .left
                .fetch_add(counted - wanted, Ordering::Relaxed);
        }
        self.counted.store(wanted, Ordering::Relaxed);
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 10_000;

    #[test]
    fn only_what_is_beyond_the_free_bytes_counts() {
        let budget = Budget::new(SIZE);
        let (one, other) = (budget.share(), budget.share());
        assert!(one.resize(HEAD_FREE_SIZE + SIZE));
        assert!(other.resize(HEAD_FREE_SIZE));
        assert!(!other.resize(HEAD_FREE_SIZE + 1));
        assert!(one.resize(HEAD_FREE_SIZE + SIZE - 1));
        assert!(other.resize(HEAD_FREE_SIZE + 1));
        assert!(!one.resize(HEAD_FREE_SIZE + SIZE));
        assert!(one.resize(HEAD_FREE_SIZE + SIZE - 1), "it kept what it had");
    }

    #[tokio::test]
    async fn a_share_goes_back_however_its_task_ends() {
        let budget = Budget::new(SIZE);
        let whole = || {
            let share = budget.share();
            assert!(share.resize(HEAD_FREE_SIZE + SIZE), "all of it is back");
            share
        };
        drop(whole());
        let share = whole();
        let panicked = tokio::spawn(async move {
            let _share = share;
            panic!("on purpose");
        });
        assert!(panicked.await.unwrap_err().is_panic());
        let share = whole();
        let cut = tokio::spawn(async move {
            let _share = share;
            std::future::pending::<()>().await;
        });
        tokio::task::yield_now().await;
        cut.abort();
        assert!(cut.await.unwrap_err().is_cancelled());
        whole();
    }
}
