//! One source of a download: where it has the files, what it is doing, and what is told of it in the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clients::Manner;
use crate::error::FetchError;
use crate::lane::{Ended, Handle};
use crate::pace::TooSlow;
use crate::report::SourceReport;
use crate::url::Url;

/// A source, and its lane while it has one.
pub(crate) struct Source {
    /// The address of another machine that fetches the same, or did.
    pub(crate) peer: Option<SocketAddr>,
    /// Everybody was told that it is not asked any more.
    pub(crate) is_gone: bool,
    /// For each file, where it may be.
    places: Vec<Arc<[Url]>>,
    /// For each file, the place that had it, or the first one.
    place: Vec<usize>,
    lane: Option<Running>,
    /// What of the lane's traffic was counted, and when.
    counted: (u64, Duration),
    counted_at: Instant,
    /// What went wrong last, and with which file.
    error: Option<(usize, FetchError)>,
    /// Its lane brought a wrong piece: that says more than how the lane ends.
    wrong: bool,
    /// For each file.
    reports: Vec<SourceReport>,
}

/// A lane under way.
struct Running {
    handle: Arc<Handle>,
    file: usize,
}

impl Source {
    /// A source with these places for each of the files; `None` when it has none for any.
    pub(crate) fn new(places: Vec<Vec<Url>>, peer: Option<SocketAddr>) -> Option<Self> {
        let any = places.iter().flatten().next()?.clone();
        let url = |places: &Vec<Url>| places.first().unwrap_or(&any).clone();
        let reports = places
            .iter()
            .map(|places| SourceReport::new(url(places), peer.is_some()));
        Some(Self {
            peer,
            is_gone: false,
            place: vec![0; places.len()],
            lane: None,
            counted: (0, Duration::ZERO),
            counted_at: Instant::now(),
            error: None,
            wrong: false,
            reports: reports.collect(),
            places: places.into_iter().map(Arc::from).collect(),
        })
    }

    /// Whether it may have a file.
    pub(crate) fn may_have(&self, file: usize) -> bool {
        self.places
            .get(file)
            .is_some_and(|places| !places.is_empty())
    }

    /// Where it may have a file, and which of the places to begin with.
    pub(crate) fn places(&self, file: usize) -> (Arc<[Url]>, usize) {
        (Arc::clone(&self.places[file]), self.place[file])
    }

    /// Where it has a file, as far as is known.
    pub(crate) fn url(&self, file: usize) -> &Url {
        let places = &self.places[file];
        places
            .get(self.place[file])
            .or(places.first())
            .unwrap_or(&self.reports[file].url)
    }

    /// The file that it is asked for, was asked for last, or may have first.
    pub(crate) fn file(&self) -> usize {
        let last = self.error.as_ref().map(|(file, _)| *file);
        let running = self.lane.as_ref().map(|lane| lane.file);
        let first = (0..self.places.len()).find(|&file| self.may_have(file));
        running.or(last).or(first).unwrap_or_default()
    }

    /// Begins with a lane.
    pub(crate) fn begin(&mut self, file: usize, handle: Arc<Handle>) {
        self.lane = Some(Running { handle, file });
        self.counted = (0, Duration::ZERO);
        self.counted_at = Instant::now();
    }

    pub(crate) fn is_at_work(&self) -> bool {
        self.lane.is_some()
    }

    /// Its lane.
    pub(crate) fn lane(&self) -> Option<&Handle> {
        self.lane.as_ref().map(|lane| &*lane.handle)
    }

    /// How it is asked.
    pub(crate) fn manner(&self) -> Manner {
        match self.peer {
            None => Manner::Server,
            Some(_) => Manner::Peer,
        }
    }

    /// Takes note of a wrong piece.
    pub(crate) fn lied(&mut self, file: usize, error: FetchError) {
        self.wrong = true;
        self.reports[file].wrong_chunks += 1;
        self.failed(file, error);
    }

    /// Takes note of what went wrong.
    pub(crate) fn failed(&mut self, file: usize, error: FetchError) {
        self.error = Some((file, error));
    }

    /// Takes note of its slowness, of which it does not know itself.
    pub(crate) fn is_too_slow(&mut self, slow: TooSlow) {
        let file = self.file();
        let error = FetchError::too_slow(self.url(file), slow);
        if self.peer.is_none() {
            tracing::warn!(%error, "source dropped");
        }
        self.failed(file, error);
    }

    /// Takes note of an interruption that is survived.
    pub(crate) fn retries(&mut self, file: usize) {
        self.reports[file].retries += 1;
    }

    /// Takes note of bytes that verified.
    pub(crate) fn brought(&mut self, file: usize, bytes: u64) {
        self.reports[file].bytes_kept += bytes;
    }

    /// Takes note of the end of its lane. Tells whether that brought something wrong.
    pub(crate) fn ended(&mut self, ended: &Ended) -> bool {
        self.lane = None;
        self.place[ended.file] = ended.place;
        let url = self.url(ended.file).clone();
        let report = &mut self.reports[ended.file];
        report.url = url;
        report.requests += ended.requests;
        std::mem::take(&mut self.wrong)
    }

    /// Counts what came over its lane since the last time: bytes, and the time that it alone is to blame for, unless too
    /// much of the time went by on this side to tell.
    pub(crate) fn count(&mut self) -> Option<(u64, Duration)> {
        let lane = self.lane.as_ref()?;
        let traffic = lane.handle.traffic();
        let before = std::mem::replace(&mut self.counted, traffic);
        let passed = self.counted_at.elapsed();
        self.counted_at = Instant::now();
        let bytes = traffic.0.saturating_sub(before.0);
        self.reports[lane.file].bytes_received += bytes;
        let time = passed.saturating_sub(traffic.1.saturating_sub(before.1));
        (time * 4 >= passed).then_some((bytes, time))
    }

    /// Bytes of all its bodies of one file, those of its lane included.
    pub(crate) fn received(&self, file: usize) -> u64 {
        let lane = self.lane.as_ref().filter(|lane| lane.file == file);
        let uncounted = lane.map_or(0, |lane| {
            lane.handle.traffic().0.saturating_sub(self.counted.0)
        });
        self.reports[file].bytes_received + uncounted
    }

    /// Why it failed last.
    pub(crate) fn take_error(&mut self) -> Option<FetchError> {
        self.error.take().map(|(_, error)| error)
    }

    /// What is told of it about one file; nothing of those that have no part in it.
    pub(crate) fn report(&self, file: usize, dropped: bool) -> Option<SourceReport> {
        let mut report = self.reports[file].clone();
        let error = self.error.as_ref().filter(|(of, _)| dropped && *of == file);
        report.dropped = error.map(|(_, error)| (error.code(), error.to_string()));
        let took_part = report.requests > 0 || report.dropped.is_some();
        (took_part || (self.peer.is_none() && self.may_have(file))).then_some(report)
    }
}
