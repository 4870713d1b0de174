//! HTTP/1.1 as the provider speaks it. Knows requests, ranges, connections and bytes; what is served and why is
//! decided in [`crate::serve`]; what HTTP means, in the crate `http_semantics`.
//!
//! | module | holds |
//! | --- | --- |
//! | `server` | accepting, descriptors, draining |
//! | `seats` | places for connections: bounds, deadlines, and who makes room for others |
//! | `connection` | one connection: the short way, hyper, and back |
//! | `fast` | plain requests, answered and sent without hyper |
//! | `record`, `answered` | what became of a request, for counters and logs |
//! | `egress` | one rate for the artifacts of all connections |
//! | `uploads` | rights to send what is only in part there |
//! | `stream`, `wire` | one connection's bytes, and what hyper does with them |
//! | `tls` | handshakes, with a deadline and a bound |
//! | `inlet` | what comes in: strict about what is a request, before hyper sees it |
//! | `target` | from the request target to a route; the only place that decodes paths |
//! | `refuse` | answers that are no content, for people and for programs |
//! | `respond`, `body` | answers, and what they carry |
//! | `limits` | every number with its reason |

pub(crate) mod answered;
pub(crate) mod body;
pub(crate) mod connection;
pub(crate) mod egress;
pub(crate) mod fast;
pub(crate) mod heads;
pub(crate) mod inlet;
pub(crate) mod limits;
pub(crate) mod record;
pub(crate) mod refuse;
pub(crate) mod respond;
pub(crate) mod seats;
pub(crate) mod server;
pub(crate) mod stream;
pub(crate) mod target;

pub(crate) mod tls;
pub(crate) mod uploads;
pub(crate) mod wire;
