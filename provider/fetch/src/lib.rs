//! Fetching signed manifests and the artifacts they name, over plain HTTP, from servers nobody has to trust.
//!
//! A crate of its own because pull-through caches and the client tools both use it, without the servers of `provider`.
//!
//! - [`Fetcher::manifest`] gives a manifest only after `boot_manifest::verify` accepted it.
//! - [`Fetcher::artifact`] takes such a manifest and fills a [`Sink`] with chunks that have the digests it names.
//!
//! There is no way to download without a size limit and a digest, and every wait has a deadline ([`Limits`]). Never keeps
//! a byte that did not verify, never decides by where bytes come from, never speaks TLS: signatures protect integrity,
//! and `https` URLs are refused with a sentence that says so.

mod client;
mod download;
mod error;
mod limits;
mod pace;
mod sink;
mod url;

use std::sync::Arc;
use std::time::{Duration, Instant};

use boot_manifest::{Artifact, Expect, MANIFEST_SIZE_MAX, Manifest, TrustRoot, Verified, verify};
use http::StatusCode;
use tokio::time::timeout;

use crate::client::Client;
use crate::download::{Download, retry_delay};

pub use crate::error::{BadHash, FetchError};
pub use crate::limits::Limits;
pub use crate::pace::TooSlow;
pub use crate::sink::{Sink, SinkError};
pub use crate::url::{Url, UrlError};

/// Fetches from one server after another, keeping the connection while the server stays the same.
pub struct Fetcher {
    client: Client,
}

/// How far an artifact is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Verified bytes, those of earlier attempts included.
    pub done: u64,
    /// Size of the artifact.
    pub total: u64,
}

/// What fetching one artifact took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Verified bytes that were there before.
    pub bytes_present: u64,
    /// Verified bytes that were fetched now.
    pub bytes_fetched: u64,
    /// Bytes of all bodies, those that were not kept included.
    pub bytes_received: u64,
    /// Requests sent.
    pub requests: u32,
    /// Interruptions survived.
    pub retries: u32,
    /// Chunks that arrived wrong and were right the second time.
    pub bad_chunks: u32,
    /// How long it took.
    pub elapsed: Duration,
}

impl Fetcher {
    /// A fetcher with this much patience. Its methods run inside a tokio runtime with time and network enabled.
    pub fn new(limits: Limits) -> Self {
        Self {
            client: Client::new(limits),
        }
    }

    /// Fetches the manifest at `url` and verifies it. Retries what may pass, within the limits.
    pub async fn manifest(
        &mut self,
        url: &Url,
        root: &TrustRoot,
        expect: &Expect<'_>,
    ) -> Result<Verified<Manifest>, FetchError> {
        let limit = self.client.limits().total;
        let bytes = timeout(limit, self.manifest_bytes(url))
            .await
            .map_err(|_| FetchError::too_slow(url, TooSlow::Total { limit }))??;
        verify(&bytes, root, expect).map_err(|source| FetchError::Verify {
            url: url.clone(),
            source,
        })
    }

    async fn manifest_bytes(&mut self, url: &Url) -> Result<Vec<u8>, FetchError> {
        let mut failures = 0;
        loop {
            match self.small_file(url, MANIFEST_SIZE_MAX).await {
                Err(error) if error.is_transient() && failures < self.client.limits().retries => {
                    let delay = retry_delay(self.client.limits().retry_delay, failures);
                    tracing::warn!(%error, ?delay, "no manifest yet, trying again");
                    failures += 1;
                    tokio::time::sleep(delay).await;
                }
                result => return result,
            }
        }
    }

    /// A file of unknown size, up to a limit, into memory.
    async fn small_file(&mut self, url: &Url, size_max: usize) -> Result<Vec<u8>, FetchError> {
        let mut answer = self.client.get(url, None).await?;
        if answer.status != StatusCode::OK {
            return Err(FetchError::status(&answer.url, answer.status));
        }
        let limit = size_max as u64;
        let found = answer.content_length();
        if found.is_some_and(|found| found > limit) {
            return Err(FetchError::TooLarge {
                url: answer.url.clone(),
                limit,
                found,
            });
        }
        let mut bytes = Vec::new();
        while let Some(data) = answer.next().await? {
            if bytes.len() + data.len() > size_max {
                return Err(FetchError::TooLarge {
                    url: answer.url.clone(),
                    limit,
                    found: None,
                });
            }
            bytes.extend_from_slice(&data);
        }
        self.client.keep(answer);
        Ok(bytes)
    }

    /// Fetches the chunks of artifact `name` that `sink` misses, from the first of `sources` that has the file.
    ///
    /// Sources are asked in order, the next one only when a file is not there; any other failure ends the download.
    /// Gives the sink back when all chunks are there; on an error the sink is dropped with the chunks it has.
    pub async fn artifact<S: Sink>(
        &mut self,
        manifest: &Verified<Manifest>,
        name: &str,
        sources: &[Url],
        sink: S,
        mut progress: impl FnMut(Progress) + Send,
    ) -> Result<(S, Report), FetchError> {
        let artifact = named(manifest, name)?;
        let began = Instant::now();
        let limit = self.client.limits().total;
        let sink = Arc::new(sink);
        let mut download =
            Download::new(&mut self.client, artifact, Arc::clone(&sink), &mut progress);
        let mut result = Ok(());
        for source in sources {
            let left = limit.saturating_sub(began.elapsed());
            let this = timeout(left, download.run(source))
                .await
                .unwrap_or_else(|_| Err(FetchError::too_slow(source, TooSlow::Total { limit })));
            let absent = matches!(this, Err(FetchError::NotFound { .. }));
            // When nobody has the file, the first source is the one to name.
            if result.is_ok() || !absent {
                result = this;
            }
            if !absent {
                break;
            }
        }
        if result.is_ok() && !download.is_complete() {
            let name = name.to_owned();
            result = Err(FetchError::NoSource { name });
        }
        let mut report = std::mem::take(&mut download.report);
        drop(download);
        result?;
        report.elapsed = began.elapsed();
        let sink = Arc::into_inner(sink).expect("every thread that checked a chunk has ended");
        Ok((sink, report))
    }
}

/// The artifact called `name`, or an error that tells which there are.
pub fn named<'a>(manifest: &'a Manifest, name: &str) -> Result<&'a Artifact, FetchError> {
    manifest
        .artifact(name)
        .ok_or_else(|| FetchError::NoSuchArtifact {
            name: name.to_owned(),
            has: manifest
                .artifacts
                .iter()
                .map(|artifact| artifact.name.to_string())
                .collect(),
        })
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
