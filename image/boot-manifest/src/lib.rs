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
//! | `key`, `root` | keys, and which of them are trusted for what |
//! | `chain` | how a machine comes from an old root to the newest |
//! | `freshness`, `order`, `statement` | other signed documents, and what they share |
//! | `signatures` | whether enough keys of a role have signed |
//! | `succession` | which manifest may follow which |
//! | `json` | the strict walk before every parse |
//! | `limits` | every bound with its reason |

mod chain;
mod chunks;
mod digest;
mod envelope;
mod freshness;
pub mod handoff;
mod json;
mod key;
pub mod limits;
mod manifest;
mod names;
mod nonce;
mod order;
mod root;
mod sign;
mod signatures;
mod statement;
mod succession;
mod time;
mod verify;
mod view;

pub use chain::{
    ChainError, Chained, ChainedError, append_link, draft_link, merge_links, sign_link,
    unverified_link, verify_chained, verify_link, walk_roots,
};
pub use chunks::{ArtifactHasher, ChunkCheck, ChunkError, ChunkHasher, ChunkMap, WrongLength};
pub use digest::{Digest, Hasher, InvalidDigest};
pub use envelope::{PAYLOAD_TYPE, pre_authentication_encoding};
pub use freshness::{FRESHNESS_PAYLOAD_TYPE, Freshness, sign_freshness, verify_freshness};
pub use key::{KeyError, KeyId, PublicKey, SecretKey};
pub use limits::{MANIFEST_SIZE_MAX, ORDER_SIZE_MAX, ROOT_CHAIN_SIZE_MAX};
pub use manifest::{Artifact, InvalidManifest, Manifest};
pub use names::{Arch, ArtifactName, Channel, FileName, InvalidName};
pub use nonce::{InvalidNonce, Nonce};
pub use order::{
    Action, InvalidAction, ORDER_PAYLOAD_TYPE, Order, merge_orders, sign_order, verify_order,
};
pub use root::{ROOT_PAYLOAD_TYPE, Role, RoleName, TrustRoot, TrustRootError};
pub use sign::{SignError, add_signature, draft, merge_signatures, sign};
pub use signatures::SignatureError;
pub use statement::StatementError;
pub use succession::{Counters, SuccessionError};
pub use time::{InvalidTimestamp, Timestamp};
pub use verify::{Expect, Expiry, Floor, Verified, VerifyError, verify};
pub use view::{UnverifiedArtifact, UnverifiedView, unverified_payload, view};
