//! TFTP as a server for firmware speaks it: RFC 1350, 2347 (options), 2348 (blksize), 2349 (tsize, timeout) and 7440
//! (windowsize). Reading only, in octets.
//!
//! | module | holds |
//! | --- | --- |
//! | `packet` | what requests say, and what answers look like |
//! | `name` | file names in the spellings of firmware |
//! | `terms` | what a request's options are answered with |
//! | `session` | one transfer: what to send after each packet and each silence |
//! | `pace` | how long to wait before something is sent again |
//! | `limits` | every number with its reason |
//!
//! Knows no sockets, no files and no clock: time is an argument, counted from any fixed moment. Nothing here grows with what a
//! client sends.

pub mod limits;
mod name;
mod pace;
mod packet;
mod session;
mod terms;

pub use name::clean_name;
pub use packet::{BadRequest, ErrorCode, Mode, Options, Request, error};
pub use session::{Blocks, End, Session, Step};
pub use terms::Terms;
