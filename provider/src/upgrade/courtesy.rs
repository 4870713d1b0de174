//! Asks the neighbours, and this machine's own server, for the turn to restart.
//!
//! ```text
//! own server ──refuses──────────────────────────────────────────> refused
//!     │ grants
//! all neighbours at once ──all grant, or know nothing of turns──> granted, renewed until it is released
//!     └─ another one has it ──my rank is lower──> asked again for a while
//!                           └─ it is higher, or anything else──> all are told that it is given back; refused
//! ```
//!
//! Whoever answers may lie: a turn that is refused for ever is ended by the patience of init, not here.

use std::time::Duration;

use boot_manifest::Digest;
use fetch::{FetchError, Fetcher, Url};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::limits::{CARDS_MAX, TURN_CONTEST, TURN_CONTEST_PAUSE};
use super::look;
use super::turn::{ANSWER_SIZE_MAX, Answer, Id, Question, Rank};

/// Where turns are asked for.
const ROUTE: &str = "/upgrade/turn";

/// A turn that was granted, until it is released.
#[derive(Debug)]
pub(super) struct Held {
    digest: Digest,
    by: Vec<Url>,
    pub(super) renew_at: Instant,
}

impl Held {
    /// What was asked for.
    pub(super) fn digest(&self) -> Digest {
        self.digest
    }

    /// Who granted it, in a word for people.
    pub(super) fn by(&self) -> String {
        match self.by.len() {
            0 | 1 => String::new(),
            more => format!("{} neighbours", more - 1),
        }
    }
}

/// Who refused, and why.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) by: String,
    pub(super) reason: String,
}

/// What one server says.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Granted,
    /// It knows nothing of turns, so it does not take any.
    Unaware,
    Refused {
        reason: String,
        holder: Option<Rank>,
    },
}

/// Asks the own server at `own`, and then all of `neighbours`.
pub(super) async fn ask(
    id: &Id,
    digest: Digest,
    own: &Url,
    neighbours: &[Url],
    renewal: Duration,
) -> Result<Held, Refused> {
    let question = Question {
        id: id.clone(),
        digest,
        release: false,
    };
    let all: Vec<Url> = std::iter::once(own).chain(neighbours).cloned().collect();
    let until = Instant::now() + TURN_CONTEST;
    let mut to_ask = vec![own.clone()];
    let mut is_own = true;
    loop {
        let refused = refusals(everybody(&question, &to_ask).await);
        if refused.is_empty() && !is_own {
            return Ok(Held {
                digest,
                by: all,
                renew_at: Instant::now() + renewal,
            });
        }
        if refused.is_empty() {
            (is_own, to_ask) = (false, neighbours.to_vec());
            continue;
        }
        if !goes_on(&id.rank(), &refused) || Instant::now() >= until {
            release(id, digest, &all).await;
            let (url, reason, _) = refused.into_iter().next().unwrap_or_else(|| {
                let reason = "nobody answered".to_owned();
                (own.clone(), reason, None)
            });
            let by = match url == *own {
                true => "this machine".to_owned(),
                false => format!("http://{}", url.host_header()),
            };
            return Err(Refused { by, reason });
        }
        sleep(TURN_CONTEST_PAUSE).await;
        to_ask = refused.into_iter().map(|(url, ..)| url).collect();
    }
}

/// Asks again for a turn that is held, so that others do not forget it. Who refuses now is only logged: the machine may be
/// on its way already.
pub(super) async fn renew(id: &Id, held: &mut Held, renewal: Duration) {
    let question = Question {
        id: id.clone(),
        digest: held.digest,
        release: false,
    };
    for (url, reason, _) in refusals(everybody(&question, &held.by).await) {
        tracing::warn!(%url, reason, "the turn is not kept there");
    }
    held.renew_at = Instant::now() + renewal;
}

/// Tells all of them that the turn is given back. Who does not hear it forgets it by itself.
pub(super) async fn release(id: &Id, digest: Digest, all: &[Url]) {
    let question = Question {
        id: id.clone(),
        digest,
        release: true,
    };
    everybody(&question, all).await;
}

/// Whether to ask those that refused again: another machine wants the turn as well, and this one goes first.
fn goes_on(rank: &Rank, refused: &[(Url, String, Option<Rank>)]) -> bool {
    let goes_first = |holder: &Option<Rank>| holder.as_ref().is_some_and(|holder| rank < holder);
    refused.iter().all(|(_, _, holder)| goes_first(holder))
}

fn refusals(said: Vec<(Url, Said)>) -> Vec<(Url, String, Option<Rank>)> {
    let refused = said.into_iter().filter_map(|(url, said)| match said {
        Said::Granted | Said::Unaware => None,
        Said::Refused { reason, holder } => Some((url, reason, holder)),
    });
    refused.collect()
}

/// Asks all at once. There are as many as answered the last look, which is bounded.
async fn everybody(question: &Question, urls: &[Url]) -> Vec<(Url, Said)> {
    let mut asked = JoinSet::new();
    for url in urls.iter().cloned() {
        let question = question.to_string();
        asked.spawn(async move {
            let said = one(&question, &url).await;
            (url, said)
        });
    }
    let mut all = Vec::new();
    while let Some(ended) = asked.join_next().await {
        all.extend(ended.ok());
    }
    all
}

async fn one(question: &str, url: &Url) -> Said {
    let asked = async {
        let target = url
            .join(&format!("{ROUTE}?{question}"))
            .map_err(FetchError::Url)?;
        let mut fetcher = Fetcher::new(look::patience());
        fetcher.tell(&target, ANSWER_SIZE_MAX).await
    };
    let refused = |reason: String| Said::Refused {
        reason,
        holder: None,
    };
    match asked.await {
        Ok(bytes) => match Answer::parse(&bytes) {
            Ok(Answer { granted: true, .. }) => Said::Granted,
            Ok(Answer { reason, holder, .. }) => Said::Refused { reason, holder },
            Err(error) => refused(error.to_string()),
        },
        Err(FetchError::NotFound { .. }) => Said::Unaware,
        Err(FetchError::Refused { status, .. }) if status.as_u16() == 405 => Said::Unaware,
        Err(error) => refused(error.to_string()),
    }
}

/// The id of this machine: it follows from its cards and the port it serves on, so that its successor after the restart is
/// the same one to the others, and may give the turn back. A neighbour can work it out, which helps it to nothing: a turn
/// belongs to the address as well.
pub(super) fn id_of_machine(port: u16) -> Id {
    let mut cards: Vec<String> = std::fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("address")).ok())
        .take(CARDS_MAX)
        .collect();
    cards.sort_unstable();
    let text = format!("turn\n{port}\n{}", cards.concat());
    let digest = Digest::of(text.as_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&digest.as_bytes()[..16]);
    Id::new(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_lower_of_two_that_want_it_asks_again() {
        let ranks = [Id::new([1; 16]).rank(), Id::new([2; 16]).rank()];
        let (low, high) = match ranks[0] < ranks[1] {
            true => (&ranks[0], &ranks[1]),
            false => (&ranks[1], &ranks[0]),
        };
        let url: Url = "http://10.0.0.1".parse().unwrap();
        let refused = |holder: Option<&Rank>| (url.clone(), String::new(), holder.cloned());
        assert!(goes_on(low, &[refused(Some(high)), refused(Some(high))]));
        assert!(!goes_on(high, &[refused(Some(low))]));
        assert!(!goes_on(low, &[refused(Some(low))]), "that is this machine");
        assert!(
            !goes_on(low, &[refused(Some(high)), refused(None)]),
            "one is on trial"
        );
    }

    #[test]
    fn a_machine_is_the_same_one_after_its_restart() {
        assert_eq!(id_of_machine(8080), id_of_machine(8080));
        assert_ne!(id_of_machine(8080), id_of_machine(8081));
    }
}
