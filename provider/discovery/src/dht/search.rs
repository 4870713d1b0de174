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
