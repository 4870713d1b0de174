//! What is remembered of a request until its answer has left.

use std::net::IpAddr;
use std::time::Instant;

use http::Method;

use crate::http::answered::{Answered, RequestId};

/// A request and what has become of it so far. For answers that do not leave at once: others need none of these copies.
#[derive(Debug)]
pub(crate) struct Record {
    /// The method.
    pub(crate) method: Method,
    /// Path and query as they were sent.
    pub(crate) target: Box<str>,
    /// The field User-Agent.
    pub(crate) agent: Option<Box<[u8]>>,
    /// The field Referer.
    pub(crate) referer: Option<Box<[u8]>>,
    /// The status.
    pub(crate) status: u16,
    /// Body bytes that are to leave.
    pub(crate) promised: u64,
    /// Body bytes that did.
    pub(crate) sent: u64,
    /// The id of the request.
    pub(crate) request_id: Option<RequestId>,
    /// When the request was read.
    pub(crate) started: Instant,
    /// Whether it went the short way.
    pub(crate) is_fast: bool,
}

impl Record {
    /// As it is told to others.
    pub(crate) fn answered(&self, client: IpAddr) -> Answered<'_> {
        Answered {
            client,
            method: &self.method,
            target: &self.target,
            status: self.status,
            promised: self.promised,
            sent: self.sent,
            took: self.started.elapsed(),
            agent: self.agent.as_deref(),
            referer: self.referer.as_deref(),
            request_id: self.request_id.as_ref(),
            is_fast: self.is_fast,
        }
    }
}
