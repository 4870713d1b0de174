//! All files of a download from several sources: the shell around [`Schedule`], which decides everything.
//!
//! ```text
//! crowd ──newcomers, maps──┐
//!            ┌── actions ── Schedule <── events ──┐
//!            v                                    │
//! lanes (one per source) ──pieces──> checks ──────┴──> Report
//! ```
//!
//! Lanes and checks end with the download; dropping it stops them.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use boot_manifest::{Artifact, Digest, Manifest, Verified};
use swarm::{Action, Dropped, End, Event, PieceSet, Plan, Schedule};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::clients::Clients;
use crate::crowd::{Crowd, Looked};
use crate::download::tally::Tally;
use crate::error::{BadHash, FetchError};
use crate::files::Files;
use crate::lane::{Common, Ended, Handle, Lane, Message};
use crate::limits::{BUSY_PAUSE, MESSAGES_MAX, TICK, WAITING_BYTES_MAX};
use crate::neighbours::Swarm;
use crate::pace::TooSlow;
use crate::report::{Progress, Report};
use crate::seed::seed;
use crate::sink::Sink;
use crate::source::Source;
use crate::throttle::Throttle;
use crate::url::Url;

mod joining;
mod tally;

/// One file of a download: what it is, where its bytes go, and for each source where it may be.
pub(crate) struct Wanted<S> {
    pub(crate) artifact: Artifact,
    pub(crate) sink: Arc<S>,
    pub(crate) places: Vec<Vec<Url>>,
}

/// The state of one download.
pub(crate) struct Download<'a, S> {
    manifest: &'a Manifest,
    common: Arc<Common<S>>,
    schedule: Schedule,
    sources: Vec<Source>,
    crowd: Option<Crowd>,
    messages: mpsc::Receiver<Message>,
    lanes: JoinSet<()>,
    clients: &'a mut Clients,
    tell: &'a mut (dyn FnMut(Progress) + Send),
    /// Of each file.
    tallies: Vec<Tally>,
    looked: Instant,
    /// What is wrong with the only source, although every chunk came.
    objection: Option<FetchError>,
}

impl<'a, S: Sink> Download<'a, S> {
    pub(crate) fn new(
        clients: &'a mut Clients,
        manifest: &'a Verified<Manifest>,
        wanted: Vec<Wanted<S>>,
        swarm: Option<Swarm>,
        tell: &'a mut (dyn FnMut(Progress) + Send),
    ) -> Self {
        let places: Vec<Vec<Vec<Url>>> = wanted.iter().map(|one| one.places.clone()).collect();
        let wanted = wanted.into_iter().map(|one| (one.artifact, one.sink));
        let files = Files::new(wanted.collect());
        let (tallies, missing) = tally::missing(&files);
        let schedule = Schedule::new(Plan {
            pieces: files.pieces.clone(),
            missing,
            retries: clients.limits().retries,
            retry_delay: clients.limits().retry_delay,
            // Machines that share start together, when a rack is switched on.
            scattered: swarm.as_ref().is_some_and(|swarm| swarm.port().is_some()),
            seed: seed(),
        });
        let (sender, messages) = mpsc::channel(MESSAGES_MAX);
        let began = Instant::now();
        let common = Common {
            files,
            room: Arc::new(Semaphore::new(WAITING_BYTES_MAX as usize)),
            throttle: Mutex::new(Throttle::new(clients.limits().rate_max)),
            began,
            messages: sender,
        };
        let mut download = Self {
            manifest,
            common: Arc::new(common),
            schedule,
            sources: Vec::new(),
            crowd: swarm.map(|swarm| Crowd::new(swarm, manifest.digest())),
            messages,
            lanes: JoinSet::new(),
            clients,
            tell,
            tallies,
            looked: began,
            objection: None,
        };
        let count = places.iter().map(Vec::len).max().unwrap_or_default();
        for source in 0..count {
            let of_file = |places: &Vec<Vec<Url>>| places.get(source).cloned();
            let places = places.iter().map(|file| of_file(file).unwrap_or_default());
            download.join_server(places.collect());
        }
        download
    }

    /// Fetches what is missing. The reports say what every source did, whatever came of it.
    pub(crate) async fn run(mut self) -> (Vec<Report>, Result<(), FetchError>) {
        let files = u32::try_from(self.common.files.len()).unwrap_or(u32::MAX);
        let limit = self.clients.limits().total.saturating_mul(files);
        let result = match timeout(limit, self.work()).await {
            Ok(result) => result,
            Err(_) => Err(self.too_late(limit)),
        };
        self.close().await;
        if let Some(crowd) = &mut self.crowd {
            crowd.tell_coming(&self.common.files, PieceSet::new(0));
        }
        let reports = (0..self.common.files.len()).map(|file| self.report(file));
        (reports.collect(), result)
    }

    async fn work(&mut self) -> Result<(), FetchError> {
        self.tell_progress();
        self.meet().await;
        loop {
            self.welcome();
            self.act();
            let is_still = self.sources.iter().all(|one| !one.is_at_work());
            if self.schedule.is_complete() && is_still {
                return self.objection.take().map_or(Ok(()), Err);
            }
            let now = self.common.began.elapsed();
            if self.schedule.is_lost(now) && is_still {
                return Err(self.lost());
            }
            let wake = self.schedule.wake(now).map(|wake| wake.saturating_sub(now));
            let due = self.crowd.as_ref().and_then(Crowd::wake);
            let wake = wake.into_iter().chain(due).fold(TICK, Duration::min);
            tokio::select! {
                biased;
                Some(lane) = self.lanes.join_next() => raise(lane),
                Some(message) = self.messages.recv() => self.take(message)?,
                looked = news(&mut self.crowd) => self.looked_at(looked),
                () = tokio::time::sleep(wake) => {}
            }
            while let Ok(message) = self.messages.try_recv() {
                self.take(message)?;
            }
            self.look();
        }
    }

    /// Lets the schedule decide, and does what it says.
    fn act(&mut self) {
        loop {
            let actions = self.schedule.poll(self.common.began.elapsed());
            if actions.is_empty() {
                break;
            }
            for action in actions {
                match action {
                    Action::Fetch { source, run } => self.start(source, run),
                    Action::Stop { source } => self.stop(source),
                    Action::Shrink { source, end } => {
                        let lane = self.sources[source].lane();
                        let end = lane.map_or(end, |lane| lane.shrink(end));
                        self.event(&Event::Shrunk { source, end });
                    }
                    Action::Look { source } => self.look_at(source),
                }
            }
        }
        self.dismiss();
        if let Some(crowd) = &mut self.crowd {
            crowd.tell_coming(&self.common.files, self.schedule.coming());
        }
    }

    fn start(&mut self, index: usize, run: std::ops::Range<usize>) {
        let file = self.common.files.of(run.start);
        let source = &mut self.sources[index];
        tracing::debug!(url = %source.url(file), ?run, "asking for pieces");
        let handle = Arc::new(Handle::new(&run));
        source.begin(file, Arc::clone(&handle));
        let (places, place) = source.places(file);
        let lane = Lane {
            common: Arc::clone(&self.common),
            handle,
            source: index,
            file,
            places,
            place,
            client: self.clients.take(source.url(file), source.manner()),
            run,
        };
        self.lanes.spawn(lane.work());
    }

    fn stop(&mut self, index: usize) {
        let source = &mut self.sources[index];
        if let Some(lane) = source.lane() {
            lane.stop();
        }
        if let Some(Dropped::Slow { rate, best }) = self.schedule.dropped(index) {
            source.is_too_slow(TooSlow::Others { rate, best });
        }
    }

    fn event(&mut self, event: &Event) {
        self.schedule.handle(event, self.common.began.elapsed());
    }

    /// Takes note of what a lane or a check tells.
    fn take(&mut self, message: Message) -> Result<(), FetchError> {
        match message {
            Message::Kept { source, piece } => {
                let file = self.common.files.of(piece);
                let bytes = self.common.files.pieces.size(piece);
                self.sources[source].brought(file, bytes);
                self.tallies[file].kept(bytes, self.common.began.elapsed());
                self.event(&Event::Kept { source, piece });
                self.tell_progress();
            }
            Message::Wrong {
                source,
                piece,
                computed,
            } => {
                let file = self.common.files.of(piece);
                let url = self.sources[source].url(file).clone();
                let sealed = url.is_https();
                let bad = self.bad_hash(piece, computed, &url);
                tracing::warn!(error = %bad, "a chunk arrived wrong");
                self.sources[source].lied(file, bad);
                self.event(&Event::Wrong {
                    source,
                    piece,
                    sealed,
                });
            }
            Message::Sink(error) => return Err(FetchError::Sink(error)),
            Message::Ended(ended) => self.ended(*ended),
        }
        Ok(())
    }

    fn ended(&mut self, ended: Ended) {
        let (index, file) = (ended.source, ended.file);
        self.count(index);
        let wrong = self.sources[index].ended(&ended);
        self.clients.give_back(ended.client);
        let end = match ended.result {
            None => End::Stopped,
            Some(Ok(())) => End::Done,
            Some(Err(_)) if wrong => End::Stopped,
            Some(Err(error)) => self.failed(index, file, error),
        };
        self.event(&Event::Ended { source: index, end });
        let dropped = self.schedule.dropped(index);
        let source = &mut self.sources[index];
        match (end, dropped) {
            (End::Failed { .. }, None) => source.retries(file),
            (_, Some(Dropped::Stalled)) => source.is_too_slow(TooSlow::Stalled),
            _ => {}
        }
    }

    /// What the failure of a source means.
    fn failed(&mut self, index: usize, file: usize, error: FetchError) -> End {
        if self.schedule.is_complete() {
            // A source that does not know where its file ends is refused, although all that was wanted came; when
            // others took part, it is only named.
            if matches!(error, FetchError::TooLarge { .. }) && self.sources.len() == 1 {
                self.objection = Some(error);
            } else {
                tracing::debug!(%error, "ended badly after everything had come");
            }
            return End::Done;
        }
        let is_peer = self.sources[index].peer.is_some();
        let has_peers = self.sources.iter().any(|one| one.peer.is_some());
        let end = match &error {
            // An origin alone is given up in the end, so that somebody is told.
            FetchError::Busy { after, .. } if has_peers => End::Busy {
                retry_after: *after,
            },
            FetchError::Refused { status, .. } if is_peer && status.as_u16() == 503 => End::Busy {
                retry_after: BUSY_PAUSE,
            },
            FetchError::NotFound { .. } => End::Absent,
            error => End::Failed {
                transient: error.is_transient(),
            },
        };
        match is_peer {
            // There are many, and they come and go.
            true => tracing::debug!(%error, "transfer from a peer interrupted"),
            false => tracing::warn!(%error, "transfer interrupted"),
        }
        if !matches!(end, End::Busy { .. }) {
            self.sources[index].failed(file, error);
        }
        end
    }

    /// Looks at the rates, now and then.
    fn look(&mut self) {
        if self.looked.elapsed() < TICK {
            return;
        }
        self.looked = Instant::now();
        for index in 0..self.sources.len() {
            self.count(index);
        }
        self.tell_progress();
    }

    /// Counts what came over a source's lane since the last time.
    fn count(&mut self, source: usize) {
        if let Some((bytes, time)) = self.sources[source].count() {
            self.event(&Event::Traffic {
                source,
                bytes,
                time,
            });
        }
    }

    /// Stops what is still under way, so that the sinks are nobody else's when the download is over.
    async fn close(&mut self) {
        for lane in self.sources.iter().filter_map(Source::lane) {
            lane.stop();
        }
        while !self.lanes.is_empty() {
            tokio::select! {
                biased;
                Some(lane) = self.lanes.join_next() => raise(lane),
                Some(message) = self.messages.recv() => {
                    if let Message::Ended(ended) = message {
                        self.count(ended.source);
                        self.sources[ended.source].ended(&ended);
                    }
                }
            }
        }
    }

    fn bad_hash(&self, piece: usize, computed: Digest, url: &Url) -> FetchError {
        let file = &self.common.files[self.common.files.of(piece)];
        FetchError::BadHash(Box::new(BadHash {
            url: url.clone(),
            artifact: file.artifact.name.to_string(),
            filename: file.artifact.filename.to_string(),
            chunk: file.chunk(piece),
            range: file.bytes(piece),
            expected: file.digest(piece),
            computed,
        }))
    }
}

/// Waits for news of the crowd; for ever when there is none.
async fn news(crowd: &mut Option<Crowd>) -> Option<Looked> {
    match crowd {
        Some(crowd) => crowd.news().await,
        None => std::future::pending().await,
    }
}

/// A task that panicked is a fault of this program, and is not hidden.
pub(crate) fn raise(lane: Result<(), tokio::task::JoinError>) {
    if let Err(error) = lane
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}
