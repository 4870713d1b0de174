//! The trust root: which keys may sign what, and how many of them must.
//!
//! It lies in the image and is the only thing that is believed without a signature, so it is checked in full when it is
//! loaded: every key sound, no key twice in a role, a threshold that the keys can reach. [`crate::walk_roots`] leads from
//! one root to its successors.
//!
//! A root names up to four roles. Release keys sign manifests, and stand at the top of the document. The others are in
//! its member `roles`; a role that is not there is filled by the release keys with their threshold. A program that knows
//! no roles refuses a document that has them: it would believe keys for what they were not made for.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::json;
use crate::key::{KeyError, KeyId, PublicKey};
use crate::limits::{INTEGER_MAX, SIGNATURES_MAX, TRUST_ROOT_SIZE_MAX};

/// Names the kind of document, so that no other signed or configured file passes as a trust root. It is the payload type
/// of a signed one as well.
pub const ROOT_PAYLOAD_TYPE: &str = "application/vnd.phase.trust-root.v1+json";

/// What a key is trusted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RoleName {
    /// Signs manifests.
    Release,
    /// Signs the next trust root. Kept offline.
    Root,
    /// Says which manifest is the newest. Kept online.
    Freshness,
    /// Gives orders to running machines.
    Operator,
}

impl RoleName {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Release, Self::Root, Self::Freshness, Self::Operator];

    /// The name as it stands in documents and commands.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Root => "root",
            Self::Freshness => "freshness",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The keys of one role, and how many of them must sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    threshold: usize,
    keys: Vec<PublicKey>,
}

impl Role {
    /// Checks that no key stands twice and that the keys can reach the threshold.
    pub fn new(threshold: u64, keys: Vec<PublicKey>) -> Result<Self, TrustRootError> {
        if !(1..=SIGNATURES_MAX).contains(&keys.len()) {
            return Err(TrustRootError::KeyCount(keys.len()));
        }
        for (position, key) in keys.iter().enumerate() {
            // Equal ids are refused too, so that an id names one key.
            if keys[..position]
                .iter()
                .any(|other| other.key_id() == key.key_id())
            {
                return Err(TrustRootError::DuplicateKey(key.key_id()));
            }
        }
        let reachable = usize::try_from(threshold)
            .ok()
            .filter(|t| (1..=keys.len()).contains(t));
        let threshold = reachable.ok_or(TrustRootError::Threshold {
            threshold,
            keys: keys.len(),
        })?;
        Ok(Self { threshold, keys })
    }

    /// Signatures by different keys that are needed.
    pub fn threshold(&self) -> usize {
        self.threshold
    }

    /// The keys.
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// Their ids.
    pub fn key_ids(&self) -> Vec<KeyId> {
        self.keys.iter().map(PublicKey::key_id).collect()
    }
}

/// The keys a machine trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustRoot {
    generation: u64,
    release: Role,
    root: Option<Role>,
    freshness: Option<Role>,
    operator: Option<Role>,
    development: bool,
}

/// A trust root was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustRootError {
    /// Larger than any real one.
    #[error("the trust root has {0} bytes; {TRUST_ROOT_SIZE_MAX} are allowed")]
    TooLarge(usize),
    /// No JSON of the expected form.
    #[error("the trust root cannot be read: {0}")]
    Malformed(String),
    /// The `type` member names another document.
    #[error("this is no trust root: its type is {0:?}")]
    WrongType(String),
    /// A key is unsound.
    #[error("key {position} of the trust root: {source}")]
    Key {
        /// Place in the list, from 1.
        position: usize,
        /// What is wrong with it.
        source: KeyError,
    },
    /// The `key_id` written beside a key is another key's.
    #[error("key {position} of the trust root has the id {actual}, not {written}")]
    WrongKeyId {
        /// Place in the list, from 1.
        position: usize,
        /// The id in the file.
        written: KeyId,
        /// The id of the key.
        actual: KeyId,
    },
    /// One key stands twice in the list: it would count twice toward the threshold.
    #[error("the key {0} stands twice in the trust root")]
    DuplicateKey(KeyId),
    /// No keys, or too many.
    #[error("a trust root has 1 to {SIGNATURES_MAX} keys, not {0}")]
    KeyCount(usize),
    /// A threshold of zero, or one that the keys cannot reach.
    #[error("a threshold of {threshold} does not fit {keys} key(s)")]
    Threshold {
        /// Signatures asked for.
        threshold: u64,
        /// Keys in the list.
        keys: usize,
    },
    /// Generations count from 1.
    #[error("the generation {0} is out of range: it counts from 1")]
    Generation(u64),
    /// A role beside that of the release keys is unsound.
    #[error("role {role}: {source}")]
    Role {
        /// Which.
        role: RoleName,
        /// What is wrong with it.
        source: Box<TrustRootError>,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(rename = "type")]
    document_type: String,
    generation: u64,
    threshold: u64,
    development: bool,
    keys: Vec<KeyEntry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    roles: Option<RolesWire>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RolesWire {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root: Option<RoleWire>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    freshness: Option<RoleWire>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    operator: Option<RoleWire>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleWire {
    threshold: u64,
    keys: Vec<KeyEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    key_id: KeyId,
    public_key: String,
}

impl KeyEntry {
    fn of(key: &PublicKey) -> Self {
        Self {
            key_id: key.key_id(),
            public_key: hex::encode(key.as_bytes()),
        }
    }

    fn list(role: &Role) -> Vec<Self> {
        role.keys.iter().map(Self::of).collect()
    }
}

impl RoleWire {
    fn of(role: &Role) -> Self {
        Self {
            threshold: role.threshold as u64,
            keys: KeyEntry::list(role),
        }
    }
}

/// Reads the keys of one role; one more than allowed is enough to refuse the list.
fn read_keys(entries: &[KeyEntry]) -> Result<Vec<PublicKey>, TrustRootError> {
    let mut keys = Vec::new();
    for (index, entry) in entries.iter().take(SIGNATURES_MAX + 1).enumerate() {
        let position = index + 1;
        let key = PublicKey::parse(entry.public_key.as_bytes())
            .map_err(|source| TrustRootError::Key { position, source })?;
        let (written, actual) = (entry.key_id, key.key_id());
        if written != actual {
            return Err(TrustRootError::WrongKeyId {
                position,
                written,
                actual,
            });
        }
        keys.push(key);
    }
    Ok(keys)
}

impl TrustRoot {
    /// A root of generation 1 that trusts one key for everything.
    pub fn single(key: PublicKey) -> Self {
        Self {
            generation: 1,
            release: Role {
                threshold: 1,
                keys: vec![key],
            },
            root: None,
            freshness: None,
            operator: None,
            development: false,
        }
    }

    /// A root with several release keys, which fill the other roles too. `development` marks keys that anybody with the
    /// build machine can use.
    pub fn new(
        generation: u64,
        threshold: u64,
        keys: Vec<PublicKey>,
        development: bool,
    ) -> Result<Self, TrustRootError> {
        if !(1..=INTEGER_MAX).contains(&generation) {
            return Err(TrustRootError::Generation(generation));
        }
        Ok(Self {
            generation,
            release: Role::new(threshold, keys)?,
            root: None,
            freshness: None,
            operator: None,
            development,
        })
    }

    /// The same root with other keys in one role.
    pub fn with_role(mut self, name: RoleName, role: Role) -> Self {
        match name {
            RoleName::Release => self.release = role,
            RoleName::Root => self.root = Some(role),
            RoleName::Freshness => self.freshness = Some(role),
            RoleName::Operator => self.operator = Some(role),
        }
        self
    }

    /// The root that follows this one with the same keys: a draft, to be changed by [`TrustRoot::with_role`].
    pub fn successor(&self) -> Result<Self, TrustRootError> {
        let generation = self.generation.saturating_add(1);
        if generation > INTEGER_MAX {
            return Err(TrustRootError::Generation(generation));
        }
        Ok(Self {
            generation,
            ..self.clone()
        })
    }

    /// Reads and checks the JSON form.
    pub fn parse(bytes: &[u8]) -> Result<Self, TrustRootError> {
        if bytes.len() > TRUST_ROOT_SIZE_MAX {
            return Err(TrustRootError::TooLarge(bytes.len()));
        }
        let document: Document =
            json::parse(bytes).map_err(|error| TrustRootError::Malformed(error.to_string()))?;
        if document.document_type != ROOT_PAYLOAD_TYPE {
            return Err(TrustRootError::WrongType(
                document.document_type.chars().take(80).collect(),
            ));
        }
        let mut root = Self::new(
            document.generation,
            document.threshold,
            read_keys(&document.keys)?,
            document.development,
        )?;
        let roles = document.roles.unwrap_or_default();
        for (name, wire) in [
            (RoleName::Root, roles.root),
            (RoleName::Freshness, roles.freshness),
            (RoleName::Operator, roles.operator),
        ] {
            let Some(wire) = wire else { continue };
            let role = read_keys(&wire.keys)
                .and_then(|keys| Role::new(wire.threshold, keys))
                .map_err(|source| TrustRootError::Role {
                    role: name,
                    source: Box::new(source),
                })?;
            root = root.with_role(name, role);
        }
        Ok(root)
    }

    /// The JSON form, ending in a newline.
    pub fn to_json(&self) -> String {
        let wire = |role: &Option<Role>| role.as_ref().map(RoleWire::of);
        let roles = RolesWire {
            root: wire(&self.root),
            freshness: wire(&self.freshness),
            operator: wire(&self.operator),
        };
        let has_roles =
            roles.root.is_some() || roles.freshness.is_some() || roles.operator.is_some();
        let document = Document {
            document_type: ROOT_PAYLOAD_TYPE.to_owned(),
            generation: self.generation,
            threshold: self.release.threshold as u64,
            development: self.development,
            keys: KeyEntry::list(&self.release),
            roles: has_roles.then_some(roles),
        };
        let json = serde_json::to_string_pretty(&document);
        json.expect("plain text and integers always serialise") + "\n"
    }

    /// Manifests must carry the same generation: counters restart with each.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Who fills a role: its own keys, or the release keys where the document names none.
    pub fn role(&self, name: RoleName) -> &Role {
        let own = match name {
            RoleName::Release => None,
            RoleName::Root => self.root.as_ref(),
            RoleName::Freshness => self.freshness.as_ref(),
            RoleName::Operator => self.operator.as_ref(),
        };
        own.unwrap_or(&self.release)
    }

    /// Whether a role has keys of its own.
    pub fn has_own(&self, name: RoleName) -> bool {
        match name {
            RoleName::Release => true,
            RoleName::Root => self.root.is_some(),
            RoleName::Freshness => self.freshness.is_some(),
            RoleName::Operator => self.operator.is_some(),
        }
    }

    /// Signatures by different keys that a manifest needs.
    pub fn threshold(&self) -> usize {
        self.release.threshold
    }

    /// The keys that are trusted to sign manifests.
    pub fn keys(&self) -> &[PublicKey] {
        &self.release.keys
    }

    /// Their ids.
    pub fn key_ids(&self) -> Vec<KeyId> {
        self.release.key_ids()
    }

    /// The digest of the JSON form: equal on two machines exactly when they trust the same.
    pub fn fingerprint(&self) -> Digest {
        Digest::of(self.to_json().as_bytes())
    }

    /// Whether the keys are development keys, which must be said wherever they are used.
    pub fn is_development(&self) -> bool {
        self.development
    }
}
