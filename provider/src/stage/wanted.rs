//! Just one manifest, from those of some providers that have it: for a machine that serves and replaces itself.
//!
//! All are asked at once, again and again while that may help, for [`WANTED_TIME`]. Who has another manifest that verifies
//! is passed over: it may be behind, or ahead. Never takes anything but what was wanted.

use std::sync::Arc;
use std::time::Duration;

use boot_manifest::{Digest, Expiry, Floor};
use fetch::{FetchError, Led, Providers, Url};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::ask::Asker;
use super::search::Search;
use super::{Failure, Found, PAUSE_MIN, Stage, may_pass};

/// How long there may be nobody who has it. It was offered a moment ago; who serves meanwhile looks again later.
const WANTED_TIME: Duration = Duration::from_secs(60);

/// Between two rounds at most.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The code when all have other manifests.
const ANOTHER: &str = "another-manifest";

/// What one provider has.
enum Has {
    Wanted(Box<Led>),
    Another(Digest),
    Nothing(FetchError),
}

impl Stage {
    /// The manifest with this digest, and those of `origins` that have it.
    pub(super) async fn those_that_have(
        &mut self,
        digest: &Digest,
        origins: &[Url],
        search: Option<Search>,
    ) -> Result<Found, Failure> {
        let select = (self.channel.as_str(), self.arch.as_str());
        let urls = origins
            .iter()
            .map(|origin| fetch::manifest_url(origin, Some(select)))
            .collect::<Result<Vec<Url>, _>>()
            .map_err(FetchError::Url)?;
        // Who wants it has judged its numbers and its times already, and told of them.
        let asker = Arc::new(Asker {
            floor: Floor::default(),
            expiry: Expiry::Report,
            ..self.asker()
        });
        let until = Instant::now() + WANTED_TIME;
        let mut pause = PAUSE_MIN;
        loop {
            let mut having = Vec::new();
            let (mut wanted, mut failure, mut passes) = (None, None, false);
            for (index, has) in round(&asker, &urls, digest).await {
                match has {
                    Has::Wanted(led) => {
                        having.push(index);
                        wanted.get_or_insert(led);
                    }
                    Has::Another(found) => {
                        let reason = format!("{} has {found} now", urls[index]);
                        failure.get_or_insert(Failure {
                            code: ANOTHER,
                            reason,
                        });
                        passes = true;
                    }
                    Has::Nothing(error) => {
                        passes |= may_pass(&error);
                        super::tell_passing(&self.link, &error);
                        failure = Some(error.into());
                    }
                }
            }
            if let (Some(led), Some(first)) = (wanted, having.first()) {
                return Ok(Found {
                    manifest: Arc::new(led.manifest),
                    roots: led.roots,
                    providers: Providers(having.iter().map(|at| urls[*at].clone()).collect()),
                    search,
                    origin: origins[*first].clone(),
                    searched: true,
                });
            }
            if !passes || Instant::now() + pause >= until {
                return Err(failure.unwrap_or_else(super::nobody));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// Asks all of them, and gives what each has in their order.
async fn round(asker: &Arc<Asker>, urls: &[Url], digest: &Digest) -> Vec<(usize, Has)> {
    let mut asked = JoinSet::new();
    for (index, url) in urls.iter().cloned().enumerate() {
        let (asker, digest) = (Arc::clone(asker), *digest);
        asked.spawn(async move {
            let has = match asker.ask(&url).await {
                Ok(led) if led.manifest.digest() == digest => Has::Wanted(Box::new(led)),
                Ok(led) => Has::Another(led.manifest.digest()),
                Err(error) => Has::Nothing(error),
            };
            (index, has)
        });
    }
    let mut all = Vec::new();
    while let Some(ended) = asked.join_next().await {
        // A task that panicked has said so; its provider has nothing.
        all.extend(ended.ok());
    }
    all.sort_by_key(|(index, _)| *index);
    all
}
