//! Fetching signed manifests and the artifacts they name, over HTTP, from servers nobody has to trust.
//!
//! A crate of its own because pull-through caches and the client tools both use it, without the servers of `provider`.
//!
//! - [`Fetcher::manifest`] and [`Fetcher::newest_manifest`] give a manifest only after `boot_manifest::verify` accepted it.
//! - [`Fetcher::artifact`] takes such a manifest and fills a [`Sink`] with chunks that have the digests it names, from
//!   all [`Sources`] at once; [`Fetcher::artifacts`] fills several together, and asks the peers of a [`Swarm`] too.
//! - [`Fetcher::document`] and [`Fetcher::tell`] are for the few kilobytes beside them that callers check themselves.
//!
//! There is no way to download without a size limit, nor artifacts without a digest, and every wait has a deadline
//! ([`Limits`]). Never keeps a byte of an artifact that did not verify, never decides by where bytes come from, never knows
//! how sources were found.
//!
//! | module | holds |
//! | --- | --- |
//! | `manifests` | one manifest, or the newest of several servers |
//! | `download` | the shell around `swarm::Schedule`, which decides who fetches what from whom |
//! | `files`, `source` | what a download fetches, and from whom |
//! | `neighbours`, `crowd` | others that fetch the same: who is known, and asking them |
//! | `lane`, `part` | one request: its answer, chunks and checks |
//! | `client`, `clients` | requests, redirects, deadlines; connections that are kept |
//! | `connect`, `tls` | addresses, proxies, certificates |
//! | `pace`, `throttle` | too slow, and too fast (pure) |
//! | `sink`, `sources` | the two sides a caller brings |
//! | `url`, `error`, `report`, `seed`, `limits` | the values |

mod client;
mod clients;
mod connect;
mod crowd;
mod download;
mod error;
mod files;
mod lane;
mod limits;
mod manifests;
mod neighbours;
mod pace;
mod part;
mod report;
mod seed;
mod sink;
mod source;
mod sources;
mod throttle;
mod tls;
mod url;

use std::sync::Arc;

use boot_manifest::{Artifact, Manifest, Verified};

use crate::clients::Clients;
use crate::connect::Dialer;
use crate::download::{Download, Wanted};

pub use crate::error::{BadHash, FetchError};
pub use crate::limits::{Limits, SOURCES_MAX};
pub use crate::manifests::{Led, Newest, Offer};
pub use crate::neighbours::{Neighbour, Swarm};
pub use crate::pace::TooSlow;
pub use crate::report::{Progress, Report, SourceReport};
pub use crate::sink::{Sink, SinkChunk, SinkError};
pub use crate::sources::{Mirror, Mirrors, Providers, Sources, manifest_url, sources};
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
        progress: impl FnMut(Progress) + Send,
    ) -> Result<(S, Report), FetchError> {
        let sink = Arc::new(sink);
        let parts = vec![(name, Arc::clone(&sink))];
        let reports = self.artifacts(manifest, parts, sources, None, progress);
        let report = reports.await?.pop().unwrap_or_default();
        let sink = Arc::into_inner(sink).expect("every lane and every check has ended");
        Ok((sink, report))
    }

    /// Fetches the chunks that are missing of several artifacts together, each into its sink: from all `sources`, and
    /// from whoever is found in `swarm`. The total time of [`Limits`] is for each of them.
    ///
    /// Gives a report for each, in their order. The sinks are the caller's: on an error they have the chunks that came,
    /// and another call with them goes on.
    pub async fn artifacts<S: Sink>(
        &mut self,
        manifest: &Verified<Manifest>,
        parts: Vec<(&str, Arc<S>)>,
        sources: &(impl Sources + ?Sized),
        swarm: Option<&Swarm>,
        mut progress: impl FnMut(Progress) + Send,
    ) -> Result<Vec<Report>, FetchError> {
        let wanted = |(name, sink)| {
            let artifact = named(manifest, name)?;
            let mut places = sources.places(manifest, artifact);
            places.truncate(SOURCES_MAX);
            Ok(Wanted {
                artifact: artifact.clone(),
                sink,
                places,
            })
        };
        let wanted = parts.into_iter().map(wanted);
        let wanted = wanted.collect::<Result<Vec<_>, FetchError>>()?;
        let download = Download::new(
            &mut self.clients,
            manifest,
            wanted,
            swarm.cloned(),
            &mut progress,
        );
        let (reports, result) = download.run().await;
        result?;
        Ok(reports)
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
