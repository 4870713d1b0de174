//! One look around: everybody is asked for its manifest, a few at a time, and what they have is judged.
//!
//! ```text
//! places ──ask──> manifest ──verified by the root in force──────────────────────> Led ──> judge ──> offers, neighbours
//!                    └─ of other keys ──> roots.json ──chain and manifest verified ─┘
//! ```
//!
//! Nobody's silence, slowness or lie holds up the others or hides what they have: each is asked by a task of its own, for a
//! bounded time and a bounded number of bytes. Never keeps what did not verify; never decides that the machine upgrades,
//! for init verifies and judges every offer again.

use std::sync::Arc;
use std::time::Duration;

use boot_manifest::{Counters, Digest, SuccessionError, TrustRoot};
use fetch::{FetchError, Fetcher, Led, Limits, TooSlow, Url};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::limits::{ASK_TIME, ASKED_AT_ONCE, CONNECT_TIME, HEADER_TIME, LOOK_TIME, OFFERS_MAX};
use super::places::Place;
use super::running::Running;

/// What came of asking one place.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) place: Place,
    /// Which of its addresses was asked last.
    pub(super) url: Url,
    pub(super) result: Result<Found, FetchError>,
}

/// What one place has. All of it is kept only of what may be offered: a manifest may have a megabyte.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) counters: Counters,
    pub(super) digest: Digest,
    pub(super) got: Option<Led>,
}

impl Answer {
    /// What [`judge`] needs of it.
    pub(super) fn found(&self) -> Option<(Counters, Digest)> {
        let found = self.result.as_ref().ok()?;
        Some((found.counters, found.digest))
    }

    fn kept(&self) -> Option<((u64, u64), Digest)> {
        let found = self.result.as_ref().ok()?;
        let _kept = found.got.as_ref()?;
        Some((order(&found.counters), found.digest))
    }
}

/// Generation first: the numbers of a new one begin anew.
fn order(counters: &Counters) -> (u64, u64) {
    (counters.generation, counters.sequence)
}

/// Lets go of what will not be offered.
fn thin(running: &Running, answers: &mut [Answer]) {
    let mut kept: Vec<(usize, (u64, u64), Digest)> = Vec::new();
    for (at, answer) in answers.iter().enumerate() {
        if let Some((order, digest)) = answer.kept()
            && kept.iter().all(|(_, _, known)| *known != digest)
        {
            kept.push((at, order, digest));
        }
    }
    kept.sort_by_key(|(at, order, _)| (std::cmp::Reverse(*order), *at));
    kept.truncate(OFFERS_MAX);
    for (at, answer) in answers.iter_mut().enumerate() {
        if let Ok(found) = &mut answer.result {
            let is_newer = running.counters().admit(&found.counters).is_ok();
            if !is_newer || kept.iter().all(|(one, ..)| *one != at) {
                found.got = None;
            }
        }
    }
}

/// Asks all places. Also gives the newest root that one of them proved.
pub(super) async fn ask_all(
    running: &Arc<Running>,
    places: Vec<Place>,
) -> (Vec<Answer>, TrustRoot) {
    let mut waiting = places.into_iter();
    let (mut asked, mut answers) = (JoinSet::new(), Vec::new());
    let mut newest = running.root.clone();
    let until = Instant::now() + LOOK_TIME;
    loop {
        while asked.len() < ASKED_AT_ONCE
            && let Some(place) = waiting.next()
        {
            let running = Arc::clone(running);
            asked.spawn(async move { ask(&running, place).await });
        }
        // Those that were not asked in time are asked by the next look, in another order.
        let ended = timeout_at(until, asked.join_next()).await;
        match ended.unwrap_or(None) {
            None => return (answers, newest),
            // A task that panicked has said so; its place has nothing.
            Some(Err(_)) | Some(Ok(None)) => {}
            Some(Ok(Some(answer))) => {
                let got = answer.result.as_ref().ok();
                if let Some(got) = got.and_then(|found| found.got.as_ref())
                    && got.root.generation() > newest.generation()
                {
                    newest = got.root.clone();
                }
                answers.push(answer);
                thin(running, &mut answers);
            }
        }
    }
}

/// Asks one place at its addresses in turn, until one has something; nothing for a place without an address.
async fn ask(running: &Running, place: Place) -> Option<Answer> {
    let mut last = None;
    for url in &place.urls {
        let result = ask_at(running, url).await;
        if let Err(error) = &result {
            tracing::debug!(%error, "nothing of use there");
        }
        let ends = !matches!(&result, Err(error) if error.is_transient());
        last = Some((url.clone(), result));
        if ends {
            break;
        }
    }
    let (url, result) = last?;
    let result = result.map(|got| Found {
        counters: Counters::from(&*got.manifest),
        digest: got.manifest.digest(),
        got: Some(got),
    });
    Some(Answer { place, url, result })
}

/// The manifest at `url`, if it verifies.
pub(super) async fn ask_at(running: &Running, url: &Url) -> Result<Led, FetchError> {
    let asked = timeout(ASK_TIME, verified_at(running, url));
    asked.await.unwrap_or_else(|_| {
        let slow = TooSlow::Total { limit: ASK_TIME };
        let url = url.clone();
        Err(FetchError::TooSlow { url, slow })
    })
}

async fn verified_at(running: &Running, url: &Url) -> Result<Led, FetchError> {
    let mut fetcher = Fetcher::new(patience());
    fetcher
        .led_manifest(url, &running.root, &running.expect())
        .await
}

/// One attempt; the next look is the next attempt.
pub(super) fn patience() -> Limits {
    Limits {
        connect: CONNECT_TIME,
        header: HEADER_TIME,
        // A source that trickles is cut off by the time for all of it.
        rate_window: Duration::from_secs(5),
        retries: 0,
        redirects: 0,
        total: ASK_TIME,
        ..Limits::default()
    }
}

/// What a look came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    /// The answers to offer, newest first, one for each manifest.
    pub(super) offers: Vec<usize>,
    /// Answers of neighbours that have a manifest that verifies, of whatever age.
    pub(super) neighbours: Vec<usize>,
    /// Of those, how many have just the one that runs here.
    pub(super) same: usize,
    /// The newest of all, that which runs here included.
    pub(super) newest: Counters,
    /// Why the newest manifest that somebody has may not follow, when it is not simply older.
    pub(super) objection: Option<(usize, SuccessionError)>,
}

/// Judges what was found, given what runs here and whether each answer is a neighbour's.
pub(super) fn judge(
    running: (Counters, Digest),
    found: &[Option<(Counters, Digest)>],
    is_neighbour: impl Fn(usize) -> bool,
) -> Judgement {
    let (counters, digest) = running;
    let verified = found.iter().enumerate();
    let mut verified: Vec<(usize, Counters, Digest)> = verified
        .filter_map(|(at, found)| found.map(|(counters, digest)| (at, counters, digest)))
        .collect();
    let neighbours: Vec<usize> = verified
        .iter()
        .map(|(at, ..)| *at)
        .filter(|at| is_neighbour(*at))
        .collect();
    let has_same = |at: &&usize| found[**at].is_some_and(|(_, found)| found == digest);
    let same = neighbours.iter().filter(has_same).count();
    verified.sort_by_key(|(at, counters, _)| (std::cmp::Reverse(order(counters)), *at));
    let mut offers: Vec<(usize, Digest)> = Vec::new();
    let (mut newest, mut objection) = (counters, None);
    for (at, offer, digest) in verified {
        match counters.admit(&offer) {
            Ok(()) => {
                if order(&offer) > order(&newest) {
                    newest = offer;
                }
                let is_new = offers.iter().all(|(_, known)| *known != digest);
                if is_new && offers.len() < OFFERS_MAX {
                    offers.push((at, digest));
                }
            }
            Err(SuccessionError::NotNewer { .. } | SuccessionError::OlderGeneration { .. }) => {}
            Err(error) => _ = objection.get_or_insert((at, error)),
        }
    }
    Judgement {
        offers: offers.into_iter().map(|(at, _)| at).collect(),
        neighbours,
        same,
        newest,
        objection,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(generation: u64, sequence: u64) -> Counters {
        Counters {
            generation,
            sequence,
            security_version: 1,
        }
    }

    /// A manifest of these counters; its digest follows from them.
    fn has(generation: u64, sequence: u64) -> Option<(Counters, Digest)> {
        let digest = Digest::of(format!("{generation}.{sequence}").as_bytes());
        Some((counters(generation, sequence), digest))
    }

    fn judged(found: &[Option<(Counters, Digest)>]) -> Judgement {
        judge(has(2, 7).unwrap(), found, |at| at != 0)
    }

    #[test]
    fn the_newest_is_offered_first_and_each_once() {
        let found = [
            has(2, 8),
            None,
            has(2, 9),
            has(1, 99),
            has(2, 7),
            has(2, 9),
            has(3, 1),
        ];
        let judgement = judged(&found);
        assert_eq!(judgement.offers, [6, 2, 0]);
        assert_eq!(judgement.newest, counters(3, 1));
        assert_eq!(judgement.neighbours, [2, 3, 4, 5, 6]);
        assert_eq!(judgement.same, 1);
        assert_eq!(judgement.objection, None);
        let many: Vec<_> = (8..20).map(|sequence| has(2, sequence)).collect();
        assert_eq!(judged(&many).offers, [11, 10, 9, 8], "no more than some");
    }

    #[test]
    fn what_is_not_newer_is_no_offer_and_no_objection() {
        let judgement = judged(&[has(2, 7), has(2, 6), has(1, 8), None]);
        assert!(judgement.offers.is_empty() && judgement.objection.is_none());
        assert_eq!(judgement.newest, counters(2, 7));
    }

    #[test]
    fn what_must_not_follow_is_named_and_hides_nothing() {
        let jump = has(2, 7 + boot_manifest::limits::SEQUENCE_JUMP_MAX + 1);
        let weak = has(2, 9).map(|(counters, digest)| {
            let security_version = 0;
            let counters = Counters {
                security_version,
                ..counters
            };
            (counters, digest)
        });
        let judgement = judged(&[jump, weak, has(2, 8)]);
        assert_eq!(judgement.offers, [2]);
        assert_eq!(judgement.newest, counters(2, 8));
        let Some((0, SuccessionError::SequenceJump { .. })) = judgement.objection else {
            panic!("{:?}", judgement.objection);
        };
    }
}
