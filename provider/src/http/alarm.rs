//! The deadlines of one connection, all kept by one timer of the runtime.
//!
//! hyper makes a new deadline for each request and drops it when the head is there. Entering each into the runtime's
//! timers, which all connections share behind a lock, cost more than reading the head. Here the timer is left as it is
//! when a deadline moves away, and set again when it goes off too early: once in a while instead of for each request.
//! No deadline is ever missed or made longer by that.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

/// Makes the deadlines of one connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Alarm(Arc<Mutex<Option<Pin<Box<tokio::time::Sleep>>>>>);

/// One deadline.
#[derive(Debug)]
struct Deadline {
    at: Instant,
    alarm: Alarm,
}

impl Timer for Alarm {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Deadline {
            at: deadline,
            alarm: self.clone(),
        })
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

impl Sleep for Deadline {}

impl Future for Deadline {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let at = tokio::time::Instant::from_std(self.at);
        // Whole at every unlock.
        let mut timer = self.alarm.0.lock().unwrap_or_else(PoisonError::into_inner);
        let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if timer.deadline() > at {
            timer.as_mut().reset(at);
        }
        loop {
            ready!(timer.as_mut().poll(context));
            if timer.deadline() >= at {
                return Poll::Ready(());
            }
            timer.as_mut().reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn elapsed(alarm: &Alarm, wait: Duration) -> Duration {
        let started = tokio::time::Instant::now();
        alarm.sleep(wait).await;
        started.elapsed()
    }

    /// Whether a deadline that far away is still ahead.
    async fn is_pending(deadline: &mut Pin<Box<dyn Sleep>>) -> bool {
        std::future::poll_fn(|context| Poll::Ready(deadline.as_mut().poll(context).is_pending()))
            .await
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_ends_when_it_says() {
        let alarm = Alarm::default();
        let second = Duration::from_secs(1);
        let tick = Duration::from_millis(2);
        for wait in [30 * second, second, 5 * second, Duration::ZERO] {
            let elapsed = elapsed(&alarm, wait).await;
            assert!(
                elapsed >= wait && elapsed <= wait + tick,
                "{wait:?}: {elapsed:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn deadlines_that_were_dropped_neither_end_nor_delay_later_ones() {
        let alarm = Alarm::default();
        let second = Duration::from_secs(1);
        for _ in 0..100 {
            let mut dropped = alarm.sleep(30 * second);
            assert!(is_pending(&mut dropped).await);
            drop(dropped);
            tokio::time::advance(second).await;
        }
        let elapsed = elapsed(&alarm, 30 * second).await;
        assert!(
            elapsed >= 30 * second && elapsed < 31 * second,
            "{elapsed:?}"
        );
        // A shorter one after a longer one.
        let mut long = alarm.sleep(60 * second);
        assert!(is_pending(&mut long).await);
        let elapsed = self::elapsed(&alarm, second).await;
        assert!(elapsed < 2 * second, "{elapsed:?}");
        assert!(is_pending(&mut long).await);
    }
}
