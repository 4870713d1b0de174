//! What became of a request, for those who count and log: one [`Answered`] for every answer, on whichever way it was sent.

use std::net::IpAddr;
use std::time::Duration;

use http::Method;

use crate::serve::metrics::Reason;

/// An answer, once its last byte was taken by the kernel or its connection ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answered<'a> {
    /// Who asked.
    pub(crate) client: IpAddr,
    /// The method.
    pub(crate) method: &'a Method,
    /// Path and query as they were sent.
    pub(crate) target: &'a str,
    /// The status.
    pub(crate) status: u16,
    /// Body bytes that the head promised and this answer should carry: none for HEAD and 304.
    pub(crate) promised: u64,
    /// Body bytes that really left.
    pub(crate) sent: u64,
    /// From the request to the end.
    pub(crate) took: Duration,
    /// The field User-Agent.
    pub(crate) agent: Option<&'a [u8]>,
    /// The field Referer.
    pub(crate) referer: Option<&'a [u8]>,
    /// The id of the request, when the handler gave the answer one.
    pub(crate) request_id: Option<&'a RequestId>,
    /// Whether it was sent on the short way.
    pub(crate) is_fast: bool,
}

impl Answered<'_> {
    /// The target without its query.
    pub(crate) fn path(&self) -> &str {
        self.target
            .split_once('?')
            .map_or(self.target, |(path, _)| path)
    }

    /// Whether every promised byte left.
    pub(crate) fn is_whole(&self) -> bool {
        self.sent >= self.promised
    }
}

/// The id of a request, and why it was refused if it was. The handler puts it into the extensions of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestId {
    /// The id.
    pub(crate) id: String,
    /// Why nothing was given.
    pub(crate) refused: Option<Reason>,
}
