//! The bytes of one connection, between hyper and the socket: what comes in passes the [inlet](crate::http::inlet), what
//! really leaves is counted here, and a client that takes nothing for too long is cut off.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;

use crate::http::inlet::Inlet;
use crate::http::limits::WRITE_STALL_MAX;
use crate::serve::metrics::{self, Cut, Metrics, Reason};

/// What the service and the wire of one connection tell each other.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Bytes of response heads that were promised and have not left yet: they are no body bytes.
    heads: AtomicU64,
    /// Whether anything was received.
    pub(crate) heard: AtomicBool,
}

impl Account {
    /// Says that the next `size` bytes are the head of a response.
    pub(crate) fn expect_head(&self, size: u64) {
        self.heads.fetch_add(size, Ordering::Relaxed);
    }

    /// How many of `written` bytes are body bytes.
    fn body_bytes(&self, written: u64) -> u64 {
        let heads = self.heads.load(Ordering::Relaxed).min(written);
        self.heads.fetch_sub(heads, Ordering::Relaxed);
        written - heads
    }
}

/// A connection's socket, or the TLS upon it, as hyper uses it.
pub(crate) struct Wire<S> {
    stream: TokioIo<S>,
    account: Arc<Account>,
    metrics: Arc<Metrics>,
    inlet: Inlet,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Wire<S> {
    /// Wraps `stream`. Body bytes are counted when the kernel, or TLS, has taken them.
    pub(crate) fn new(stream: S, account: Arc<Account>, metrics: Arc<Metrics>) -> Self {
        Self {
            stream: TokioIo::new(stream),
            account,
            metrics,
            inlet: Inlet::default(),
            stalled: None,
        }
    }

    /// Counts what a write did, or starts and watches the deadline when it could do nothing.
    fn account(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(written)) => {
                self.stalled = None;
                let body_bytes = self.account.body_bytes(written as u64);
                metrics::add(&self.metrics.body_bytes_total, body_bytes);
                Poll::Ready(Ok(written))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                let stalled = self
                    .stalled
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_STALL_MAX)));
                ready!(stalled.as_mut().poll(context));
                self.metrics.cut(Cut::Write);
                Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the client takes no bytes",
                )))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> Read for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = &mut *self;
        let was_refused = wire.inlet.refusal().is_some();
        let result = ready!(
            wire.inlet
                .poll_read(wire.stream.inner_mut(), context, buffer)
        );
        wire.account.heard.store(true, Ordering::Relaxed);
        if let (false, Some(refusal)) = (was_refused, wire.inlet.refusal()) {
            wire.metrics.refused(Reason::of_head(&refusal));
            tracing::debug!(code = refusal.code, "request refused: {refusal}");
        }
        Poll::Ready(result)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Write for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, buffer);
        self.account(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.account(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = &mut *self;
        wire.inlet.poll_shutdown(wire.stream.inner_mut(), context)
    }
}
