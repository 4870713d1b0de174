//! One artifact, chunk by chunk, from one server, through every interruption that patience allows.
//!
//! ```text
//! missing chunks ──> next run of them ──GET, Range──> chunk complete ──check and keep──> fewer missing ──┐
//!        ^                                     │                            │                          │
//!        ├── pause, then ask for what is left <─┘ cut short, too slow        └─ wrong: ask for it alone,  │
//!        └──────────────────────────────────────────────────────────────────── once; wrong again: fail   <─┘
//! ```
//!
//! Every chunk is checked by itself, so no validator (`If-Range`, `If-Match`) is sent: when the file on the server
//! changed meanwhile, its chunks are wrong and say so, and when only its ETag changed (another mirror behind the same
//! name, a copied file) nothing has to be fetched twice. A server that ignores `Range` costs transfer and nothing else.
//!
//! Chunks are checked and written on blocking threads while the next one arrives.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use boot_manifest::{Artifact, Digest};
use http::StatusCode;
use http::header::CONTENT_RANGE;
use tokio::task::{JoinError, JoinSet};

use crate::client::{Answer, Client};
use crate::error::{BadHash, FetchError};
use crate::limits::{BAD_CHUNKS_MAX, CHUNKS_IN_FLIGHT, RETRY_DELAY_FACTOR_MAX};
use crate::sink::{Sink, SinkError};
use crate::url::{Url, printable};
use crate::{Progress, Report};

/// The state of one download.
pub(crate) struct Download<'a, S> {
    client: &'a mut Client,
    artifact: &'a Artifact,
    sink: Arc<S>,
    missing: BTreeSet<usize>,
    /// Chunks that arrived wrong once, and as what.
    wrong: BTreeMap<usize, Digest>,
    checking: JoinSet<Checked>,
    spare: Vec<Vec<u8>>,
    progress: &'a mut (dyn FnMut(Progress) + Send),
    pub(crate) report: Report,
}

/// A chunk that came back from a checking thread, with its buffer.
struct Checked {
    index: usize,
    buffer: Vec<u8>,
    result: Result<(), SinkError>,
}

/// The part of the file an answer carries.
struct Part {
    bytes: Range<u64>,
    first_chunk: usize,
}

impl<'a, S: Sink> Download<'a, S> {
    pub(crate) fn new(
        client: &'a mut Client,
        artifact: &'a Artifact,
        sink: Arc<S>,
        progress: &'a mut (dyn FnMut(Progress) + Send),
    ) -> Self {
        let missing: BTreeSet<usize> = sink.missing().into_iter().collect();
        let to_fetch: u64 = missing
            .iter()
            .map(|&index| length(&artifact.chunks.range(index)))
            .sum();
        let report = Report {
            bytes_present: artifact.size.saturating_sub(to_fetch),
            ..Report::default()
        };
        Self {
            client,
            artifact,
            sink,
            missing,
            wrong: BTreeMap::new(),
            checking: JoinSet::new(),
            spare: Vec::new(),
            progress,
            report,
        }
    }

    /// Fetches what is missing from `url`.
    pub(crate) async fn run(&mut self, url: &Url) -> Result<(), FetchError> {
        self.tell_progress();
        let mut failures = 0;
        while let Some(run) = self.next_run() {
            let missing_before = self.missing.len();
            let error = match self.fetch_run(url, run).await {
                Ok(()) => continue,
                Err(error) => error,
            };
            if self.missing.len() < missing_before {
                failures = 0;
            }
            if !error.is_transient() || failures >= self.client.limits().retries {
                return Err(error);
            }
            let delay = retry_delay(self.client.limits().retry_delay, failures);
            tracing::warn!(%error, ?delay, chunks_missing = self.missing.len(), "download interrupted, going on");
            failures += 1;
            self.report.retries += 1;
            tokio::time::sleep(delay).await;
        }
        Ok(())
    }

    /// Whether every chunk is there.
    pub(crate) fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// The chunks to ask for next: one that arrived wrong, alone, or else the first row of missing ones.
    fn next_run(&self) -> Option<Range<usize>> {
        if let Some(&index) = self.wrong.keys().find(|index| self.missing.contains(index)) {
            return Some(index..index + 1);
        }
        let first = *self.missing.first()?;
        let row = self
            .missing
            .iter()
            .zip(first..)
            .take_while(|&(&index, expected)| index == expected);
        Some(first..first + row.count())
    }

    async fn fetch_run(&mut self, url: &Url, run: Range<usize>) -> Result<(), FetchError> {
        let chunks = &self.artifact.chunks;
        let bytes = chunks.range(run.start).start..chunks.range(run.end - 1).end;
        let whole = bytes == (0..self.artifact.size);
        self.report.requests += 1;
        let mut answer = self.client.get(url, (!whole).then_some(&bytes)).await?;
        let part = self.part_of(&answer, run.start, (!whole).then_some(bytes))?;
        let received = self.receive(&mut answer, part, &run, url).await;
        // Whatever ended the transfer, the chunks under way are settled before anything is decided.
        while let Some(checked) = self.checking.join_next().await {
            self.settle(checked, url)?;
        }
        if received? {
            self.client.keep(answer);
        }
        Ok(())
    }

    /// Which bytes of the file the answer carries; an error when they cannot be those that were asked for.
    fn part_of(
        &self,
        answer: &Answer,
        first_chunk: usize,
        asked: Option<Range<u64>>,
    ) -> Result<Part, FetchError> {
        let size = self.artifact.size;
        let part = match (answer.status, asked) {
            (StatusCode::OK, _) => Part {
                bytes: 0..size,
                first_chunk: 0,
            },
            (StatusCode::PARTIAL_CONTENT, Some(asked)) => {
                let (sent, total) = content_range(answer)?;
                if let Some(total) = total {
                    self.check_length(answer, size, total)?;
                }
                if sent.start != asked.start || sent.end > asked.end {
                    let reason = format!(
                        "bytes {}-{} were asked for and it sends {}-{}",
                        asked.start,
                        asked.end - 1,
                        sent.start,
                        sent.end.saturating_sub(1),
                    );
                    return Err(FetchError::not_http(&answer.url, reason));
                }
                if sent.end < self.artifact.chunks.range(first_chunk).end {
                    // Nothing in it can be checked: taken as a success, it would be asked for again without end.
                    let reason = "the part that it sends is shorter than a chunk";
                    return Err(FetchError::cut_short(&answer.url, length(&sent), reason));
                }
                Part {
                    bytes: sent,
                    first_chunk,
                }
            }
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(_)) => {
                if let Ok((_, Some(total))) = content_range(answer) {
                    self.check_length(answer, size, total)?;
                }
                return Err(FetchError::status(&answer.url, answer.status));
            }
            (status, _) => return Err(FetchError::status(&answer.url, status)),
        };
        if let Some(announced) = answer.content_length() {
            self.check_length(answer, length(&part.bytes), announced)?;
        }
        Ok(part)
    }

    fn check_length(&self, answer: &Answer, expected: u64, found: u64) -> Result<(), FetchError> {
        let url = answer.url.clone();
        match found.cmp(&expected) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Less => Err(FetchError::TooShort {
                url,
                expected,
                found,
            }),
            std::cmp::Ordering::Greater => Err(FetchError::TooLarge {
                url,
                limit: expected,
                found: Some(found),
            }),
        }
    }

    /// Takes the body apart into chunks. `Ok(true)`: it was read to its end, the connection can be used again.
    async fn receive(
        &mut self,
        answer: &mut Answer,
        part: Part,
        run: &Range<usize>,
        url: &Url,
    ) -> Result<bool, FetchError> {
        let (mut at, mut index) = (part.bytes.start, part.first_chunk);
        let mut buffer = self.empty_buffer();
        while at < part.bytes.end {
            let Some(data) = answer.next().await? else {
                let reason = "the body ended before the file did";
                return Err(FetchError::cut_short(
                    &answer.url,
                    at - part.bytes.start,
                    reason,
                ));
            };
            self.report.bytes_received += data.len() as u64;
            let mut rest = &data[..];
            while !rest.is_empty() {
                if at == part.bytes.end {
                    return Err(too_much(answer, &part));
                }
                let chunk = self.artifact.chunks.range(index);
                let left = usize::try_from(chunk.end - at).unwrap_or(usize::MAX);
                let (piece, after) = rest.split_at(left.min(rest.len()));
                rest = after;
                at += piece.len() as u64;
                let wanted = run.contains(&index) && self.missing.contains(&index);
                if wanted {
                    buffer.extend_from_slice(piece);
                }
                if at < chunk.end {
                    continue;
                }
                if wanted {
                    let full = std::mem::replace(&mut buffer, self.empty_buffer());
                    if !self.check(index, full, url).await? {
                        return Ok(false);
                    }
                }
                index += 1;
            }
            if index >= run.end && at < part.bytes.end {
                // The server sends the whole file and the rest of it is not needed now.
                return Ok(false);
            }
        }
        // All bytes are here. More of them is a fault of the server; a missing end only costs the connection.
        match answer.next().await {
            Ok(None) => Ok(true),
            Ok(Some(_)) => Err(too_much(answer, &part)),
            Err(_) => Ok(false),
        }
    }

    /// Gives a chunk to a checking thread. `Ok(false)`: an earlier chunk turned out wrong, so this transfer should end.
    async fn check(
        &mut self,
        index: usize,
        buffer: Vec<u8>,
        url: &Url,
    ) -> Result<bool, FetchError> {
        let mut good = true;
        while self.checking.len() >= CHUNKS_IN_FLIGHT {
            if let Some(checked) = self.checking.join_next().await {
                good &= self.settle(checked, url)?;
            }
        }
        let sink = Arc::clone(&self.sink);
        self.checking.spawn_blocking(move || {
            let result = sink.put_chunk(index, &buffer);
            Checked {
                index,
                buffer,
                result,
            }
        });
        while let Some(checked) = self.checking.try_join_next() {
            good &= self.settle(checked, url)?;
        }
        Ok(good)
    }

    /// Records what a checking thread found. `Ok(false)`: the chunk was wrong for the first time.
    fn settle(
        &mut self,
        checked: Result<Checked, JoinError>,
        url: &Url,
    ) -> Result<bool, FetchError> {
        let checked = checked.map_err(|error| FetchError::Sink(Box::new(error)))?;
        let index = checked.index;
        match checked.result {
            Ok(()) => {
                self.missing.remove(&index);
                self.report.bytes_fetched += checked.buffer.len() as u64;
                self.spare.push(checked.buffer);
                self.tell_progress();
                Ok(true)
            }
            Err(SinkError::Failed(error)) => Err(FetchError::Sink(error)),
            Err(SinkError::WrongBytes) => {
                let computed = Digest::of(&checked.buffer);
                self.report.bad_chunks += 1;
                let before = self.wrong.insert(index, computed);
                if before.is_some() || self.report.bad_chunks > BAD_CHUNKS_MAX {
                    return Err(self.bad_hash(index, computed, url));
                }
                tracing::warn!(%url, chunk = index, %computed, "a chunk arrived wrong, asking for it again");
                Ok(false)
            }
        }
    }

    fn bad_hash(&self, chunk: usize, computed: Digest, url: &Url) -> FetchError {
        FetchError::BadHash(Box::new(BadHash {
            url: url.clone(),
            artifact: self.artifact.name.to_string(),
            filename: self.artifact.filename.to_string(),
            chunk,
            range: self.artifact.chunks.range(chunk),
            expected: self
                .artifact
                .chunks
                .digest(chunk)
                .unwrap_or(self.artifact.digest),
            computed,
        }))
    }

    fn empty_buffer(&mut self) -> Vec<u8> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer
    }

    fn tell_progress(&mut self) {
        let done = self.report.bytes_present + self.report.bytes_fetched;
        (self.progress)(Progress {
            done,
            total: self.artifact.size,
        });
    }
}

/// The pause after the `failures`-th failure in a row.
pub(crate) fn retry_delay(first: Duration, failures: u32) -> Duration {
    let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
    first.saturating_mul(factor.min(RETRY_DELAY_FACTOR_MAX))
}

fn too_much(answer: &Answer, part: &Part) -> FetchError {
    FetchError::TooLarge {
        url: answer.url.clone(),
        limit: length(&part.bytes),
        found: None,
    }
}

fn length(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

/// `Content-Range` of an answer: the bytes it carries (none for `*`) and the length of the whole file, if it tells.
fn content_range(answer: &Answer) -> Result<(Range<u64>, Option<u64>), FetchError> {
    let value = answer
        .headers
        .get(CONTENT_RANGE)
        .map_or(&b""[..], |value| value.as_bytes());
    let text = String::from_utf8_lossy(value);
    parse_content_range(&text).ok_or_else(|| {
        let reason = format!("Content-Range is {:?}", printable(&text));
        FetchError::not_http(&answer.url, reason)
    })
}

fn parse_content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (unit, rest) = text.split_once(' ')?;
    let (range, total) = rest.trim().split_once('/')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u64>().ok().filter(|_| digits)
    };
    let total = match total {
        "*" => None,
        digits => Some(number(digits)?),
    };
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    if range == "*" {
        return Some((0..0, total));
    }
    let (first, last) = range.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let end = last.checked_add(1)?;
    (first < end && total.is_none_or(|total| end <= total)).then_some((first..end, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        for (text, expected) in [
            ("bytes 0-0/1", Some((0..1, Some(1)))),
            ("Bytes 5-9/*", Some((5..10, None))),
            ("bytes */7", Some((0..0, Some(7)))),
            ("bytes 5-4/10", None),
            ("bytes 5-10/10", None),
            ("bytes -5/10", None),
            ("bytes 5-/10", None),
            ("bytes +1-2/10", None),
            ("bytes 1-2", None),
            ("items 0-0/1", None),
            ("bytes 0-18446744073709551615/*", None),
            ("bytes 0-99999999999999999999/*", None),
            ("", None),
        ] {
            assert_eq!(parse_content_range(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_pause_doubles_up_to_a_bound() {
        let second = Duration::from_secs(1);
        for (failures, seconds) in [
            (0, 1),
            (1, 2),
            (4, 16),
            (5, 30),
            (31, 30),
            (32, 30),
            (u32::MAX, 30),
        ] {
            assert_eq!(
                retry_delay(second, failures),
                Duration::from_secs(seconds),
                "{failures}"
            );
        }
    }
}
