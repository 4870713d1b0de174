//! Artifacts on disk: where they lie, which content they have, and how verified bytes get there.
//!
//! A crate of its own because it owns an on-disk layout that the provider reads and the fetching client writes.
//!
//! - [`Store`] is the artifacts directory of a provider, `<root>/<channel>/<arch>/<file>`, read only. Every file is
//!   opened beneath the directory's descriptor by the kernel itself, so neither `..` nor a symbolic link nor a rename at
//!   the wrong moment leads out, and FIFOs and devices are refused.
//! - [`Folders`] looks at a file without opening it, for those who may know its content already.
//! - [`Watch`] is told of changes, for those who looked and want to know how long that holds.
//! - [`Identity`] and [`Hashes`]: a digest belongs to a content, never to a name.
//! - [`Folder`] and [`Partial`]: the only way to write an artifact. Each chunk is verified before it is written, and the
//!   name appears when all are there and durable.
//!
//! Never returns bytes under a digest they do not have, never lets others build paths, never uses the network. All calls
//! block.

mod beneath;
mod hashes;
mod identity;
mod layout;
mod limits;
mod look;
mod partial;
mod reading;
mod store;
mod watch;

pub use beneath::OpenError;
pub use hashes::{Depth, HashError, Hashed, Hashes};
pub use identity::{Identity, OpenFile};
pub use layout::{MANIFEST_FILE, ROOTS_FILE, spellings};
pub use look::{Folders, Seen};
pub use partial::{ChunkWriter, Folder, Partial, PartialView, WriteError};
pub use store::{Found, Problem, Reason, Scan, Store};
pub use watch::{Looking, Stamp, Watch};
