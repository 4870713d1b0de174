//! `/have` and `/peers` of a provider: it has everything it serves, and keeps the list of those who fetch it.
//!
//! Only for manifests that are served here, or were since the start: nobody can fill the list with what it makes up.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use boot_manifest::{Arch, Digest, unverified_payload};
use http::{Method, Response, StatusCode};
use swarm::peers::Question;
use swarm::{Map, PieceSet, Pieces};

use crate::http::body::Body;
use crate::http::{refuse, respond};
use crate::serve::app::App;
use crate::serve::limits::{FOLDERS_LOOK_PERIOD, MANIFESTS_KNOWN_MAX};
use crate::serve::metrics::{Reason, add};
use crate::serve::refusal::Refusal;
use crate::share::register::{Register, question};

/// The swarm, as the provider sees it.
pub(crate) struct Swarm {
    /// Who fetches what is served here.
    pub(crate) register: Register,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// The one that was used last comes last.
    manifests: VecDeque<(Digest, Arc<str>)>,
    /// When all folders were looked through last.
    looked: Option<Instant>,
}

impl Swarm {
    /// Nobody has come yet.
    pub(crate) fn new() -> Self {
        Self {
            register: Register::new(),
            known: Mutex::default(),
        }
    }

    /// Takes note of a manifest that is served. One without a signature is nothing that anybody fetches together.
    pub(crate) fn serves(&self, digest: Digest, manifest: &[u8]) {
        if self.map(&digest).is_some() {
            return;
        }
        let Ok(payload) = unverified_payload(manifest) else {
            return;
        };
        let pieces = Pieces::of(&payload.artifacts);
        let map = Map {
            have: PieceSet::full(pieces.count()),
            coming: PieceSet::new(pieces.count()),
        };
        let map = swarm::have::write(&digest, &pieces, &map).into();
        let mut known = self.known();
        if known.manifests.len() >= MANIFESTS_KNOWN_MAX {
            known.manifests.pop_front();
        }
        known.manifests.push_back((digest, map));
    }

    /// The map of a manifest that is known.
    fn map(&self, digest: &Digest) -> Option<Arc<str>> {
        let mut known = self.known();
        let place = known.manifests.iter().position(|(one, _)| one == digest)?;
        let used = known.manifests.remove(place)?;
        let map = Arc::clone(&used.1);
        known.manifests.push_back(used);
        Some(map)
    }

    /// Whether it is time to look through all folders again.
    fn may_look(&self) -> bool {
        let mut known = self.known();
        let is_due = |looked: Instant| looked.elapsed() >= FOLDERS_LOOK_PERIOD;
        let may = known.looked.is_none_or(is_due);
        if may {
            known.looked = Some(Instant::now());
        }
        may
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Whole at every unlock.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl App {
    /// `GET /have?manifest=sha256:HEX`
    pub(super) async fn have(&self, query: Option<&str>) -> Response<Body> {
        match self.asked(&Method::GET, query).await {
            Ok((_, map)) => respond::page("application/json", format!("{map}\n")),
            Err(response) => response,
        }
    }

    /// `GET /peers?manifest=sha256:HEX`, and `POST` of the same with `&port=N` from one that is to be on the list.
    pub(super) async fn peers(
        &self,
        client: IpAddr,
        method: &Method,
        query: Option<&str>,
    ) -> Response<Body> {
        let question = match self.asked(method, query).await {
            Ok((question, _)) => question,
            Err(response) => return response,
        };
        let asked = self.swarm.register.ask(client, &question);
        match asked.registered {
            Some(_) => add(&self.metrics.peer_registrations_total, 1),
            // It is told of the others all the same.
            None if question.port.is_some() => self.metrics.refused(Reason::PeersFull),
            None => {}
        }
        respond::page("application/json", format!("{}\n", asked.answer.to_json()))
    }

    /// What is asked, and the map of its manifest. Without a manifest in the query it is about the default one.
    async fn asked(
        &self,
        method: &Method,
        query: Option<&str>,
    ) -> Result<(Question, Arc<str>), Response<Body>> {
        let default;
        let query = match query {
            Some(query) if !query.is_empty() => query,
            _ => {
                default = self.default_query().await?;
                &default
            }
        };
        let question = question(method, query).map_err(|problem| {
            let answer = refuse::text(StatusCode::BAD_REQUEST, &problem);
            self.refuse(Reason::BadTarget, answer)
        })?;
        let mut map = self.swarm.map(&question.manifest);
        if map.is_none() && self.swarm.may_look() {
            self.look_through().await;
            map = self.swarm.map(&question.manifest);
        }
        match map {
            Some(map) => Ok((question, map)),
            None => Err(self.refused(&Refusal::UnknownManifest(question.manifest))),
        }
    }

    async fn default_query(&self) -> Result<String, Response<Body>> {
        // Boxed: making a manifest needs much room, which every request's task would have.
        let manifest = Box::pin(self.catalog.manifest(&self.channel, self.arch)).await;
        let manifest = manifest.map_err(|refusal| self.refused(&refusal))?;
        Ok(format!("manifest={}", manifest.digest))
    }

    /// Takes note of the manifests that are there: the one of the default folder, and those that were signed elsewhere. Others
    /// are made when they are asked for, and known then.
    async fn look_through(&self) {
        if let Ok(manifest) = Box::pin(self.catalog.manifest(&self.channel, self.arch)).await {
            self.swarm.serves(manifest.digest, &manifest.bytes);
        }
        for channel in self.catalog.store().channels() {
            for arch in Arch::ALL {
                if let Ok(Some(signed)) = self.catalog.signed(&channel, arch) {
                    self.swarm.serves(signed.digest, &signed.bytes);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_signed_manifest_is_not_known() {
        let swarm = Swarm::new();
        let digest = Digest::of(b"{}");
        swarm.serves(digest, b"{}");
        assert!(swarm.map(&digest).is_none());
        assert!(swarm.may_look());
        assert!(!swarm.may_look(), "as often as anybody asks");
    }
}
