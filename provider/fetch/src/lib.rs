//! Fetching signed manifests and the artifacts they name, over HTTP, from servers nobody has to trust.
//!
//! A crate of its own because pull-through caches and the client tools both use it, without the servers of `provider`.
//!
//! - [`Fetcher::manifest`] gives a manifest only after `boot_manifest::verify` accepted it.
//! - [`Fetcher::artifact`] takes such a manifest and fills a [`Sink`] with chunks that have the digests it names, from
//!   all [`Sources`] at once.
//!
//! There is no way to download without a size limit and a digest, and every wait has a deadline ([`Limits`]). Never keeps
//! a byte that did not verify, never decides by where bytes come from, never knows how sources were found.
//!
//! | module | holds |
//! | --- | --- |
//! | `schedule` | who fetches what; sources that fail, lie or lag (pure) |
//! | `download` | the shell around it |
//! | `lane`, `part` | one request: its answer, chunks and checks |
//! | `client` | requests, redirects, deadlines |
//! | `connect`, `tls` | addresses, proxies, certificates |
//! | `pace`, `throttle` | too slow, and too fast (pure) |
//! | `sink`, `sources` | the two sides a caller brings |
//! | `url`, `error`, `report`, `limits` | the values |

mod client;
mod connect;
mod download;
mod error;
mod lane;
mod limits;
mod pace;
mod part;
mod report;
mod schedule;
mod sink;
mod sources;
mod throttle;
mod tls;
mod url;

use std::sync::Arc;

use boot_manifest::{Artifact, Expect, MANIFEST_SIZE_MAX, Manifest, TrustRoot, Verified, verify};
use http::StatusCode;
use tokio::time::timeout;

use crate::connect::Dialer;
use crate::download::{Clients, Download};
use crate::schedule::{jittered, seed};

pub use crate::error::{BadHash, FetchError};
pub use crate::limits::{Limits, SOURCES_MAX};
pub use crate::pace::TooSlow;
pub use crate::report::{Progress, Report, SourceReport};
pub use crate::sink::{Sink, SinkChunk, SinkError};
pub use crate::sources::{Providers, Sources, manifest_url, sources};
pub use crate::tls::Trust;
pub use crate::url::{Url, UrlError};

/// Fetches from servers, keeping connections from one file to the next.
pub struct Fetcher {
    clients: Clients,
}

impl Fetcher {
    /// A fetcher with this much patience that speaks plain HTTP to servers themselves. Its methods run inside a tokio
    /// runtime with time and network enabled.
    pub fn new(limits: Limits) -> Self {
        Self {
            clients: Clients::new(limits, Dialer::default()),
        }
    }

    /// A fetcher for people: it also speaks TLS with servers that `trust` vouches for, and uses the proxies that the
    /// environment names (`http_proxy`, `https_proxy`, `all_proxy`, `no_proxy`, also in capitals).
    pub fn with_tls_and_proxies(limits: Limits, trust: Trust) -> Self {
        Self {
            clients: Clients::new(limits, Dialer::new(Some(trust), true)),
        }
    }

    /// Fetches the manifest at `url` and verifies it. Retries what may pass, within the limits.
    pub async fn manifest(
        &mut self,
        url: &Url,
        root: &TrustRoot,
        expect: &Expect<'_>,
    ) -> Result<Verified<Manifest>, FetchError> {
        let limit = self.clients.limits().total;
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
                Err(error) if error.is_transient() && failures < self.clients.limits().retries => {
                    let delay = jittered(self.clients.limits().retry_delay, failures, seed());
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
        let mut client = self.clients.take(url);
        let mut answer = client.get(url, None).await?;
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
        client.keep(answer);
        self.clients.give_back(client);
        Ok(bytes)
    }

    /// Fetches the chunks of artifact `name` that `sink` misses, from all `sources` that have the file.
    ///
    /// Gives the sink back when all chunks are there; on an error the sink is dropped with the chunks it has. The report
    /// tells what each source did, and which were dropped and why.
    pub async fn artifact<S: Sink>(
        &mut self,
        manifest: &Verified<Manifest>,
        name: &str,
        sources: &(impl Sources + ?Sized),
        sink: S,
        mut progress: impl FnMut(Progress) + Send,
    ) -> Result<(S, Report), FetchError> {
        let artifact = named(manifest, name)?;
        let mut places = sources.places(manifest, artifact);
        places.truncate(SOURCES_MAX);
        let sink = Arc::new(sink);
        let theirs = Arc::clone(&sink);
        let download = Download::new(&mut self.clients, artifact, places, theirs, &mut progress);
        let (report, result) = download.run().await;
        result?;
        let sink = Arc::into_inner(sink).expect("every lane and every check has ended");
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
