//! What the image brings to judge by: its trust root, its version floor, the time it was built.

use std::fs::File;
use std::io::Read;

use boot_manifest::{Channel, Expiry, Floor, Timestamp, TrustRoot};
use serde::Deserialize;

use crate::plan::Refusal;
use crate::verify::Policy;
use crate::{limits, root, settings};

/// What the image says about itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImageInfo {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Seconds since the epoch: no clock may stand before it.
    pub(crate) built_at: u64,
    floor: ImageFloor,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImageFloor {
    security_version: u64,
    sequence: u64,
}

/// What the image brings to judge by.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) image: ImageInfo,
    pub(crate) trust: TrustRoot,
}

impl Identity {
    /// Reads both files.
    pub(crate) fn read() -> Result<Self, Refusal> {
        let read = |path: &str| {
            let mut bytes = Vec::new();
            File::open(path)
                .and_then(|file| {
                    file.take(limits::IMAGE_INFO_MAX + 1)
                        .read_to_end(&mut bytes)
                })
                .map_err(|error| Refusal::new("no-trust-root", format!("{path}: {error}")))?;
            Ok::<_, Refusal>(bytes)
        };
        let unreadable =
            |path: &str, error: String| Refusal::new("no-trust-root", format!("{path}: {error}"));
        let trust = TrustRoot::parse(&read(root::TRUST_ROOT)?)
            .map_err(|error| unreadable(root::TRUST_ROOT, error.to_string()))?;
        let image = serde_json::from_slice(&read(root::IMAGE_INFO)?)
            .map_err(|error| unreadable(root::IMAGE_INFO, error.to_string()))?;
        Ok(Self { image, trust })
    }

    /// How a manifest is judged on this machine, now.
    pub(crate) fn policy<'a>(&'a self, channel: Option<&'a Channel>, expiry: Expiry) -> Policy<'a> {
        let ImageFloor {
            security_version,
            sequence,
        } = self.image.floor;
        Policy {
            root: &self.trust,
            now: Timestamp::from_unix(settings::now(self.image.built_at)),
            floor: Floor {
                security_version,
                sequence,
            },
            channel,
            expiry,
        }
    }
}
