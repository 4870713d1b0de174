//! Signed boot manifests: what an image consists of, who vouches for it, and the one verifier everybody uses.
//!
//! The bytes that are signed are the bytes that are transported, and only verified bytes are parsed for a decision.
//! [`verify`] is the only way from bytes to a [`Verified`] [`Manifest`], and decisions take nothing else.
//! [`sign`] is the way back. [`handoff`] holds the messages between PID 1 and its roles.
//!
//! This crate does no I/O, reads no clock and draws no random numbers, and never panics on input. It is linked into
//! PID 1, so its dependencies are few.
//!
//! | module | holds |
//! | --- | --- |
//! | `envelope` | the file: payload, signatures, and the readable view beside them |
//! | `verify` | the checks and their order |
//! | `sign` | drafts and signatures |
//! | `view` | what may be shown without verification |
//! | `manifest`, `chunks`, `names`, `time`, `digest` | the values and their rules |
//! | `key`, `root` | keys, and which of them are trusted |
//! | `json` | the strict walk before every parse |
//! | `limits` | every bound with its reason |

mod chunks;
mod digest;
mod envelope;
pub mod handoff;
mod json;
mod key;
pub mod limits;
mod manifest;
mod names;
mod root;
mod sign;
mod time;
mod verify;
mod view;

pub use chunks::{ArtifactHasher, ChunkCheck, ChunkError, ChunkHasher, ChunkMap, WrongLength};
pub use digest::{Digest, Hasher, InvalidDigest};
pub use envelope::{PAYLOAD_TYPE, pre_authentication_encoding};
pub use key::{KeyError, KeyId, PublicKey, SecretKey};
pub use limits::MANIFEST_SIZE_MAX;
pub use manifest::{Artifact, InvalidManifest, Manifest};
pub use names::{Arch, ArtifactName, Channel, FileName, InvalidName};
pub use root::{TrustRoot, TrustRootError};
pub use sign::{SignError, add_signature, draft, sign};
pub use time::{InvalidTimestamp, Timestamp};
pub use verify::{Expect, Expiry, Floor, Verified, VerifyError, verify};
pub use view::{UnverifiedArtifact, UnverifiedView, unverified_payload, view};
