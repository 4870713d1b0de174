//! All files of a download from several sources: the shell around [`Schedule`], which decides everything.
//!
//! ```text
//!            ┌── actions ── Schedule <── events ──┐
//!            v                                    │
//! lanes (one per source) ──pieces──> checks ──────┴──> Report
//! ```
//!
//! Lanes and checks end with the download; dropping it stops them.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use boot_manifest::{Artifact, Digest};
use swarm::{Action, Dropped, End, Event, Kind, PieceSet, Pieces, Plan, Schedule};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::clients::Clients;
use crate::error::{BadHash, FetchError};
use crate::files::Files;
use crate::lane::{Common, Ended, Handle, Lane, Message};
use crate::limits::{MESSAGES_MAX, TICK, WAITING_BYTES_MAX};
use crate::neighbours::Swarm;
use crate::pace::TooSlow;
use crate::part::length;
use crate::report::{Progress, Report};
use crate::seed::seed;
use crate::sink::Sink;
use crate::source::Source;
use crate::throttle::Throttle;
use crate::url::Url;

/// One file of a download: what it is, where its bytes go, and for each source where it may be.
pub(crate) struct Wanted<S> {
    pub(crate) artifact: Artifact,
    pub(crate) sink: Arc<S>,
    pub(crate) places: Vec<Vec<Url>>,
}

/// The state of one download.
pub(crate) struct Download<'a, S> {
    common: Arc<Common<S>>,
    schedule: Schedule,
    sources: Vec<Source>,
    messages: mpsc::Receiver<Message>,
    lanes: JoinSet<()>,
    clients: &'a mut Clients,
    tell: &'a mut (dyn FnMut(Progress) + Send),
    swarm: Option<Swarm>,
    /// Of each file.
    tallies: Vec<Tally>,
    looked: Instant,
    /// What is wrong with the only source, although every chunk came.
    objection: Option<FetchError>,
}

/// How far a file is.
struct Tally {
    present: u64,
    fetched: u64,
    /// Pieces that are not kept.
    missing: usize,
    /// When the last of them was.
    done_at: Option<Duration>,
    told: Option<Progress>,
}

impl<'a, S: Sink> Download<'a, S> {
    pub(crate) fn new(
        clients: &'a mut Clients,
        wanted: Vec<Wanted<S>>,
        swarm: Option<Swarm>,
        tell: &'a mut (dyn FnMut(Progress) + Send),
    ) -> Self {
        let count = wanted.iter().map(|one| one.places.len()).max();
        let sources = (0..count.unwrap_or_default()).filter_map(|source| {
            let places = wanted.iter().map(|one| one.places.get(source).cloned());
            Source::new(places.map(Option::unwrap_or_default).collect(), false)
        });
        let sources: Vec<Source> = sources.collect();
        let wanted = wanted.into_iter().map(|one| (one.artifact, one.sink));
        let files = Files::new(wanted.collect());
        let (tallies, missing) = missing(&files);
        let pieces = Pieces::of(files.iter().map(|(_, file)| &file.artifact));
        let mut schedule = Schedule::new(Plan {
            missing: PieceSet::of(pieces.count(), missing),
            pieces,
            retries: clients.limits().retries,
            retry_delay: clients.limits().retry_delay,
            scattered: false,
            seed: seed(),
        });
        for source in &sources {
            let has = files.iter().filter(|(index, _)| source.may_have(*index));
            let has = has.flat_map(|(_, file)| file.pieces.clone());
            let has = PieceSet::of(schedule.missing().length(), has);
            schedule.join(Kind::Origin, Some(has), Duration::ZERO);
        }
        let (sender, messages) = mpsc::channel(MESSAGES_MAX);
        let began = Instant::now();
        let common = Common {
            files,
            room: Arc::new(Semaphore::new(WAITING_BYTES_MAX as usize)),
            throttle: Mutex::new(Throttle::new(clients.limits().rate_max)),
            began,
            messages: sender,
        };
        Self {
            common: Arc::new(common),
            schedule,
            sources,
            messages,
            lanes: JoinSet::new(),
            clients,
            tell,
            swarm,
            tallies,
            looked: began,
            objection: None,
        }
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
        self.tell_swarm();
        let reports = (0..self.common.files.len()).map(|file| self.report(file));
        (reports.collect(), result)
    }

    async fn work(&mut self) -> Result<(), FetchError> {
        self.tell_progress();
        loop {
            self.act();
            let is_still = self.sources.iter().all(|one| !one.is_at_work());
            if self.schedule.is_complete() && is_still {
                return self.objection.take().map_or(Ok(()), Err);
            }
            if self.schedule.is_lost(self.common.began.elapsed()) && is_still {
                return Err(self.lost());
            }
            let now = self.common.began.elapsed();
            let wake = self
                .schedule
                .wake(now)
                .map_or(TICK, |wake| wake.saturating_sub(now).min(TICK));
            tokio::select! {
                biased;
                Some(lane) = self.lanes.join_next() => raise(lane),
                Some(message) = self.messages.recv() => self.take(message)?,
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
                    // Only peers have maps, and none takes part yet.
                    Action::Look { source } => self.event(&Event::Left { source }),
                }
            }
        }
        self.tell_swarm();
    }

    /// Tells what is on its way.
    fn tell_swarm(&self) {
        let Some(swarm) = &self.swarm else {
            return;
        };
        let runs = self.sources.iter().filter_map(Source::run);
        let mut coming: Vec<usize> = runs.flatten().collect();
        coming.sort_unstable();
        for (_, file) in self.common.files.iter() {
            let chunks = coming.iter().filter(|piece| file.pieces.contains(piece));
            let chunks = chunks.map(|&piece| file.chunk(piece)).collect();
            swarm.set_coming(&file.artifact.digest, chunks);
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
            client: self.clients.take(source.url(file)),
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
            let file = source.file();
            let slow = TooSlow::Others { rate, best };
            let error = FetchError::too_slow(source.url(file), slow);
            tracing::warn!(%error, "source dropped");
            source.failed(file, error);
        }
    }

    fn event(&mut self, event: &Event) {
        self.schedule.handle(event, self.common.began.elapsed());
    }

    /// Takes note of what a lane or a check tells.
    fn take(&mut self, message: Message) -> Result<(), FetchError> {
        match message {
            Message::Kept { source, piece } => {
                let (file, bytes) = (self.common.files.of(piece), self.common.files.size(piece));
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
        let (complete, alone) = (self.schedule.is_complete(), self.sources.len() == 1);
        let source = &mut self.sources[index];
        let wrong = source.ended(&ended);
        self.clients.give_back(ended.client);
        let mut failed = false;
        let end = match ended.result {
            None => End::Stopped,
            Some(Ok(())) => End::Done,
            Some(Err(_)) if wrong => End::Stopped,
            // A source that does not know where its file ends is refused, although all that was wanted came; when
            // others took part, it is only named.
            Some(Err(error @ FetchError::TooLarge { .. })) if complete && alone => {
                self.objection = Some(error);
                End::Done
            }
            Some(Err(error)) if complete => {
                tracing::debug!(%error, "ended badly after everything had come");
                End::Done
            }
            Some(Err(error)) => {
                let end = match &error {
                    FetchError::NotFound { .. } => End::Absent,
                    error => End::Failed {
                        transient: error.is_transient(),
                    },
                };
                tracing::warn!(%error, "transfer interrupted");
                source.failed(file, error);
                failed = matches!(end, End::Failed { .. });
                end
            }
        };
        self.event(&Event::Ended { source: index, end });
        if failed && self.schedule.dropped(index).is_none() {
            self.sources[index].retries(file);
        }
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

    fn too_late(&self, limit: Duration) -> FetchError {
        let received = |source: &Source| -> u64 {
            let files = 0..self.common.files.len();
            files.map(|file| source.received(file)).sum()
        };
        match &self.sources[..] {
            [] => self.lost_without_source(),
            [source] => {
                let url = source.url(source.file());
                FetchError::too_slow(url, TooSlow::Total { limit })
            }
            sources => FetchError::TooLate {
                name: self.common.files.name(),
                limit,
                sources: sources
                    .iter()
                    .map(|source| (source.url(source.file()).clone(), received(source)))
                    .collect(),
            },
        }
    }

    /// Why nobody is left: the error of the only source, or those of all.
    fn lost(&mut self) -> FetchError {
        let errors = self.sources.iter_mut().filter_map(Source::take_error);
        let mut errors: Vec<FetchError> = errors.collect();
        match errors.len() {
            0 => self.lost_without_source(),
            1 => errors.remove(0),
            _ => FetchError::Exhausted {
                name: self.common.files.name(),
                errors,
            },
        }
    }

    fn lost_without_source(&self) -> FetchError {
        let name = self.common.files.name();
        FetchError::NoSource { name }
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

    /// Tells how far each file is, if it is further than it was.
    fn tell_progress(&mut self) {
        for (file, tally) in self.tallies.iter_mut().enumerate() {
            let received = self.sources.iter().map(|source| source.received(file));
            let progress = Progress {
                part: file,
                done: tally.present + tally.fetched,
                received: received.sum(),
                total: self.common.files[file].artifact.size,
            };
            if tally.told != Some(progress) {
                tally.told = Some(progress);
                (self.tell)(progress);
            }
        }
    }

    /// What came of one file.
    fn report(&self, file: usize) -> Report {
        let tally = &self.tallies[file];
        let sources =
            self.sources.iter().enumerate().filter_map(|(index, one)| {
                one.report(file, self.schedule.dropped(index).is_some())
            });
        let mut report = Report {
            bytes_present: tally.present,
            bytes_fetched: tally.fetched,
            elapsed: tally.done_at.unwrap_or_else(|| self.common.began.elapsed()),
            sources: sources.collect(),
            ..Report::default()
        };
        for one in &report.sources {
            report.requests += one.requests;
            report.retries += one.retries;
            report.bad_chunks += one.wrong_chunks;
            report.bytes_received += one.bytes_received;
        }
        report
    }
}

impl Tally {
    /// Takes note of a piece that is kept now.
    fn kept(&mut self, bytes: u64, now: Duration) {
        self.fetched += bytes;
        self.missing = self.missing.saturating_sub(1);
        if self.missing == 0 {
            self.done_at = Some(now);
        }
    }
}

/// How far each file is, and the pieces that are missing altogether.
fn missing<S: Sink>(files: &Files<S>) -> (Vec<Tally>, Vec<usize>) {
    let mut all = Vec::new();
    let tallies = files.iter().map(|(_, file)| {
        let missing = file.sink.missing();
        let chunks = &file.artifact.chunks;
        let to_fetch = missing.iter().map(|&index| length(&chunks.range(index)));
        let to_fetch: u64 = to_fetch.sum();
        let tally = Tally {
            present: file.artifact.size.saturating_sub(to_fetch),
            fetched: 0,
            missing: missing.len(),
            done_at: missing.is_empty().then_some(Duration::ZERO),
            told: None,
        };
        all.extend(missing.into_iter().map(|index| file.pieces.start + index));
        tally
    });
    (tallies.collect(), all)
}

/// A task that panicked is a fault of this program, and is not hidden.
pub(crate) fn raise(lane: Result<(), tokio::task::JoinError>) {
    if let Err(error) = lane
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}
