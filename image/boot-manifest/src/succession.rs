//! Which manifest may follow which: the counters of an image that runs against those of one that is offered. No clock.
//!
//! The generation of the keys comes first, because sequence and security version restart with it: so a release key that
//! was stolen and used up the sequences is cured by a rotation. Within a generation the sequence must grow, though not
//! by more than [`SEQUENCE_JUMP_MAX`], and the security version must not fall.

use crate::limits::SEQUENCE_JUMP_MAX;
use crate::manifest::Manifest;

/// What orders the images of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Counters {
    /// Generation of the keys.
    pub generation: u64,
    /// Order within the generation.
    pub sequence: u64,
    /// What must not fall within the generation.
    pub security_version: u64,
}

/// Why a manifest may not follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SuccessionError {
    /// Its keys were replaced already.
    #[error("it is of key generation {found}; this machine is at {running} already")]
    OlderGeneration {
        /// Of the offer.
        found: u64,
        /// Of what runs.
        running: u64,
    },
    /// The same version, or one before it.
    #[error("its sequence {found} is not above {running}")]
    NotNewer {
        /// Of the offer.
        found: u64,
        /// Of what runs.
        running: u64,
    },
    /// So far ahead that no honest version would be left.
    #[error(
        "its sequence {found} is more than {SEQUENCE_JUMP_MAX} above {running}: only a new generation of keys can go on from there"
    )]
    SequenceJump {
        /// Of the offer.
        found: u64,
        /// Of what runs, or 0 in a new generation.
        running: u64,
    },
    /// It brings back what was closed.
    #[error("its security version {found} is below {running}")]
    SecurityVersion {
        /// Of the offer.
        found: u64,
        /// Of what runs.
        running: u64,
    },
}

impl SuccessionError {
    /// A stable name for programs and tests.
    pub fn code(&self) -> &'static str {
        match self {
            Self::OlderGeneration { .. } => "older-generation",
            Self::NotNewer { .. } => "not-newer",
            Self::SequenceJump { .. } => "sequence-jump",
            Self::SecurityVersion { .. } => "version-too-low",
        }
    }
}

impl From<&Manifest> for Counters {
    fn from(manifest: &Manifest) -> Self {
        Self {
            generation: manifest.generation,
            sequence: manifest.sequence,
            security_version: manifest.security_version,
        }
    }
}

impl Counters {
    /// Whether an image with the counters `offer` may follow one with these.
    pub fn admit(&self, offer: &Self) -> Result<(), SuccessionError> {
        if offer.generation < self.generation {
            return Err(SuccessionError::OlderGeneration {
                found: offer.generation,
                running: self.generation,
            });
        }
        let (sequence, security_version) = if offer.generation > self.generation {
            (0, 0)
        } else {
            (self.sequence, self.security_version)
        };
        let found = offer.sequence;
        let Some(jump) = found.checked_sub(sequence).filter(|jump| *jump > 0) else {
            return Err(SuccessionError::NotNewer {
                found,
                running: sequence,
            });
        };
        if jump > SEQUENCE_JUMP_MAX {
            return Err(SuccessionError::SequenceJump {
                found,
                running: sequence,
            });
        }
        if offer.security_version < security_version {
            return Err(SuccessionError::SecurityVersion {
                found: offer.security_version,
                running: security_version,
            });
        }
        Ok(())
    }
}
