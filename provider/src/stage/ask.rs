//! Asks those that a search knows for their manifests, many at the same time, until one verifies.
//!
//! Nobody's silence, slowness or lie holds up the others: each is asked by a task of its own, for a bounded time. Once a
//! manifest verified, the others have a moment to bring a newer one. Never keeps bytes that did not verify.

use std::sync::Arc;
use std::time::Duration;

use boot_manifest::{Arch, Channel, Digest, Expect, Expiry, Floor, Manifest, TrustRoot};
use fetch::{FetchError, Fetcher, Led, Limits, SOURCES_MAX, TooSlow, Url};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::candidates::Way;
use super::search::{LOOK_INTERVAL, Search};
use super::{expect, limits};

/// Servers that are asked at the same time. Each costs a connection and at most one manifest in memory; thirty-two that
/// never answer are through with in [`ASK_TIME`].
const ASKED_AT_ONCE: usize = 32;

/// Asking one server for its manifest: enough for a lost SYN or two.
const ASK_TIME: Duration = Duration::from_secs(10);

/// An open connection: a lost SYN is repeated after one and three seconds.
const CONNECT_TIME: Duration = Duration::from_secs(4);

/// The beginning of the answer. A provider may hash a large file before, and is asked again.
const HEADER_TIME: Duration = Duration::from_secs(6);

/// When one server has given a manifest, the others have this long to give a newer one: a lost SYN is repeated after a
/// second, and nobody wants to wait for a server that is off.
const NEWER_WAIT: Duration = Duration::from_secs(2);

/// Between two reports of what went wrong: a person reads no more.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// What a manifest must be to be used.
pub(super) struct Asker {
    pub(super) root: TrustRoot,
    pub(super) channel: Channel,
    pub(super) arch: Arch,
    pub(super) built_at: i64,
    pub(super) floor: Floor,
    pub(super) expiry: Expiry,
}

impl Asker {
    /// The manifest at `url`, if it verifies, within a bounded time.
    pub(super) async fn ask(&self, url: &Url) -> Result<Led, FetchError> {
        let mut fetcher = Fetcher::new(Limits {
            connect: CONNECT_TIME,
            header: HEADER_TIME,
            ..limits()
        });
        let expect = Expect {
            expiry: self.expiry,
            ..expect(self.built_at, self.floor, &self.channel, self.arch)
        };
        let asked = timeout(ASK_TIME, fetcher.led_manifest(url, &self.root, &expect));
        asked.await.unwrap_or_else(|_| {
            let slow = TooSlow::Total { limit: ASK_TIME };
            let url = url.clone();
            Err(FetchError::TooSlow { url, slow })
        })
    }
}

/// What one server has.
struct Answer {
    led: Led,
    url: Url,
    way: Way,
}

/// The newest manifest that somebody has, and all who have just that image, best first; otherwise what was wrong with the
/// last that was asked. Each failure that may interest a person is told.
pub(super) async fn newest(
    search: &mut Search,
    asker: &Arc<Asker>,
    tell: impl Fn(&FetchError),
) -> Result<(Led, Vec<Url>), Option<FetchError>> {
    let mut asked = JoinSet::new();
    let mut answers: Vec<Answer> = Vec::new();
    let (mut last, mut told): (Option<FetchError>, Option<Instant>) = (None, None);
    let mut until: Option<Instant> = None;
    loop {
        while asked.len() < ASKED_AT_ONCE
            && let Some(url) = search.next()
        {
            let asker = Arc::clone(asker);
            asked.spawn(async move {
                let led = asker.ask(&url).await;
                (url, led)
            });
        }
        let is_late = until.is_some_and(|until| Instant::now() >= until);
        if !answers.is_empty() && (asked.is_empty() || is_late) {
            return Ok(best(answers));
        }
        if answers.is_empty() && search.is_over() {
            return Err(last);
        }
        let ended = match asked.is_empty() {
            true => {
                tokio::time::sleep(LOOK_INTERVAL).await;
                continue;
            }
            false => timeout(LOOK_INTERVAL, asked.join_next()).await,
        };
        let (url, led) = match ended {
            Ok(Some(Ok(ended))) => ended,
            // A task that panicked has said so; its server is not asked again.
            Ok(_) | Err(_) => continue,
        };
        match led {
            Ok(led) => {
                until.get_or_insert_with(|| Instant::now() + NEWER_WAIT);
                let way = search.rank(&url).unwrap_or(Way::Announced);
                answers.push(Answer { led, url, way });
            }
            Err(error) => {
                tracing::debug!(%error, "no manifest there");
                search.failed(&url);
                let now = Instant::now();
                if told.is_none_or(|told| now - told >= TELL_INTERVAL) {
                    told = Some(now);
                    tell(&error);
                }
                last = Some(error);
            }
        }
    }
}

/// The newest, and those that have the same artifacts: who was named before who announced itself, and among those who
/// answered first.
fn best(mut answers: Vec<Answer>) -> (Led, Vec<Url>) {
    let age = |manifest: &Manifest| (manifest.generation, manifest.sequence);
    answers.sort_by_key(|answer| (std::cmp::Reverse(age(&answer.led.manifest)), answer.way));
    let artifacts = |answer: &Answer| -> Vec<Digest> {
        let artifacts = answer.led.manifest.artifacts.iter();
        artifacts.map(|artifact| artifact.digest).collect()
    };
    let wanted = artifacts(&answers[0]);
    let equal = answers.iter().filter(|answer| artifacts(answer) == wanted);
    let urls = equal
        .take(SOURCES_MAX)
        .map(|answer| answer.url.clone())
        .collect();
    (answers.swap_remove(0).led, urls)
}
