//! One run of pieces of one file from one source: the request, the answer taken apart into chunks, and their checks.
//!
//! Bytes go to a checking thread as they arrive, one thread for each piece, so that the pieces of one connection are
//! hashed and written side by side on all processors. What waits for them is bounded in bytes for all lanes together. A
//! lane is over when its last check is: until then its pieces are nobody else's.
//!
//! Time spent waiting for the checks, or for the throttle, is not the source's fault and is counted apart.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc as slices;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use boot_manifest::Digest;
use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::client::{Answer, Client};
use crate::error::FetchError;
use crate::files::{File, Files};
use crate::limits::{READ_BUFFER_SIZE, SLICE_COST_MIN};
use crate::part::{Part, length, too_much};
use crate::sink::{Sink, SinkChunk as _, SinkError};
use crate::throttle::Throttle;
use crate::url::Url;

/// What all lanes of a download share.
pub(crate) struct Common<S> {
    pub(crate) files: Files<S>,
    /// Bytes that may wait to be checked.
    pub(crate) room: Arc<Semaphore>,
    pub(crate) throttle: Mutex<Throttle>,
    pub(crate) began: Instant,
    pub(crate) messages: mpsc::Sender<Message>,
}

/// What a lane tells.
pub(crate) enum Message {
    /// A piece is kept.
    Kept { source: usize, piece: usize },
    /// A piece came with these bytes instead.
    Wrong {
        source: usize,
        piece: usize,
        computed: Digest,
    },
    /// The place for the bytes failed.
    Sink(Box<dyn std::error::Error + Send + Sync>),
    /// The lane is over.
    Ended(Box<Ended>),
}

/// A lane that is over.
pub(crate) struct Ended {
    pub(crate) source: usize,
    /// Which file it was about.
    pub(crate) file: usize,
    /// For the next lane of this source.
    pub(crate) client: Client,
    /// The place, among those of the source, that has the file.
    pub(crate) place: usize,
    pub(crate) requests: u32,
    /// `None` when it was stopped.
    pub(crate) result: Option<Result<(), FetchError>>,
}

/// What the download sees of a lane, and how it stops it.
#[derive(Default)]
pub(crate) struct Handle {
    /// The pieces that the lane has not begun yet.
    ahead: Mutex<Range<usize>>,
    stop: Notify,
    received: AtomicU64,
    held_micros: AtomicU64,
}

impl Handle {
    pub(crate) fn new(run: &Range<usize>) -> Self {
        Self {
            ahead: Mutex::new(run.clone()),
            ..Self::default()
        }
    }

    /// Ends the lane as soon as its checks are done.
    pub(crate) fn stop(&self) {
        self.stop.notify_one();
    }

    /// Lets the lane end before piece `end`, or before the next one that it has not begun. Returns where it ends.
    pub(crate) fn shrink(&self, end: usize) -> usize {
        let mut ahead = self.ahead();
        ahead.end = ahead.end.min(end.max(ahead.start));
        ahead.end
    }

    /// Bytes of bodies so far, and time that was not spent waiting for the source.
    pub(crate) fn traffic(&self) -> (u64, Duration) {
        let held = self.held_micros.load(Ordering::Relaxed);
        (
            self.received.load(Ordering::Relaxed),
            Duration::from_micros(held),
        )
    }

    /// Whether the lane fetches a piece; it counts as begun from now on.
    fn begin(&self, piece: usize) -> bool {
        let mut ahead = self.ahead();
        let wanted = ahead.contains(&piece);
        if wanted {
            ahead.start = piece + 1;
        }
        wanted
    }

    fn is_at_end(&self) -> bool {
        self.ahead().is_empty()
    }

    fn ahead(&self) -> std::sync::MutexGuard<'_, Range<usize>> {
        // Two numbers that are never half changed.
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Some bytes of a piece on their way to its check.
struct Slice {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

/// A lane at work.
pub(crate) struct Lane<S> {
    pub(crate) common: Arc<Common<S>>,
    pub(crate) handle: Arc<Handle>,
    pub(crate) source: usize,
    pub(crate) file: usize,
    pub(crate) places: Arc<[Url]>,
    pub(crate) place: usize,
    pub(crate) client: Client,
    /// Pieces, all of that file.
    pub(crate) run: Range<usize>,
}

/// The parts of a lane that change while it works.
struct Work<'a, S> {
    lane: &'a mut Lane<S>,
    checks: &'a mut JoinSet<()>,
    requests: &'a mut u32,
}

impl<S: Sink> Lane<S> {
    /// Works until the run is done, fails or is stopped, and tells the download.
    pub(crate) async fn work(mut self) {
        let (mut checks, mut requests) = (JoinSet::new(), 0);
        let handle = Arc::clone(&self.handle);
        let mut work = Work {
            lane: &mut self,
            checks: &mut checks,
            requests: &mut requests,
        };
        let result = tokio::select! {
            biased;
            () = handle.stop.notified() => None,
            result = work.fetch() => Some(result),
        };
        // Whatever ended the transfer, the chunks under way are settled before anything is decided. The open one sees
        // that its bytes stopped coming.
        while let Some(check) = checks.join_next().await {
            if let Err(panic) = check
                && panic.is_panic()
            {
                std::panic::resume_unwind(panic.into_panic());
            }
        }
        let ended = Ended {
            source: self.source,
            file: self.file,
            client: self.client,
            place: self.place,
            requests,
            result,
        };
        // A download that is gone does not need to know.
        let _gone = self
            .common
            .messages
            .send(Message::Ended(Box::new(ended)))
            .await;
    }
}

impl<S: Sink> Work<'_, S> {
    /// Asks the places of the source in turn, the next one only when the file is not there.
    async fn fetch(&mut self) -> Result<(), FetchError> {
        let common = Arc::clone(&self.lane.common);
        let file = &common.files[self.lane.file];
        let run = &self.lane.run;
        let bytes = file.bytes(run.start).start..file.bytes(run.end - 1).end;
        let whole = bytes == (0..file.artifact.size);
        let asked = (!whole).then_some(bytes);
        let mut absent = None;
        loop {
            let Some(url) = self.lane.places.get(self.lane.place).cloned() else {
                self.lane.place = 0;
                let name = file.artifact.name.to_string();
                return Err(absent.unwrap_or(FetchError::NoSource { name }));
            };
            match self.fetch_from(&url, asked.clone()).await {
                // When it is nowhere, the first place is the one to name.
                Err(error @ FetchError::NotFound { .. }) => {
                    absent.get_or_insert(error);
                    self.lane.place += 1;
                }
                result => return result,
            }
        }
    }

    async fn fetch_from(&mut self, url: &Url, asked: Option<Range<u64>>) -> Result<(), FetchError> {
        *self.requests += 1;
        let mut answer = self.lane.client.get(url, asked.as_ref()).await?;
        if let Some(after) = answer.retry_after() {
            let url = answer.url.clone();
            self.lane.client.keep_if_short(answer).await;
            return Err(FetchError::Busy { url, after });
        }
        let file = &self.lane.common.files[self.lane.file];
        let first = file.chunk(self.lane.run.start);
        let part = match Part::of(&answer, &file.artifact, first, asked) {
            Ok(part) => part,
            Err(error) => {
                self.lane.client.keep_if_short(answer).await;
                return Err(error);
            }
        };
        if self.receive(&mut answer, &part).await? {
            self.lane.client.keep(answer);
        }
        Ok(())
    }

    /// Takes the body apart into chunks. `Ok(true)`: it was read to its end, the connection can be used again.
    async fn receive(&mut self, answer: &mut Answer, part: &Part) -> Result<bool, FetchError> {
        let common = Arc::clone(&self.lane.common);
        let file = &common.files[self.lane.file];
        let mut at = part.bytes.start;
        let mut piece = file.row.start + part.first_chunk;
        // The check of the chunk that is arriving; `None` for a chunk that nobody wants.
        let mut open: Option<slices::Sender<Slice>> = None;
        let mut begun = None;
        while at < part.bytes.end {
            // The run was made shorter: what still comes is for somebody else. It often begins in the same read as the
            // last that was wanted ended in, so being within a piece says nothing.
            if open.is_none() && self.lane.handle.is_at_end() {
                return Ok(false);
            }
            let Some(mut rest) = answer.next().await? else {
                let reason = "the body ended before the file did";
                let received = at - part.bytes.start;
                return Err(FetchError::cut_short(&answer.url, received, reason));
            };
            self.count(rest.len()).await;
            while !rest.is_empty() {
                if at == part.bytes.end {
                    return Err(too_much(answer, part));
                }
                let chunk = file.bytes(piece);
                if begun != Some(piece) {
                    begun = Some(piece);
                    open = self.lane.handle.begin(piece).then(|| self.check(piece));
                }
                let left = usize::try_from(chunk.end - at).unwrap_or(usize::MAX);
                let bytes = rest.split_to(left.min(rest.len()));
                at += bytes.len() as u64;
                if let Some(check) = &open
                    && !self.pass_on(check, bytes).await
                {
                    // The check gave up, and has said why.
                    return Ok(false);
                }
                if at == chunk.end {
                    open = None;
                    piece += 1;
                }
            }
        }
        // All bytes are here. More of them is a fault of the server; a missing end only costs the connection.
        match answer.next().await {
            Ok(None) => Ok(true),
            Ok(Some(_)) => Err(too_much(answer, part)),
            Err(_) => Ok(false),
        }
    }

    /// Counts bytes that arrived, and waits as long as the throttle says.
    async fn count(&self, bytes: usize) {
        let handle = &self.lane.handle;
        handle.received.fetch_add(bytes as u64, Ordering::Relaxed);
        let common = &self.lane.common;
        let pause = {
            let throttle = common.throttle.lock();
            let mut throttle = throttle.unwrap_or_else(PoisonError::into_inner);
            throttle.take(bytes, common.began.elapsed())
        };
        if !pause.is_zero() {
            self.held(pause);
            tokio::time::sleep(pause).await;
        }
    }

    /// Gives bytes to a check, when there is room for them. `false`: the check has ended.
    async fn pass_on(&self, check: &slices::Sender<Slice>, bytes: Bytes) -> bool {
        // Read buffers are as large as the reads, within a factor of two: that is what a piece keeps in memory.
        let most = u32::try_from(READ_BUFFER_SIZE).unwrap_or(u32::MAX);
        let cost = u32::try_from(bytes.len().saturating_mul(2))
            .unwrap_or(u32::MAX)
            .clamp(SLICE_COST_MIN, most);
        let room = Arc::clone(&self.lane.common.room);
        let began = Instant::now();
        let Ok(permit) = room.acquire_many_owned(cost).await else {
            return false;
        };
        self.held(began.elapsed());
        let slice = Slice {
            bytes,
            _room: permit,
        };
        check.send(slice).is_ok()
    }

    fn held(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.lane
            .handle
            .held_micros
            .fetch_add(micros, Ordering::Relaxed);
    }

    /// Starts the check of a chunk on a thread of its own.
    fn check(&mut self, piece: usize) -> slices::Sender<Slice> {
        while self.checks.try_join_next().is_some() {}
        let (sender, slices) = slices::channel();
        let (common, source) = (Arc::clone(&self.lane.common), self.lane.source);
        let file = self.lane.file;
        self.checks.spawn_blocking(move || {
            let message = match check(&common.files[file], piece, &slices) {
                None => return,
                Some(Ok(())) => Message::Kept { source, piece },
                Some(Err(SinkError::WrongBytes { computed })) => Message::Wrong {
                    source,
                    piece,
                    computed,
                },
                Some(Err(SinkError::Failed(error))) => Message::Sink(error),
            };
            let messages = common.messages.clone();
            // Whoever gets the message may be the last to need the sink.
            drop(common);
            let _gone = messages.blocking_send(message);
        });
        sender
    }
}

/// Writes and hashes a chunk as it comes. `None`: it stopped coming.
fn check<S: Sink>(
    file: &File<S>,
    piece: usize,
    slices: &slices::Receiver<Slice>,
) -> Option<Result<(), SinkError>> {
    let mut left = length(&file.bytes(piece));
    let mut chunk = match file.sink.chunk(file.chunk(piece)) {
        Ok(chunk) => chunk,
        Err(error) => return Some(Err(error)),
    };
    while left > 0 {
        let slice = slices.recv().ok()?;
        left = left.saturating_sub(slice.bytes.len() as u64);
        if let Err(error) = chunk.write(&slice.bytes) {
            return Some(Err(error));
        }
    }
    Some(chunk.finish())
}
