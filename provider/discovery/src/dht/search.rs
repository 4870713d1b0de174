//! One search: what the nodes that keep a key answer, made one list of providers. Pure.
//!
//! Every answer is a set of envelopes, and a node may answer anything. So each envelope is checked once, however often it
//! comes; the newest of each provider counts; one answer gives only a few hints before the search is over, and what is left
//! then comes in the order of how many nodes vouch for it.

use std::collections::HashMap;
use std::time::Duration;

use boot_manifest::{Arch, Channel, Digest};
use libp2p::PeerId;

use super::envelope::{Envelope, Invalid, Span, split};
use super::limits::{CLOCK_ERROR_MAX, ENVELOPES_PER_SEARCH_MAX, HINTS_MAX, HINTS_PER_ANSWER_MAX};
use super::{Refusal, envelope};
use crate::hint::Hint;

/// What is looked for.
#[derive(Clone, Debug)]
pub struct Query {
    /// The channel.
    pub channel: Channel,
    /// The architecture.
    pub arch: Arch,
    /// Providers that are enough; at most 128 are given.
    pub count_max: usize,
    /// How long to look when nobody is found.
    pub time_max: Duration,
}

#[derive(Debug)]
struct Provider {
    envelope: Envelope,
    votes: usize,
    /// The sequence of what was given out.
    given: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Search {
    key: String,
    own: PeerId,
    count_max: usize,
    /// Envelopes that were looked at, by digest, and whose they are if they are good.
    seen: HashMap<Digest, Option<PeerId>>,
    providers: HashMap<PeerId, Provider>,
    given: usize,
}

impl Search {
    pub(super) fn new(query: &Query, own: PeerId) -> Self {
        Self {
            key: envelope::key(&query.channel, query.arch),
            own,
            count_max: query.count_max.clamp(1, HINTS_MAX),
            seen: HashMap::new(),
            providers: HashMap::new(),
            given: 0,
        }
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Whether enough was given.
    pub(super) fn is_satisfied(&self) -> bool {
        self.given >= self.count_max
    }

    /// Whether anybody was found.
    pub(super) fn has_found(&self) -> bool {
        self.given > 0
    }

    /// One node's answer; gives what is new at once, and why anything in it was refused.
    pub(super) fn answer(
        &mut self,
        value: &[u8],
        unix_now: Option<u64>,
    ) -> (Vec<Hint>, Vec<Refusal>) {
        let mut refused = Vec::new();
        let envelopes = split(value).unwrap_or_else(|error| {
            refused.push(Refusal::from(error));
            Vec::new()
        });
        let mut voted = Vec::new();
        for bytes in envelopes {
            match self.look_at(bytes, unix_now) {
                Ok(Some(signer)) if !voted.contains(&signer) => voted.push(signer),
                Ok(_) => {}
                Err(error) => refused.push(error),
            }
        }
        let mut hints = Vec::new();
        for signer in voted {
            if let Some(provider) = self.providers.get_mut(&signer) {
                provider.votes += 1;
            }
            if hints.len() < HINTS_PER_ANSWER_MAX {
                hints.extend(self.give(&signer));
            }
        }
        (hints, refused)
    }

    /// What is left when all have answered, what most of them vouch for first.
    pub(super) fn finish(&mut self) -> Vec<Hint> {
        let mut left: Vec<(usize, PeerId)> = (self.providers.iter())
            .map(|(signer, provider)| (provider.votes, *signer))
            .collect();
        left.sort_unstable_by(|one, other| other.cmp(one));
        left.iter()
            .filter_map(|(_, signer)| self.give(signer))
            .collect()
    }

    /// Whose envelope it is, when it is good.
    fn look_at(&mut self, bytes: &[u8], unix_now: Option<u64>) -> Result<Option<PeerId>, Refusal> {
        let digest = Digest::of(bytes);
        if let Some(known) = self.seen.get(&digest) {
            return Ok(*known);
        }
        if self.seen.len() >= ENVELOPES_PER_SEARCH_MAX {
            return Err(Refusal::TooMany);
        }
        self.seen.insert(digest, None);
        let envelope = Envelope::open(bytes)?;
        if envelope.key() != self.key {
            return Err(Refusal::OtherKey);
        }
        check_time(envelope.span, unix_now)?;
        let signer = envelope.signer;
        if signer == self.own {
            return Ok(None);
        }
        self.seen.insert(digest, Some(signer));
        let provider = self.providers.entry(signer).or_insert_with(|| Provider {
            envelope: envelope.clone(),
            votes: 0,
            given: None,
        });
        if provider.envelope.span.sequence < envelope.span.sequence {
            provider.envelope = envelope;
        }
        Ok(Some(signer))
    }

    /// A provider's hint, unless the same was given before.
    fn give(&mut self, signer: &PeerId) -> Option<Hint> {
        let is_satisfied = self.is_satisfied();
        let provider = self.providers.get_mut(signer)?;
        let sequence = provider.envelope.span.sequence;
        if is_satisfied || provider.given.is_some_and(|given| given >= sequence) {
            return None;
        }
        let hint = provider.envelope.hint()?;
        self.given += usize::from(provider.given.is_none());
        provider.given = Some(sequence);
        Some(hint)
    }
}

/// Whether a record may still be good, as far as clocks can be believed.
pub(super) fn check_time(span: Span, unix_now: Option<u64>) -> Result<(), Refusal> {
    let (Some(now), Some(created)) = (unix_now, span.created) else {
        return Ok(());
    };
    let error = CLOCK_ERROR_MAX.as_secs();
    let ends = created.saturating_add(span.lifetime.as_secs());
    if created > now.saturating_add(error) {
        return Err(Refusal::FromTheFuture);
    }
    match now > ends.saturating_add(error) {
        true => Err(Refusal::Expired),
        false => Ok(()),
    }
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        match invalid {
            Invalid::Size => Self::Oversized,
            Invalid::Magic | Invalid::Malformed => Self::Malformed,
            Invalid::Signature => Self::Signature,
            Invalid::Address => Self::Address,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::envelope::{Record, join};
    use super::super::identity::Identity;
    use super::super::limits::LIFETIME;
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn sealed(identity: &Identity, channel: &str, sequence: u64, addresses: usize) -> Vec<u8> {
        let all = [([10, 0, 0, 1], 80).into()];
        let record = Record {
            channel: channel.parse().unwrap(),
            arch: Arch::X86_64,
            version: sequence.to_string(),
            manifest: None,
            key_ids: Vec::new(),
            addresses: all[..addresses].to_vec(),
        };
        let span = Span {
            sequence,
            created: Some(NOW),
            lifetime: LIFETIME,
        };
        Envelope::seal(identity, record, span).bytes().to_vec()
    }

    fn value(envelopes: &[Vec<u8>]) -> Vec<u8> {
        join(envelopes.iter().map(Vec::as_slice))
    }

    fn search(own: &Identity, count_max: usize) -> Search {
        let query = Query {
            channel: "stable".parse().unwrap(),
            arch: Arch::X86_64,
            count_max,
            time_max: Duration::ZERO,
        };
        Search::new(&query, own.peer())
    }

    fn versions(hints: &[Hint]) -> Vec<&str> {
        hints.iter().map(|hint| hint.version.as_str()).collect()
    }

    #[test]
    fn the_copies_of_many_nodes_become_one_list() {
        let [own, one, other] = [(); 3].map(|()| Identity::generate());
        let mut search = search(&own, 32);
        let mine = sealed(&own, "stable", 9, 1);
        let (first, second) = (sealed(&one, "stable", 1, 1), sealed(&other, "stable", 2, 1));
        let (hints, refused) = search.answer(&value(&[first.clone(), mine]), Some(NOW));
        assert_eq!((versions(&hints), refused), (vec!["1"], vec![]));
        let (hints, _) = search.answer(&value(&[first, second]), Some(NOW));
        assert_eq!(versions(&hints), ["2"]);
        // A newer one is given again, an older one is not.
        let newer = sealed(&one, "stable", 3, 1);
        let older = sealed(&other, "stable", 1, 1);
        let (hints, _) = search.answer(&value(&[older, newer]), Some(NOW));
        assert_eq!(versions(&hints), ["3"]);
        assert!(search.finish().is_empty());
    }

    #[test]
    fn a_goodbye_ends_what_was_said_before() {
        let [own, one] = [(); 2].map(|()| Identity::generate());
        let mut search = search(&own, 32);
        let (hints, _) = search.answer(&value(&[sealed(&one, "stable", 2, 0)]), Some(NOW));
        assert!(hints.is_empty());
        let (hints, _) = search.answer(&value(&[sealed(&one, "stable", 1, 1)]), Some(NOW));
        assert!(hints.is_empty() && search.finish().is_empty() && !search.has_found());
    }

    #[test]
    fn what_is_wrong_is_refused_with_the_reason() {
        let [own, one] = [(); 2].map(|()| Identity::generate());
        let good = sealed(&one, "stable", 1, 1);
        let mut broken = good.clone();
        broken[40] ^= 1;
        let error = CLOCK_ERROR_MAX.as_secs();
        for (value, now, expected) in [
            (b"junk".to_vec(), Some(NOW), Refusal::Malformed),
            (vec![0; 1 << 20], Some(NOW), Refusal::Oversized),
            (value(&[broken]), Some(NOW), Refusal::Signature),
            (
                value(&[sealed(&one, "beta", 1, 1)]),
                Some(NOW),
                Refusal::OtherKey,
            ),
            (
                value(std::slice::from_ref(&good)),
                Some(NOW + error + 3601),
                Refusal::Expired,
            ),
            (
                value(std::slice::from_ref(&good)),
                Some(NOW - error - 1),
                Refusal::FromTheFuture,
            ),
        ] {
            let (hints, refused) = search(&own, 32).answer(&value, now);
            assert_eq!((hints.len(), refused), (0, vec![expected]));
        }
        // A clock that was never set judges nothing.
        let (hints, _) = search(&own, 32).answer(&value(&[good]), None);
        assert_eq!(hints.len(), 1);
    }

    #[test]
    fn one_liar_with_many_names_does_not_fill_a_search() {
        let own = Identity::generate();
        let mut search = search(&own, 20);
        let fakes: Vec<_> = (100..132)
            .map(|n| sealed(&Identity::generate(), "stable", n, 1))
            .collect();
        let (hints, _) = search.answer(&value(&fakes), Some(NOW));
        assert_eq!(hints.len(), HINTS_PER_ANSWER_MAX);
        let honest: Vec<_> = (1..=3)
            .map(|n| sealed(&Identity::generate(), "stable", n, 1))
            .collect();
        let (hints, _) = search.answer(&value(&honest), Some(NOW));
        assert_eq!(versions(&hints), ["1", "2", "3"]);
        assert_eq!(search.finish().len(), 20 - HINTS_PER_ANSWER_MAX - 3);
        assert!(search.is_satisfied());
    }

    #[test]
    fn what_most_nodes_vouch_for_comes_first_in_the_end() {
        let own = Identity::generate();
        let mut search = search(&own, 128);
        let known = sealed(&Identity::generate(), "stable", 7, 1);
        for _ in 0..2 {
            let fakes = (100..131).map(|n| sealed(&Identity::generate(), "stable", n, 1));
            let answer: Vec<_> = fakes.chain([known.clone()]).collect();
            let (hints, _) = search.answer(&value(&answer), Some(NOW));
            assert_eq!(hints.len(), HINTS_PER_ANSWER_MAX);
        }
        assert_eq!(versions(&search.finish())[0], "7");
    }

    #[test]
    fn signature_checks_are_bounded() {
        let [own, one] = [(); 2].map(|()| Identity::generate());
        let mut search = search(&own, 1000);
        let mut refused = Vec::new();
        for round in 0..20 {
            let many: Vec<_> = (0..32)
                .map(|n| sealed(&one, "stable", round * 32 + n, 1))
                .collect();
            refused.extend(search.answer(&value(&many), Some(NOW)).1);
        }
        assert_eq!(search.seen.len(), ENVELOPES_PER_SEARCH_MAX);
        assert_eq!(refused.len(), 20 * 32 - ENVELOPES_PER_SEARCH_MAX);
        assert!(refused.iter().all(|reason| *reason == Refusal::TooMany));
    }
}
