//! What HTTP means, decided over bytes and values. A crate of its own because it does no I/O and is fuzzed by itself; a
//! cache in front of other servers needs the same rules as the provider.
//!
//! | module | holds |
//! | --- | --- |
//! | `range` | the `Range` field: which bytes are sent |
//! | `condition` | preconditions: in full, 304 or 412 |
//! | `labels` | the fields that describe a content, also written out as they are on the wire |
//! | `head` | the head of a request as bytes: whether it may be answered at all |
//! | `gate` | lets only whole requests with such heads through |
//! | `refusal` | the answer to what is no request |
//! | `path` | a path as names |
//! | `accept` | who wants JSON and who wants text |
//! | `digests` | which digests are wanted |
//! | `multipart` | several ranges in one answer |
//! | `limits` | every number with its reason |
//!
//! Never opens a socket or a file, asks no clock, and keeps nothing between two calls. Nothing here panics on input.

pub mod accept;
pub mod condition;
pub mod digests;
pub mod gate;
pub mod head;
pub mod labels;
pub mod limits;
pub mod multipart;
pub mod path;
pub mod range;
pub mod refusal;
