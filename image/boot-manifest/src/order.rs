//! Orders: what an operator tells a running machine to do about its image, signed by operator keys.
//!
//! An order names the nonce that the machine shows at that moment, and the machine makes a new one after every order it
//! has taken. So an order is good for one machine and once, without a clock.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::envelope::render_bare;
use crate::json;
use crate::key::SecretKey;
use crate::limits::{ORDER_SIZE_MAX, SIGNATURES_MAX};
use crate::nonce::Nonce;
use crate::root::{RoleName, TrustRoot};
use crate::sign::SignError;
use crate::statement::{self, StatementError};
use crate::verify::Verified;

/// The payload type of an order.
pub const ORDER_PAYLOAD_TYPE: &str = "application/vnd.phase.order.v1+json";

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Look for a newer image now.
    Check,
    /// Fetch it and keep it ready.
    Stage,
    /// Try it now.
    Apply,
    /// Keep the image on trial without waiting for the rest of its soak.
    Commit,
    /// Go back to the image before.
    Rollback,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Check,
        Self::Stage,
        Self::Apply,
        Self::Commit,
        Self::Rollback,
    ];

    /// The name as it stands in documents and commands.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Stage => "stage",
            Self::Apply => "apply",
            Self::Commit => "commit",
            Self::Rollback => "rollback",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no action.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an action is check, stage, apply, commit or rollback")]
pub struct InvalidAction;

impl FromStr for Action {
    type Err = InvalidAction;

    fn from_str(text: &str) -> Result<Self, InvalidAction> {
        let mut all = Self::ALL.into_iter();
        all.find(|action| action.as_str() == text)
            .ok_or(InvalidAction)
    }
}

/// One order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// What is to be done.
    pub action: Action,
    /// With which manifest; `None` leaves the choice to the machine.
    pub digest: Option<Digest>,
    /// The nonce that the machine shows.
    pub nonce: Nonce,
    /// Overrides what only protects the service: windows, turns, the last server of a segment, quarantine, expiry.
    /// Never signatures, hashes or the memory rule.
    pub force: bool,
}

/// Signs an order and returns the complete file.
pub fn sign_order(order: &Order, keys: &[&SecretKey]) -> Result<Vec<u8>, SignError> {
    let payload = serde_json::to_vec(order).expect("plain text and booleans always serialise");
    statement::sign(ORDER_PAYLOAD_TYPE, payload, keys)
}

/// Joins the signatures of people who have each signed the same order. They are kept unchecked.
pub fn merge_orders(files: &[Vec<u8>]) -> Result<Vec<u8>, SignError> {
    let open = |file: &Vec<u8>| {
        statement::open(file, ORDER_PAYLOAD_TYPE, ORDER_SIZE_MAX)
            .map_err(SignError::RefusedStatement)
    };
    let (first, others) = files.split_first().ok_or(SignError::NoKeys)?;
    let mut merged = open(first)?;
    for file in others {
        let other = open(file)?;
        if other.payload != merged.payload {
            return Err(SignError::DifferentPayloads);
        }
        statement::join_signatures(&mut merged.signatures, other.signatures)?;
    }
    if merged.signatures.len() > SIGNATURES_MAX {
        return Err(SignError::TooManySignatures);
    }
    Ok(render_bare(&merged))
}

/// Checks an order against the operator keys of `root` and the nonce that this machine shows now.
pub fn verify_order(
    bytes: &[u8],
    root: &TrustRoot,
    nonce: &Nonce,
) -> Result<Verified<Order>, StatementError> {
    let (envelope, signers) = statement::authenticate(
        bytes,
        ORDER_PAYLOAD_TYPE,
        ORDER_SIZE_MAX,
        root.role(RoleName::Operator),
    )?;
    let order: Order = json::parse(&envelope.payload)?;
    if order.nonce != *nonce {
        return Err(StatementError::WrongNonce {
            found: order.nonce,
            expected: *nonce,
        });
    }
    Ok(Verified::new(order, bytes, signers, false))
}
