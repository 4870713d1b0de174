//! Who fetches which chunk from whom, when everybody who fetches serves as well.
//!
//! A crate of its own because it does no I/O, is fuzzed and simulated by itself, and owns a wire format.
//!
//! - [`Schedule`] decides for one machine: sources join and leave, pieces arrive, and it says whom to ask for what.
//! - [`have`] and [`peers`] are what machines tell each other, as `GET /have` and `/peers`.
//! - [`Table`] is the list of those who registered.
//! - [`simulate`] runs thousands of machines with this very schedule.
//!
//! Nothing here is believed: a map leads to a request, and what comes is checked piece by piece by whoever keeps it.
//! Never opens a socket, never reads a clock, never draws a random number but from a seed.
//!
//! | module | holds |
//! | --- | --- |
//! | `schedule` | sources, runs, and what becomes of sources that fail, lie or lag |
//! | `pieces`, `set` | the chunks of several files in one numbering, and sets of them |
//! | `have`, `peers` | the two formats |
//! | `table` | the peers that registered |
//! | `random` | chance from a seed |
//! | `simulate` | a storm of machines in a network of links
//! | `limits` | every bound with its reason |

pub mod have;
mod limits;
pub mod peers;
mod pieces;
mod random;
mod schedule;
mod set;
pub mod simulate;
mod table;

pub use crate::have::{FormatError, Map};
pub use crate::limits::{HAVE_SIZE_MAX, PEERS_MAX, PEERS_SIZE_MAX};
pub use crate::pieces::{File, Pieces};
pub use crate::random::jittered;
pub use crate::schedule::{Action, Dropped, End, Event, Kind, Plan, Schedule};
pub use crate::set::PieceSet;
pub use crate::table::{Counts, Full, Table, are_near};
