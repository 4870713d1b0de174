//! How much may go over one connection: libp2p answers every question at once, and tells nobody that one was asked.
//!
//! Questions cost little to ask and more to answer, so what counts is what goes both ways together. Whoever wants more waits,
//! and TCP makes the other side wait too; nothing is dropped.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use libp2p::futures::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use super::limits::{TRAFFIC_BURST, TRAFFIC_PER_SECOND};

/// What is left at most after one call that began with anything left: its buffer may be larger than that.
const PART_MAX: usize = 16 << 10;

/// How long to wait once nothing is left: a few packets are earned meanwhile.
const PAUSE: Duration = Duration::from_millis(100);

/// The pure part: bytes that may pass. Time is an argument.
#[derive(Debug)]
struct Budget {
    left: u32,
    since: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self {
            left: TRAFFIC_BURST,
            since: now,
        }
    }

    /// How many bytes may pass now.
    fn left(&mut self, now: Instant) -> usize {
        let elapsed = now.saturating_duration_since(self.since).as_millis();
        let earned = elapsed * u128::from(TRAFFIC_PER_SECOND) / 1000;
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(TRAFFIC_BURST);
            self.left = self.left.saturating_add(earned).min(TRAFFIC_BURST);
            self.since = now;
        }
        usize::try_from(self.left).unwrap_or(PART_MAX).min(PART_MAX)
    }

    fn take(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.left = self.left.saturating_sub(bytes);
    }
}

/// A stream of bytes, with a bound on how many.
#[derive(Debug)]
pub(super) struct Paced<S> {
    inner: S,
    budget: Budget,
    /// One for each direction, which have wakers of their own.
    reading: Option<Pin<Box<Sleep>>>,
    writing: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    pub(super) fn new(inner: S) -> Self {
        Self {
            inner,
            budget: Budget::new(Instant::now()),
            reading: None,
            writing: None,
        }
    }
}

/// Ready with how many bytes may pass, as soon as any may.
fn poll_allowed(
    budget: &mut Budget,
    pause: &mut Option<Pin<Box<Sleep>>>,
    context: &mut Context<'_>,
) -> Poll<usize> {
    loop {
        match budget.left(Instant::now()) {
            0 => {
                let sleep = pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(PAUSE)));
                ready!(sleep.as_mut().poll(context));
                *pause = None;
            }
            left => return Poll::Ready(left),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let left = ready!(poll_allowed(&mut this.budget, &mut this.reading, context));
        let part = buffer.len().min(left);
        let read = ready!(Pin::new(&mut this.inner).poll_read(context, &mut buffer[..part]))?;
        this.budget.take(read);
        Poll::Ready(Ok(read))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let left = ready!(poll_allowed(&mut this.budget, &mut this.writing, context));
        let part = buffer.len().min(left);
        let written = ready!(Pin::new(&mut this.inner).poll_write(context, &buffer[..part]))?;
        this.budget.take(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(context)
    }
}

#[cfg(test)]
mod tests {
    use libp2p::futures::FutureExt as _;
    use libp2p::futures::io::{AsyncReadExt as _, AsyncWriteExt as _, Cursor};

    use super::*;

    #[test]
    fn a_burst_passes_at_once_and_then_so_much_in_a_second() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let mut pass = |seconds: u64| {
            let now = start + Duration::from_secs(seconds);
            let mut passed = 0;
            loop {
                let left = budget.left(now);
                if left == 0 {
                    return passed;
                }
                assert!(left <= PART_MAX);
                budget.take(left);
                passed += u32::try_from(left).unwrap();
            }
        };
        for (seconds, expected) in [
            (0, TRAFFIC_BURST),
            (0, 0),
            (1, TRAFFIC_PER_SECOND),
            (3, 2 * TRAFFIC_PER_SECOND),
            (1000, TRAFFIC_BURST),
        ] {
            assert_eq!(pass(seconds), expected, "{seconds} s");
        }
    }

    #[tokio::test]
    async fn what_is_too_much_waits_and_is_not_lost() {
        let data: Vec<u8> = (0..=255).cycle().take(6000).collect();
        let mut stream = Paced::new(Cursor::new(data.clone()));
        stream.budget.left = 2000;
        let mut read = vec![0; 3000];
        assert!(stream.read_exact(&mut read).now_or_never().is_none());
        assert!(stream.write_all(&data).now_or_never().is_none());
        assert_eq!(stream.inner.position(), 2000, "both ways together");
        stream.read_exact(&mut read).await.unwrap();
        assert_eq!(read, data[2000..5000]);
        stream.write_all(&data[5000..]).await.unwrap();
        assert_eq!(stream.inner.get_ref(), &data);
    }
}
