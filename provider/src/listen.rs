//! The boot services of `plasmd serve`: whoever asks this LAN for something to boot is answered.
//!
//! | module | holds |
//! | --- | --- |
//! | `args`, `range` | the flags |
//! | `ports` | which ports are open, and why not others |
//! | `datagrams`, `sys` | UDP that knows its interface |
//! | `interfaces` | the addresses of this machine |
//! | `files` | boot files by the names that firmware asks for |
//! | `limits` | every number with its reason |
//!
//! What clients are told is decided in the crate `pxe`, what each machine boots elsewhere; here are the sockets, the clock
//! and the files. Runs beside the HTTP server, in the same process and the same sandbox, and no request waits for it.

pub(crate) mod args;
pub(crate) mod datagrams;
#[expect(dead_code, reason = "TFTP, which is to use it, is not here yet")]
pub(crate) mod files;
pub(crate) mod interfaces;
pub(crate) mod limits;
pub(crate) mod ports;
pub(crate) mod range;
mod sys;
