//! The root chain: how a machine that trusts an old root comes to trust the newest one.
//!
//! A *link* is the trust root of generation N + 1, signed by enough root keys of generation N and by enough root keys of
//! N + 1 itself. A *chain*, the file `roots.json`, holds the links of consecutive generations. A machine starts from the
//! root of its image and follows the links above it, one by one; those up to its own generation it passes over.
//!
//! ```text
//! size -> strict JSON -> type, number of links -> for each link above the root in force: payload type -> signatures of
//!      the old root keys -> strict parse of the same bytes -> exactly the next generation -> signatures of the new root keys
//! ```
//!
//! `first_generation` beside the links is not signed; it only says which link to try, and each link must then really be
//! of the generation that its place tells. Nothing is believed in part: a bad link above the root in force fails the walk.

use serde::{Deserialize, Serialize};

use crate::envelope::{Envelope, EnvelopeWire, render_bare};
use crate::json;
use crate::key::SecretKey;
use crate::limits::{
    INTEGER_MAX, LINK_SIGNATURES_MAX, ROOT_CHAIN_SIZE_MAX, ROOT_LINK_SIZE_MAX, ROOT_LINKS_MAX,
};
use crate::manifest::Manifest;
use crate::root::{ROOT_PAYLOAD_TYPE, RoleName, TrustRoot};
use crate::sign::SignError;
use crate::signatures;
use crate::statement::{self, StatementError};
use crate::verify::{Expect, Floor, Verified, VerifyError, verify};

/// Names the kind of file.
const CHAIN_TYPE: &str = "application/vnd.phase.root-chain.v1+json";

/// Why a chain does not lead to a newer root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Larger than any chain.
    #[error("the root chain has {0} bytes; {ROOT_CHAIN_SIZE_MAX} are allowed")]
    TooLarge(usize),
    /// No strict JSON of the expected form.
    #[error("the root chain cannot be read: {0}")]
    Malformed(String),
    /// It is another kind of file.
    #[error("this is no root chain: its type is {0:?}")]
    WrongType(String),
    /// More links than are followed.
    #[error("the root chain has {0} links; {ROOT_LINKS_MAX} are allowed")]
    TooLong(usize),
    /// It begins above the generation that would follow.
    #[error("the root chain begins at generation {first}; generation {needed} would be needed")]
    Gap {
        /// The generation of its first link.
        first: u64,
        /// The one that would follow the root in force.
        needed: u64,
    },
    /// A link is not believed.
    #[error("the trust root of generation {generation}: {source}")]
    Link {
        /// By its place in the chain.
        generation: u64,
        /// What is wrong with it.
        source: StatementError,
    },
}

impl ChainError {
    /// A stable name for programs and tests.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "roots-too-large",
            Self::Malformed(_) => "roots-malformed",
            Self::WrongType(_) => "roots-wrong-type",
            Self::TooLong(_) => "roots-too-many",
            Self::Gap { .. } => "roots-gap",
            Self::Link { .. } => "roots-bad-link",
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChainWire {
    #[serde(rename = "type")]
    chain_type: String,
    first_generation: u64,
    links: Vec<EnvelopeWire>,
}

/// Links of consecutive generations, still unchecked.
struct Chain {
    first_generation: u64,
    links: Vec<Envelope>,
}

impl Chain {
    fn parse(bytes: &[u8]) -> Result<Self, ChainError> {
        if bytes.len() > ROOT_CHAIN_SIZE_MAX {
            return Err(ChainError::TooLarge(bytes.len()));
        }
        let malformed = |error: json::JsonError| ChainError::Malformed(error.to_string());
        let wire: ChainWire = json::parse(bytes).map_err(malformed)?;
        if wire.chain_type != CHAIN_TYPE {
            return Err(ChainError::WrongType(
                wire.chain_type.chars().take(80).collect(),
            ));
        }
        if wire.links.len() > ROOT_LINKS_MAX {
            return Err(ChainError::TooLong(wire.links.len()));
        }
        if !(1..=INTEGER_MAX).contains(&wire.first_generation) {
            return Err(ChainError::Malformed("generations count from 1".to_owned()));
        }
        let links = wire.links.iter().map(EnvelopeWire::decode);
        Ok(Self {
            first_generation: wire.first_generation,
            links: links.collect::<Result<_, _>>().map_err(malformed)?,
        })
    }

    fn render(&self) -> Vec<u8> {
        let wire = ChainWire {
            chain_type: CHAIN_TYPE.to_owned(),
            first_generation: self.first_generation,
            links: self.links.iter().map(EnvelopeWire::of).collect(),
        };
        let mut bytes =
            serde_json::to_vec_pretty(&wire).expect("plain text and integers always serialise");
        bytes.push(b'\n');
        bytes
    }

    /// Each link with the generation that its place tells.
    fn numbered(&self) -> impl Iterator<Item = (u64, &Envelope)> {
        (self.first_generation..).zip(&self.links)
    }

    fn walk(&self, start: &TrustRoot) -> Result<TrustRoot, ChainError> {
        let mut root = start.clone();
        for (generation, link) in self.numbered() {
            if generation <= start.generation() {
                continue;
            }
            let needed = root.generation() + 1;
            if generation != needed {
                return Err(ChainError::Gap {
                    first: generation,
                    needed,
                });
            }
            root = follow(&root, link).map_err(|source| ChainError::Link { generation, source })?;
        }
        Ok(root)
    }
}

/// The root that `link` leads to from `root`.
fn follow(root: &TrustRoot, link: &Envelope) -> Result<TrustRoot, StatementError> {
    statement::expect_type(link, ROOT_PAYLOAD_TYPE)?;
    signatures::check(link, root.role(RoleName::Root), LINK_SIGNATURES_MAX)?;
    let next = read_root(link)?;
    let (found, expected) = (next.generation(), root.generation() + 1);
    if found != expected {
        return Err(StatementError::WrongGeneration { found, expected });
    }
    signatures::check(link, next.role(RoleName::Root), LINK_SIGNATURES_MAX)?;
    Ok(next)
}

/// The root in a link. One root has one signed form, so that equal roots have equal fingerprints.
fn read_root(link: &Envelope) -> Result<TrustRoot, StatementError> {
    let root = TrustRoot::parse(&link.payload)?;
    if root.to_json().as_bytes() != link.payload {
        return Err(StatementError::Invalid(
            "its bytes are not the ones that belong to this root".to_owned(),
        ));
    }
    Ok(root)
}

/// Follows the chain `bytes` from `start` to its end, and returns the newest root; `start` itself when no link is above it.
pub fn walk_roots(bytes: &[u8], start: &TrustRoot) -> Result<TrustRoot, ChainError> {
    Chain::parse(bytes)?.walk(start)
}

/// A manifest that was believed, and the root that it was believed by.
#[derive(Debug, Clone)]
pub struct Chained {
    /// The manifest.
    pub manifest: Verified<Manifest>,
    /// The newest root of the chain, or the one it began with.
    pub root: TrustRoot,
}

/// Why a manifest and the chain beside it are not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainedError {
    /// The chain is bad.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The manifest does not verify under the newest root.
    #[error(transparent)]
    Manifest(#[from] VerifyError),
}

impl ChainedError {
    /// A stable name for programs and tests.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Chain(error) => error.code(),
            Self::Manifest(error) => error.code(),
        }
    }
}

/// Verifies a manifest that came with the chain `roots`, starting from the root of this machine.
///
/// The manifest must be of the newest generation in the chain: once keys were replaced, nothing that the old ones signed
/// is believed from a source that knows of the replacement. The floor of `expect` is one of the generation of `start`; a
/// newer generation begins with counters of its own.
pub fn verify_chained(
    manifest: &[u8],
    roots: Option<&[u8]>,
    start: &TrustRoot,
    expect: &Expect<'_>,
) -> Result<Chained, ChainedError> {
    let root = match roots {
        Some(bytes) => walk_roots(bytes, start)?,
        None => start.clone(),
    };
    let mut expect = expect.clone();
    if root.generation() != start.generation() {
        expect.floor = Floor::default();
    }
    let manifest = verify(manifest, &root, &expect)?;
    Ok(Chained { manifest, root })
}

/// The link to `next` without a signature, to be signed by [`sign_link`] wherever the keys are.
pub fn draft_link(next: &TrustRoot) -> Result<Vec<u8>, SignError> {
    finish_link(Envelope {
        payload_type: ROOT_PAYLOAD_TYPE.to_owned(),
        payload: next.to_json().into_bytes(),
        signatures: Vec::new(),
    })
}

/// Adds signatures to a link. Those already there are kept unchecked.
pub fn sign_link(link: &[u8], keys: &[&SecretKey]) -> Result<Vec<u8>, SignError> {
    let mut envelope = open_link(link).map_err(SignError::RefusedStatement)?;
    statement::add_signatures(&mut envelope, keys, LINK_SIGNATURES_MAX)?;
    finish_link(envelope)
}

/// Joins copies of one link that different people have signed.
pub fn merge_links(links: &[Vec<u8>]) -> Result<Vec<u8>, SignError> {
    let mut merged: Option<Envelope> = None;
    for link in links {
        let link = open_link(link).map_err(SignError::RefusedStatement)?;
        match &mut merged {
            None => merged = Some(link),
            Some(merged) if merged.payload != link.payload => {
                return Err(SignError::DifferentPayloads);
            }
            Some(merged) => statement::join_signatures(&mut merged.signatures, link.signatures)?,
        }
    }
    let merged = merged.ok_or(SignError::NoKeys)?;
    if merged.signatures.len() > LINK_SIGNATURES_MAX {
        return Err(SignError::TooManySignatures);
    }
    finish_link(merged)
}

/// What a link says, with no word about who signed it, and the keys it claims to be signed by. For people who look
/// before they sign.
pub fn unverified_link(link: &[u8]) -> Result<(TrustRoot, Vec<crate::KeyId>), StatementError> {
    let envelope = open_link(link)?;
    let signers = envelope.signatures.iter().map(|entry| entry.key_id);
    Ok((read_root(&envelope)?, signers.collect()))
}

/// Checks one link file against the root before it, and returns the root it leads to.
pub fn verify_link(link: &[u8], root: &TrustRoot) -> Result<TrustRoot, StatementError> {
    follow(root, &envelope_of(link)?)
}

/// Appends a link to a chain, or begins one with it. Everything is checked from `start` on, so that what is published
/// leads machines with that root to the newest.
pub fn append_link(
    chain: Option<&[u8]>,
    link: &[u8],
    start: &TrustRoot,
) -> Result<(Vec<u8>, TrustRoot), ChainError> {
    let mut chain = match chain {
        Some(bytes) => Chain::parse(bytes)?,
        None => Chain {
            first_generation: start.generation() + 1,
            links: Vec::new(),
        },
    };
    let root = chain.walk(start)?;
    let generation = root.generation() + 1;
    let end = chain.first_generation + chain.links.len() as u64;
    if end != generation {
        return Err(ChainError::Gap {
            first: generation,
            needed: end,
        });
    }
    let bad = |source| ChainError::Link { generation, source };
    let link = envelope_of(link).map_err(bad)?;
    let newest = follow(&root, &link).map_err(bad)?;
    chain.links.push(link);
    if chain.links.len() > ROOT_LINKS_MAX {
        return Err(ChainError::TooLong(chain.links.len()));
    }
    let file = chain.render();
    if file.len() > ROOT_CHAIN_SIZE_MAX {
        return Err(ChainError::TooLarge(file.len()));
    }
    Ok((file, newest))
}

fn envelope_of(link: &[u8]) -> Result<Envelope, StatementError> {
    statement::open(link, ROOT_PAYLOAD_TYPE, ROOT_LINK_SIZE_MAX)
}

/// For signers: the form and the root in it, no signature.
fn open_link(link: &[u8]) -> Result<Envelope, StatementError> {
    let envelope = envelope_of(link)?;
    read_root(&envelope)?;
    Ok(envelope)
}

fn finish_link(mut envelope: Envelope) -> Result<Vec<u8>, SignError> {
    envelope.signatures.sort();
    let file = render_bare(&envelope);
    if file.len() > ROOT_LINK_SIZE_MAX {
        return Err(SignError::TooLarge(file.len()));
    }
    Ok(file)
}
