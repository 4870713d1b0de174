//! One artifact from several sources: the shell around [`Schedule`], which decides everything.
//!
//! ```text
//!            ┌── actions ── Schedule <── events ──┐
//!            v                                    │
//! lanes (one per source) ──chunks──> checks ──────┴──> Report
//! ```
//!
//! Lanes and checks end with the download; dropping it stops them.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use boot_manifest::{Artifact, Digest};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client::Client;
use crate::connect::Dialer;
use crate::error::{BadHash, FetchError};
use crate::lane::{Common, Ended, Handle, Lane, Message};
use crate::limits::{Limits, MESSAGES_MAX, TICK, WAITING_BYTES_MAX};
use crate::pace::TooSlow;
use crate::part::length;
use crate::report::{Progress, Report, SourceReport};
use crate::schedule::{Action, Dropped, End, Event, Plan, Schedule, seed};
use crate::sink::Sink;
use crate::throttle::Throttle;
use crate::url::Url;

/// The state of one download.
pub(crate) struct Download<'a, S> {
    common: Arc<Common<S>>,
    schedule: Schedule,
    sources: Vec<Source>,
    messages: mpsc::Receiver<Message>,
    lanes: JoinSet<()>,
    clients: &'a mut Clients,
    progress: &'a mut (dyn FnMut(Progress) + Send),
    report: Report,
    looked: Instant,
    /// What is wrong with the only source, although every chunk came.
    objection: Option<FetchError>,
}

/// A source, and its lane while it has one.
struct Source {
    places: Arc<[Url]>,
    /// The place that had the file, or the first one.
    place: usize,
    lane: Option<Arc<Handle>>,
    /// What of the lane's traffic was counted, and when.
    counted: (u64, Duration),
    counted_at: Instant,
    error: Option<FetchError>,
    /// Its lane brought a wrong chunk: that says more than how the lane ends.
    wrong: bool,
    report: SourceReport,
}

/// Connections that are kept from one artifact to the next.
pub(crate) struct Clients {
    limits: Limits,
    dialer: Arc<Dialer>,
    idle: Vec<Client>,
}

impl Clients {
    pub(crate) fn new(limits: Limits, dialer: Dialer) -> Self {
        Self {
            limits,
            dialer: Arc::new(dialer),
            idle: Vec::new(),
        }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A client, with a connection to the server of `url` if one was kept.
    pub(crate) fn take(&mut self, url: &Url) -> Client {
        let kept = self.idle.iter().position(|client| client.is_at(url));
        match kept {
            Some(index) => self.idle.swap_remove(index),
            None => Client::new(self.limits.clone(), Arc::clone(&self.dialer)),
        }
    }

    /// Keeps a client, if it has a connection.
    pub(crate) fn give_back(&mut self, client: Client) {
        if client.has_connection() {
            self.idle.push(client);
        }
    }
}

impl<'a, S: Sink> Download<'a, S> {
    pub(crate) fn new(
        clients: &'a mut Clients,
        artifact: &Artifact,
        places: Vec<Vec<Url>>,
        sink: Arc<S>,
        progress: &'a mut (dyn FnMut(Progress) + Send),
    ) -> Self {
        let missing = sink.missing();
        let to_fetch: u64 = missing
            .iter()
            .map(|&index| length(&artifact.chunks.range(index)))
            .sum();
        let places: Vec<_> = places.into_iter().filter(|one| !one.is_empty()).collect();
        let schedule = Schedule::new(Plan {
            sources: places.len(),
            missing,
            chunk_size: artifact.chunks.chunk_size(),
            retries: clients.limits.retries,
            retry_delay: clients.limits.retry_delay,
            seed: seed(),
        });
        let (sender, messages) = mpsc::channel(MESSAGES_MAX);
        let began = Instant::now();
        let common = Common {
            artifact: artifact.clone(),
            sink,
            room: Arc::new(Semaphore::new(WAITING_BYTES_MAX as usize)),
            throttle: Mutex::new(Throttle::new(clients.limits.rate_max)),
            began,
            messages: sender,
        };
        let report = Report {
            bytes_present: artifact.size.saturating_sub(to_fetch),
            ..Report::default()
        };
        Self {
            common: Arc::new(common),
            schedule,
            sources: places.into_iter().map(Source::new).collect(),
            messages,
            lanes: JoinSet::new(),
            clients,
            progress,
            report,
            looked: began,
            objection: None,
        }
    }

    /// Fetches what is missing. The report says what every source did, whatever came of it.
    pub(crate) async fn run(mut self) -> (Report, Result<(), FetchError>) {
        let limit = self.clients.limits.total;
        let result = match timeout(limit, self.work()).await {
            Ok(result) => result,
            Err(_) => Err(self.too_late(limit)),
        };
        self.close().await;
        let mut report = std::mem::take(&mut self.report);
        report.elapsed = self.common.began.elapsed();
        for (index, source) in self.sources.iter_mut().enumerate() {
            let mut one = source.report.clone();
            one.retries = self.schedule.retries(index);
            one.dropped = self
                .schedule
                .dropped(index)
                .and(source.error.as_ref())
                .map(|error| (error.code(), error.to_string()));
            report.requests += one.requests;
            report.retries += one.retries;
            report.bad_chunks += one.wrong_chunks;
            report.bytes_received += one.bytes_received;
            report.sources.push(one);
        }
        (report, result)
    }

    async fn work(&mut self) -> Result<(), FetchError> {
        self.tell_progress();
        loop {
            self.act();
            if self.schedule.is_complete() && self.sources.iter().all(|one| one.lane.is_none()) {
                return self.objection.take().map_or(Ok(()), Err);
            }
            if self.schedule.is_lost() && self.sources.iter().all(|one| one.lane.is_none()) {
                return Err(self.lost());
            }
            let now = self.common.began.elapsed();
            let wake = self
                .schedule
                .wake()
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
                return;
            }
            for action in actions {
                match action {
                    Action::Fetch { source, run } => self.start(source, run),
                    Action::Stop { source } => self.stop(source),
                    Action::Shrink { source, end } => {
                        let lane = self.sources[source].lane.as_ref();
                        let end = lane.map_or(end, |lane| lane.shrink(end));
                        self.event(&Event::Shrunk { source, end });
                    }
                }
            }
        }
    }

    fn start(&mut self, index: usize, run: std::ops::Range<usize>) {
        let source = &mut self.sources[index];
        tracing::debug!(url = %source.url(), ?run, "asking for chunks");
        let handle = Arc::new(Handle::new(&run));
        source.lane = Some(Arc::clone(&handle));
        source.counted = (0, Duration::ZERO);
        source.counted_at = Instant::now();
        let lane = Lane {
            common: Arc::clone(&self.common),
            handle,
            source: index,
            places: Arc::clone(&source.places),
            place: source.place,
            client: self.clients.take(source.url()),
            run,
        };
        self.lanes.spawn(lane.work());
    }

    fn stop(&mut self, index: usize) {
        let source = &mut self.sources[index];
        if let Some(lane) = &source.lane {
            lane.stop();
        }
        if let Some(Dropped::Slow { rate, best }) = self.schedule.dropped(index) {
            let slow = TooSlow::Others { rate, best };
            let error = FetchError::too_slow(source.url(), slow);
            tracing::warn!(%error, "source dropped");
            source.error = Some(error);
        }
    }

    fn event(&mut self, event: &Event) {
        self.schedule.handle(event, self.common.began.elapsed());
    }

    /// Takes note of what a lane or a check tells.
    fn take(&mut self, message: Message) -> Result<(), FetchError> {
        match message {
            Message::Kept { source, chunk } => {
                let bytes = length(&self.common.artifact.chunks.range(chunk));
                self.report.bytes_fetched += bytes;
                self.sources[source].report.bytes_kept += bytes;
                self.event(&Event::Kept { source, chunk });
                self.tell_progress();
            }
            Message::Wrong {
                source,
                chunk,
                computed,
            } => {
                let url = self.sources[source].url().clone();
                let sealed = url.is_https();
                tracing::warn!(%url, chunk, %computed, "a chunk arrived wrong");
                let bad = self.bad_hash(chunk, computed, &url);
                self.sources[source].wrong = true;
                self.sources[source].report.wrong_chunks += 1;
                self.sources[source].error = Some(bad);
                self.event(&Event::Wrong {
                    source,
                    chunk,
                    sealed,
                });
            }
            Message::Sink(error) => return Err(FetchError::Sink(error)),
            Message::Ended(ended) => self.ended(*ended),
        }
        Ok(())
    }

    fn ended(&mut self, ended: Ended) {
        let index = ended.source;
        self.count(index);
        let (complete, alone) = (self.schedule.is_complete(), self.sources.len() == 1);
        let source = &mut self.sources[index];
        source.lane = None;
        let wrong = std::mem::take(&mut source.wrong);
        source.place = ended.place;
        source.report.url = source.url().clone();
        source.report.requests += ended.requests;
        self.clients.give_back(ended.client);
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
                let transient = error.is_transient();
                tracing::warn!(%error, "transfer interrupted");
                source.error = Some(error);
                End::Failed { transient }
            }
        };
        self.event(&Event::Ended { source: index, end });
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
    fn count(&mut self, index: usize) {
        let source = &mut self.sources[index];
        let Some(lane) = &source.lane else {
            return;
        };
        let traffic = lane.traffic();
        let before = std::mem::replace(&mut source.counted, traffic);
        let passed = source.counted_at.elapsed();
        source.counted_at = Instant::now();
        let bytes = traffic.0.saturating_sub(before.0);
        source.report.bytes_received += bytes;
        // A time that went by mostly on this side says nothing about the source.
        let time = passed.saturating_sub(traffic.1.saturating_sub(before.1));
        if time * 4 >= passed {
            let source = index;
            self.event(&Event::Traffic {
                source,
                bytes,
                time,
            });
        }
    }

    /// Stops what is still under way, so that the sink is nobody else's when the download is over.
    async fn close(&mut self) {
        for source in &self.sources {
            if let Some(lane) = &source.lane {
                lane.stop();
            }
        }
        while !self.lanes.is_empty() {
            tokio::select! {
                biased;
                Some(lane) = self.lanes.join_next() => raise(lane),
                Some(message) = self.messages.recv() => {
                    if let Message::Ended(ended) = message {
                        self.count(ended.source);
                        self.sources[ended.source].report.requests += ended.requests;
                    }
                }
            }
        }
    }

    fn too_late(&self, limit: Duration) -> FetchError {
        match &self.sources[..] {
            [] => self.lost_without_source(),
            [source] => FetchError::too_slow(source.url(), TooSlow::Total { limit }),
            sources => FetchError::TooLate {
                name: self.common.artifact.name.to_string(),
                limit,
                sources: sources
                    .iter()
                    .map(|source| (source.url().clone(), source.received()))
                    .collect(),
            },
        }
    }

    /// Why nobody is left: the error of the only source, or those of all.
    fn lost(&mut self) -> FetchError {
        let errors = self.sources.iter_mut().filter_map(|one| one.error.take());
        let mut errors: Vec<FetchError> = errors.collect();
        match errors.len() {
            0 => self.lost_without_source(),
            1 => errors.remove(0),
            _ => FetchError::Exhausted {
                name: self.common.artifact.name.to_string(),
                errors,
            },
        }
    }

    fn lost_without_source(&self) -> FetchError {
        let name = self.common.artifact.name.to_string();
        FetchError::NoSource { name }
    }

    fn bad_hash(&self, chunk: usize, computed: Digest, url: &Url) -> FetchError {
        let artifact = &self.common.artifact;
        FetchError::BadHash(Box::new(BadHash {
            url: url.clone(),
            artifact: artifact.name.to_string(),
            filename: artifact.filename.to_string(),
            chunk,
            range: artifact.chunks.range(chunk),
            expected: artifact.chunks.digest(chunk).unwrap_or(artifact.digest),
            computed,
        }))
    }

    fn tell_progress(&mut self) {
        let received = self.sources.iter().map(Source::received).sum();
        (self.progress)(Progress {
            done: self.report.bytes_present + self.report.bytes_fetched,
            received,
            total: self.common.artifact.size,
        });
    }
}

impl Source {
    fn new(places: Vec<Url>) -> Self {
        let report = SourceReport::new(places[0].clone());
        Self {
            places: places.into(),
            place: 0,
            lane: None,
            counted: (0, Duration::ZERO),
            counted_at: Instant::now(),
            error: None,
            wrong: false,
            report,
        }
    }

    /// Bytes of all its bodies, those of its lane included.
    fn received(&self) -> u64 {
        let lane = self.lane.as_ref().map_or(0, |lane| lane.traffic().0);
        self.report.bytes_received + lane.saturating_sub(self.counted.0)
    }

    fn url(&self) -> &Url {
        self.places.get(self.place).unwrap_or(&self.places[0])
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
