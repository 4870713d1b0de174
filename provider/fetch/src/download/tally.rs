//! How far each file of a download is, and what is told of it: progress, reports, and why nothing more can come.

use std::time::Duration;

use swarm::PieceSet;

use crate::download::Download;
use crate::error::FetchError;
use crate::files::Files;
use crate::limits::ERRORS_TOLD_MAX;
use crate::pace::TooSlow;
use crate::part::length;
use crate::report::{Progress, Report};
use crate::sink::Sink;
use crate::source::Source;

/// How far a file is.
pub(super) struct Tally {
    present: u64,
    fetched: u64,
    /// Pieces that are not kept.
    missing: usize,
    /// When the last of them was.
    done_at: Option<Duration>,
    told: Option<Progress>,
}

impl Tally {
    /// Takes note of a piece that is kept now.
    pub(super) fn kept(&mut self, bytes: u64, now: Duration) {
        self.fetched += bytes;
        self.missing = self.missing.saturating_sub(1);
        if self.missing == 0 {
            self.done_at = Some(now);
        }
    }
}

/// How far each file is, and the pieces that are missing altogether.
pub(super) fn missing<S: Sink>(files: &Files<S>) -> (Vec<Tally>, PieceSet) {
    let mut all = PieceSet::new(files.pieces.count());
    let tallies = files.iter().map(|(_, file)| {
        let missing = file.sink.missing();
        let chunks = &file.artifact.chunks;
        let to_fetch = missing.iter().map(|&index| length(&chunks.range(index)));
        let to_fetch: u64 = to_fetch.sum();
        for index in &missing {
            all.insert(file.row.start + index);
        }
        Tally {
            present: file.artifact.size.saturating_sub(to_fetch),
            fetched: 0,
            missing: missing.len(),
            done_at: missing.is_empty().then_some(Duration::ZERO),
            told: None,
        }
    });
    (tallies.collect(), all)
}

impl<S: Sink> Download<'_, S> {
    /// Tells how far each file is, if it is further than it was.
    pub(super) fn tell_progress(&mut self) {
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
    pub(super) fn report(&self, file: usize) -> Report {
        let tally = &self.tallies[file];
        let sources = self.sources.iter().enumerate().filter_map(|(index, one)| {
            let is_dropped = self.schedule.dropped(index).is_some();
            one.report(file, is_dropped)
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

    pub(super) fn too_late(&self, limit: Duration) -> FetchError {
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
                    .filter(|source| source.peer.is_none() || received(source) > 0)
                    .take(ERRORS_TOLD_MAX)
                    .map(|source| (source.url(source.file()).clone(), received(source)))
                    .collect(),
            },
        }
    }

    /// Why nobody is left: the error of the only source, or those of all. Servers come first; of peers there may be many.
    pub(super) fn lost(&mut self) -> FetchError {
        let (peers, servers): (Vec<_>, Vec<_>) =
            (self.sources.iter_mut()).partition(|source| source.peer.is_some());
        let all = servers.into_iter().chain(peers);
        let errors = all.filter_map(Source::take_error).take(ERRORS_TOLD_MAX);
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
}
