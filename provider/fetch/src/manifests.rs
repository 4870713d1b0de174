//! Getting a manifest: from one server, or the newest that several have.
//!
//! A mirror that is behind, or held back by somebody, still has a manifest that verifies. Only the others can tell that
//! there is a newer one, so all are asked, and none can hold up the rest for long.
//!
//! A manifest that other keys signed than those believed here may be a later generation's. Then the root chain beside it
//! is fetched too, and it counts if the chain leads from the root here to those keys.

use boot_manifest::{
    Chained, ChainedError, Digest, Expect, MANIFEST_SIZE_MAX, Manifest, ROOT_CHAIN_SIZE_MAX,
    TrustRoot, Verified, VerifyError, verify, verify_chained,
};
use http::Method;
use swarm::jittered;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::Fetcher;
use crate::client::Client;
use crate::clients::Manner;
use crate::download::raise;
use crate::error::FetchError;
use crate::limits::{Limits, MANIFESTS_AT_ONCE, NEWER_WAIT};
use crate::pace::TooSlow;
use crate::seed::seed;
use crate::url::Url;

/// The root chain beside a manifest.
const ROOTS: &str = "./roots.json";

/// A manifest that verified, and what led to the keys that signed it.
#[derive(Debug)]
pub struct Led {
    /// The manifest.
    pub manifest: Verified<Manifest>,
    /// The root that it was verified with.
    pub root: TrustRoot,
    /// The chain that leads there; none when the root here was enough.
    pub roots: Option<Vec<u8>>,
}

impl Led {
    /// What orders manifests: a newer generation of keys begins with counters of its own.
    fn age(&self) -> (u64, u64) {
        (self.manifest.generation, self.manifest.sequence)
    }
}

/// The newest manifest of several servers, and what each of them has.
#[derive(Debug)]
pub struct Newest {
    /// The one of the newest generation with the highest sequence number.
    pub led: Led,
    /// What came of each server, in the order they were given.
    pub offers: Vec<Offer>,
}

/// What came of asking one server for its manifest.
#[derive(Debug)]
pub enum Offer {
    /// It has one that verifies, of this sequence number, which names artifacts with these digests.
    Manifest {
        /// Generation of its keys.
        generation: u64,
        /// The manifest's.
        sequence: u64,
        /// Those of its artifacts.
        artifacts: Vec<Digest>,
    },
    /// It was not waited for any longer: another one had a manifest.
    Unknown,
    /// It has none that can be used.
    Failed(FetchError),
}

impl Fetcher {
    /// Fetches the manifest at `url` and verifies it. Retries what may pass, within the limits.
    pub async fn manifest(
        &mut self,
        url: &Url,
        root: &TrustRoot,
        expect: &Expect<'_>,
    ) -> Result<Verified<Manifest>, FetchError> {
        let mut client = self.clients.take(url, Manner::Server);
        let bytes = manifest_bytes(&mut client, self.clients.limits(), url).await;
        self.clients.give_back(client);
        verified(url, &bytes?, root, expect)
    }

    /// The same, following the root chain beside it when other keys have signed.
    pub async fn led_manifest(
        &mut self,
        url: &Url,
        root: &TrustRoot,
        expect: &Expect<'_>,
    ) -> Result<Led, FetchError> {
        let mut client = self.clients.take(url, Manner::Server);
        let bytes = manifest_bytes(&mut client, self.clients.limits(), url).await;
        self.clients.give_back(client);
        let bytes = bytes?;
        match verified(url, &bytes, root, expect) {
            Ok(manifest) => Ok(Led::by(manifest, root)),
            Err(error) if may_be_of_other_keys(&error) => {
                let beside = url.join(ROOTS).map_err(FetchError::Url)?;
                match self.document(&beside, ROOT_CHAIN_SIZE_MAX).await {
                    Ok(roots) => led(url, &bytes, roots, root, expect),
                    // There is no chain, so the first answer stands.
                    Err(_) => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// A small document that the caller verifies: a chain of root documents, a statement. One attempt, no redirect, a few
    /// seconds at most.
    pub async fn document(&mut self, url: &Url, size_max: usize) -> Result<Vec<u8>, FetchError> {
        self.question(&Method::GET, url, size_max).await
    }

    /// Tells a server something in the query of a URL; what it answers. As [`Fetcher::document`] otherwise.
    pub async fn tell(&mut self, url: &Url, size_max: usize) -> Result<Vec<u8>, FetchError> {
        self.question(&Method::POST, url, size_max).await
    }

    async fn question(
        &mut self,
        method: &Method,
        url: &Url,
        size_max: usize,
    ) -> Result<Vec<u8>, FetchError> {
        let mut client = self.clients.take(url, Manner::Server);
        let answer = client.small_answer(method, url, size_max).await;
        self.clients.give_back(client);
        answer
    }

    /// Fetches the manifests at all `urls`, some at a time, and gives the newest that verifies. Once there is one, the
    /// others have two seconds.
    pub async fn newest_manifest(
        &mut self,
        urls: &[Url],
        root: &TrustRoot,
        expect: &Expect<'_>,
    ) -> Result<Newest, FetchError> {
        let mut offers: Vec<Offer> = urls.iter().map(|_| Offer::Unknown).collect();
        let mut newest: Option<(usize, Led)> = None;
        let mut until = None;
        let mut waiting = urls.iter().cloned().enumerate();
        let mut asked = JoinSet::new();
        loop {
            while asked.len() < MANIFESTS_AT_ONCE
                && let Some((index, url)) = waiting.next()
            {
                let (mut client, limits) = (
                    self.clients.take(&url, Manner::Server),
                    self.clients.limits().clone(),
                );
                asked.spawn(async move {
                    let bytes = manifest_bytes(&mut client, &limits, &url).await;
                    (index, client, Got::Manifest(bytes))
                });
            }
            let ended = match until {
                None => asked.join_next().await,
                Some(until) => timeout_at(until, asked.join_next()).await.unwrap_or(None),
            };
            let (index, client, got) = match ended {
                None => break,
                Some(Ok(ended)) => ended,
                Some(ended @ Err(_)) => {
                    raise(ended.map(drop));
                    continue;
                }
            };
            self.clients.give_back(client);
            let url = &urls[index];
            match got.judge(url, root, expect) {
                Judged::Good(led) => {
                    offers[index] = Offer::of(&led.manifest);
                    until.get_or_insert_with(|| Instant::now() + NEWER_WAIT);
                    if newest.as_ref().is_none_or(|(other, known)| {
                        led.age() > known.age() || (led.age() == known.age() && index < *other)
                    }) {
                        newest = Some((index, *led));
                    }
                }
                Judged::NeedsRoots(bytes, refusal) => {
                    let beside = url.join(ROOTS).map_err(FetchError::Url)?;
                    let mut client = self.clients.take(&beside, Manner::Server);
                    asked.spawn(async move {
                        let size_max = ROOT_CHAIN_SIZE_MAX;
                        let roots = client.small_answer(&Method::GET, &beside, size_max).await;
                        (index, client, Got::Roots(bytes, roots, refusal))
                    });
                }
                // Nothing that another server could do better.
                Judged::Bad(error @ FetchError::Local(_)) => return Err(error),
                Judged::Bad(error) => offers[index] = Offer::Failed(error),
            }
        }
        match newest {
            Some((_, led)) => Ok(Newest { led, offers }),
            None => Err(all_failed(offers)),
        }
    }
}

/// What a question to one server brought.
enum Got {
    Manifest(Result<Vec<u8>, FetchError>),
    /// The chain beside a manifest that was refused without it.
    Roots(Vec<u8>, Result<Vec<u8>, FetchError>, FetchError),
}

enum Judged {
    Good(Box<Led>),
    NeedsRoots(Vec<u8>, FetchError),
    Bad(FetchError),
}

impl Got {
    fn judge(self, url: &Url, root: &TrustRoot, expect: &Expect<'_>) -> Judged {
        match self {
            Self::Manifest(Err(error)) | Self::Roots(_, Err(_), error) => Judged::Bad(error),
            Self::Manifest(Ok(bytes)) => match verified(url, &bytes, root, expect) {
                Ok(manifest) => Judged::Good(Box::new(Led::by(manifest, root))),
                Err(error) if may_be_of_other_keys(&error) => Judged::NeedsRoots(bytes, error),
                Err(error) => Judged::Bad(error),
            },
            Self::Roots(bytes, Ok(roots), _) => match led(url, &bytes, roots, root, expect) {
                Ok(led) => Judged::Good(Box::new(led)),
                Err(error) => Judged::Bad(error),
            },
        }
    }
}

impl Led {
    fn by(manifest: Verified<Manifest>, root: &TrustRoot) -> Self {
        Self {
            manifest,
            root: root.clone(),
            roots: None,
        }
    }
}

fn led(
    url: &Url,
    bytes: &[u8],
    roots: Vec<u8>,
    root: &TrustRoot,
    expect: &Expect<'_>,
) -> Result<Led, FetchError> {
    let url = url.clone();
    match verify_chained(bytes, Some(&roots), root, expect) {
        Ok(Chained { manifest, root }) => Ok(Led {
            manifest,
            root,
            roots: Some(roots),
        }),
        Err(ChainedError::Chain(source)) => {
            let source = Box::new(source);
            Err(FetchError::Roots { url, source })
        }
        Err(ChainedError::Manifest(source)) => Err(FetchError::Verify { url, source }),
    }
}

/// Whether a root chain could make a difference.
fn may_be_of_other_keys(error: &FetchError) -> bool {
    let FetchError::Verify { source, .. } = error else {
        return false;
    };
    matches!(
        source,
        VerifyError::UnknownKey { .. }
            | VerifyError::ThresholdNotMet { .. }
            | VerifyError::WrongGeneration { .. }
    )
}

impl Offer {
    fn of(manifest: &Manifest) -> Self {
        let artifacts = manifest.artifacts.iter();
        Self::Manifest {
            generation: manifest.generation,
            sequence: manifest.sequence,
            artifacts: artifacts.map(|artifact| artifact.digest).collect(),
        }
    }
}

fn all_failed(offers: Vec<Offer>) -> FetchError {
    let errors = offers.into_iter().filter_map(|offer| match offer {
        Offer::Failed(error) => Some(error),
        Offer::Manifest { .. } | Offer::Unknown => None,
    });
    let mut errors: Vec<FetchError> = errors.collect();
    let name = "a manifest".to_owned();
    match errors.len() {
        0 => FetchError::NoSource { name },
        1 => errors.remove(0),
        _ => FetchError::Exhausted { name, errors },
    }
}

fn verified(
    url: &Url,
    bytes: &[u8],
    root: &TrustRoot,
    expect: &Expect<'_>,
) -> Result<Verified<Manifest>, FetchError> {
    verify(bytes, root, expect).map_err(|source| FetchError::Verify {
        url: url.clone(),
        source,
    })
}

async fn manifest_bytes(
    client: &mut Client,
    limits: &Limits,
    url: &Url,
) -> Result<Vec<u8>, FetchError> {
    let limit = limits.total;
    timeout(limit, patiently(client, limits, url))
        .await
        .unwrap_or_else(|_| Err(FetchError::too_slow(url, TooSlow::Total { limit })))
}

async fn patiently(client: &mut Client, limits: &Limits, url: &Url) -> Result<Vec<u8>, FetchError> {
    let mut failures = 0;
    loop {
        match client.small_file(url, MANIFEST_SIZE_MAX).await {
            Err(error) if error.is_transient() && failures < limits.retries => {
                let delay = jittered(limits.retry_delay, failures, seed());
                tracing::warn!(%error, ?delay, "no manifest yet, trying again");
                failures += 1;
                tokio::time::sleep(delay).await;
            }
            result => return result,
        }
    }
}
