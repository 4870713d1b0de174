//! The trust root: which keys may sign, and how many of them must.
//!
//! It lies in the image and is the only thing that is believed without a signature, so it is checked in full when it is
//! loaded: every key sound, no key twice, a threshold that the keys can reach.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::json;
use crate::key::{KeyError, KeyId, PublicKey};
use crate::limits::{INTEGER_MAX, SIGNATURES_MAX, TRUST_ROOT_SIZE_MAX};

/// Names the kind of document, so that no other signed or configured file passes as a trust root.
const DOCUMENT_TYPE: &str = "application/vnd.phase.trust-root.v1+json";

/// The keys a machine trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustRoot {
    generation: u64,
    threshold: usize,
    keys: Vec<PublicKey>,
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
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    key_id: KeyId,
    public_key: String,
}

impl TrustRoot {
    /// A root of generation 1 that trusts one key.
    pub fn single(key: PublicKey) -> Self {
        Self {
            generation: 1,
            threshold: 1,
            keys: vec![key],
            development: false,
        }
    }

    /// A root with several keys. `development` marks keys that anybody with the build machine can use.
    pub fn new(
        generation: u64,
        threshold: u64,
        keys: Vec<PublicKey>,
        development: bool,
    ) -> Result<Self, TrustRootError> {
        if !(1..=INTEGER_MAX).contains(&generation) {
            return Err(TrustRootError::Generation(generation));
        }
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
        Ok(Self {
            generation,
            threshold,
            keys,
            development,
        })
    }

    /// Reads and checks the JSON form.
    pub fn parse(bytes: &[u8]) -> Result<Self, TrustRootError> {
        if bytes.len() > TRUST_ROOT_SIZE_MAX {
            return Err(TrustRootError::TooLarge(bytes.len()));
        }
        let document: Document =
            json::parse(bytes).map_err(|error| TrustRootError::Malformed(error.to_string()))?;
        if document.document_type != DOCUMENT_TYPE {
            return Err(TrustRootError::WrongType(
                document.document_type.chars().take(80).collect(),
            ));
        }
        let mut keys = Vec::new();
        for (index, entry) in document.keys.iter().take(SIGNATURES_MAX + 1).enumerate() {
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
        Self::new(
            document.generation,
            document.threshold,
            keys,
            document.development,
        )
    }

    /// The JSON form, ending in a newline.
    pub fn to_json(&self) -> String {
        let entry = |key: &PublicKey| KeyEntry {
            key_id: key.key_id(),
            public_key: hex::encode(key.as_bytes()),
        };
        let document = Document {
            document_type: DOCUMENT_TYPE.to_owned(),
            generation: self.generation,
            threshold: self.threshold as u64,
            development: self.development,
            keys: self.keys.iter().map(entry).collect(),
        };
        let json = serde_json::to_string_pretty(&document);
        json.expect("plain text and integers always serialise") + "\n"
    }

    /// Manifests must carry the same generation: counters restart with each.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Signatures by different keys that a manifest needs.
    pub fn threshold(&self) -> usize {
        self.threshold
    }

    /// The trusted keys.
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// Their ids.
    pub fn key_ids(&self) -> Vec<KeyId> {
        self.keys.iter().map(PublicKey::key_id).collect()
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
