//! Sources that join a download while it runs, and leave it.

use swarm::{Event, Kind, PieceSet};

use crate::crowd::{Crowd, Looked, Newcomer, peer_url};
use crate::download::{Download, news};
use crate::limits::FIRST_LIST_TIME;
use crate::sink::Sink;
use crate::source::Source;
use crate::sources::{Mirror, sources};
use crate::url::Url;

impl<S: Sink> Download<'_, S> {
    /// Waits a moment for the first list of peers, when machines that share may start together: a request for everything,
    /// made in ignorance of the others, is for what they ask for too.
    pub(super) async fn meet(&mut self) {
        let Some(crowd) = &self.crowd else {
            return;
        };
        if !crowd.shares() {
            return;
        }
        let pause = tokio::time::sleep(FIRST_LIST_TIME);
        tokio::pin!(pause);
        self.welcome();
        while self.crowd.as_ref().is_some_and(Crowd::is_expecting) {
            tokio::select! {
                biased;
                looked = news(&mut self.crowd) => self.looked_at(looked),
                () = &mut pause => return,
            }
        }
    }

    /// Lets those join that were found.
    pub(super) fn welcome(&mut self) {
        let Some(crowd) = &mut self.crowd else {
            return;
        };
        for mirror in crowd.step(self.clients) {
            self.join_mirror(&mirror);
        }
        while self.schedule.peers_wanted() > 0 {
            let sources = &self.sources;
            let is_source = |address| {
                let mut peers = sources.iter().filter(|one| !one.is_gone);
                peers.any(|source| source.peer == Some(address))
            };
            let crowd = self.crowd.as_mut();
            let Some(newcomer) = crowd.and_then(|crowd| crowd.newcomer(is_source)) else {
                return;
            };
            self.join_peer(&newcomer);
        }
    }

    /// A server with these places for each file.
    pub(super) fn join_server(&mut self, places: Vec<Vec<Url>>) {
        let first = places.iter().flatten().next().cloned();
        let (Some(first), Some(source)) = (first, Source::new(places, None)) else {
            return;
        };
        let files = self.common.files.iter();
        let rows = files.filter(|(file, _)| source.may_have(*file));
        let has = rows.flat_map(|(_, file)| file.row.clone());
        let has = PieceSet::of(self.common.files.pieces.count(), has);
        if self.join(Kind::Origin, Some(has), source)
            && let Some(crowd) = &mut self.crowd
        {
            crowd.add_origin(&first, self.clients);
        }
    }

    /// A server that was found while the download runs.
    fn join_mirror(&mut self, mirror: &Mirror) {
        let files = self.common.files.iter();
        let places = files.map(|(_, file)| mirror.places(self.manifest, &file.artifact));
        let places: Vec<Vec<Url>> = places.collect();
        let first = places.iter().flatten().next();
        let is_known = |first| {
            let mut servers = self.sources.iter().filter(|one| one.peer.is_none());
            servers.any(|source| source.url(source.file()).same_origin(first))
        };
        if !first.is_none_or(is_known) {
            tracing::info!(url = %mirror.manifest, "another provider takes part");
            self.join_server(places);
        }
    }

    fn join_peer(&mut self, newcomer: &Newcomer) {
        let Some(url) = peer_url(newcomer.address, "/manifest.json") else {
            return;
        };
        let files = self.common.files.iter();
        let places = files.map(|(_, file)| sources(&url, self.manifest, &file.artifact));
        let near = newcomer.is_near;
        if let Some(source) = Source::new(places.collect(), Some(newcomer.address)) {
            tracing::debug!(%url, near, "a peer takes part");
            self.join(Kind::Peer { near }, None, source);
        }
    }

    fn join(&mut self, kind: Kind, has: Option<PieceSet>, source: Source) -> bool {
        let now = self.common.began.elapsed();
        let number = self.schedule.join(kind, has, now);
        if let Some(number) = number {
            debug_assert_eq!(number, self.sources.len(), "both count the sources");
            self.sources.push(source);
        }
        number.is_some()
    }

    /// Asks a peer what it has.
    pub(super) fn look_at(&mut self, index: usize) {
        let source = &self.sources[index];
        let url = source.url(source.file()).clone();
        match &mut self.crowd {
            Some(crowd) => {
                let pieces = &self.common.files.pieces;
                crowd.look(index, &url, pieces, self.clients);
            }
            None => self.event(&Event::Left { source: index }),
        }
    }

    /// Takes note of what a peer says that it has, if that is what came.
    pub(super) fn looked_at(&mut self, looked: Option<Looked>) {
        let Some(Looked { source, answer }) = looked else {
            return;
        };
        let event = match answer {
            Ok(map) => {
                let one = &self.sources[source];
                if let (Some(crowd), Some(address)) = (&mut self.crowd, one.peer) {
                    crowd.reached(address, one.url(one.file()), map.have.is_full());
                }
                let (have, coming) = (map.have, map.coming);
                Event::Map {
                    source,
                    have,
                    coming,
                }
            }
            Err(error) => {
                tracing::debug!(%error, "no map of a peer");
                match error.is_transient() {
                    true => Event::Unread { source },
                    false => Event::Left { source },
                }
            }
        };
        self.event(&event);
    }

    /// Forgets peers that are not asked any more.
    pub(super) fn dismiss(&mut self) {
        let Some(crowd) = &mut self.crowd else {
            return;
        };
        for (index, source) in self.sources.iter_mut().enumerate() {
            if let Some(address) = source.peer
                && !source.is_gone
                && !source.is_at_work()
                && self.schedule.dropped(index).is_some()
            {
                source.is_gone = true;
                crowd.left(index, address);
            }
        }
    }
}
