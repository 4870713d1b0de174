//! An answer that does not leave at once: sent to its end, watched by the seats, and told of however it ends.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{HeaderName, REFERER, USER_AGENT};

use crate::http::connection::Connection;
use crate::http::egress::Egress;
use crate::http::fast::Plain;
use crate::http::fast::answer::Answer;
use crate::http::fast::send::{Drained, Outgoing, Sent};
use crate::http::limits::TURN_SIZE;
use crate::http::record::Record;
use crate::http::seats::Waits;
use crate::http::server::Handler;
use crate::http::stream::Stream;
use crate::serve::metrics;

/// An answer on its way.
pub(super) struct Sending {
    pub(super) outgoing: Outgoing,
    /// Bytes of the head that have not left.
    pub(super) head_left: u64,
    pub(super) record: Record,
    pub(super) closes: bool,
    /// Bytes of the turn that are not sent, when all that is sent goes by a rate.
    pub(super) turn: u64,
}

/// What comes next when an answer was sent for a while.
enum Turn {
    /// Nothing: it has left.
    End,
    /// The turn of others.
    Others,
    /// Another look, after this time.
    Later(Duration),
}

impl<H: Handler> Connection<H> {
    /// Sends an answer to its end, and tells of it however it ends.
    pub(super) async fn send<S: Stream>(
        &self,
        stream: &mut S,
        sending: Box<Sending>,
    ) -> io::Result<()> {
        let mut telling = Telling {
            connection: self,
            sending,
        };
        let sent = loop {
            match poll_fn(|context| telling.sending.poll(self, context, stream)).await {
                Ok(Turn::End) => break Ok(()),
                // Unlike waking itself, this wakes no other thread to take the task over.
                Ok(Turn::Others) => tokio::task::yield_now().await,
                Ok(Turn::Later(time)) => tokio::time::sleep(time).await,
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = &sent {
            tracing::debug!(client = %self.client, %error, "an answer was cut off");
        }
        sent
    }
}

impl Sending {
    /// What is left of the answer to a plain request that was read at `started`, after `written` bytes.
    pub(super) fn of_plain(
        plain: &Plain<'_>,
        answer: Answer,
        written: u64,
        started: Instant,
    ) -> Self {
        let head_size = answer.head_size();
        let field = |name: HeaderName| plain.field(name.as_str()).map(Box::from);
        let record = Record {
            method: plain.method(),
            target: plain.path.into(),
            agent: field(USER_AGENT),
            referer: field(REFERER),
            status: answer.status.as_u16(),
            promised: answer.body.size(),
            sent: written.saturating_sub(head_size),
            request_id: None,
            started,
            is_fast: true,
        };
        let closes = answer.closes;
        let mut outgoing = Outgoing::default();
        outgoing.push(answer.head);
        outgoing.push(Bytes::copy_from_slice(answer.end.as_bytes()));
        outgoing.push_body(answer.body);
        outgoing.advance(written);
        Self {
            outgoing,
            head_left: head_size.saturating_sub(written),
            record,
            closes,
            turn: 0,
        }
    }

    /// Takes a turn when there is a rate and no turn is left; how long it must be waited for.
    fn take_turn(&mut self, egress: Option<&Egress>) -> Option<Duration> {
        let egress = egress?;
        if self.turn > 0 {
            return None;
        }
        let turn = egress.take(self.outgoing.left());
        self.turn = turn.size;
        (!turn.wait.is_zero()).then_some(turn.wait)
    }

    fn poll<H: Handler, S: Stream>(
        &mut self,
        connection: &Connection<H>,
        context: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<Turn>> {
        let egress = connection.handler.egress();
        if let Some(wait) = self.take_turn(egress) {
            // It waits for us, not for its client.
            return Poll::Ready(match connection.place.waits(Waits::Busy) {
                true => Ok(Turn::Later(wait)),
                false => Err(io::ErrorKind::TimedOut.into()),
            });
        }
        let most = egress.map_or(TURN_SIZE, |_| self.turn.min(TURN_SIZE));
        let sent = self.outgoing.poll(stream, context, most)?;
        let (Sent::All(written)
        | Sent::Some(written)
        | Sent::Stuck(written)
        | Sent::Draining(written, _)) = sent;
        self.turn = self.turn.saturating_sub(written);
        let head = self.head_left.min(written);
        self.head_left -= head;
        self.record.sent += written - head;
        metrics::add(&connection.metrics.body_bytes_total, written - head);
        let arrived = match sent {
            Sent::Draining(_, Drained { acknowledged, .. }) => acknowledged,
            _ => 0,
        };
        // The kernel's memory may be a minute's worth of a slow link: who takes from there is not silent either.
        connection.place.sent(written + arrived);
        // While bytes leave, the time for taking the next ones counts anew.
        let mut may_stay = written + arrived == 0 || connection.place.waits(Waits::Busy);
        if matches!(sent, Sent::Stuck(_) | Sent::Draining(..)) {
            may_stay = may_stay && connection.place.waits(Waits::Write);
        }
        if !may_stay {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        match sent {
            Sent::All(_) => Poll::Ready(Ok(Turn::End)),
            Sent::Some(_) => Poll::Ready(Ok(Turn::Others)),
            Sent::Draining(_, Drained { again, .. }) => Poll::Ready(Ok(Turn::Later(again))),
            Sent::Stuck(_) => Poll::Pending,
        }
    }
}

/// Tells of an answer when it has left, or when its connection is cut.
struct Telling<'a, H: Handler> {
    connection: &'a Connection<H>,
    sending: Box<Sending>,
}

impl<H: Handler> Drop for Telling<'_, H> {
    fn drop(&mut self) {
        if let Some(egress) = self.connection.handler.egress() {
            egress.give_back(self.sending.turn);
        }
        let record = &self.sending.record;
        let answered = record.answered(self.connection.client);
        self.connection.handler.answered(&answered);
    }
}
