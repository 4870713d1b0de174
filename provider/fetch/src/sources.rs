//! Where artifacts may be.

use boot_manifest::{Artifact, Digest, Manifest};

use crate::url::{Url, UrlError};

/// Knows servers that may have an artifact. How it came to know them is not this crate's concern.
pub trait Sources {
    /// For each server, the places on it where the artifact may be, in the order they are tried; none where it does not
    /// have it. The servers are the same, in the same order, for every artifact of a manifest.
    fn places(&self, manifest: &Manifest, artifact: &Artifact) -> Vec<Vec<Url>>;
}

/// Servers that are known by the URLs of their manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Providers(pub Vec<Url>);

impl Sources for Providers {
    fn places(&self, manifest: &Manifest, artifact: &Artifact) -> Vec<Vec<Url>> {
        self.0
            .iter()
            .map(|url| sources(url, manifest, artifact))
            .collect()
    }
}

/// A server that is known by the URL of its manifest, and perhaps by what that names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where its manifest is.
    pub manifest: Url,
    /// The digests of the artifacts that it has; nothing when that is not known.
    pub artifacts: Option<Vec<Digest>>,
}

/// Servers that may be behind: those are asked only for what their own manifest names as well. Servers that nothing is
/// known about come last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirrors(pub Vec<Mirror>);

impl Sources for Mirrors {
    fn places(&self, manifest: &Manifest, artifact: &Artifact) -> Vec<Vec<Url>> {
        let mut mirrors: Vec<&Mirror> = self.0.iter().collect();
        mirrors.sort_by_key(|mirror| mirror.artifacts.is_none());
        let places = mirrors.iter();
        places
            .map(|mirror| mirror.places(manifest, artifact))
            .collect()
    }
}

impl Mirror {
    /// Where it may have an artifact.
    pub(crate) fn places(&self, manifest: &Manifest, artifact: &Artifact) -> Vec<Url> {
        let digests = self.artifacts.as_ref();
        match digests.is_none_or(|digests| digests.contains(&artifact.digest)) {
            true => sources(&self.manifest, manifest, artifact),
            false => Vec::new(),
        }
    }
}

/// One server with these places.
impl Sources for [Url] {
    fn places(&self, _: &Manifest, _: &Artifact) -> Vec<Vec<Url>> {
        vec![self.to_vec()]
    }
}

/// Where an artifact may be, given where its manifest was asked for: its `download_url` resolved against that URL (RFC
/// 3986), then a file beside the manifest, as in a plain directory on any web server. Digests decide what is accepted,
/// so trying a second place costs one request and no safety.
pub fn sources(manifest_url: &Url, manifest: &Manifest, artifact: &Artifact) -> Vec<Url> {
    let mut sources = Vec::new();
    for reference in [
        manifest.download_url(artifact),
        format!("./{}", artifact.filename),
    ] {
        match manifest_url.join(&encoded(&reference)) {
            Ok(url) if !sources.contains(&url) => sources.push(url),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, reference, "not a usable place"),
        }
    }
    sources
}

/// The manifest's URL at a provider: `location` itself when it names a file (`.../manifest.json`), else the manifest of
/// `select` (channel and architecture) below it, or the provider's default one.
pub fn manifest_url(location: &Url, select: Option<(&str, &str)>) -> Result<Url, UrlError> {
    if location.file_name().ends_with(".json") {
        return Ok(location.clone());
    }
    let path = location.path().trim_end_matches('/');
    match select {
        Some((channel, arch)) => location.join(&format!("{path}/{channel}/{arch}/manifest.json")),
        None => location.join(&format!("{path}/manifest.json")),
    }
}

/// A path with those printable characters encoded that may not stand in one; file names may have them.
fn encoded(path: &str) -> String {
    let mut text = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}
