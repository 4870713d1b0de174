//! Freshness statements: which manifest is the newest, said by a freshness key in answer to a nonce.
//!
//! A mirror that hides a newer manifest can keep everything else it once had; it cannot answer a nonce that nobody has
//! used before. No clock is involved. A statement that is missing is a reason to warn, never one to stop serving.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::json;
use crate::key::SecretKey;
use crate::limits::{FRESHNESS_SIZE_MAX, INTEGER_MAX};
use crate::names::{Arch, Channel};
use crate::nonce::Nonce;
use crate::root::{RoleName, TrustRoot};
use crate::sign::SignError;
use crate::statement::{self, StatementError};
use crate::verify::Verified;

/// The payload type of a freshness statement.
pub const FRESHNESS_PAYLOAD_TYPE: &str = "application/vnd.phase.freshness.v1+json";

/// "Asked with this nonce, the newest manifest of this channel for these machines is that one."
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Freshness {
    /// What the machine that asks has made up.
    pub nonce: Nonce,
    /// The line of releases.
    pub channel: Channel,
    /// The machines.
    pub arch: Arch,
    /// Generation of the newest manifest.
    pub generation: u64,
    /// Its sequence.
    pub sequence: u64,
    /// The digest of its file.
    pub digest: Digest,
}

impl Freshness {
    fn validate(&self) -> Result<(), String> {
        for (field, value) in [("generation", self.generation), ("sequence", self.sequence)] {
            if !(1..=INTEGER_MAX).contains(&value) {
                return Err(format!("{field} is {value}; it must be 1 to 2^53"));
            }
        }
        Ok(())
    }
}

/// Signs a statement and returns the complete file.
pub fn sign_freshness(freshness: &Freshness, keys: &[&SecretKey]) -> Result<Vec<u8>, SignError> {
    freshness.validate().map_err(SignError::InvalidStatement)?;
    let payload = serde_json::to_vec(freshness).expect("plain text and integers always serialise");
    statement::sign(FRESHNESS_PAYLOAD_TYPE, payload, keys)
}

/// Checks an answer to `nonce` about `channel` and `arch` against the freshness keys of `root`.
pub fn verify_freshness(
    bytes: &[u8],
    root: &TrustRoot,
    nonce: &Nonce,
    channel: &Channel,
    arch: Arch,
) -> Result<Verified<Freshness>, StatementError> {
    let (envelope, signers) = statement::authenticate(
        bytes,
        FRESHNESS_PAYLOAD_TYPE,
        FRESHNESS_SIZE_MAX,
        root.role(RoleName::Freshness),
    )?;
    let freshness: Freshness = json::parse(&envelope.payload)?;
    freshness.validate().map_err(StatementError::Invalid)?;
    if freshness.nonce != *nonce {
        return Err(StatementError::WrongNonce {
            found: freshness.nonce,
            expected: *nonce,
        });
    }
    if freshness.generation != root.generation() {
        return Err(StatementError::WrongGeneration {
            found: freshness.generation,
            expected: root.generation(),
        });
    }
    if freshness.channel != *channel {
        return Err(StatementError::WrongChannel {
            found: freshness.channel,
            expected: channel.clone(),
        });
    }
    if freshness.arch != arch {
        return Err(StatementError::WrongArch {
            found: freshness.arch,
            expected: arch,
        });
    }
    Ok(Verified::new(freshness, bytes, signers, false))
}
