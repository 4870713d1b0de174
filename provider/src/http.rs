//! HTTP/1.1 as the provider speaks it. Knows requests, ranges, connections and bytes; what is served and why is
//! decided in [`crate::serve`]; what HTTP means, in the crate `http_semantics`.
//!
//! | module | holds |
//! | --- | --- |
//! | `server` | accepting, limits on connections, draining |
//! | `alarm` | the deadlines of a connection |
//! | `answered` | what became of a request, for counters and logs |
//! | `wire` | one connection's bytes: counting, and a deadline for clients that do not read |
//! | `tls` | handshakes, with a deadline and a bound |
//! | `inlet` | what comes in: strict about what is a request, before hyper sees it |
//! | `target` | from the request target to a route; the only place that decodes paths |
//! | `refuse` | answers that are no content, for people and for programs |
//! | `respond`, `body` | answers, and files read straight into the socket |
//! | `limits` | every number with its reason |

pub(crate) mod alarm;
pub(crate) mod answered;
pub(crate) mod body;
pub(crate) mod inlet;
pub(crate) mod limits;
pub(crate) mod refuse;
pub(crate) mod respond;
pub(crate) mod server;
pub(crate) mod target;

pub(crate) mod tls;
pub(crate) mod wire;
